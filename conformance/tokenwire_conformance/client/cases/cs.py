"""CS: the states of a connection, as the client tells them."""

import asyncio
import contextlib
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, START_S, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S, dropped, shown, stays_away
from tokenwire_conformance.client.link import Attempt
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_STATES: Final = ("CONNECTING", "CONNECTED", "RECONNECTING", "FAILED")
_GIVE_UP_S: Final = 300
_SILENCE_S: Final = 40  # more than the longest wait
_AFTER_S: Final = 35


@CLIENT.case(
    "C-CS-01", "core", "CS.connecting", "CS.connected",
    sends="an accepted handshake and a connection message",
    expects="the first state told is CONNECTING, the next CONNECTED, and the latter not before the handshake is over",
    why="An application shows its user whether prices are live by these states.",
)  # fmt: skip
async def first_states(bench: ClientBench) -> None:
    """The states of a first connection are CONNECTING and CONNECTED."""
    bench.need_events("state")
    await bench.start()
    attempt = await bench.attempt()
    await attempt.request()
    bench.require("CONNECTED" not in bench.states(), "CS.connected", "told CONNECTED before the handshake was answered")
    link = await attempt.accept()
    await link.greet()
    await bench.event("state", START_S, lambda fields: fields.get("state") == "CONNECTED")
    states = bench.states()
    bench.require(states[0] == "CONNECTING", "CS.connecting", f"the first state told was {shown(states[0])}")
    bench.require(states == ["CONNECTING", "CONNECTED"], "CS.connected", f"the states told were {', '.join(states)}")


@CLIENT.case(
    "C-CS-02", "core", "CS.reconnecting", "CS.connected",
    sends="a session, then the end of the TCP connection; the next handshake is answered after 1 s",
    expects="the states told are CONNECTING, CONNECTED, RECONNECTING, CONNECTED",
    why="An application shows its user whether prices are live by these states.",
)  # fmt: skip
async def state_sequence(bench: ClientBench) -> None:
    """A lost connection is told as RECONNECTING, a restored one as CONNECTED."""
    bench.need_events("state")
    await bench.start()
    link = await bench.session()
    seen = len(bench.events)
    await dropped(link)
    attempt = await bench.attempt(RETURN_S)
    await attempt.request()
    await asyncio.sleep(1)
    told = bench.states()
    text = f"while the client tried again, the states told were {', '.join(told)}"
    bench.require(told[-1] == "RECONNECTING", "CS.reconnecting", text)
    await (await attempt.accept()).greet()
    await bench.event("state", START_S, lambda fields: fields.get("state") == "CONNECTED", after=seen)
    # A fifth state is another case's.
    told = [state for state in bench.states() if state in _STATES]
    whole = ["CONNECTED", "RECONNECTING", "CONNECTED"]
    bench.require(told[-3:] == whole, "CS.reconnecting", f"the states told were {', '.join(told)}")


@CLIENT.case(
    "C-CS-03", "core", "CS.connected",
    sends="two resets in place of the answer to a handshake, then a proper answer after 1 s and a connection message",
    expects="the state CONNECTED is told only once the last handshake has been answered",
    why="Who is told CONNECTED takes the next price for the present one.",
)  # fmt: skip
async def not_connected_early(bench: ClientBench) -> None:
    """CONNECTED is not told while there is no connection."""
    bench.need_events("state")
    await bench.start()
    for _ in range(2):
        attempt = await bench.attempt(RETURN_S)
        await attempt.request()
        await attempt.drop()
    attempt = await bench.attempt(RETURN_S)
    await attempt.request()
    await asyncio.sleep(1)
    early = "CONNECTED" in bench.states()
    bench.require(not early, "CS.connected", "told CONNECTED although no handshake was answered yet")
    await (await attempt.accept()).greet()
    await bench.event("state", START_S, lambda fields: fields.get("state") == "CONNECTED")


@CLIENT.case(
    "C-CS-04", "timing", "CS.failed", deadline_s=400,
    sends="a reset in place of every handshake, until the client gives up",
    expects="the state FAILED, and no attempt in the 35 s after it. A client that stops trying for 40 s (the longest "
    "wait is 30 s), or ends, without telling FAILED is at fault. One that still tries after 300 s is not judged: let "
    "its command give it fewer retries",
    why="An application has to learn that nobody tries any more.",
)  # fmt: skip
async def failed_at_the_end(bench: ClientBench) -> None:
    """After its last retry the client is FAILED and tries no more."""
    bench.need_events("state")
    await bench.start()
    loop = asyncio.get_running_loop()
    await _reset(await bench.attempt())
    while "FAILED" not in bench.states():
        if loop.time() - bench.started_s > _GIVE_UP_S:
            raise NotTestableError(f"the client still tried after {_GIVE_UP_S} s; let its command give it few retries")
        attempt = await _attempt_or_failed(bench)
        if attempt is None and "FAILED" not in bench.states():
            how = "ended" if bench.exit_status is not None else f"made no attempt for {_SILENCE_S} s"
            bench.fail("CS.failed", f"the client {how} without telling the state FAILED")
        if attempt is not None:
            await _reset(attempt)
    before = len(bench.attempts)
    with contextlib.suppress(SilenceError):
        await bench.attempt(_AFTER_S)
    late = len(bench.attempts) > before
    bench.require(not late, "CS.failed", "the client tried again after it had told FAILED", len(bench.attempts))
    last = bench.states()[-1]
    bench.require(last == "FAILED", "CS.failed", f"the state {last} was told after FAILED")


async def _reset(attempt: Attempt) -> None:
    await attempt.request()
    await attempt.drop()


async def _attempt_or_failed(bench: ClientBench) -> Attempt | None:
    """The next attempt, or ``None`` once FAILED was told, the client has ended, or it tries no more."""
    for _ in range(_SILENCE_S):
        with contextlib.suppress(SilenceError):
            return await bench.attempt(1)
        if "FAILED" in bench.states() or bench.exit_status is not None:
            return None
    return None


def _refused(number: int, status: int) -> None:
    async def case(bench: ClientBench) -> None:
        await bench.start()
        await (await bench.attempt()).reject(status)
        await stays_away(bench, "CS.failed-http", f"HTTP {status}")
        if "state" in bench.facts.events:
            told = bench.states()
            text = f"after HTTP {status} the states told were {', '.join(told) or 'none'}"
            bench.require(told[-1:] == ["FAILED"], "CS.failed-http", text)

    case.__doc__ = f"HTTP {status} is final."
    CLIENT.case(
        f"C-CS-{number:02}", "core", "CS.failed-http",
        sends=f"HTTP {status} in place of the handshake",
        expects="no further attempt within 6 s; a client that prints states tells FAILED",
        why="What was refused so will be refused again, and trying on only makes load.",
    )(case)  # fmt: skip


for _number, _status in ((5, 401), (6, 403), (7, 404)):
    _refused(_number, _status)
