"""XA: acknowledgments, where ``resume`` is granted."""

import asyncio

from tokenwire_conformance.figures import QUIET_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import (
    ack,
    begun,
    codes,
    gathered,
    last_number,
    replay,
    require_alive,
    up_to,
)
from tokenwire_conformance.wire.messages import shown

__all__: list[str] = []

_ACKS = 150


@SERVER.case(
    "S-XA-01", "ext.ack", "XA.silent",
    sends="an ack of the last number received, and of the same once more; then a subscribe",
    expects="the subscribe is answered, and nothing but values came before the answer",
    why="An ack frees memory. Answered, it would cost more than it saves.",
)  # fmt: skip
async def silent(bench: Bench) -> None:
    """An ack of a number that was sent is taken without an answer."""
    peer = await begun(bench)
    mark = len(peer.messages)
    last = last_number(peer)
    await ack(peer, last)
    await ack(peer, last)
    await require_alive(bench, peer, "XA.silent")
    came = peer.messages[mark:]
    at = next(index for index, message in enumerate(came) if message.type == "subscription")
    others = [m for m in came[:at] if m.type not in {"token_update", "token_batch", "heartbeat"}]
    bench.require(not others, "XA.silent", f"came: {others[0].brief() if others else ''}", peer)


@SERVER.case(
    "S-XA-02", "ext.ack", "XA.silent", "XR.acked-evicted",
    sends="a session with several messages, an ack of its last number N, a replay of 1 to N",
    expects="none of the messages 1 to N comes again; a gap says that they are not held",
    why="One ack counts for all numbers before it, so a client need not send one for each.",
)  # fmt: skip
async def cumulative(bench: Bench) -> None:
    """An ack counts for every number before it."""
    peer = await begun(bench)
    last = last_number(peer)
    mark = len(peer.messages)
    await ack(peer, last)
    await replay(peer, 1, last)
    messages = await gathered(peer, mark, lambda ms: any(m.type == "gap" for m in ms))
    again = [message.sequence for message in up_to(messages, last)]
    bench.require(not again, "XA.silent", f"{again} were replayed though {last} was acknowledged", peer)
    told = any(message.type == "gap" for message in messages)
    bench.require(told, "XR.acked-evicted", "no gap came", peer)


@SERVER.case(
    "S-XA-03", "ext.ack", "XA.out-of-range",
    sends="an ack of a number 1000 beyond the last one received; then a subscribe",
    expects="an error with the code ACK_OUT_OF_RANGE and the level warning; the connection lives on",
    why="Such an ack is a mistake of the client, which would otherwise free what it never got.",
)  # fmt: skip
async def out_of_range(bench: Bench) -> None:
    """An ack of a number never sent is the warning ACK_OUT_OF_RANGE."""
    peer = await begun(bench)
    mark = len(peer.messages)
    await ack(peer, last_number(peer) + 1000)
    messages = await gathered(peer, mark, codes)
    seen = [(m.data.get("code"), m.data.get("level")) for m in messages if m.type == "error"]
    bench.require(seen == [("ACK_OUT_OF_RANGE", "warning")], "XA.out-of-range", f"errors: {shown(seen)}", peer)
    await require_alive(bench, peer, "XA.out-of-range")


@SERVER.case(
    "S-XA-04", "ext.ack", "EH.invalid-message", "XA.silent",
    sends='an ack whose sequence is the string "1"; then a valid one and a subscribe',
    expects="one error, with the code INVALID_MESSAGE; the valid ack is taken, and the subscribe answered",
    why="A field of the wrong type is refused, not guessed at.",
)  # fmt: skip
async def wrong_type(bench: Bench) -> None:
    """An ack with a string is INVALID_MESSAGE."""
    peer = await begun(bench)
    mark = len(peer.messages)
    await ack(peer, "1")
    messages = await gathered(peer, mark, codes)
    bench.require(
        codes(messages) == ["INVALID_MESSAGE"], "EH.invalid-message", f"errors: {shown(codes(messages))}", peer
    )
    await ack(peer, 1)
    await require_alive(bench, peer, "XA.silent")
    found = codes(peer.messages[mark:])
    bench.require(len(found) == 1, "XA.silent", f"a valid ack behind it brought the errors {found[1:]}", peer)


@SERVER.case(
    "S-XA-05", "ext.ack", "XA.rate",
    sends=f"{_ACKS} acks of a number that was sent, spread over a second; then a subscribe",
    expects="no error, RATE_LIMITED in particular; the subscribe is answered",
    why="Who acknowledges every message of a busy feed must not be taken for a flood.",
)  # fmt: skip
async def rate(bench: Bench) -> None:
    """150 acks in a second are within the rate."""
    peer = await begun(bench)
    mark = len(peer.messages)
    last = last_number(peer)
    for _ in range(_ACKS // 10):
        for _ in range(10):
            await ack(peer, last)
        await asyncio.sleep(10 / _ACKS)
    await peer.collect(QUIET_S)
    found = codes(peer.messages[mark:])
    bench.require(not found, "XA.rate", f"errors: {shown(found[:5])}", peer)
    await require_alive(bench, peer, "XA.rate")
