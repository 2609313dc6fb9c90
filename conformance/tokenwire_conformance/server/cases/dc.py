"""DC: nothing is lost, nothing is left unanswered, and everybody ends with the newest values."""

import asyncio
import contextlib
from collections.abc import Iterable
from itertools import pairwise

from tokenwire_conformance.figures import QUIET_S, REPLY_S, SLACK_S, UPDATE_INTERVAL_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.peer import Answer, Peer
from tokenwire_conformance.server.refusal import fatal_end, is_any_answer
from tokenwire_conformance.server.stall import FILLING, fill, held
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received, shown
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__: list[str] = []

_MINUTE_S = 60.0
_ROUND_S = 1.0
_STALL_S = 2 * UPDATE_INTERVAL_S + 2.0  # so that two ticks pass
_CAUGHT_UP = 0.7  # of an interval
_SAME_TICK_MS = 1_000


@SERVER.case(
    "S-DC-01", "timing", "MB.sequence-contiguous", "MB.sequence-first", "DC.acknowledged", "EH.invalid-survived",
    "EH.tenth-refusal",
    sends="for a minute, on one connection, subscribes and unsubscribes of many tokens, now and then a message that is "
    "not JSON and a ping",
    expects="the numbers of all messages received are 1, 2, 3 and so on, whatever their types",
    why="A client takes a hole for a loss and reconnects, so under load there must be none by mistake.",
    deadline_s=90,
)  # fmt: skip
async def minute_of_churn(bench: Bench) -> None:
    """Numbers have no hole in a minute of churn."""
    peer = await bench.strict()
    tokens = bench.tokens(max(2, min(50, peer.limit, len(bench.facts.tokens))))
    half = len(tokens) // 2
    deadline_s = peer.opened_s + _MINUTE_S
    loop = asyncio.get_running_loop()
    number = 0
    while loop.time() < deadline_s and peer.ended_s is None:
        number += 1
        part = tokens[:half] if number % 3 else tokens[half:]
        await peer.send_json(peer.subscription("unsubscribe" if number % 4 == 3 else "subscribe", part))
        await peer.send_json(peer.subscription("subscribe", tokens))
        if number % 15 == 0:  # far from as many as end a connection
            await peer.send_text("this is not JSON")
        if number % 5 == 0:
            await peer.ping()
        await peer.collect(_ROUND_S)
    await _until_the_end(bench, peer, behind_mistake=number % 15 == 0)
    numbers = [m.sequence for m in peer.messages]
    replies = sum(map(is_any_answer, peer.messages))
    told = f"{2 * number} requests had {replies} answers"
    bench.require(replies >= number, "DC.acknowledged", told, peer)
    bench.require(numbers[0] == 1, "MB.sequence-first", f"the first number was {numbers[0]}", peer)
    wrong = [at for at, value in enumerate(numbers) if value != at + (numbers[0] or 0)]
    if wrong:
        before, message = numbers[wrong[0] - 1], peer.messages[wrong[0]]
        told = f"after {before} came {message.sequence} ({message.type}), {len(numbers)} messages in all"
        bench.fail("MB.sequence-contiguous", told, peer)
    bench.note(f"{len(numbers)} messages without a hole")


async def _until_the_end(bench: Bench, peer: Peer, *, behind_mistake: bool) -> None:
    """That the connection is left is a violation, but not of what is said about numbers."""
    if peer.is_left and not await fatal_end(bench, peer, "a text that is not JSON"):
        clause = "EH.invalid-survived" if behind_mistake else "DC.acknowledged"
        bench.fail(clause, f"the connection ended in the minute: {peer.ending()}", peer)


@SERVER.case(
    "S-DC-02", "core", "DC.acknowledged",
    sends="twelve requests, one after the other: subscribes and unsubscribes of single tokens, in both orders",
    expects="each is followed within 5 s by a message of another type than token_update, before the next is sent",
    why="Without an acknowledgment a client cannot tell a lost request from a slow one.",
    deadline_s=75,
)  # fmt: skip
async def acknowledged(bench: Bench) -> None:
    """Every request is acknowledged with a message."""
    peer = await bench.strict()
    one, two = bench.tokens(2)
    steps = [("subscribe", one), ("subscribe", two), ("unsubscribe", one), ("unsubscribe", two)]
    for number, (action, token) in enumerate((*steps, *steps, ("subscribe", two), *reversed(steps[1:])), 1):
        await peer.send_json(peer.subscription(action, [token]))
        told = f"request {number}, {action} of one token, was not acknowledged within {REPLY_S:g} s"
        answer = await peer.answer(_acknowledged, quiet_s=0.25)
        bench.require(_acknowledged(answer), "DC.acknowledged", told, peer)


def _acknowledged(answer: Answer) -> bool:
    return any(m.type is not None and m.type not in {"token_update", "connection"} for m in answer.messages)


