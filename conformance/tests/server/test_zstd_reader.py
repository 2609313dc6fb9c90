"""The reader of binary messages reads what the page describes, and refuses everything else before it grows."""

import json
import tracemalloc

import pytest
import zstandard

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES
from tokenwire_conformance.server.zstd import DELTA, FULL, ZstdError, ZstdReader

HEAD = b'{"type":"token_batch","sequence":9,"timestamp":1764547205000,"data":'


def frame(content: bytes, *, size: bool = True, dictionary: bytes | None = None, checksum: bool = False) -> bytes:
    data = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    return zstandard.ZstdCompressor(write_content_size=size, dict_data=data, write_checksum=checksum).compress(content)


def body(number: int = 1, length: int = 3000) -> bytes:
    return json.dumps({"updates": [{"address": "A" * length, "version": number}]}).encode() + b"}"


def full(content: bytes) -> bytes:
    return bytes([FULL]) + frame(HEAD) + frame(content)


def delta(content: bytes, previous: bytes) -> bytes:
    return bytes([DELTA]) + frame(HEAD) + frame(content, dictionary=previous)


def refuse(payload: bytes, *, after: bytes | None = None) -> ZstdError:
    reader = ZstdReader()
    if after is not None:
        reader.read(after)
    with pytest.raises(ZstdError) as caught:
        reader.read(payload)
    return caught.value


def test_full_then_deltas() -> None:
    reader = ZstdReader()
    assert reader.read(full(body(1))).text == HEAD + body(1)
    second = reader.read(delta(body(2), body(1)))
    assert (second.flag, second.head, second.body) == (DELTA, HEAD, body(2))
    assert reader.read(delta(body(3), body(2))).body == body(3)
    assert reader.read(full(body(4))).flag == FULL
    assert reader.read(delta(body(5), body(4))).body == body(5)


def test_checksums_and_blocks_of_every_kind() -> None:
    noise = bytes(b"{" + bytes(range(33, 120)) * 3000 + b"}}")
    for content in (b"{}}", b"{" + b"0" * 900_000 + b"}", noise):
        payload = bytes([FULL]) + frame(HEAD, checksum=True) + frame(content, checksum=True)
        assert ZstdReader().read(payload).body == content


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        (b"", "empty"),
        (b"\x02" + full(body())[1:], "flag is 0x02"),
        (b"\x00", "no Zstandard frame"),
        (b"\x00" + b"garbage, not a frame", "no Zstandard frame"),
        (b"\x00" + frame(HEAD), "body is no Zstandard frame"),
        (full(body())[:-1], "cut short"),
        (full(body()) + b"!", "1 bytes follow"),
        (full(body()) + frame(b"third"), "bytes follow"),
        (b"\x00" + frame(HEAD, size=False) + frame(body()), "head has no content size"),
        (b"\x00" + frame(HEAD) + frame(body(), size=False), "body has no content size"),
        (b"\x00" + frame(HEAD[:-1]) + frame(b":" + body()), "head ends with"),
        (b"\x00" + frame(HEAD) + frame(b" " + body()), "body begins with"),
        (b"\x00" + b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + frame(HEAD) + frame(body()), "no Zstandard frame"),
    ],
)
def test_refused(payload: bytes, word: str) -> None:
    error = refuse(payload)
    assert word in str(error)
    assert not error.of_delta


def test_first_is_no_delta() -> None:
    assert refuse(delta(body(2), body(1))).of_delta


def test_delta_to_another_body() -> None:
    """The content size is as announced, so what shows is text that is not the message's, or broken data."""
    reader = ZstdReader()
    reader.read(full(body(7, 1500)))
    error = None
    try:
        read = reader.read(delta(body(2), body(1))).body
    except ZstdError as caught:
        error, read = caught, b""
    assert read != body(2)
    assert error is None or error.of_delta


def test_dictionary_with_a_number() -> None:
    samples: list[bytes | bytearray | memoryview] = [
        json.dumps({"address": str(number) * 20, "price": str(number)}).encode() for number in range(3000)
    ]
    trained = zstandard.train_dictionary(2048, samples)
    payload = b"\x00" + frame(HEAD) + zstandard.ZstdCompressor(dict_data=trained).compress(body())
    assert "names a dictionary" in str(refuse(payload))


def test_sizes_are_judged_before_decoding() -> None:
    bomb = frame(b"{" + b" " * (MAX_MESSAGE_BYTES - len(HEAD)) + b"}")
    huge = frame(bytes(200 * 1_048_576))
    tracemalloc.start()
    try:
        for payload in (b"\x00" + frame(HEAD) + bomb, b"\x00" + frame(HEAD) + huge, b"\x00" + huge + frame(body())):
            assert "add up to" in str(refuse(payload))
        assert tracemalloc.get_traced_memory()[1] < 1_048_576
    finally:
        tracemalloc.stop()


def test_the_largest_is_read() -> None:
    content = b"{" + b" " * (MAX_MESSAGE_BYTES - len(HEAD) - 2) + b"}"
    assert len(ZstdReader().read(full(content)).text) == MAX_MESSAGE_BYTES


def lying(content: bytes, announced: int) -> bytes:
    """A frame whose header announces another size: single segment, eight bytes of content size."""
    raw = frame(content)
    header = zstandard.frame_header_size(raw)
    # 0xE0: content size of 8 bytes, single segment, no dictionary; the blocks stay as they are.
    return raw[:4] + b"\xe0" + announced.to_bytes(8, "little") + raw[header:]


@pytest.mark.parametrize("announced", [10, 2999, 3500, 900_000])
def test_decodes_to_another_size(announced: int) -> None:
    payload = b"\x00" + frame(HEAD) + lying(body(), announced)
    assert not refuse(payload).of_delta


def test_window_is_bounded() -> None:
    # 0xA0 would be a single segment; 0xC0 is a frame with a window descriptor: 16 MiB here, 3 bytes of content.
    head = b"\x28\xb5\x2f\xfd" + b"\xc0" + bytes([(24 - 10) << 3]) + (3).to_bytes(8, "little")
    block = ((3 << 3) | 1).to_bytes(3, "little") + b"{}}"
    assert "window" in str(refuse(b"\x00" + frame(HEAD) + head + block))


def test_a_refused_message_does_not_move_the_chain() -> None:
    reader = ZstdReader()
    reader.read(full(body(1)))
    with pytest.raises(ZstdError):
        reader.read(full(b"nonsense"))
    assert reader.read(delta(body(2), body(1))).body == body(2)
