"""CM: lost connections, what is subscribed after them, and what is cleaned up."""

import asyncio
import contextlib
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S, dropped
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_SETTLE_S: Final = 1.0
_CLOSE_S: Final = 20.0


async def _comes_back(bench: ClientBench, what: str) -> None:
    try:
        attempt = await bench.attempt(RETURN_S)
        await attempt.request()
    except (SilenceError, EndedError) as error:
        bench.fail("CM.reconnects", f"after {what}: {error}")


@CLIENT.case(
    "C-CM-01", "core", "CM.reconnects",
    sends="a session, then the reset of the TCP connection",
    expects="an upgrade request within 35 s",
    why="Most connections end so.",
)  # fmt: skip
async def after_reset(bench: ClientBench) -> None:
    """The client comes back after its connection was reset."""
    await bench.start()
    link = await bench.session()
    await dropped(link)
    await _comes_back(bench, "a reset")


@CLIENT.case(
    "C-CM-02", "core", "CM.reconnects",
    sends="a session, then the end of the TCP connection (FIN) without a close frame",
    expects="an upgrade request within 35 s",
    why="A server whose process ends leaves so.",
)  # fmt: skip
async def after_fin(bench: ClientBench) -> None:
    """The client comes back after its connection ended without a close frame."""
    await bench.start()
    link = await bench.session()
    await link.half_close()
    await _comes_back(bench, "the end of the TCP connection without a close frame")


@CLIENT.case(
    "C-CM-03", "core", "CM.reconnects",
    sends="a session and its reset, then HTTP 503 in place of the next handshake, and a reset in place of the third",
    expects="a fourth attempt, which is accepted",
    why="A server that restarts refuses connections for a while.",
)  # fmt: skip
async def after_refusals(bench: ClientBench) -> None:
    """The client tries on after refused handshakes."""
    await bench.start()
    link = await bench.session()
    await dropped(link)
    await _comes_back(bench, "a reset")
    await bench.attempts[-1].reject(503)
    await _comes_back(bench, "HTTP 503 and a reset before it")
    await bench.attempts[-1].drop()
    await _comes_back(bench, "a reset in place of the handshake")


async def _exact_set(bench: ClientBench, link: Link) -> None:
    """What the client asks for on ``link`` is exactly what it wants, also a moment later."""
    clause = "CM.resubscribe"
    await link.subscribed(bench.wanted)
    await asyncio.sleep(_SETTLE_S)
    missing = [name for name in bench.wanted if name not in link.held]
    further = [name for name in link.held if name not in bench.wanted]
    text = f"after it came back the client did not subscribe to {', '.join(missing[:10])}"
    bench.require(not missing, clause, text, link.number)
    text = f"after it came back the client subscribed to {', '.join(further[:10])}, which nobody wants"
    bench.require(not further, clause, text, link.number)


@CLIENT.case(
    "C-CM-04", "core", "CM.resubscribe",
    sends="a session and its reset, twice",
    expects="on each new connection the client subscribes to exactly what it was subscribed to before",
    why="A server begins each connection without subscriptions.",
)  # fmt: skip
async def resubscribes(bench: ClientBench) -> None:
    """After it came back the client subscribes to exactly what it wants."""
    await bench.start()
    link = await bench.session()
    for _ in range(2):
        await dropped(link)
        link = await bench.link(RETURN_S)
        await _exact_set(bench, link)


@CLIENT.case(
    "C-CM-05", "core", "CM.resubscribe",
    sends="no answer to the subscription; after 0.5 s the reset of the connection",
    expects="on the new connection the client subscribes to exactly the same tokens",
    why="What was asked for and not answered is still wanted.",
)  # fmt: skip
async def resubscribes_unanswered(bench: ClientBench) -> None:
    """A subscription that was not answered is repeated on the next connection."""
    await bench.start()
    link = await bench.link(answers=False)
    if not await link.first_request():
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    await asyncio.sleep(0.5)
    if not bench.facts.launcher.names_tokens:
        bench.wanted = tuple(link.held)
    await dropped(link)
    await _exact_set(bench, await bench.link(RETURN_S))


