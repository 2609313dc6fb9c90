"""XH: the heartbeat message, where ``heartbeat`` is granted."""

import asyncio
from itertools import pairwise
from typing import Any

from tokenwire_conformance.figures import HEARTBEAT_S, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import codes, gathered
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_PINGS = 150


async def _pinged(peer: Peer, echo: Any, timeout_s: float = REPLY_S) -> list[Received]:
    """Send ping; what comes until the heartbeat with this echo, or something else than a value."""
    mark = len(peer.messages)
    await peer.send_json({"type": "ping", "data": {"echo": echo}})
    return await gathered(peer, mark, lambda ms: _echoes(ms) or codes(ms), timeout_s)


def _echoes(messages: list[Received]) -> list[Any]:
    return [m.data["echo"] for m in messages if m.type == "heartbeat" and "echo" in m.data]


@SERVER.case(
    "S-XH-01", "ext.heartbeat", "XH.echo",
    sends="ping with the echo a-1, then ä€😀, then 128 characters, then the numbers 7 and 0.5",
    expects="to each a heartbeat whose echo is the same",
    why="By the echo a client tells answers apart and measures the way there and back.",
)  # fmt: skip
async def echo(bench: Bench) -> None:
    """A ping is answered by a heartbeat with its echo, a string or a number."""
    peer = await bench.extended("heartbeat")
    for value in ("a-1", "ä€😀", "x" * 128, 7, 0.5):
        found = _echoes(await _pinged(peer, value))
        bench.require(
            found == [value], "XH.echo", f"ping with {shown(str(value)[:20])} was answered with {shown(found)}", peer
        )


@SERVER.case(
    "S-XH-02", "ext.heartbeat", "EH.invalid-message", "XH.echo",
    sends="ping with an echo of 129 characters, then one with a list; then a valid one",
    expects="twice an error with the code INVALID_MESSAGE, then the heartbeat",
    why="What comes back has to be bounded, or a ping becomes a way to make the server send.",
)  # fmt: skip
async def bad_echo(bench: Bench) -> None:
    """An echo that is too long, or no string or number, is INVALID_MESSAGE."""
    peer = await bench.extended("heartbeat")
    for value in ("x" * 129, [1]):
        messages = await _pinged(peer, value)
        seen = codes(messages)
        bench.require(
            seen == ["INVALID_MESSAGE"], "EH.invalid-message", f"was answered with the errors {shown(seen)}", peer
        )
    found = _echoes(await _pinged(peer, "still"))
    bench.require(found == ["still"], "XH.echo", "a valid ping is not answered any more", peer)


@SERVER.case(
    "S-XH-03", "ext.heartbeat", "XH.unnumbered",
    sends="subscribe, ping, subscribe, ping, with values coming between",
    expects="each heartbeat has the number of the last numbered message before it; the numbered messages count on "
    "without it",
    why="A higher number in a heartbeat than received proves a loss, so it must be exact.",
)  # fmt: skip
async def unnumbered(bench: Bench) -> None:
    """A heartbeat has the last number assigned and takes none itself."""
    peer = await bench.extended("heartbeat")
    tokens = bench.live_tokens(3)
    for part in (tokens[:2], tokens[2:]):
        await peer.subscribe(part)
        found = _echoes(await _pinged(peer, "n"))
        bench.require(found, "XH.echo", "a ping was not answered", peer)
    await peer.unsubscribe(tokens)
    before = 0
    for message in peer.messages:
        if message.type == "heartbeat":
            text = f"a heartbeat has {message.sequence}, the last number before it was {before}"
            bench.require(message.sequence == before, "XH.unnumbered", text, peer)
        else:
            before = message.sequence or 0
    numbers = [message.sequence or 0 for message in peer.messages if message.type != "heartbeat"]
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    bench.require(steps == {1}, "XH.unnumbered", f"the numbered messages have {shown(numbers[:20])}", peer)


@SERVER.case(
    "S-XH-04", "ext.heartbeat", "XH.idle",
    sends="nothing, for 16 s after the first message",
    expects="the first heartbeat comes 15 s after the first message (a second more or less)",
    why="A web page cannot see ping frames: without the message it does not notice a dead server.", deadline_s=40.0,
)  # fmt: skip
async def idle(bench: Bench) -> None:
    """A heartbeat is sent when nothing else was for 15 s."""
    peer = await bench.extended("heartbeat")
    begun_s = peer.messages[0].at_s
    messages = await gathered(peer, 1, len, HEARTBEAT_S + SLACK_S)
    bench.require(messages, "XH.idle", f"nothing came for {HEARTBEAT_S + SLACK_S:g} s", peer)
    first = messages[0]
    bench.require(first.type == "heartbeat", "XH.idle", f"came {first.brief()}", peer)
    after_s = first.at_s - begun_s
    early = after_s < HEARTBEAT_S - SLACK_S
    bench.require(not early, "XH.idle", f"a heartbeat came after {after_s:.1f} s of silence", peer)


@SERVER.case(
    "S-XH-05", "ext.heartbeat", "XH.ping-ungranted",
    sends="ping on a connection with nothing negotiated, to a server that grants heartbeat to others",
    expects="the heartbeat with the echo",
    why="Who sends a ping by hand accepts the answer; a person should not need a query for it.",
)  # fmt: skip
async def ungranted(bench: Bench) -> None:
    """A ping is answered without a grant too."""
    await bench.extended("heartbeat")
    peer = await bench.strict()
    messages = await _pinged(peer, "by-hand")
    found = _echoes(messages)
    text = f"echoes {shown(found)}, errors {shown(codes(messages))}"
    bench.require(found == ["by-hand"], "XH.ping-ungranted", f"the ping was answered with {text}", peer)


@SERVER.case(
    "S-XH-06", "ext.heartbeat", "XA.rate", "XH.echo",
    sends=f"{_PINGS} pings, spread over a second",
    expects="every one is answered, without an error, RATE_LIMITED in particular",
    why="Pings have the rate of control frames: measuring often must not be taken for a flood.",
)  # fmt: skip
async def rate(bench: Bench) -> None:
    """150 pings in a second are within the rate, and all are answered."""
    peer = await bench.extended("heartbeat")
    for number in range(1, _PINGS + 1):
        await peer.send_json({"type": "ping", "data": {"echo": number}})
        if number % 10 == 0:
            await asyncio.sleep(10 / _PINGS)
    messages = await gathered(peer, 1, lambda ms: len(_echoes(ms)) >= _PINGS or codes(ms))
    bench.require(not codes(messages), "XA.rate", f"errors: {shown(codes(messages)[:5])}", peer)
    found = _echoes(messages)
    bench.require(found == list(range(1, _PINGS + 1)), "XH.echo", f"{len(found)} answers, or out of order", peer)


@SERVER.case(
    "S-XH-07", "ext.heartbeat", "XH.echo",
    sends="ping; the heartbeats that other cases received are looked at as well",
    expects="every heartbeat is valid by the schema extended/server/heartbeat",
    why="A client reads it by its schema; pending, for one, is a count.", over_run=True,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every heartbeat has the shape of its schema."""
    peer = await bench.extended("heartbeat")
    await _pinged(peer, "shape")
    judged = expect_shapes(bench, [*bench.histories, *bench.run_histories], "heartbeat", {"heartbeat": "XH.echo"})
    bench.require(judged, "XH.echo", "no heartbeat came", peer)
