"""XB: updates in batches, where the client asks for them."""

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import order_heard, session_with
from tokenwire_conformance.figures import MAX_BATCH

__all__: list[str] = []


async def _batch(bench: ClientBench, count: int) -> None:
    bench.need_events("update")
    await bench.start()
    link = await session_with(bench, "batch")
    sent = [bench.fresh_price() for _ in range(count)]
    names = bench.wanted
    updates = [link.update_data(names[index % len(names)], price) for index, price in enumerate(sent)]
    await link.send("token_batch", {"updates": updates})
    heard = set(await order_heard(bench, sent))
    # A client may keep only the newest value of a token that its application has not taken yet.
    needed = sent if count <= len(names) else sent[-len(names) :]
    missing = [price for price in needed if price not in heard]
    text = f"of a token_batch with {count} entries, {len(missing)} did not reach the application: {missing[:5]}"
    bench.require(not missing, "XB.client-reads", text, link.number)
    after = bench.fresh_price()
    await link.update(names[0], after)
    text = "an update behind a token_batch did not reach the application"
    bench.require(await order_heard(bench, [after]), "XB.client-reads", text, link.number)


@CLIENT.case(
    "C-XB-01", "ext.batch", "XB.client-reads",
    sends="batch granted; a token_batch with an update for each token, then a single update",
    expects="each of them reaches the application",
    why="Many values in one message cost far less than one message each.",
)  # fmt: skip
async def batch(bench: ClientBench) -> None:
    """Each entry of a batch is an update."""
    await _batch(bench, len(bench.wanted))


@CLIENT.case(
    "C-XB-02", "ext.batch", "XB.client-reads",
    sends="batch granted; a token_batch with 1000 entries, then a single update",
    expects="the last entry of each token, and the single update, reach the application",
    why="A batch has up to 1000 entries.",
)  # fmt: skip
async def full_batch(bench: ClientBench) -> None:
    """A batch of 1000 entries is read."""
    await _batch(bench, MAX_BATCH)
