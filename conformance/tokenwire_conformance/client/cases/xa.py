"""XA: acknowledgments."""

import asyncio
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import session_with
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.model import NotTestableError

__all__: list[str] = []

_UPDATES: Final = 200
_WATCH_S: Final = 4.0


async def _acknowledging(bench: ClientBench) -> Link:
    """A session in which the client has acknowledged something."""
    await bench.start()
    link = await session_with(bench, "resume")
    for index in range(_UPDATES):
        await link.update(bench.wanted[index % len(bench.wanted)])
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 3 * _WATCH_S
    while loop.time() < until_s:
        if any(message.type == "ack" for message in link.messages):
            return link
        await asyncio.sleep(0.1)
    raise NotTestableError("the client acknowledges nothing, which it need not do")


def _judge(bench: ClientBench, link: Link, limit: int, since: int = 0) -> None:
    clause = "XA.client-received"
    for message in link.messages[since:]:
        if message.type != "ack":
            continue
        number = message.data.get("sequence")
        whole = isinstance(number, int) and not isinstance(number, bool)
        bench.require(whole, clause, f"an ack without a whole number: {message.brief()}", link.number)
        text = f"the client acknowledged {number}; the last number that it received in order is {limit}"
        bench.require(isinstance(number, int) and number <= limit, clause, text, link.number)


@CLIENT.case(
    "C-XA-01", "ext.ack", "XA.client-received", deadline_s=40,
    sends="resume granted; a session with 200 updates. A client that acknowledges nothing is not judged",
    expects="each ack names a number that was sent",
    why="An ack of what was never sent would hide a loss.",
)  # fmt: skip
async def received_only(bench: ClientBench) -> None:
    """The client acknowledges only what was sent."""
    link = await _acknowledging(bench)
    await asyncio.sleep(_WATCH_S)
    _judge(bench, link, link.sequence)


@CLIENT.case(
    "C-XA-02", "ext.ack", "XA.client-received", deadline_s=40,
    sends="resume granted; a session with 200 updates, and behind them one that leaves a number out",
    expects="no ack names a number behind the hole while it is open",
    why="An ack is cumulative: the server forgets everything up to it, the missing message too.",
)  # fmt: skip
async def not_beyond_hole(bench: ClientBench) -> None:
    """The client acknowledges nothing behind a hole."""
    link = await _acknowledging(bench)
    limit = link.sequence
    since = len(link.messages)
    link.sequence += 1
    await link.update(bench.wanted[0])
    await asyncio.sleep(_WATCH_S)
    _judge(bench, link, limit, since)
