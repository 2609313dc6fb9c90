"""XR: numbers that are replayed within a connection, where ``resume`` is granted."""

from tokenwire_conformance.figures import QUIET_S, REPLY_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import (
    ack,
    begun,
    codes,
    gathered,
    last_number,
    numbered,
    replay,
    require_alive,
    up_to,
    updates_of,
)
from tokenwire_conformance.wire.frames import Opcode, encode_frame
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_UNAVAILABLE = "REPLAY_UNAVAILABLE"


@SERVER.case(
    "S-XR-31", "ext.resume", "XR.replay-request",
    sends="a session with several messages; then a replay from 2 to the last number received",
    expects="exactly these messages come once more, in order, equal to their first sending, timestamp included",
    why="A client that noticed a hole fills it without losing its connection.",
)  # fmt: skip
async def replay_request(bench: Bench) -> None:
    """A replay sends the numbers asked for once more, as first sent."""
    peer = await begun(bench)
    last = last_number(peer)
    first = {message.sequence: message.envelope for message in peer.messages}
    mark = len(peer.messages)
    await replay(peer, 2, last)
    messages = await gathered(peer, mark, lambda ms: any(m.sequence == last for m in up_to(ms, last)))
    again = up_to(messages, last)
    numbers = [message.sequence for message in again]
    bench.require(
        numbers == list(range(2, last + 1)), "XR.replay-request", f"came {shown(numbers)}, not 2 to {last}", peer
    )
    for message in again:
        same = message.envelope == first[message.sequence]
        bench.require(same, "XR.replay-request", f"{message.sequence} has changed: {message.brief()}", peer)


@SERVER.case(
    "S-XR-32", "ext.resume", "XR.replay-refused",
    sends="a replay from 2 to 1; then a subscribe",
    expects="an error with the code INVALID_MESSAGE, nothing replayed; the connection lives on",
    why="A range that is upside down is a mistake of the client.",
)  # fmt: skip
async def replay_upside_down(bench: Bench) -> None:
    """A replay with from above to is INVALID_MESSAGE."""
    peer = await begun(bench)
    mark = len(peer.messages)
    last = last_number(peer)
    await replay(peer, 2, 1)
    messages = await gathered(peer, mark, codes)
    bench.require(
        codes(messages) == ["INVALID_MESSAGE"], "XR.replay-refused", f"errors: {shown(codes(messages))}", peer
    )
    bench.require(not up_to(messages, last), "XR.replay-refused", "something was replayed", peer)
    await require_alive(bench, peer, "XR.replay-refused")


@SERVER.case(
    "S-XR-33", "ext.resume", "XR.replay-refused",
    sends="two replays of 2 to the last number, in one TCP segment",
    expects="either the second is refused with REPLAY_UNAVAILABLE and the messages come once, or it is served after "
    "the first and they come twice",
    why="One replay at a time keeps a client from multiplying what it makes the server send.",
)  # fmt: skip
async def two_replays(bench: Bench) -> None:
    """Of two replays at once the second is refused, or served after the first."""
    peer = await begun(bench)
    last = last_number(peer)
    mark = len(peer.messages)
    text = b'{"type":"replay","data":{"from":2,"to":%d}}' % last
    await peer.send_raw(2 * encode_frame(Opcode.TEXT, text, mask=True))

    def complete(messages: list[Received]) -> bool:
        lasts = sum(message.sequence == last for message in up_to(messages, last))
        return lasts + codes(messages).count(_UNAVAILABLE) == 2

    await gathered(peer, mark, complete)
    await peer.collect(QUIET_S)
    messages = peer.messages[mark:]
    numbers = [message.sequence for message in up_to(messages, last)]
    wanted = list(range(2, last + 1))
    refused = codes(messages).count(_UNAVAILABLE)
    fine = (numbers == wanted and refused == 1) or (numbers == 2 * wanted and refused == 0)
    bench.require(fine, "XR.replay-refused", f"came {shown(numbers[:20])}, {refused} times {_UNAVAILABLE}", peer)


@SERVER.case(
    "S-XR-34", "ext.resume", "XR.gap",
    sends="a session with several messages, an ack of the number K; then a replay from 1 to the last number N",
    expects="gap with from 1, to K, cause and repair, its sequence the last number; then K+1 to N as first sent; where "
    "repair is snapshot, values of the 3 tokens follow",
    why="What is lost is said, so that no hole is silent, and how it is made good.",
)  # fmt: skip
async def gap(bench: Bench) -> None:
    """What is no longer held is announced by gap, and the rest is replayed."""
    peer = await begun(bench)
    tokens = set(bench.live_tokens(3))
    await peer.subscribe(sorted(tokens))  # a second answer, so that something lies behind the ack
    last = last_number(peer)
    mark = len(peer.messages)
    await ack(peer, 2)
    await replay(peer, 1, last)

    def gap_of(messages: list[Received]) -> Received | None:
        return next((message for message in messages if message.type == "gap"), None)

    messages = await gathered(
        peer, mark, lambda ms: gap_of(ms) and any(m.sequence == last for m in up_to(ms, last))
    )  # fmt: skip
    found = gap_of(messages)
    bench.require(found, "XR.gap", "no gap came", peer)
    assert found is not None
    ends = (found.data.get("from"), found.data.get("to"))
    bench.require(ends == (1, 2), "XR.gap", f"it has from and to {ends}, not (1, 2)", peer)
    at = peer.messages.index(found)
    high = max(message.sequence or 0 for message in numbered(peer.messages[:at]))
    bench.require(found.sequence == high, "XR.gap", f"its sequence is {found.sequence}, the last was {high}", peer)
    numbers = [message.sequence for message in up_to(messages, last)]
    bench.require(
        numbers == list(range(3, last + 1)), "XR.gap", f"{shown(numbers)} were replayed, not 3 to {last}", peer
    )
    if found.data.get("repair") != "snapshot":
        bench.require(
            found.data.get("repair") == "rest", "XR.gap", f"repair is {shown(found.data.get('repair'))}", peer
        )
        return

    def fresh(messages: list[Received]) -> set[object]:
        behind = [message for message in messages if (message.sequence or 0) > last]
        return {update.get("address") for update in updates_of(behind)}

    messages = await gathered(peer, mark, lambda ms: tokens <= fresh(ms))
    missing = len(tokens - fresh(messages))
    bench.require(not missing, "XR.gap", f"no current value of {missing} tokens within {REPLY_S:g} s", peer)


@SERVER.case(
    "S-XR-35", "ext.resume", "XR.never-sent",
    sends="a replay of numbers 1000 beyond the last one; then a subscribe",
    expects="an error with the code REPLAY_UNAVAILABLE and the level warning; the connection lives on",
    why="Such numbers are neither held nor lost: a gap would announce a loss that never was.",
)  # fmt: skip
async def never_sent(bench: Bench) -> None:
    """A replay of numbers never sent is REPLAY_UNAVAILABLE."""
    peer = await begun(bench)
    mark = len(peer.messages)
    far = last_number(peer) + 1000
    await replay(peer, far, far + 1)
    messages = await gathered(peer, mark, codes)
    seen = [(m.data.get("code"), m.data.get("level")) for m in messages if m.type == "error"]
    bench.require(seen == [(_UNAVAILABLE, "warning")], "XR.never-sent", f"errors: {shown(seen)}", peer)
    gaps = [message for message in messages if message.type == "gap"]
    bench.require(not gaps, "XR.never-sent", "a gap announces numbers that never were", peer)
    await require_alive(bench, peer, "XR.never-sent")
