"""The tap reads what others wrote: frames of the ``websockets`` package, deflated by it, and zstd by the book."""

import random
import struct

import pytest
import zstandard
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from loadtests.faults.tap import CLOSE, PING, PONG, TEXT, HandshakeTap, Tap, TapError, ZstdDecoder


def wire(*frames: Frame, mask: bool = False, extension: PerMessageDeflate | None = None) -> bytes:
    extensions = [extension] if extension is not None else []
    return b"".join(bytes(frame.serialize(mask=mask, extensions=extensions)) for frame in frames)


TEXTS = [b"{}", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536, "€".encode() * 3]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 4096, 1_000_000])
def test_any_slicing_gives_the_same_messages(mask: bool, size: int) -> None:
    texts = TEXTS if size > 7 else TEXTS[:3]
    data = wire(*(Frame(Opcode.TEXT, text) for text in texts), mask=mask)
    tap = Tap()
    messages = [message for at in range(0, len(data), size) for message in tap.feed(data[at : at + size])]
    assert [message.content for message in messages] == texts
    assert messages[-1].end == len(data)
    assert tap.pending == 0


def test_offsets_say_where_a_message_is_complete() -> None:
    first, second = wire(Frame(Opcode.TEXT, b"one")), wire(Frame(Opcode.PING, b""))
    messages = Tap().feed(first + second + b"\x81")
    assert [(message.opcode, message.end) for message in messages] == [
        (TEXT, len(first)),
        (PING, len(first) + len(second)),
    ]


def test_control_frames_stand_between_fragments() -> None:
    data = wire(
        Frame(Opcode.TEXT, b"on", fin=False),
        Frame(Opcode.PONG, b"p"),
        Frame(Opcode.CONT, b"e", fin=False),
        Frame(Opcode.CONT, b"!"),
        Frame(Opcode.CLOSE, b"\x03\xe8"),
    )
    assert [(message.opcode, message.content) for message in Tap().feed(data)] == [
        (PONG, b"p"),
        (TEXT, b"one!"),
        (CLOSE, b"\x03\xe8"),
    ]


@pytest.mark.parametrize("takeover", [False, True])
def test_deflated_messages_with_and_without_a_lasting_window(takeover: bool) -> None:
    extension = PerMessageDeflate(not takeover, not takeover, 15, 15)
    texts = [b'{"price":"%d"}' % number * 50 for number in range(20)]
    data = wire(*(Frame(Opcode.TEXT, text) for text in texts), extension=extension)
    messages = Tap(deflate=True, takeover=takeover).feed(data)
    assert [message.content for message in messages] == texts
    assert all(message.compressed for message in messages)


def test_a_window_that_lasts_is_needed_where_it_was_agreed() -> None:
    extension = PerMessageDeflate(False, False, 15, 15)
    data = wire(Frame(Opcode.TEXT, b"abc" * 99), Frame(Opcode.TEXT, b"abc" * 99), extension=extension)
    with pytest.raises(TapError, match="deflate"):
        Tap(deflate=True, takeover=False).feed(data)


def test_a_deflate_bomb_is_refused() -> None:
    data = wire(Frame(Opcode.TEXT, b"0" * 1_048_577), extension=PerMessageDeflate(True, True, 15, 15))
    with pytest.raises(TapError, match="1 MiB"):
        Tap(deflate=True).feed(data)


def zstd_message(head: bytes, body: bytes, flag: int = 0, data: bytes | None = None) -> bytes:
    data = zstandard.compress(body) if data is None else data
    return struct.pack("!BHI", flag, len(head), len(body)) + head + data


def test_zstd_begun_and_continued() -> None:
    body, following = b'{"updates":[%s]}' % (b"1," * 500), b'{"updates":[%s]}' % (b"1," * 499)
    head = b'{"type":"token_batch","sequence":7,"timestamp":1,"data":'
    stream = zstandard.ZstdCompressor().compressobj()
    pieces = [stream.compress(text) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for text in (body, following)]
    assert len(pieces[1]) < 40
    data = wire(
        Frame(Opcode.BINARY, zstd_message(head, body, 0, pieces[0])),
        Frame(Opcode.BINARY, zstd_message(head, following, 1, pieces[1])),
    )
    assert [message.content for message in Tap().feed(data)] == [head + body, head + following]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "beginning with none"),
        (zstd_message(b"h", b"b", 2), "beginning with 02"),
        (zstd_message(b"h", b"b", 1), "nothing that could be continued"),
        (zstd_message(b"h", b"b") + b"!", "a body of"),
        (zstd_message(b"h", b"b" * 1_048_576), "1 MiB"),
        (zstd_message(b"h", b"b" * 99)[:-1], "a body of"),
        (b"\x00garbage", "zstd"),
    ],
)
def test_zstd_that_breaks_the_layout(payload: bytes, reason: str) -> None:
    with pytest.raises(TapError, match=reason):
        ZstdDecoder()(payload)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x00",  # compressed without the extension
        b"\x80\x00",  # a continuation of nothing
        b"\x01\x00\x81\x00",  # a message within a message
        b"\x83\x00",  # reserved opcode
        b"\x8b\x00",  # reserved control opcode
        b"\x09\x00",  # a fragmented ping
        b"\x89\x7e\x00\x7e" + bytes(126),  # a long ping
    ],
)
def test_broken_framing_is_refused(data: bytes) -> None:
    with pytest.raises(TapError):
        Tap().feed(data)


def test_the_handshake_tells_what_was_agreed() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    data = head + wire(Frame(Opcode.TEXT, b"abc" * 99), extension=PerMessageDeflate(False, False, 15, 15))
    heads: list[str] = []
    tap = HandshakeTap(heads.append)
    messages = [message for at in range(0, len(data), 5) for message in tap.feed(data[at : at + 5])]
    assert [message.content for message in messages] == [b"abc" * 99]
    assert len(heads) == 1


def test_a_refused_handshake_carries_no_messages() -> None:
    tap = HandshakeTap()
    assert tap.feed(b"HTTP/1.1 503 Service Unavailable\r\n\r\n\x81\x02{}") == []
    assert tap.feed(b"\x81\x02{}") == []
    with pytest.raises(TapError, match="endless"):
        HandshakeTap().feed(b"x" * 70_000)


def test_random_bytes_never_do_more_than_raise_its_own_error() -> None:
    draw = random.Random(3)
    refused = 0
    for _ in range(3000):
        try:
            Tap(deflate=True).feed(draw.randbytes(60))
        except TapError:
            refused += 1
    assert refused > 1000
