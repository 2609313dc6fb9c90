"""Steps that client cases share: what the application hears, whether a client goes on, and what it was granted."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import parse_qs

from tokenwire_conformance.client.bench import ClientBench
from tokenwire_conformance.client.link import Attempt, Link, Request
from tokenwire_conformance.figures import HEARTBEAT_S, IDLE_TIMEOUT_S, MAX_BATCH, MAX_MESSAGE_BYTES, UPDATE_INTERVAL_S
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = [
    "HEAR_S", "RETURN_S", "SECRET", "Mark", "again", "asked_caps", "dropped", "gap_numbers", "goes_on", "grant",
    "hears", "lives", "mark", "need_resume", "notices", "order_heard", "prices", "session_with", "shown",
    "stays_away", "terms",
]  # fmt: skip

HEAR_S: Final = 5.0
"""How long a value may take from the wire to the application."""
RETURN_S: Final = 35.0
"""How long a client may take to come back: the longest wait of the specification and some slack, however fast its waits
grow."""
LIFE_S: Final = 3.0
"""How long a connection has to last to count as kept."""
STAY_AWAY_S: Final = 6.0
"""Without an attempt for so long, a client has not come back: the first wait is at most 1 s, and chance adds little."""
SECRET: Final = "c0nf0rmance-c0nf0rmance-secret_1"  # noqa: S105 - made up, and worth nothing
"""The secret of the sessions that cases grant."""
STREAM: Final = "conformance"


_SHOWN: Final = 120


def shown(value: object) -> str:
    """A value of the client's for a report: as JSON, cut to a bounded length."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):
        return "a number of too many digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


# --- what the application hears -------------------------------------------------------------------------------
def _number(told: object) -> Decimal | None:
    """An event's price, however the client writes numbers."""
    if isinstance(told, bool) or not isinstance(told, (str, int, float)):
        return None
    try:
        number = Decimal(str(told))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def prices(bench: ClientBench, wanted: Iterable[str]) -> list[str]:
    """Those of the ``wanted`` prices that reached the application, in its order, repetitions included."""
    known = {Decimal(price): price for price in wanted}
    told = (_number(fields.get("price")) for fields in bench.of("update"))
    return [known[number] for number in told if number in known]


async def hears(bench: ClientBench, price: str, timeout_s: float = HEAR_S) -> bool:
    """Whether this price reaches the application in time."""
    wanted = Decimal(price)
    try:
        await bench.event("update", timeout_s, lambda fields: _number(fields.get("price")) == wanted)
    except SilenceError:
        return False
    return True


async def order_heard(bench: ClientBench, expected: list[str], timeout_s: float = HEAR_S) -> list[str]:
    """Wait for the last of the ``expected`` prices, and a little longer; those that were heard, in order."""
    await hears(bench, expected[-1], timeout_s)
    await asyncio.sleep(0.3)
    return prices(bench, expected)


# --- whether it goes on ---------------------------------------------------------------------------------------
async def dropped(link: Link) -> None:
    """Reset a connection, as a broken network does."""
    await link.abort()


async def again(bench: ClientBench, timeout_s: float = RETURN_S, **options: Any) -> Link:
    """The client's next connection, greeted, whether or not it subscribes.

    Raises:
        SilenceError, EndedError: It does not come, or leaves.
    """
    link = await bench.link(timeout_s, **options)
    if await link.first_request(3.0):
        await link.subscribed(bench.wanted, 1.0)
    return link


async def lives(bench: ClientBench, link: Link, clause: str, what: str) -> None:
    """The connection is kept: it lasts for a while, and then a value still gets through."""
    try:
        await link.closing(LIFE_S)
    except SilenceError:
        pass
    else:
        bench.fail(clause, f"after {what} the client left the connection: {link.ending()}", link.number)
    price = bench.fresh_price()
    await link.update(bench.wanted[0], price)
    if "update" in bench.facts.events:
        heard = await hears(bench, price)
        bench.require(heard, clause, f"after {what} an update did not reach the application any more", link.number)
    else:
        await asyncio.sleep(0.5)
    bench.require(link.ended_s is None, clause, f"after {what} the client left: {link.ending()}", link.number)


async def goes_on(bench: ClientBench, link: Link, clause: str, what: str) -> None:
    """The client goes on, with this connection or with a new one, and values get through."""
    for _ in range(3):
        price = bench.fresh_price()
        await link.update(bench.wanted[0], price)
        if "update" in bench.facts.events:
            if await _heard_or_left(bench, link, price):
                return
        else:
            try:
                await link.closing(LIFE_S)
            except SilenceError:
                return
        if link.ended_s is None and link.close_code is None:
            bench.fail(clause, f"after {what} updates did not reach the application any more", link.number)
        try:
            link = await again(bench)
        except (SilenceError, EndedError) as error:
            bench.fail(clause, f"after {what} the client left and did not come back: {error}", link.number)
    bench.fail(clause, f"after {what} the client left one connection after the other", link.number)