# --- the client's numbers ----------------------------------------------------------------------------------
@SERVER.case(
    "S-DC-03", "core", "DC.gap-warned",
    sends="subscribes with the numbers 1, 5 and 9",
    expects="all three are answered with success, and over all of them exactly one error message SEQUENCE_GAP of the "
    "level warning comes",
    why="The client should learn that something was lost on its way, once, and go on.",
)  # fmt: skip
async def gap_warned(bench: Bench) -> None:
    """A client's number that skips ahead earns one warning and is processed."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    for number in (1, 5, 9):
        answer = await peer.subscribe(tokens, sequence=number)
        told = f"the request with the number {number} was not answered with success"
        bench.require(answer.accepted(), "DC.gap-warned", told, peer)
    gaps = [m for m in peer.messages if m.type == "error" and m.data.get("code") == "SEQUENCE_GAP"]
    bench.require(len(gaps) == 1, "DC.gap-warned", f"{len(gaps)} messages SEQUENCE_GAP came", peer)
    level = gaps[0].data.get("level")
    bench.require(level == "warning", "DC.gap-warned", f"SEQUENCE_GAP has the level {shown(level)}", peer)


@SERVER.case(
    "S-DC-04", "core", "DC.gap-warned", "DC.acknowledged",
    sends="subscribes with the numbers 7, 7, 3 and 8",
    expects="the connection stays open, and the last request is answered",
    why="Whatever a server thinks of numbers that do not rise, one client's mistake in counting is no reason to end "
    "its connection.",
)  # fmt: skip
async def falling_numbers(bench: Bench) -> None:
    """A client's numbers that repeat or fall are survived."""
    peer = await bench.strict()
    tokens = bench.tokens(1)
    for number in (7, 7, 3):
        await peer.subscribe(tokens, 1.0, sequence=number)
        told = f"after the number {number}: {peer.ending()}"
        bench.require(peer.ended_s is None, "DC.gap-warned", told, peer)
    answer = await peer.subscribe(tokens, sequence=8)
    told = "a request behind numbers that fall was not answered"
    bench.require(answer.of("subscription") or answer.of("error"), "DC.acknowledged", told, peer)


# --- slow readers ------------------------------------------------------------------------------------------
@SERVER.case(
    "S-DC-05", "timing", "DC.converges",
    sends=f"on two connections a subscribe with the same 100 tokens; one of them asks again {FILLING} times without "
    f"reading the answers, and reads on more than {_STALL_S:g} s later, just behind a tick",
    expects="its numbers have no hole, and before the next tick it has of each token a value no older (by timestamp) "
    "than the last one that the other connection got before",
    why="A slow reader may miss values in between, but never the last one.",
    deadline_s=75,
)  # fmt: skip
async def slow_reader_converges(bench: Bench) -> None:
    """A reader that was slow ends with the newest values."""
    interval_s = bench.facts.update_interval_s
    bench.need(interval_s <= UPDATE_INTERVAL_S, f"the update interval of {interval_s:g} s is too long for this case")
    slow, brisk = await bench.strict(offer_deflate=False), await bench.strict()
    tokens = await held(bench, slow, "DC.converges")
    await brisk.subscribe(tokens)
    await fill(slow, tokens)
    await brisk.collect(_STALL_S)
    await slow.send_frame(Opcode.PONG)  # alive all the same
    # Just behind a tick: until the next there is time to see what the stalled reader gets without it.
    with contextlib.suppress(SilenceError, EndedError):
        await brisk.until("token_update", interval_s + SLACK_S)
    await brisk.collect(QUIET_S)
    seen = _written(brisk.messages)
    slow.resume()
    await slow.collect(_CAUGHT_UP * interval_s)
    bench.require(slow.ended_s is None, "DC.converges", f"the slow connection: {slow.ending()}", slow)
    numbers = [m.sequence or 0 for m in slow.messages]
    holes = [(a, b) for a, b in pairwise(numbers) if b != a + 1]
    bench.require(not holes, "DC.converges", f"the slow reader saw a hole: {shown(holes[:1])}", slow)
    bench.need(seen, "no value came", brisk)
    has = _written(slow.messages)
    # Both stamps are of the server's clock. What the slow reader gets late may be newer than the tick, not older.
    old = [token for token in tokens if has.get(token, 0) < seen.get(token, 0) - _SAME_TICK_MS]
    told = f"of {len(old)} tokens the slow reader did not get what the other had before it read on: {shown(old[:1])}"
    bench.require(not old, "DC.converges", told, slow)


def _written(messages: Iterable[Received]) -> dict[str, int]:
    """When the last update of each token was written, by the server's clock in milliseconds."""
    updates = (message for message in messages if message.type == "token_update")
    return {str(message.data.get("address")): message.timestamp or 0 for message in updates}
