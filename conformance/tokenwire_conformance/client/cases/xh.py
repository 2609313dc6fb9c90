"""XH: heartbeat messages."""

import asyncio
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import hears, mark, notices, session_with
from tokenwire_conformance.model import NotTestableError

__all__: list[str] = []

_NOTICE_S: Final = 10.0
_QUIET_S: Final = 4.0


@CLIENT.case(
    "C-XH-01", "ext.heartbeat", "XH.client-loss", deadline_s=40,
    sends="heartbeat granted; a session, and a heartbeat whose sequence is higher by 2 than the last number sent",
    expects="within 10 s the client prints a gap event, or repairs the loss: by a request, or by reconnecting",
    why="The last message before a quiet time can be missed by nothing else.",
)  # fmt: skip
async def loss_noticed(bench: ClientBench) -> None:
    """A heartbeat with a higher number is noticed as a loss."""
    await bench.start()
    link = await session_with(bench, "heartbeat")
    await asyncio.sleep(0.5)
    since = mark(bench, link)
    link.sequence += 2
    await link.send("heartbeat", {"pending": 0}, link.sequence)
    how = await notices(bench, link, since, _NOTICE_S)
    if how is None and not bench.facts.events:
        raise NotTestableError("the client repaired nothing, and prints no events that would tell whether it noticed")
    text = f"a heartbeat told that two messages were lost, and within {_NOTICE_S:g} s the client showed no sign of it"
    bench.require(how is not None, "XH.client-loss", text, link.number)


@CLIENT.case(
    "C-XH-02", "ext.heartbeat", "XH.client-loss",
    sends="heartbeat granted; a session, two heartbeats with the last number sent, and an update with the next",
    expects="the update reaches the application, and the client shows no sign of a loss within 4 s",
    why="A heartbeat has no number of its own.",
)  # fmt: skip
async def not_counted(bench: ClientBench) -> None:
    """A heartbeat does not count as a message."""
    clause = "XH.client-loss"
    await bench.start()
    link = await session_with(bench, "heartbeat")
    await asyncio.sleep(0.5)
    since = mark(bench, link)
    for _ in range(2):
        await link.send("heartbeat", {"pending": 0}, link.sequence)
    price = bench.fresh_price()
    await link.update(bench.wanted[0], price)
    if "update" in bench.facts.events:
        heard = await hears(bench, price)
        bench.require(heard, clause, "an update behind a heartbeat did not reach the application", link.number)
    how = await notices(bench, link, since, _QUIET_S)
    bench.require(how is None, clause, f"nothing was lost behind a heartbeat, but {how}", link.number)
