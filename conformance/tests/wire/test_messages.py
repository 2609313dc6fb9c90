"""What a message says of itself, however odd it is."""

import pytest

from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received, shown


def received(text: str) -> Received:
    payload = text.encode()
    return Received(0.0, 0.0, Opcode.TEXT, payload, False, len(payload), 1)


@pytest.mark.parametrize(
    ("written", "read"),
    [("7", 7), ("7.0", 7), ("7e2", 700), ("7.5", None), ('"7"', None), ("true", None), ("1e400", None), ("null", None)],
)
def test_a_whole_number_may_be_written_with_a_point(written: str, read: int | None) -> None:
    message = received(f'{{"sequence":{written},"timestamp":{written}}}')
    assert (message.sequence, message.timestamp) == (read, read)


@pytest.mark.parametrize("levels", [201, 964, 970, 5_000, 100_000])
def test_what_is_nested_beyond_all_measure_is_read_as_nothing(levels: int) -> None:
    message = received('{"type":"token_update","data":' + "[" * levels + "]" * levels + "}")
    assert message.json is None
    assert message.type is None


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    assert received('{"type":"x","data":[' + ",".join(["[]"] * 1_000) + "]}").type == "x"


def test_a_value_is_shown_as_json() -> None:
    assert shown(None) == "null"
    assert shown(["x", True, 1.5]) == '["x",true,1.5]'
    assert shown("\ud800") == '"\\ud800"'
    assert shown({1}) == '"{1}"'


def test_a_long_text_keeps_its_end() -> None:
    text = received('{"begins":"' + "x" * 1_000 + '","ends":1}').brief()
    assert text.startswith('{"begins":')
    assert text.endswith('"ends":1} (1022 characters)')
    assert len(text) < 350
