"""What a peer may send without harm, and how replies echo it."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_schemas.codec import (
    CodecError,
    decode_client_message,
    decode_extended_message,
    decode_server_message,
    echo_name,
    encode_data,
    envelope,
)
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.extension_messages import Ack, AckData, Heartbeat
from tokenwire_schemas.limits import MAX_TOKEN_NAME_CHARS
from tokenwire_schemas.messages import SubscriptionData, TokenUpdate, TokenUpdateData, Volume

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nonsense",
        '{"a":1',
        '{"a":1}x',
        "{'a':1}",
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        '{"a":01}',
        '{"a":"\n"}',
        "\ufeff{}",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"a":' * 200_000 + "1" + "}" * 200_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_not_json(text: str | bytes) -> None:
    with pytest.raises(CodecError) as caught:
        decode_client_message(text)
    assert caught.value.code is ErrorCode.INVALID_JSON
    assert caught.value.message == str(caught.value)
    caught.value.message.encode()


@pytest.mark.parametrize("text", ["[]", "1", "null", '"text"', "true", "1e999"])
def test_what_is_json_but_no_object(text: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode_client_message(text)
    assert caught.value.code is ErrorCode.INVALID_MESSAGE


def test_an_object() -> None:
    text = ' {"type":"subscription","data":{"tokens":["\\ud800","ü"]},"x":1,"x":2}\n'
    expected: dict[str, object] = {"type": "subscription", "data": {"tokens": ["\ud800", "ü"]}, "x": 2}
    assert decode_client_message(text) == expected
    assert decode_client_message(text.encode()) == expected


@given(st.dictionaries(st.text(), json_values, max_size=4))
@settings(max_examples=100)
def test_whatever_json_writes_is_read(value: dict[str, Any]) -> None:
    assert decode_client_message(json.dumps(value)) == value
    assert decode_client_message(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200) | st.text(max_size=200))
@settings(max_examples=200)
def test_nothing_but_a_codec_error_is_raised(text: str | bytes) -> None:
    try:
        assert isinstance(decode_client_message(text), dict)
    except CodecError as error:
        error.message.encode()


@pytest.mark.parametrize(
    ("text", "value"), [("1.0", 1), ("1e3", 1000), ("-2.0e0", -2), ("1.5", 1.5), ("9e15", 9 * 10**15)]
)
def test_a_whole_number_is_an_integer_however_it_is_written(text: str, value: object) -> None:
    found = decode_client_message(f'{{"n":{text}}}')["n"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "9" * 400 + ".5", "1e400"])
def test_no_infinity_enters(text: str) -> None:
    found = decode_client_message(f'{{"n":{text}}}')["n"]
    assert isinstance(found, float)
    assert abs(found) > 1e308
    json.loads(echo_name(found), parse_constant=pytest.fail)


@pytest.mark.parametrize("sign", ["", "-"])
def test_a_long_integer_costs_nothing_and_echoes_its_first_digits(sign: str) -> None:
    text = sign + "1234567890" * 100_000
    start = time.process_time()
    found = decode_client_message(f'{{"n":{text}}}')["n"]
    assert time.process_time() - start < 0.25
    assert isinstance(found, int)
    assert abs(found) > 2**53
    assert echo_name(found) == text[:MAX_TOKEN_NAME_CHARS]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("DOGE", "DOGE"),
        ("", ""),
        ("a\nb", "a\nb"),
        ("\ud800x", "\\ud800x"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ({"a": ["ü", "\udfff"]}, '{"a":["ü","\\udfff"]}'),
        ("x" * 300, "x" * 256),
        ("\ud800" * 300, ("\\ud800" * 43)[:256]),
        (list(range(1000)), json.dumps(list(range(1000)), separators=(",", ":"))[:256]),
    ],
)
def test_echo(value: object, shown: str) -> None:
    assert echo_name(value) == shown


@pytest.mark.parametrize(("seed", "shown"), [([], "[…]"), ({}, "{…}")])
def test_an_echo_of_what_is_nested_too_deeply(seed: Any, shown: str) -> None:
    value = seed
    for _ in range(200_000):
        value = [value] if isinstance(seed, list) else {"a": value}
    assert echo_name(value) == shown
    while value:  # take it apart, level by level
        value = value.pop() if isinstance(value, list) else value.pop("a")


@given(json_values | st.text(st.characters(codec=None)))
@settings(max_examples=100)
def test_an_echo_can_always_be_sent(value: object) -> None:
    shown = echo_name(value)
    assert len(shown) <= MAX_TOKEN_NAME_CHARS
    assert json.loads(encode_data(SubscriptionData("subscribe", [shown], "error")))["tokens"] == [shown]


UPDATE = TokenUpdateData("A", "0.1", "0", Volume("3", "2", "1"))


def test_an_envelope_is_compact_and_in_order() -> None:
    data = encode_data(UPDATE)
    text = envelope("token_update", 2, 1234567890123, data)
    assert text == (
        b'{"type":"token_update","sequence":2,"timestamp":1234567890123,"data":{"address":"A","price":"0.1",'
        b'"marketCap":"0","volume":{"h24":"3","h1":"2","m5":"1"}}}'
    )
    assert decode_server_message(text) == TokenUpdate(2, 1234567890123, UPDATE)


def test_lone_surrogates_need_the_echo() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_data({"a": "\ud800"})


@pytest.mark.parametrize("decode", [decode_server_message, decode_extended_message])
def test_typed_reading(decode: Any) -> None:
    tolerated = envelope("error", 1, 1, b'{"code":"A","message":"m","level":"error","later":1}')
    assert decode(tolerated).data.code == "A"
    assert decode(tolerated.decode()).sequence == 1
    for bad, code in (
        (b"nonsense", ErrorCode.INVALID_JSON),
        (b"\xff", ErrorCode.INVALID_JSON),
        ('{"type":"\ud800"}', ErrorCode.INVALID_JSON),
        ('{"x":' + "[" * 200_000, ErrorCode.INVALID_JSON),
        (b"[]", ErrorCode.INVALID_MESSAGE),
        (b'{"type":"other"}', ErrorCode.INVALID_MESSAGE),
        (envelope("error", 1, 1, b'{"code":1,"message":"m","level":"error"}'), ErrorCode.INVALID_MESSAGE),
    ):
        with pytest.raises(CodecError) as caught:
            decode(bad)
        assert caught.value.code is code, bad[:40]


def test_extension_messages_are_read_by_the_extended_decoder_only() -> None:
    text = envelope("heartbeat", 7, 1234567890123, b'{"pending":2}')
    message = decode_extended_message(text)
    assert isinstance(message, Heartbeat)
    assert message.data.pending == 2
    with pytest.raises(CodecError):
        decode_server_message(text)


def test_a_client_struct_is_a_client_message() -> None:
    assert decode_client_message(encode_data(Ack(data=AckData(5)))) == {"type": "ack", "data": {"sequence": 5}}
