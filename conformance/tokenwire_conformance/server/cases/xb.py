"""XB: batches of updates, where ``batch`` is granted."""

from itertools import pairwise

from tokenwire_conformance.figures import MAX_BATCH, REPLY_S, SLACK_S
from tokenwire_conformance.server.bench import SERVER, Bench
from tokenwire_conformance.server.extension import gathered, updates_of
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.server.shapes import expect_shapes
from tokenwire_conformance.wire.messages import Received, shown

__all__: list[str] = []

_MAX_BATCH_BYTES = 512 * 1024  # I-56


async def _values(bench: Bench, peer: Peer, tokens: list[str]) -> list[Received]:
    """Subscribe and read until each token has a value, or the time for that is over."""
    await peer.send_json(peer.subscription("subscribe", tokens))
    return await gathered(
        peer, 1, lambda ms: set(tokens) <= {u.get("address") for u in updates_of(ms)},
        REPLY_S + bench.facts.update_interval_s,
    )  # fmt: skip


def _expect_batched(bench: Bench, peer: Peer, messages: list[Received], clause: str = "XB.updates") -> None:
    bench.require(updates_of(messages), clause, "no update came, neither single nor in a batch", peer)
    single = [message for message in messages if message.type == "token_update"]
    bench.require(not single, clause, f"{len(single)} updates came as token_update", peer)


@SERVER.case(
    "S-XB-01", "ext.batch", "XB.updates",
    sends="a subscribe to 5 tokens that have values, on a connection with batch granted",
    expects="their values in token_batch messages, and no token_update",
    why="Who asked for batches reads one message where there would be hundreds, and need not read both kinds.",
)  # fmt: skip
async def values_in_batches(bench: Bench) -> None:
    """With batch, the first values of several tokens come as token_batch."""
    peer = await bench.extended("batch")
    messages = await _values(bench, peer, bench.live_tokens(5))
    _expect_batched(bench, peer, messages)


@SERVER.case(
    "S-XB-02", "ext.batch", "XB.updates",
    sends="a subscribe to one token that has values, on a connection with batch granted",
    expects="its value in a token_batch message, and no token_update",
    why="A batch has 1 to 1000 entries: with batch granted a single update is a batch of one.",
)  # fmt: skip
async def single_value_in_batch(bench: Bench) -> None:
    """With batch, a single value comes as a token_batch of one entry."""
    peer = await bench.extended("batch")
    (token,) = bench.live_tokens(1)
    messages = await _values(bench, peer, [token])
    _expect_batched(bench, peer, messages)
    first = next(message for message in messages if message.type == "token_batch")
    addresses = [update.get("address") for update in updates_of([first])]
    bench.require(addresses == [token], "XB.updates", f"the batch has the addresses {addresses}", peer)


@SERVER.case(
    "S-XB-03", "ext.batch", "XB.updates",
    sends="a subscribe to 10 tokens that have values, then nothing for a little more than one update interval",
    expects="what changed in the interval comes as token_batch too, never as token_update",
    why="Batches are meant for the ticks of the update interval above all.", deadline_s=40.0,
)  # fmt: skip
async def ticks_in_batches(bench: Bench) -> None:
    """With batch, the updates of an interval come as token_batch."""
    peer = await bench.extended("batch")
    first = await _values(bench, peer, bench.live_tokens(10))
    bench.require(updates_of(first), "XB.updates", "no update came, neither single nor in a batch", peer)
    mark = len(peer.messages)
    messages = await gathered(peer, mark, updates_of, 2 * bench.facts.update_interval_s + SLACK_S)
    bench.need(updates_of(messages), "none of 10 tokens changed within two update intervals: name busier ones")
    _expect_batched(bench, peer, messages)


