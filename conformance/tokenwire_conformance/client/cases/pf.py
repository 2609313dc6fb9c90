"""PF: batches and compression."""

import json
import zlib
from typing import Final

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import hears
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, MAX_BATCH
from tokenwire_conformance.model import NotTestableError
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_MANY: Final = tuple(f"CONFORMANCE-{number:04d}" for number in range(1_100))
_APART: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_TOGETHER: Final = "permessage-deflate; client_no_context_takeover"
_TAIL: Final = b"\x00\x00\xff\xff"


@CLIENT.case(
    "C-PF-01", "core", "PF.client-batch-size",
    sends="a connection message that allows 2000 subscriptions, to a client that is to subscribe to 1100 tokens",
    expects="the client subscribes, and no message of it names more than 1000 tokens",
    why="The maximum batch size of the specification.",
)  # fmt: skip
async def batch_size(bench: ClientBench) -> None:
    """No message of the client names more than 1000 tokens."""
    await bench.start(_MANY)
    attempt = await bench.attempt()
    link = await attempt.accept()
    link.values = False  # 1100 of them would only take time
    await link.greet(maxSubscriptions=2_000)
    if not await link.first_request():
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    await link.subscribed(_MANY)
    for message in link.requests:
        tokens = message.data.get("tokens")
        count = len(tokens) if isinstance(tokens, list) else 0
        text = f"one message of the client names {count} tokens"
        bench.require(count <= MAX_BATCH, "PF.client-batch-size", text, link.number)


async def _deflating(bench: ClientBench, answer: str) -> Link:
    await bench.start()
    link = await bench.session(deflate=answer)
    if link.deflate is None:
        raise NotTestableError("the client does not offer permessage-deflate")
    return link


@CLIENT.case(
    "C-PF-02", "core", "PF.compress-only-large",
    sends="an answer to the offer of permessage-deflate",
    expects="no message of the client of 1024 bytes or fewer is compressed (RSV1)",
    why="Compression is for messages larger than 1 KB.",
)  # fmt: skip
async def small_not_compressed(bench: ClientBench) -> None:
    """The client does not compress small messages."""
    link = await _deflating(bench, _APART)
    small = [message for message in link.messages if len(message.payload) <= COMPRESSION_THRESHOLD_BYTES]
    if not small:
        raise NotTestableError("the client sent no message of 1024 bytes or fewer")
    squeezed = [message for message in small if message.compressed]
    if squeezed:
        text = f"a message of {len(squeezed[0].payload)} bytes was compressed"
        bench.fail("PF.compress-only-large", text, link.number)


def _update(link: Link, token: str, price: str) -> str:
    return json.dumps(link.envelope("token_update", link.update_data(token, price)), separators=(",", ":"))


async def _read(bench: ClientBench, link: Link, price: str, what: str) -> None:
    if not await hears(bench, price):
        how = "" if link.ended_s is None and link.close_code is None else f"; {link.ending()}"
        bench.fail("PF.client-inflates", f"{what} did not reach the application{how}", link.number)


@CLIENT.case(
    "C-PF-03", "core", "PF.client-inflates",
    sends="permessage-deflate agreed on without context takeover; then compressed and plain updates in turn",
    expects="each value reaches the application",
    why="The specification wants messages of more than 1 KB compressed, and others not.",
)  # fmt: skip
async def compressed_and_plain(bench: ClientBench) -> None:
    """Compressed and plain messages are read in turn."""
    bench.need_events("update")
    link = await _deflating(bench, _APART)
    for compressed in (True, False, True, False):
        price = bench.fresh_price()
        await link.send_text(_update(link, bench.wanted[0], price), compressed=compressed)
        await _read(bench, link, price, f"a {'compressed' if compressed else 'plain'} update")


@CLIENT.case(
    "C-PF-04", "core", "PF.client-inflates",
    sends="permessage-deflate agreed on with context takeover on the server's side; then five updates, each compressed "
    "in the window of the ones before, the fourth one plain",
    expects="each value reaches the application",
    why="A server that keeps its window compresses far better, and may do so unless the client forbids it.",
)  # fmt: skip
async def with_context(bench: ClientBench) -> None:
    """Messages that are compressed in one window are read."""
    bench.need_events("update")
    await bench.start()
    attempt = await bench.attempt()
    offer = (await attempt.request()).header("sec-websocket-extensions") or ""
    if "server_no_context_takeover" in offer:
        raise NotTestableError("the client forbids context takeover")
    link = await attempt.accept(deflate=_TOGETHER)
    if link.deflate is None:
        raise NotTestableError("the client does not offer permessage-deflate")
    await link.greet()
    if not await link.first_request():
        raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
    await link.subscribed(bench.wanted)
    token = next(iter(link.held), bench.wanted[0])
    deflater = zlib.compressobj(wbits=-15)
    for number in range(1, 6):
        price = bench.fresh_price()
        text = _update(link, token, price)
        if number == 4:
            await link.send_text(text)
        else:
            body = deflater.compress(text.encode()) + deflater.flush(zlib.Z_SYNC_FLUSH)
            await link.send_frame(Opcode.TEXT, body.removesuffix(_TAIL), rsv=4)
        await _read(bench, link, price, f"update {number}, {'plain' if number == 4 else 'compressed'},")
