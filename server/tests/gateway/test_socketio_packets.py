"""What a Socket.IO client may send: read before the library sees it, and written anew."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet

from tokenwire_server.gateway.socketio_packets import ACTIONS, INVALID, event_frame, read_packet
from tokenwire_server.validation.messages import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def passed_on(text: str) -> list[object]:
    read = read_packet(text)
    assert read.startswith("42")
    arguments: list[object] = json.loads(read[read.index("[") :])
    return arguments


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["DOGE"], ["DOGE"]),
        ([["DOGE", "PEPE"]], ["DOGE", "PEPE"]),
        (["DOGE", "PEPE"], ["DOGE", "PEPE"]),
        ([{"tokens": ["DOGE"]}], ["DOGE"]),
        ([{"tokens": "DOGE"}], ["DOGE"]),
        ([["DOGE", 7, {"deep": []}, None]], ["DOGE", None, None, None]),
        (["\ud800"], ["\ud800"]),
    ],
)
@pytest.mark.parametrize("event", ACTIONS)
def test_tokens_come_in_every_shape_that_front_ends_use(event: str, arguments: list[object], names: object) -> None:
    assert passed_on("42" + json.dumps([event, *arguments])) == [event, names]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "UNKNOWN_TYPE"),
        (["disconnect"], "UNKNOWN_TYPE"),
        (["connect", {}], "UNKNOWN_TYPE"),
        ([INVALID, "INTERNAL_ERROR", "x"], "UNKNOWN_TYPE"),
        ([["join"], "DOGE"], "UNKNOWN_TYPE"),
        ([{"a": 1}], "UNKNOWN_TYPE"),
        (["join"], "INVALID_MESSAGE"),
        (["join", []], "INVALID_MESSAGE"),
        (["join", {"token": "DOGE"}], "INVALID_MESSAGE"),
        (["join", 5], "INVALID_MESSAGE"),
        (["join", ["DOGE"] * 1001], "BATCH_LIMIT"),
    ],
)
def test_a_malformed_event_is_passed_on_as_its_error_so_that_its_acknowledgement_tells(
    arguments: object, code: str
) -> None:
    text = read_packet("4217" + json.dumps(arguments))
    assert text.startswith("4217[")
    event, told, message = json.loads(text[4:])
    assert (event, told) == (INVALID, code)
    assert message


@pytest.mark.parametrize("text", ["3", "3probe", "41", "1", "40", "40/admin,"])
def test_the_library_gets_its_own_packets(text: str) -> None:
    assert read_packet(text) in (text, "3")


def test_what_a_client_says_of_itself_is_left_out() -> None:
    assert read_packet('40{"token":"secret"}') == "40"
    assert read_packet('40/admin,{"token":' + "[" * 100_000) == "40/admin,"


@pytest.mark.parametrize(
    "text",
    ["", "4", "44{}", "451-[0]", "461-[0]", "42", "42/admin,[1]", "42{}", "421234567890123456[]", "0{}", "2", "5", "6"],
)
def test_what_no_client_sends_here_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_packet(text)
    assert caught.value.code == "INVALID_MESSAGE"


@pytest.mark.parametrize("json_text", ["[", "[NaN", "[" * 100_000, '["join",]', "[1e999", '["\x00"]'])
def test_what_is_not_json_is_refused(json_text: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_packet("42" + json_text)
    assert caught.value.code == "INVALID_JSON"


def test_a_number_of_a_million_digits_costs_nothing() -> None:
    assert passed_on('42["join","DOGE",' + "9" * 100_000 + "]") == ["join", ["DOGE", None]]


@given(st.one_of(st.text(), JSON.map(lambda data: "42" + json.dumps(data)), st.text().map("4{}".format)))
def test_whatever_passes_is_a_packet_that_the_library_reads(text: str) -> None:
    try:
        read = read_packet(text)
    except RequestError:
        return
    if read.startswith("4"):
        packet = Packet(encoded_packet=read[1:])
        assert packet.packet_type in (0, 1, 2)
        if packet.packet_type == 2:
            event, *rest = packet.data
            assert event in (*ACTIONS, INVALID)
            assert all(isinstance(each, str) for each in rest) if event == INVALID else len(rest) == 1


def test_an_event_is_a_whole_text_frame() -> None:
    short, long = event_frame("a", b"1"), event_frame("a", b"1" * 70_000)
    assert short == b'\x81\x0942["a",1]'
    assert long[:2] == b"\x81\x7f"
    assert int.from_bytes(long[2:10], "big") == len(long) - 10