async def _heard_or_left(bench: ClientBench, link: Link, price: str) -> bool:
    hearing = asyncio.create_task(hears(bench, price))
    leaving = asyncio.create_task(_left(link))
    try:
        await asyncio.wait({hearing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return hearing.done() and hearing.result()
    finally:
        for task in (hearing, leaving):
            task.cancel()
        await asyncio.gather(hearing, leaving, return_exceptions=True)


async def _left(link: Link) -> None:
    while True:
        try:
            await link.closing(3_600)
        except SilenceError:
            continue
        return


async def stays_away(bench: ClientBench, clause: str, what: str, timeout_s: float = STAY_AWAY_S) -> None:
    """The client makes no further attempt."""
    try:
        attempt = await bench.attempt(timeout_s)
    except SilenceError:
        return
    bench.fail(clause, f"after {what} the client came back", attempt.number)


# --- lost numbers ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a connection, to tell what happened since."""

    messages: int
    gaps: int


def mark(bench: ClientBench, link: Link) -> Mark:
    """Now."""
    return Mark(len(link.messages), len(bench.of("gap")))


async def notices(bench: ClientBench, link: Link, since: Mark, timeout_s: float) -> str | None:
    """How the client shows that it noticed a loss: by an event, a request that repairs it, or by reconnecting."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while loop.time() < until_s:
        if len(bench.of("gap")) > since.gaps:
            return "it told a gap"
        for message in link.messages[since.messages :]:
            if message.type in {"replay", "subscription"}:
                return f"it sent a message of type {message.type}"
        if link.close_code is not None or link.ended_s is not None:
            return "it left the connection"
        await asyncio.sleep(0.05)
    return None


def gap_numbers(fields: dict[str, Any]) -> set[int] | None:
    """The numbers that a gap event names; ``None`` where it leaves an end open."""
    first, last = fields.get("from"), fields.get("to")
    if not isinstance(first, int) or not isinstance(last, int) or last - first > 100_000:
        return None
    return set(range(first, last + 1))


# --- extensions -----------------------------------------------------------------------------------------------
def asked_caps(request: Request) -> tuple[str, ...]:
    """The capabilities that a client asks for."""
    values = parse_qs(request.query, keep_blank_values=True).get("caps", [])
    return tuple(dict.fromkeys(name for value in values for name in value.split(",") if name))


def terms(*granted: str) -> dict[str, Any]:
    """What a connection message says of a new session with these capabilities."""
    data: dict[str, Any] = {"capabilities": list(granted)}
    if "resume" in granted:
        data |= {"session": SECRET, "resumed": False, "resumeWindowMs": 120_000}
    if {"resume", "details"} & set(granted):
        data |= {
            "subscriptions": [], "stream": STREAM, "heartbeatMs": round(HEARTBEAT_S * 1_000),
            "idleTimeoutMs": round(IDLE_TIMEOUT_S * 1_000), "maxMessageBytes": MAX_MESSAGE_BYTES,
            "maxBatch": MAX_BATCH, "updateIntervalMs": round(UPDATE_INTERVAL_S * 1_000),
        }  # fmt: skip
    return data


async def grant(attempt: Attempt, *names: str) -> Link:
    """Accept a connection and grant it ``names``; with ``resume`` also ``details``, if the client asks for it.

    Raises:
        NotTestableError: The client does not ask for one of them.
    """
    asked = asked_caps(await attempt.request())
    for name in names:
        if name not in asked:
            raise NotTestableError(f"the client does not ask for {name} (caps={name} in the query of its URL)")
    granted = [*names, *(["details"] if "resume" in names and "details" in asked and "details" not in names else [])]
    link = await attempt.accept()
    link.details = "details" in granted
    await link.greet(**terms(*granted))
    return link


async def session_with(bench: ClientBench, *names: str, timeout_s: float = RETURN_S) -> Link:
    """The client's next connection with these capabilities granted, and subscribed to what it wants.

    Raises:
        NotTestableError: It does not ask for them.
        SilenceError, EndedError: It does not come, leaves, or does not subscribe.
    """
    link = await grant(await bench.attempt(timeout_s), *names)
    if not await link.first_request():
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    if bench.facts.launcher.names_tokens:
        await link.subscribed(bench.wanted)
    else:
        await asyncio.sleep(0.5)
        bench.wanted = tuple(link.held)
    return link


def need_resume(request: Request) -> None:
    """Skip unless this attempt comes back to the session."""
    if request.header("x-tokenwire-session") is None and "session=" not in request.query:
        raise NotTestableError("the client did not come back to its session, so nothing can be replayed to it")
