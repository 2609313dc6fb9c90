"""XZ: messages that are compressed with Zstandard, where the client asks for it."""

import json
from typing import Any, Final

from zstandard import DICT_TYPE_RAWCONTENT, ZstdCompressionDict, ZstdCompressor

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import hears, session_with
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, MAX_MESSAGE_BYTES
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_FULL: Final = b"\x00"
_DELTA: Final = b"\x01"
_LEAVE_S: Final = 10.0
_CHAIN: Final = (
    ("full", "1111111111111.125"), ("delta", "2345678901234.125"), ("text", "5.125"), ("delta", "2345678901234.25"),
    ("delta", "2345678901234.5"), ("full", "9876543210987.125"), ("delta", "9876543210987.25"),
)  # fmt: skip
"""Digits that a delta takes over from the message before it, and that no other dictionary holds in that place."""


def _split(message: dict[str, Any]) -> tuple[bytes, bytes]:
    """Head (up to and including ``"data":``) and body of a message that spaces make longer than 1024 bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    at = text.index(b'"data":') + len(b'"data":')
    return text[:at], b"{" + b" " * COMPRESSION_THRESHOLD_BYTES + text[at + 1 :]


def _pack(data: bytes, dictionary: bytes | None = None, *, sized: bool = True) -> bytes:
    """One Zstandard frame; ``dictionary`` is raw content. ``sized``: with the content size in its header."""
    known = None if dictionary is None else ZstdCompressionDict(dictionary, dict_type=DICT_TYPE_RAWCONTENT)
    packer = ZstdCompressor(dict_data=known, write_content_size=sized)
    return packer.compress(data)


def _update(link: Link, token: str, price: str) -> dict[str, Any]:
    return link.envelope("token_update", link.update_data(token, price))


async def _send(link: Link, message: dict[str, Any], before: bytes | None) -> bytes:
    """Send a message in full, or as a delta to the body ``before``; its body."""
    head, body = _split(message)
    flag = _FULL if before is None else _DELTA
    await link.send_frame(Opcode.BINARY, flag + _pack(head) + _pack(body, before))
    return body


async def _read(bench: ClientBench, link: Link, price: str, what: str) -> None:
    if not await hears(bench, price):
        how = "" if link.ended_s is None and link.close_code is None else f"; {link.ending()}"
        bench.fail("XZ.client-reads", f"{what} did not reach the application{how}", link.number)


@CLIENT.case(
    "C-XZ-01", "ext.zstd", "XZ.client-reads",
    sends="zstd granted; an update that spaces make longer than 1 KB as a full binary message, and one as text",
    expects="both values reach the application",
    why="The first binary message of a socket is full.",
)  # fmt: skip
async def full(bench: ClientBench) -> None:
    """A full message is read."""
    bench.need_events("update")
    await bench.start()
    link = await session_with(bench, "zstd")
    price = bench.fresh_price()
    await _send(link, _update(link, bench.wanted[0], price), None)
    await _read(bench, link, price, "an update in a full message")
    price = bench.fresh_price()
    await link.update(bench.wanted[0], price)
    await _read(bench, link, price, "a plain update behind a full message")


@CLIENT.case(
    "C-XZ-02", "ext.zstd", "XZ.client-reads",
    sends="zstd granted; a full message, three deltas with a text message between them, a full message, and a delta "
    "to it",
    expects="each value reaches the application",
    why="The dictionary of a delta is the body of the binary message before it, full or delta.",
)  # fmt: skip
async def deltas(bench: ClientBench) -> None:
    """A chain of deltas is read."""
    bench.need_events("update")
    await bench.start()
    link = await session_with(bench, "zstd")
    body: bytes | None = None
    for number, (kind, price) in enumerate(_CHAIN, 1):
        token = bench.wanted[0]
        if kind == "text":
            await link.update(token, price)
        else:
            body = await _send(link, _update(link, token, price), None if kind == "full" else body)
        await _read(bench, link, price, f"message {number} ({kind})")


async def _refused(bench: ClientBench, link: Link, payload: bytes, what: str) -> None:
    await link.send_frame(Opcode.BINARY, payload)
    try:
        code = await link.closing(_LEAVE_S)
    except SilenceError:
        bench.fail("XZ.client-size", f"{what}, and {_LEAVE_S:g} s later the client was still there", link.number)
    text = f"{what}, and the client closed with {code or 'no close frame'}, not with 1009"
    bench.require(code == 1009, "XZ.client-size", text, link.number)


@CLIENT.case(
    "C-XZ-03", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a full message whose content sizes add up to more than 1,048,576 bytes",
    expects="the client closes with 1009",
    why="A kilobyte of Zstandard can hold gigabytes.",
)  # fmt: skip
async def too_update(bench: ClientBench) -> None:
    """A message that would be too large is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    head, _ = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    body = b'{"x":"' + b"0" * (MAX_MESSAGE_BYTES - len(head)) + b'"}}'
    await _refused(bench, link, _FULL + _pack(head) + _pack(body), "a message of more than 1,048,576 bytes was sent")


@CLIENT.case(
    "C-XZ-04", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a full message whose body states no content size",
    expects="the client closes with 1009",
    why="What does not say how large it is cannot be refused before it is decoded.",
)  # fmt: skip
async def no_size(bench: ClientBench) -> None:
    """A message without a content size is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    head, body = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    payload = _FULL + _pack(head) + _pack(body, sized=False)
    await _refused(bench, link, payload, "a message without a content size was sent")


def _one_more(frame: bytes) -> bytes:
    """A Zstandard frame whose header states one byte more than it holds (RFC 8878, section 3.1.1.1)."""
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    length = (single, 2, 4, 8)[descriptor >> 6]
    stated = int.from_bytes(frame[at : at + length], "little") + 1
    return frame[:at] + stated.to_bytes(length, "little") + frame[at + length :]


@CLIENT.case(
    "C-XZ-05", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a full message whose body states one byte more than it holds",
    expects="the client closes with 1009",
    why="A size that is wrong is no bound.",
)  # fmt: skip
async def wrong_size(bench: ClientBench) -> None:
    """A message that decodes to another size is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    head, body = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    payload = _FULL + _pack(head) + _one_more(_pack(body))
    await _refused(bench, link, payload, "a message that decodes to another size than it states was sent")