@SERVER.case(
    "S-XB-04", "ext.batch", "XB.updates",
    sends="a subscribe to 10 tokens that have values, then an unsubscribe from them",
    expects="every message, batches with several entries among them, has the number of the one before plus one",
    why="A batch has one number, whatever it holds: counted by entries, every batch would look like a loss.",
)  # fmt: skip
async def one_number(bench: Bench) -> None:
    """A batch takes one number, however many entries it has."""
    peer = await bench.extended("batch")
    tokens = bench.live_tokens(10)
    messages = await _values(bench, peer, tokens)
    bench.require(any(message.type == "token_batch" for message in messages), "XB.updates", "no token_batch came", peer)
    await peer.unsubscribe(tokens)
    numbers = [message.sequence or 0 for message in peer.messages]
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    bench.require(steps == {1}, "XB.updates", f"the numbers were {shown(numbers[:20])}", peer)


@SERVER.case(
    "S-XB-05", "ext.batch", "XB.size",
    sends="a subscribe to as many tokens as the connection may hold (of those that are known)",
    expects=f"every token_batch has 1 to {MAX_BATCH} entries and at most {_MAX_BATCH_BYTES} bytes",
    why="A reader sizes its buffers by these bounds.",
)  # fmt: skip
async def sizes(bench: Bench) -> None:
    """A batch has 1 to 1000 entries and at most 512 KiB."""
    peer = await bench.extended("batch")
    count = min(peer.limit, MAX_BATCH, len(bench.facts.tokens))
    messages = await _values(bench, peer, bench.tokens(count))
    batches = [message for message in messages if message.type == "token_batch"]
    bench.require(batches, "XB.size", "no token_batch came", peer)
    for batch in batches:
        entries = batch.data.get("updates")
        length = len(entries) if isinstance(entries, list) else 0
        bench.require(1 <= length <= MAX_BATCH, "XB.size", f"a batch has {length} entries", peer)
        size = len(batch.payload)
        bench.require(size <= _MAX_BATCH_BYTES, "XB.size", f"a batch has {size} bytes", peer)


@SERVER.case(
    "S-XB-06", "ext.batch", "EP.caps-in-force", "XB.updates",
    sends="a subscribe to one token that has values, on a connection that asked for batch alone",
    expects="no field of another capability: no session, stream or requestId, no version or sourceTime",
    why="What is in force on a connection is what its first message lists, and nothing else.",
)  # fmt: skip
async def nothing_else(bench: Bench) -> None:
    """With batch alone, nothing of the other capabilities shows."""
    peer = await bench.extended("batch")
    assert peer.greeting is not None
    others = sorted(peer.granted - {"batch"})
    bench.require(not others, "EP.caps-in-force", f"granted unasked: {', '.join(others)}", peer)
    (token,) = bench.live_tokens(1)
    await peer.send_json(peer.subscription("subscribe", [token], requestId="r-1"))
    messages = await gathered(peer, 1, updates_of, REPLY_S + bench.facts.update_interval_s)
    bench.require(updates_of(messages), "XB.updates", "no update came", peer)
    greeting = sorted({"session", "resumed", "subscriptions", "stream", "heartbeatMs"} & peer.greeting.data.keys())
    bench.require(not greeting, "EP.caps-in-force", f"the first message has {', '.join(greeting)}", peer)
    replies = [message for message in messages if message.type == "subscription"]
    answered = sorted({"requestId", "rejected", "active"} & {key for reply in replies for key in reply.data})
    bench.require(not answered, "EP.caps-in-force", f"the answer has {', '.join(answered)}", peer)
    values = sorted({"version", "sourceTime"} & {key for update in updates_of(messages) for key in update})
    bench.require(not values, "EP.caps-in-force", f"an update has {', '.join(values)}", peer)


@SERVER.case(
    "S-XB-07", "ext.batch", "XB.updates", "MU.canonical", "MU.volume-decimal",
    sends="a subscribe to 5 tokens that have values; batches that other cases received are looked at as well",
    expects="every token_batch is valid by the schema extended/server/token_batch",
    why="An entry is read as a token_update is, so it has the same fields in the same form.", over_run=True,
)  # fmt: skip
async def shape(bench: Bench) -> None:
    """Every token_batch has the shape of its schema."""
    peer = await bench.extended("batch")
    await _values(bench, peer, bench.live_tokens(5))
    judged = expect_shapes(
        bench, [*bench.histories, *bench.run_histories], "batch", {"token_batch": "XB.updates"}
    )  # fmt: skip
    bench.require(judged, "XB.updates", "no token_batch came", peer)
