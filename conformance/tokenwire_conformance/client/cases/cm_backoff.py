"""CM: how long a client waits before it tries again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, START_S, ClientBench
from tokenwire_conformance.client.cases.steps import RETURN_S
from tokenwire_conformance.client.link import Attempt
from tokenwire_conformance.figures import BACKOFF_BASE_S, BACKOFF_CAP_S, STABLE_S
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_JITTER: Final = 1.5
"""Chance may add half of a wait: full jitter is only our reading."""
_SLACK_S: Final = 0.5
_WATCH_S: Final = 10.0
_MAX_ATTEMPTS: Final = 8
"""Within ten seconds. A wait of one second each time makes more, full jitter does once in 50,000 times."""
_STORM: Final = 40
"""Within ten seconds: waits of less than a quarter of a second."""
_BURST: Final = 9
"""Within one second. Waits drawn from 0 to 1 s, starting over each time, make more once in 20,000 times."""
_LONG_WAITS: Final = 8
_GONE_S: Final = 130
"""Without an attempt for so long, a client has given up: its next uncapped wait would hardly be longer."""


def _bound(retry: int) -> float:
    """The wait before retry ``retry`` (from 0) as the specification has it, before chance has its part."""
    return float(min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2**retry))


async def _reset(attempt: Attempt) -> None:
    """Let an attempt fail, once it is certain to be one: a TCP connection alone is none."""
    await attempt.request()
    await attempt.drop()


async def _fail_for(bench: ClientBench, seconds: float, fail: Callable[[Attempt], Awaitable[None]]) -> None:
    """Let every attempt fail for so long, counted from the first one."""
    loop = asyncio.get_running_loop()
    attempt = await bench.attempt()
    until_s = attempt.at_s + seconds
    while True:
        await fail(attempt)
        left_s = until_s - loop.time()
        if left_s <= 0:
            return
        try:
            attempt = await bench.attempt(left_s)
        except SilenceError:
            return


def _since_first(bench: ClientBench, seconds: float) -> int:
    """How many attempts were made within ``seconds`` of the first one."""
    return sum(attempt.at_s - bench.attempts[0].at_s <= seconds for attempt in bench.attempts)


@CLIENT.case(
    "C-CM-10", "core", "CM.backoff-base",
    sends="a session, then the reset of its TCP connection",
    expects="the next attempt after at most 1 s; half of it again as jitter, and 0.5 s of slack, are allowed",
    why="Exponential backoff with a base of 1 s.",
)  # fmt: skip
async def base(bench: ClientBench) -> None:
    """The first wait is at most one second."""
    limit_s = BACKOFF_BASE_S * _JITTER + _SLACK_S
    await bench.start()
    link = await bench.session()
    lost_s = asyncio.get_running_loop().time()
    await link.abort()
    try:
        attempt = await bench.attempt(RETURN_S)
    except SilenceError as error:
        bench.fail("CM.backoff-base", f"after its connection was lost {error}")
    waited_s = attempt.at_s - lost_s
    bench.require(waited_s <= limit_s, "CM.backoff-base", f"the first wait was {waited_s:.2f} s", attempt.number)


@CLIENT.case(
    "C-CM-11", "core", "CM.backoff-exponential", "CM.jitter", deadline_s=40,
    sends="a reset in place of every handshake, for 10 s",
    expects="at least 2 and at most 8 attempts. By our reading of the growth, which is a doubling, the wait before the "
    "k-th retry is at most 2^(k-1) s, plus half of it as jitter and 0.5 s of slack",
    why="Equal waits of a second bring a server that restarts under the load of all its clients at once.",
)  # fmt: skip
async def exponential(bench: ClientBench) -> None:
    """The waits grow exponentially."""
    clause = "CM.backoff-exponential"
    await bench.start()
    await _fail_for(bench, _WATCH_S, _reset)
    count = _since_first(bench, _WATCH_S)
    bench.require(count <= _MAX_ATTEMPTS, clause, f"{count} attempts within {_WATCH_S:g} s: the waits do not grow")
    bench.require(count >= 2, clause, f"only {count} attempt within {_WATCH_S:g} s")
    for retry, waited_s in enumerate(bench.waits()):
        limit_s = _bound(retry) * _JITTER + _SLACK_S
        text = f"the wait before retry {retry + 1} was {waited_s:.2f} s, more than {limit_s:.2f} s"
        bench.require(waited_s <= limit_s, "CM.jitter", text, retry + 2)


@CLIENT.case(
    "C-CM-12", "core", "CM.no-storm", deadline_s=40,
    sends="an accepted handshake, a connection message and at once the reset of the connection, again and again for "
    "10 s",
    expects="at least 2 and at most 40 attempts, and never more than 9 within a second",
    why="A server that fails right after it accepted must not be called without a pause. How much the waits grow "
    "where the handshake succeeds is another case's.",
)  # fmt: skip
async def no_storm(bench: ClientBench) -> None:
    """Connections that end at once do not make a storm of attempts."""

    async def accept_and_drop(attempt: Attempt) -> None:
        link = await attempt.accept()
        await link.greet()
        await link.abort()

    await bench.start()
    await _fail_for(bench, _WATCH_S, accept_and_drop)
    count = _since_first(bench, _WATCH_S)
    text = f"{count} attempts within {_WATCH_S:g} s, although every connection ended at once"
    bench.require(count <= _STORM, "CM.no-storm", text)
    times = [attempt.at_s for attempt in bench.attempts]
    burst = any(later - earlier < 1 for earlier, later in zip(times, times[_BURST:], strict=False))
    text = f"more than {_BURST} attempts within a second, although every connection ended at once"
    bench.require(not burst, "CM.no-storm", text)
    bench.require(count >= 2, "CM.no-storm", "the client did not come back after its connection was reset")


@CLIENT.case(
    "C-CM-13", "core", "CM.jitter", deadline_s=180,
    sends="a reset in place of the first four handshakes",
    expects="the waits are not all at their bounds of 1, 2, 4 and 8 s (0.93 of them and more; by chance once in 40,000 "
    "times), and none is longer than its bound (0.5 s of slack)",
    why="Without jitter all clients of a server come back in the same moment.",
)  # fmt: skip
async def jitter(bench: ClientBench) -> None:
    """The waits are drawn at random below their bounds."""
    await bench.start()
    for _ in range(4):
        await _reset(await bench.attempt(RETURN_S))
    await bench.attempt(RETURN_S)
    waits = bench.waits()[:4]
    told = ", ".join(f"{waited_s:.2f}" for waited_s in waits)
    full = all(waited_s >= 0.93 * _bound(retry) for retry, waited_s in enumerate(waits))
    bench.require(not full, "CM.jitter", f"the first waits were {told} s: nothing is drawn at random")
    over = any(waited_s > _bound(retry) + _SLACK_S for retry, waited_s in enumerate(waits))
    bench.require(not over, "CM.jitter", f"the first waits were {told} s: longer than 1, 2, 4, 8 s")


@CLIENT.case(
    "C-CM-14", "core", "CM.retry-after",
    sends="HTTP 503 with Retry-After: 4 in place of the handshake",
    expects="the next attempt not before 4 s have passed (3.9 s)",
    why="The server knows best when it can serve again.",
)  # fmt: skip
async def retry_after(bench: ClientBench) -> None:
    """Retry-After is honoured."""
    await bench.start()
    attempt = await bench.attempt()
    await attempt.reject(503, {"Retry-After": "4"})
    answered_s = asyncio.get_running_loop().time()
    try:
        attempt = await bench.attempt(RETURN_S)
    except SilenceError as error:
        bench.fail("CM.retry-after", f"after HTTP 503 with Retry-After: 4 {error}")
    waited_s = attempt.at_s - answered_s
    text = f"the client came back {waited_s:.2f} s after HTTP 503 with Retry-After: 4"
    bench.require(waited_s >= 3.9, "CM.retry-after", text, attempt.number)


async def _next_or_end(bench: ClientBench, patience_s: float) -> Attempt | None:
    """The next attempt; ``None`` if the client has ended, told FAILED, or makes none for so long."""
    last_s = bench.attempts[-1].at_s
    loop = asyncio.get_running_loop()
    while loop.time() - last_s < patience_s:
        with contextlib.suppress(SilenceError):
            return await bench.attempt(0.5)
        if bench.states()[-1:] == ["FAILED"] or bench.exit_status is not None:
            break
    return None


@CLIENT.case(
    "C-CM-15", "timing", "CM.backoff-max", deadline_s=500,
    sends="a reset in place of every handshake, until there were 8 waits",
    expects="no wait longer than 30 s (31 s with slack). A client that gives up before its seventh try is not judged: "
    "let its command give it more retries",
    why="30 s max.",
)  # fmt: skip
async def longest_wait(bench: ClientBench) -> None:
    """No wait is longer than 30 s."""
    clause = "CM.backoff-max"
    await bench.start()
    await _reset(await bench.attempt())
    while len(bench.attempts) <= _LONG_WAITS:
        attempt = await _next_or_end(bench, _GONE_S)
        if attempt is None:
            break
        waited_s = bench.waits()[-1]
        bench.require(waited_s <= BACKOFF_CAP_S + 1, clause, f"one of the waits was {waited_s:.1f} s", attempt.number)
        await _reset(attempt)
    else:
        bench.note(f"the waits were {', '.join(f'{waited_s:.1f}' for waited_s in bench.waits())} s")
        return
    # A client that tells its states and has not told FAILED still means to come back.
    waits_on = "state" in bench.facts.events and "FAILED" not in bench.states() and bench.exit_status is None
    bench.require(not waits_on, clause, f"the client made no attempt for {_GONE_S} s, and told nothing of its end")
    if len(bench.waits()) < 6:
        raise NotTestableError(f"the client gave up after {len(bench.waits())} retries, before its waits reach 30 s")


@CLIENT.case(
    "C-CM-16", "timing", "CM.backoff-exponential", deadline_s=400,
    sends="a reset in place of every handshake, until there were 10 waits, the client gives up, or one wait was long",
    expects="not all of the waits are at most 1, 2, 3, … s, as they are where each is one second longer than the last, "
    "or all alike; by chance this happens once in 5000 times. A client that gives up before its ninth try is not "
    "judged: let its command give it more retries",
    why="Exponential backoff multiplies: it grows faster than by the same amount each time.",
)  # fmt: skip
async def not_linear(bench: ClientBench) -> None:
    """The waits grow faster than linearly."""
    await bench.start()
    await _reset(await bench.attempt())
    for retry in range(10):
        attempt = await _next_or_end(bench, retry + 1.5)
        if attempt is None:
            if bench.exit_status is None and "FAILED" not in bench.states():
                return  # this wait is longer already, unless the client has given up without a word
            break
        if bench.waits()[-1] > retry + 1.3:
            return
        await _reset(attempt)
    count = len(bench.waits())
    if count < 9:
        raise NotTestableError(f"the client gave up after {count} retries, too few to tell how its waits grow")
    told = ", ".join(f"{waited_s:.1f}" for waited_s in bench.waits())
    bench.fail("CM.backoff-exponential", f"the waits were {told} s: they grow by no more than a second each")


@CLIENT.case(
    "C-CM-17", "timing", "CM.backoff-reset", deadline_s=260,
    sends="a reset in place of the first four handshakes, a session of 32 s with an update every 5 s, and its reset",
    expects="the next attempt after at most 1 s (1.5 s with slack): the waits have started over",
    why="An outage of yesterday says nothing about today's.",
)  # fmt: skip
async def starts_over(bench: ClientBench) -> None:
    """After 30 s of stable connection the waits start over."""
    await bench.start()
    for _ in range(4):
        await _reset(await bench.attempt(RETURN_S))
    link = await bench.session(timeout_s=RETURN_S)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + STABLE_S + 2
    while loop.time() < until_s:
        await asyncio.sleep(5)
        await link.update(bench.wanted[0])
        bench.require(link.ended_s is None, "CM.backoff-reset", f"the client left: {link.ending()}", link.number)
    lost_s = loop.time()
    await link.abort()
    attempt = await bench.attempt(40)
    waited_s = attempt.at_s - lost_s
    text = f"after {STABLE_S + 2:g} s of stable connection the client waited {waited_s:.2f} s"
    bench.require(waited_s <= BACKOFF_BASE_S + _SLACK_S, "CM.backoff-reset", text, attempt.number)


@CLIENT.case(
    "C-CM-18", "timing", "CM.backoff-reset", deadline_s=260,
    sends="seven connections, each accepted, greeted and reset after 1 s",
    expects="not all of the six waits between them are at most 1.25 s; by chance this happens once in 10,000 times",
    why="A server that fails a second after each connection is not back yet.",
)  # fmt: skip
async def no_early_reset(bench: ClientBench) -> None:
    """A short connection does not make the waits start over."""
    await bench.start()
    waits: list[float] = []
    lost_s = 0.0
    for number in range(7):
        attempt = await bench.attempt(START_S if number == 0 else BACKOFF_CAP_S + 5)
        if number:
            waits.append(attempt.at_s - lost_s)
        if waits and waits[-1] > 1.25:
            return
        link = await attempt.accept()
        await link.greet()
        await asyncio.sleep(1)
        lost_s = asyncio.get_running_loop().time()
        await link.abort()
    told = ", ".join(f"{waited_s:.2f}" for waited_s in waits)
    bench.fail("CM.backoff-reset", f"the connections lasted 1 s each, and the waits were {told} s: they start over")
