"""The reader of binary messages reads what the page describes, and refuses everything else before it grows."""

import json
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES
from tokenwire_conformance.server.zstd import BEGINS, CONTINUES, ZstdError, ZstdReader

HEAD = b'{"type":"token_batch","sequence":9,"timestamp":1764547205000,"data":'
MAGIC = b"\x28\xb5\x2f\xfd"
WINDOW_2_MIB = b"\x00\x58"
MORE, END = zstandard.COMPRESSOBJ_FLUSH_BLOCK, zstandard.COMPRESSOBJ_FLUSH_FINISH


class Writer:
    """One Zstandard frame over several messages."""

    def __init__(self, **how: Any) -> None:
        self._frame = zstandard.ZstdCompressor(**how).compressobj()
        self._flag = BEGINS

    def write(self, content: bytes, *, end: bool = False) -> bytes:
        packed = self._frame.compress(content) + self._frame.flush(END if end else MORE)
        flag, self._flag = self._flag, CONTINUES
        return message(packed, len(content), flag=flag)


def message(packed: bytes, length: int, *, flag: int = BEGINS, head: bytes = HEAD) -> bytes:
    return bytes([flag]) + len(head).to_bytes(2, "big") + length.to_bytes(4, "big") + head + packed


def body(number: int = 1, length: int = 3000) -> bytes:
    return json.dumps({"updates": [{"address": "A" * length, "version": number}]}).encode() + b"}"


def whole(content: bytes, **how: Any) -> bytes:
    return Writer(**how).write(content, end=True)


def refuse(payload: bytes, *before: bytes) -> ZstdError:
    reader = ZstdReader()
    for earlier in before:
        reader.read(earlier)
    with pytest.raises(ZstdError) as caught:
        reader.read(payload)
    return caught.value


def test_streams() -> None:
    reader, writer = ZstdReader(), Writer()
    first = reader.read(writer.write(body(1)))
    assert (first.flag, first.head, first.body, first.text) == (BEGINS, HEAD, body(1), HEAD + body(1))
    assert reader.read(writer.write(body(2))).flag == CONTINUES
    assert reader.read(writer.write(body(3))).body == body(3)
    writer = Writer()
    assert reader.read(writer.write(body(4))).body == body(4)
    assert reader.read(writer.write(body(5), end=True)).body == body(5)
    assert reader.read(Writer().write(body(6))).body == body(6)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.binary(max_size=4_000), st.booleans(), st.booleans(), st.integers(1, 9), st.booleans()),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_any_bodies(steps: list[tuple[bytes, bool, bool, int, bool]]) -> None:
    reader = ZstdReader()
    writer: Writer | None = None
    for content, begin, end, level, checksum in steps:
        if begin or writer is None:
            writer = Writer(level=level, write_checksum=checksum)
        assert reader.read(writer.write(b"{" + content, end=end)).body == b"{" + content
        writer = None if end else writer


def test_checksums_and_blocks_of_every_kind() -> None:
    noise = bytes(b"{" + bytes(range(33, 120)) * 3000 + b"}}")
    for content in (b"{}}", b"{" + b"0" * 900_000 + b"}", noise):
        assert ZstdReader().read(whole(content, write_checksum=True)).body == content


def raw(content: bytes, *, last: bool = False, kind: int = 0) -> bytes:
    """A block as it is, or of another ``kind``."""
    return (len(content) << 3 | kind << 1 | last).to_bytes(3, "little") + content


FRAME = MAGIC + WINDOW_2_MIB


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"", "empty"),
        (b"\x02" + whole(body())[1:], "flag is 0x02"),
        (b"\x00\x00\x01\x00\x00\x00", "lengths are cut short"),
        (whole(body())[:-1], "cut short"),
        (whole(body())[:-2], "cut short"),
        (Writer().write(body())[:-1], "cut short"),
        (Writer().write(body()) + b"!", "cut short"),
        (whole(body()) + b"!", "1 bytes follow"),
        (whole(body()) + zstandard.ZstdCompressor().compress(b"third"), "bytes follow"),
        (message(FRAME + raw(b"{}}", kind=3), 3), "reserved type"),
        (message(FRAME[:5], 3), "header of the Zstandard frame"),
        (message(FRAME + raw(b"{}}"), 3, head=HEAD[:-1]), "head ends with"),
        (message(FRAME + raw(b" {}}"), 4), "body begins with"),
        (message(FRAME + raw(b"{}}"), 4), "has 3 bytes and announces 4"),
        (message(FRAME + raw(b"{}}"), 2), "more than the 2 bytes"),
        (message(FRAME, 3), "has 0 bytes"),
    ],
)
def test_refused(payload: bytes, word: str) -> None:
    error = refuse(payload)
    assert word in str(error)
    assert not error.of_stream


def test_the_stream_is_broken() -> None:
    writer = Writer()
    writer.write(body(1))
    following = writer.write(body(2))
    ended = whole(body(1))
    for error in (
        refuse(following),
        refuse(following, ended),
        refuse(b"\x00" + following[1:], Writer().write(body(1))),
        refuse(message(b"garbage, not a frame", 3)),
        refuse(message(MAGIC[:3], 3)),
        refuse(message(b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + FRAME + raw(b"{}}"), 3)),
    ):
        assert error.of_stream


def test_continuing_another_stream() -> None:
    """What shows is text that is not the message's, or broken data."""
    writer = Writer()
    writer.write(body(1))
    reader = ZstdReader()
    reader.read(Writer().write(body(7, 1500)))
    error = None
    try:
        read = reader.read(writer.write(body(2))).body
    except ZstdError as caught:
        error, read = caught, b""
    assert read != body(2)
    assert error is None or error.of_stream


def test_dictionary_with_a_number() -> None:
    samples: list[bytes | bytearray | memoryview] = [
        json.dumps({"address": str(number) * 20, "price": str(number)}).encode() for number in range(3000)
    ]
    trained = zstandard.train_dictionary(2048, samples)
    assert "names a dictionary" in str(refuse(whole(body(), dict_data=trained)))


def test_lengths_are_judged_before_decoding() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(200 * 1_048_576))
    more = Writer()
    first = more.write(b"{")
    continued = more.write(bytes(200 * 1_048_576))
    refuse(message(bomb, 4_000_000_000))  # what is allocated once
    tracemalloc.start()
    try:
        for length in (MAX_MESSAGE_BYTES - len(HEAD) + 1, 4_000_000_000):
            assert "add up to" in str(refuse(message(bomb, length)))
        for length in (10, 500_000):
            assert "more than" in str(refuse(message(bomb, length)))
            assert "more than" in str(refuse(message(continued[7 + len(HEAD) :], length, flag=CONTINUES), first))
        assert tracemalloc.get_traced_memory()[1] < 2 * 1_048_576
    finally:
        tracemalloc.stop()


def test_the_largest_is_read() -> None:
    content = b"{" + b" " * (MAX_MESSAGE_BYTES - len(HEAD) - 2) + b"}"
    assert len(ZstdReader().read(whole(content)).text) == MAX_MESSAGE_BYTES


def test_window_is_bounded() -> None:
    for window, ok in (((23 - 10) << 3, True), ((23 - 10) << 3 | 1, False), ((24 - 10) << 3, False)):
        payload = message(MAGIC + bytes([0, window]) + raw(b"{}}"), 3)
        if ok:
            assert ZstdReader().read(payload).body == b"{}}"
        else:
            assert "window" in str(refuse(payload))
