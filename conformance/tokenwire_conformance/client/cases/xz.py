"""XZ: messages that are compressed with Zstandard, where the client asks for it."""

import json
from typing import Any, Final

from zstandard import COMPRESSOBJ_FLUSH_BLOCK, COMPRESSOBJ_FLUSH_FINISH, ZstdCompressor

from tokenwire_conformance.client.bench import CLIENT, ClientBench
from tokenwire_conformance.client.cases.steps import hears, session_with
from tokenwire_conformance.client.link import Link
from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, MAX_MESSAGE_BYTES
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.wire import SilenceError

__all__: list[str] = []

_BEGINS: Final = 0x00
_CONTINUES: Final = 0x01
_UNKNOWN: Final = 0x02
_LEAVE_S: Final = 10.0
_BOMB_BYTES: Final = 524_288
_CHAIN: Final = (
    ("begins", "1111111111111.125"), ("continues", "2345678901234.125"), ("text", "5.125"),
    ("continues", "2345678901234.25"), ("ends", "2345678901234.5"), ("begins", "9876543210987.125"),
    ("begins", "8765432109876.125"), ("continues", "8765432109876.25"),
)  # fmt: skip
"""Digits that a message takes over from the one before it, and that no other has in that place."""


class _Stream:
    """A Zstandard frame over several messages."""

    def __init__(self) -> None:
        self._frame = ZstdCompressor().compressobj()
        self._flag = _BEGINS

    def pack(self, message: dict[str, Any], *, end: bool = False, more: int = 0, flag: int | None = None) -> bytes:
        """The next binary message. It states ``more`` bytes than its body has; ``end``: the frame ends with it."""
        head, body = _split(message)
        packed = self._frame.compress(body) + self._frame.flush(
            COMPRESSOBJ_FLUSH_FINISH if end else COMPRESSOBJ_FLUSH_BLOCK
        )
        known, self._flag = self._flag, _CONTINUES
        return _binary(known if flag is None else flag, head, len(body) + more, packed)


def _binary(flag: int, head: bytes, length: int, packed: bytes) -> bytes:
    return bytes([flag]) + len(head).to_bytes(2, "big") + length.to_bytes(4, "big") + head + packed


def _split(message: dict[str, Any]) -> tuple[bytes, bytes]:
    """Head (up to and including ``"data":``) and body of a message that spaces make longer than 1024 bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    at = text.index(b'"data":') + len(b'"data":')
    return text[:at], b"{" + b" " * COMPRESSION_THRESHOLD_BYTES + text[at + 1 :]


def _update(link: Link, token: str, price: str) -> dict[str, Any]:
    return link.envelope("token_update", link.update_data(token, price))


async def _read(bench: ClientBench, link: Link, price: str, what: str) -> None:
    if not await hears(bench, price):
        how = "" if link.ended_s is None and link.close_code is None else f"; {link.ending()}"
        bench.fail("XZ.client-reads", f"{what} did not reach the application{how}", link.number)


@CLIENT.case(
    "C-XZ-01", "ext.zstd", "XZ.client-reads",
    sends="zstd granted; an update that spaces make longer than 1 KB as a binary message that begins a stream, and one "
    "as text",
    expects="both values reach the application",
    why="The first binary message of a socket begins a stream, and is whole before anything follows.",
)  # fmt: skip
async def beginning(bench: ClientBench) -> None:
    """A message that begins a stream is read."""
    bench.need_events("update")
    await bench.start()
    link = await session_with(bench, "zstd")
    price = bench.fresh_price()
    await link.send_frame(Opcode.BINARY, _Stream().pack(_update(link, bench.wanted[0], price)))
    await _read(bench, link, price, "an update in a binary message")
    price = bench.fresh_price()
    await link.update(bench.wanted[0], price)
    await _read(bench, link, price, "a plain update behind a binary message")


@CLIENT.case(
    "C-XZ-02", "ext.zstd", "XZ.client-reads",
    sends="zstd granted; a binary message that begins a stream, three that continue it with a text message between "
    "them, the last of which ends its Zstandard frame; two that begin a stream, and one that continues the second",
    expects="each value reaches the application",
    why="A stream is one Zstandard frame, whose window reaches back over the bodies before; whether it was ended or "
    "not, another may begin.",
)  # fmt: skip
async def streams(bench: ClientBench) -> None:
    """Streams of binary messages are read."""
    bench.need_events("update")
    await bench.start()
    link = await session_with(bench, "zstd")
    stream = _Stream()
    for number, (kind, price) in enumerate(_CHAIN, 1):
        token = bench.wanted[0]
        if kind == "text":
            await link.update(token, price)
        else:
            if kind == "begins":
                stream = _Stream()
            await link.send_frame(Opcode.BINARY, stream.pack(_update(link, token, price), end=kind == "ends"))
        await _read(bench, link, price, f"message {number} ({kind})")


async def _refused(bench: ClientBench, link: Link, payload: bytes, what: str, *, close: int, clause: str) -> None:
    await link.send_frame(Opcode.BINARY, payload)
    try:
        code = await link.closing(_LEAVE_S)
    except SilenceError:
        bench.fail(clause, f"{what}, and {_LEAVE_S:g} s later the client was still there", link.number)
    text = f"{what}, and the client closed with {code or 'no close frame'}, not with {close}"
    bench.require(code == close, clause, text, link.number)


@CLIENT.case(
    "C-XZ-03", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a binary message whose lengths add up to 1,048,577 bytes",
    expects="the client closes with 1009",
    why="A kilobyte of Zstandard can hold gigabytes.",
)  # fmt: skip
async def too_update(bench: ClientBench) -> None:
    """A message that would be too large is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    head, _ = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    body = b'{"x":"' + b"0" * (MAX_MESSAGE_BYTES - len(head) - 8) + b'"}}'
    payload = _binary(_BEGINS, head, len(body), ZstdCompressor().compress(body))
    what = "a message of 1,048,577 bytes was sent"
    await _refused(bench, link, payload, what, close=1009, clause="XZ.client-size")


