"""Binary messages of a zstd socket (I-64)."""

import json
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.zstd import ZstdDecoder, ZstdError
from tokenwire_schemas.limits import MAX_MESSAGE_BYTES

from .peer import WALL, Peer, update


class Encoder:
    """The server's side, from the page."""

    def __init__(self) -> None:
        self.body = b""

    def encode(self, text: str, *, full: bool = True, **settings: Any) -> bytes:
        data = text.encode()
        cut = data.index(b'"data":') + len(b'"data":')
        head, body = data[:cut], data[cut:]
        if full:
            compressor = zstandard.ZstdCompressor(**settings)
        else:
            dictionary = zstandard.ZstdCompressionDict(self.body, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            compressor = zstandard.ZstdCompressor(dict_data=dictionary, write_dict_id=False, **settings)
        self.body = body
        return bytes([0 if full else 1]) + zstandard.ZstdCompressor().compress(head) + compressor.compress(body)


def text(number: int, padding: str = "x") -> str:
    updates = [update(f"a-{padding}{index}", str(index + number), number) for index in range(40)]
    return json.dumps({"type": "token_batch", "sequence": number, "timestamp": WALL, "data": {"updates": updates}})


def test_full_and_delta() -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    for number in range(1, 30):
        message = text(number)
        wire = encoder.encode(message, full=number % 10 == 1)
        assert decoder.decode(wire).decode() == message


@settings(max_examples=100, deadline=None)
@given(
    bodies=st.lists(
        st.tuples(st.text(max_size=3_000), st.booleans(), st.integers(1, 9), st.booleans()), min_size=1, max_size=8
    )
)
def test_any_text_and_level(bodies: list[tuple[str, bool, int, bool]]) -> None:
    encoder, decoder = Encoder(), ZstdDecoder()
    for index, (body, full, level, checksum) in enumerate(bodies):
        message = '{"type":"é","data":' + json.dumps({"x": body}) + "}"
        wire = encoder.encode(message, full=full or index == 0, level=level, write_checksum=checksum)
        assert decoder.decode(wire).decode() == message


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    wire = bytearray(Encoder().encode(text(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(wire)))
    codes = []
    try:
        ZstdDecoder().decode(bytes(wire[:cut]))
    except ZstdError as error:
        codes.append(error.close_code)
    assert set(codes) <= {1002, 1009}


def code(wire: bytes, decoder: ZstdDecoder | None = None) -> int:
    with pytest.raises(ZstdError) as caught:
        (decoder or ZstdDecoder()).decode(wire)
    return caught.value.close_code


def test_refusals() -> None:
    good = Encoder().encode(text(1))
    assert code(b"") == 1002
    assert code(b"\x02" + good[1:]) == 1002
    assert code(b"\x01" + good[1:]) == 1002  # a delta of nothing
    assert code(good + b"x") == 1002
    assert code(good[:-1]) == 1002
    assert code(b"\x00" + good[1:40]) == 1002
    without = zstandard.ZstdCompressor(write_content_size=False)
    assert code(b"\x00" + without.compress(b"{") + without.compress(b"}")) == 1009


def test_a_bomb_is_refused_by_its_header() -> None:
    compressor = zstandard.ZstdCompressor()
    head = compressor.compress(b'{"data":')
    bomb = compressor.compress(b"0" * (MAX_MESSAGE_BYTES + 1))
    assert len(bomb) < 2_000
    assert code(b"\x00" + head + bomb) == 1009
    half = compressor.compress(b"0" * (MAX_MESSAGE_BYTES // 2 + 1))
    assert code(b"\x00" + half + half) == 1009


def test_a_bomb_that_understates_its_size_is_not_inflated() -> None:
    compressor = zstandard.ZstdCompressor()
    head = compressor.compress(b'{"data":')
    bomb = bytearray(compressor.compress(b"0" * 900_000))
    assert bomb[4] >> 6 == 2  # four bytes of content size
    at = 5 if bomb[4] & 0x20 else 6
    bomb[at : at + 4] = (1_000).to_bytes(4, "little")
    assert code(b"\x00" + head + bytes(bomb)) == 1009


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("length", [100, 300, 70_000])  # the size takes one, two, four bytes
@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_not_the_decoded_one(length: int, checksum: bool, more: int) -> None:
    encoder = Encoder()
    full = encoder.encode('{"data":{"x":"' + "ab" * 30 + '"}}')
    compressor = zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(encoder.body, dict_type=zstandard.DICT_TYPE_RAWCONTENT),
        write_dict_id=False, write_checksum=checksum,
    )  # fmt: skip
    frame = bytearray(compressor.compress(b"ab" * (length // 2)))
    width = (1, 2, 4)[(100, 300, 70_000).index(length)]
    at = 5 if frame[4] & 0x20 else 6
    stated = int.from_bytes(frame[at : at + width], "little")
    assert stated + (256 if width == 2 else 0) == length
    frame[at : at + width] = (stated + more).to_bytes(width, "little")
    decoder = ZstdDecoder()
    decoder.decode(full)
    assert code(b"\x01" + zstandard.ZstdCompressor().compress(b"{") + bytes(frame), decoder) == 1009


def test_a_huge_window_is_refused() -> None:
    good = zstandard.ZstdCompressor().compress(b"{}" * 100)
    frame = good[:4] + bytes([0x80, 0xF8]) + (200).to_bytes(4, "little") + good[6:]
    assert code(b"\x00" + frame + frame) == 1009


def test_in_a_session_from_the_first_message_on() -> None:
    peer = Peer(capabilities=("batch", "zstd")).start().open()
    encoder = Encoder()
    hello = {
        "type": "connection",
        "sequence": 1,
        "timestamp": WALL,
        "data": {"status": "connected", "connectionId": "c", "maxSubscriptions": 9, "capabilities": ["batch", "zstd"]},
    }
    peer.raw(encoder.encode(json.dumps(hello)))
    names = [f"a-x{index}" for index in range(40)]
    peer.session.subscribe(names, peer.now)
    peer.act()
    peer.number = 1
    peer.accept(*names)
    peer.raw(encoder.encode(text(3), full=False))
    peer.raw(encoder.encode(text(4), full=False))
    assert len(peer.values()) == 80
    peer.cut()
    peer.back()
    peer.open()
    encoder = Encoder()
    peer.raw(encoder.encode(json.dumps(hello)))
    peer.raw(encoder.encode(json.dumps({"type": "zz", "sequence": 2, "timestamp": 1, "data": {}}), full=False))
    assert peer.session.metrics.unknown_messages == 1
    peer.raw(b"\x07")
    assert [close.code for close in peer.closes] == [1002]


def test_a_bomb_ends_the_socket_with_1009() -> None:
    peer = Peer(capabilities=("zstd",)).start().greet("zstd")
    compressor = zstandard.ZstdCompressor()
    peer.raw(b"\x00" + compressor.compress(b"{") + compressor.compress(b"0" * 2_000_000))
    assert [close.code for close in peer.closes] == [1009]
    assert peer.session.state == "RECONNECTING"


def test_not_granted() -> None:
    peer = Peer(capabilities=("zstd", "batch")).start().greet("batch")
    peer.raw(Encoder().encode(text(2)))
    assert peer.session.metrics.invalid_messages == 1
    assert not peer.closes
