"""Bytes on the wire, decoded by ``websockets``."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import CLIENT, Protocol

from tokenwire_schemas.limits import COMPRESSION_THRESHOLD_BYTES
from tokenwire_server.core import compression
from tokenwire_server.core.compression import Deflater
from tokenwire_server.core.wire import close_frame, digits, frame, frame_template, next_power


def decode(data: bytes, *, take_over: bool = True) -> list[Frame]:
    parser = Protocol(CLIENT, max_size=None)
    parser.extensions = [PerMessageDeflate(not take_over, True, 15, 15)]
    parser.receive_data(data)
    assert parser.parser_exc is None
    return [event for event in parser.events_received() if isinstance(event, Frame)]


texts = st.text(max_size=300) | st.text(alphabet='%d\\"é😀 ', min_size=200, max_size=3000)


@given(st.lists(st.tuples(texts, st.integers(1, 2**53 - 1)), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_any_payload_under_any_number(messages: list[tuple[str, int]], deflate: bool, take_over: bool) -> None:
    deflater = Deflater() if deflate else None
    data = b"".join(
        frame(b"token_update", number, 1_700_000_000_000, json.dumps({"text": text}).encode(), deflater)
        for text, number in messages
    )
    decoded = [json.loads(event.data) for event in decode(data, take_over=take_over)]
    assert [(message["data"]["text"], message["sequence"]) for message in decoded] == messages


@given(st.integers(1, 20), st.data())
def test_one_template_serves_every_number_of_its_length(length: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(next_power(length - 1), next_power(length) - 1))
    assert digits(number) == length
    template = frame_template(b"error", 5, b'{"message":"100%"}', length, None)
    assert template % number == frame(b"error", number, 5, b'{"message":"100%"}', None)


@pytest.mark.parametrize("size", range(COMPRESSION_THRESHOLD_BYTES - 18, COMPRESSION_THRESHOLD_BYTES + 4))
def test_only_messages_above_1_kb_are_compressed(size: int) -> None:
    empty = len(decode(frame(b"error", 1, 1, b'""', None))[0].data)
    data = b'"' + b"x" * (size - empty) + b'"'
    raw = frame(b"error", 1, 1, data, Deflater())
    (event,) = decode(raw)
    assert bool(raw[0] & 0x40) is (len(event.data) > COMPRESSION_THRESHOLD_BYTES)
    assert len(event.data) in (size, size + 15)  # with its number padded, if it is compressed


def test_a_body_is_compressed_once_however_many_clients_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = compression.isal_zlib.compressobj
    monkeypatch.setattr(compression.isal_zlib, "compressobj", lambda *args: made.append(1) or original(*args))
    deflater = Deflater()
    data = json.dumps({"text": "body" * 1000}).encode()
    for number in (1, 9, 10, 5_000, 10**12):
        decode(frame(b"token_update", number, 7, data, deflater))
    assert len(made) == 1


def test_the_remembered_bodies_are_bounded() -> None:
    deflater = Deflater()
    for number in range(1000):
        deflater.alone(b"%d" % number * 500)
    assert len(deflater._cache) <= 64


def test_a_long_reason_is_cut_at_a_character() -> None:
    (event,) = decode(close_frame(4001, "é" * 100))
    assert event.data[:2] == (4001).to_bytes(2, "big")
    assert event.data[2:].decode() == "é" * 61