@CLIENT.case(
    "C-XZ-05", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a binary message whose body states one byte more than it holds",
    expects="the client closes with 1009",
    why="A message that is not whole may be taken for one that is.",
)  # fmt: skip
async def too_short(bench: ClientBench) -> None:
    """A message that decodes to less than it states is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    payload = _Stream().pack(_update(link, bench.wanted[0], bench.fresh_price()), more=1)
    what = "a message that decodes to one byte less than it states was sent"
    await _refused(bench, link, payload, what, close=1009, clause="XZ.client-size")


@CLIENT.case(
    "C-XZ-06", "ext.zstd", "XZ.client-size",
    sends="zstd granted; a binary message, and one that continues it, states 1,000 bytes and decodes to 512 KiB",
    expects="the client closes with 1009",
    why="A length that is wrong is no bound: decoding has to stop beyond it.",
)  # fmt: skip
async def bomb(bench: ClientBench) -> None:
    """A message that decodes to more than it states is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    packer = ZstdCompressor().compressobj()
    head, body = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    packed = packer.compress(body) + packer.flush(COMPRESSOBJ_FLUSH_BLOCK)
    await link.send_frame(Opcode.BINARY, _binary(_BEGINS, head, len(body), packed))
    packed = packer.compress(bytes(_BOMB_BYTES)) + packer.flush(COMPRESSOBJ_FLUSH_BLOCK)
    head, _ = _split(_update(link, bench.wanted[0], bench.fresh_price()))
    what = "a message that decodes to more than it states was sent"
    payload = _binary(_CONTINUES, head, 1_000, packed)
    await _refused(bench, link, payload, what, close=1009, clause="XZ.client-size")


@CLIENT.case(
    "C-XZ-07", "ext.zstd", "XZ.client-flag",
    sends="zstd granted; a binary message that would begin a stream, with the flag 0x02",
    expects="the client closes with 1002",
    why="What a flag of the future means for the stream is not known.",
)  # fmt: skip
async def unknown_flag(bench: ClientBench) -> None:
    """A message with an unknown flag is refused."""
    await bench.start()
    link = await session_with(bench, "zstd")
    payload = _Stream().pack(_update(link, bench.wanted[0], bench.fresh_price()), flag=_UNKNOWN)
    what = "a message with the flag 0x02 was sent"
    await _refused(bench, link, payload, what, close=1002, clause="XZ.client-flag")