@CLIENT.case(
    "C-CM-06", "core", "CM.client-cleanup", deadline_s=60,
    sends="a TCP connection on which the upgrade request is never answered, until the client makes its next attempt",
    expects="2 s after the next attempt the TCP connection of the first one is closed; a client that makes none within "
    "30 s is not judged here (C-CR-01 does)",
    why="A client must not hold a server's places that it does not use.",
)  # fmt: skip
async def opening_cleaned_up(bench: ClientBench) -> None:
    """An opening that was given up is closed."""
    await bench.start()
    first = await bench.attempt()
    await first.request()
    try:
        second = await bench.attempt(30)
    except SilenceError as error:
        raise NotTestableError(f"the client did not give the opening up for another ({error}); see C-CR-01") from None
    try:
        await first.ended(2)
    except (SilenceError, TimeoutError):
        text = "2 s after its second attempt the client still held the TCP connection of the first"
        bench.fail("CM.client-cleanup", text, second.number)


@CLIENT.case(
    "C-CM-07", "core", "CM.client-cleanup", deadline_s=60,
    sends="a session, then a close frame with 1001, and no end of the TCP connection by the server",
    expects="the client ends the TCP connection within 20 s, and at the latest 2 s after its next attempt",
    why="A server that hangs while it closes must not cost its clients a connection each.",
)  # fmt: skip
async def closing_cleaned_up(bench: ClientBench) -> None:
    """A connection that the server closed is ended, also if the server does not end it."""
    await bench.start()
    link = await bench.session()
    link.answers_close = False
    await link.send_close(1001)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + _CLOSE_S
    while link.ended_s is None and loop.time() < until_s:
        with contextlib.suppress(SilenceError):
            await bench.attempt(0.1)
            await asyncio.sleep(2)
            text = "2 s after its next attempt the client still held the connection that the server had closed"
            bench.require(link.ended_s is not None, "CM.client-cleanup", text, link.number)
    text = f"{_CLOSE_S:g} s after the server's close frame the client still held the TCP connection"
    bench.require(link.ended_s is not None, "CM.client-cleanup", text, link.number)


@CLIENT.case(
    "C-CM-08", "core", "CM.client-cleanup",
    sends="four sessions, each ended in another way: reset, FIN, close 1001, close 1012",
    expects="never more than one open TCP connection of the client",
    why="Two connections of one client get every value twice, and take two of the server's 1000 places.",
    deadline_s=180,
)  # fmt: skip
async def one_at_a_time(bench: ClientBench) -> None:
    """The client never holds two connections at once."""
    await bench.start()
    link = await bench.session()
    for number in range(4):
        if number == 0:
            await dropped(link)
        elif number == 1:
            await link.half_close()
        else:
            await link.send_close(1001 if number == 2 else 1012)
        link = await bench.link(RETURN_S)
        await asyncio.sleep(0.3)
        open_ones = [one.number for one in bench.attempts if one.link is None or one.link.ended_s is None]
        text = f"the attempts {', '.join(map(str, open_ones))} were open at once"
        bench.require(len(open_ones) == 1, "CM.client-cleanup", text, link.number)


@CLIENT.case(
    "C-CM-09", "core", "CM.client-cleanup", deadline_s=60,
    sends="a session, then a close frame with 1000, and no end of the TCP connection by the server",
    expects="the client ends the TCP connection within 20 s; it may end itself",
    why="A client that is done must not hold one of the server's places.",
)  # fmt: skip
async def end_cleaned_up(bench: ClientBench) -> None:
    """A client that has come to its end holds no connection."""
    await bench.start()
    link = await bench.session()
    link.answers_close = False
    await link.send_close(1000)
    try:
        await link.ended(_CLOSE_S)
    except SilenceError:
        text = f"{_CLOSE_S:g} s after the server closed with 1000 the client still held the TCP connection"
        bench.fail("CM.client-cleanup", text, link.number)
