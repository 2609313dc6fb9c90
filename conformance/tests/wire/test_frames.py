"""Frames and messages: what is written is read again, and what is broken is told."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_conformance.figures import MAX_FRAME_BYTES, MAX_INFLATED_BYTES
from tokenwire_conformance.wire.frames import (
    Frame,
    FrameError,
    FrameReader,
    Opcode,
    close_payload,
    encode_frame,
    parse_close,
)
from tokenwire_conformance.wire.messages import Assembler, Deflate, Received, compress

DATA = st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION])
LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 65_535, 65_536]))


def read(data: bytes, *, from_server: bool, step: int = 1_000_000) -> list[Frame]:
    reader = FrameReader(from_server=from_server)
    return [frame for at in range(0, len(data), step) for frame in reader.feed(data[at : at + step])]


@given(
    st.lists(st.tuples(DATA, LENGTHS, st.booleans(), st.integers(0, 7)), max_size=5), st.booleans(), st.integers(1, 9)
)
def test_frames_are_read_as_written(specs: list[tuple[Opcode, int, bool, int]], from_server: bool, step: int) -> None:
    frames = [
        Frame(opcode, bytes(length), fin, bool(rsv & 4), bool(rsv & 2), bool(rsv & 1))
        for opcode, length, fin, rsv in specs
    ]
    wire = b"".join(
        encode_frame(f.opcode, f.payload, mask=not from_server, fin=f.fin, rsv=rsv)
        for f, (_, _, _, rsv) in zip(frames, specs, strict=True)
    )
    assert read(wire, from_server=from_server, step=step if len(wire) < 2_000 else 4_096) == frames


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (encode_frame(Opcode.TEXT, b"x", mask=True), "mask"),
        (encode_frame(3, b"x", mask=False), "opcode"),
        (encode_frame(Opcode.PING, b"x" * 126, mask=False), "125"),
        (encode_frame(Opcode.PING, b"x", mask=False, fin=False), "fragment"),
        (encode_frame(Opcode.TEXT, b"", mask=False, declared_length=MAX_FRAME_BYTES + 1), ""),
        (b"\x81\x7e\x00\x05hello", "1"),
    ],
    ids=["masked", "opcode", "long ping", "ping in fragments", "too long", "length not minimal"],
)
def test_what_is_no_frame_of_a_server(data: bytes, what: str) -> None:
    with pytest.raises(FrameError, match=f"(?i){what}"):
        read(data, from_server=True)


def test_close_payloads() -> None:
    assert parse_close(close_payload(4001, "slow")) == (4001, "slow")
    assert parse_close(close_payload(1014)) == (1014, "")
    assert parse_close(b"") == (1005, "")
    for payload in (
        b"\x03",
        close_payload(1005),
        close_payload(999),
        close_payload(5000),
        close_payload(1000) + b"\xff",
    ):
        with pytest.raises(FrameError):
            parse_close(payload)


def pushed(frames: list[Frame], deflate: Deflate | None = None) -> list[Received | None]:
    assembler = Assembler(deflate)
    return [assembler.push(frame, 0.0, 0.0) for frame in frames]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=6), st.booleans())
def test_compressed_messages_share_a_window(texts: list[str], takeover: bool) -> None:
    deflater = zlib.compressobj(wbits=-15)
    frames = []
    for text in texts:
        if not takeover:
            deflater = zlib.compressobj(wbits=-15)
        body = deflater.compress(text.encode()) + deflater.flush(zlib.Z_SYNC_FLUSH)
        frames.append(Frame(Opcode.TEXT, body[:-4], rsv1=True))
    messages = pushed(frames, Deflate(inbound_takeover=takeover))
    assert [m.payload.decode() for m in messages if m] == texts
    assert all(m and m.compressed for m in messages)


def test_fragments_are_joined_and_counted() -> None:
    first, last = pushed([Frame(Opcode.TEXT, b'{"a"', fin=False), Frame(Opcode.CONTINUATION, b":1}")])
    assert first is None
    assert last is not None
    assert (last.json, last.fragments, last.wire_bytes, last.opcode) == ({"a": 1}, 2, 7, Opcode.TEXT)


@pytest.mark.parametrize(
    ("frames", "deflate"),
    [
        ([Frame(Opcode.TEXT, b"", rsv1=True)], None),
        ([Frame(Opcode.TEXT, b"", rsv2=True)], Deflate()),
        ([Frame(Opcode.CONTINUATION, b"")], None),
        ([Frame(Opcode.TEXT, b"", fin=False), Frame(Opcode.TEXT, b"")], None),
        ([Frame(Opcode.TEXT, b"\xff")], None),
        ([Frame(Opcode.TEXT, b"\xff\xff\xff", rsv1=True)], Deflate()),
        ([Frame(Opcode.TEXT, compress(bytes(MAX_INFLATED_BYTES + 1)), rsv1=True)], Deflate()),
        ([Frame(Opcode.TEXT, b"", fin=False), Frame(Opcode.CONTINUATION, bytes(MAX_INFLATED_BYTES + 1))], None),
    ],
)
def test_what_is_no_message(frames: list[Frame], deflate: Deflate | None) -> None:
    with pytest.raises(FrameError):
        pushed(frames, deflate)


@pytest.mark.parametrize(
    "text", ["", "[1]", "NaN", '{"sequence":true}', '{"sequence":1.5,"data":[],"type":7}', "[" * 99_999]
)
def test_a_message_that_is_no_envelope_has_no_fields(text: str) -> None:
    (message,) = pushed([Frame(Opcode.TEXT, text.encode())])
    assert message is not None
    assert (message.type, message.sequence, message.timestamp, message.data) == (None, None, None, {})
