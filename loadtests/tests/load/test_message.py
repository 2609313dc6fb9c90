"""Reading by searching says what parsing says."""

import json

import pytest

from loadtests.load.message import Reader, planned_us, read_fully
from loadtests.load.numbers import Numbers
from tokenwire_server.market.decimals import canonical
from tokenwire_server.sources.probe import planned_price


def batch(price: str, count: int, sequence: int = 9) -> bytes:
    updates = [
        {"address": f"a{n}", "price": price, "marketCap": "0", "volume": {"h24": "0", "h1": "0", "m5": "0"}}
        for n in range(count)
    ]
    message = {
        "type": "token_batch",
        "sequence": sequence,
        "timestamp": 1_764_547_205_000,
        "data": {"updates": updates},
    }
    return json.dumps(message, separators=(",", ":")).encode()


@pytest.mark.parametrize("planned_s", [0.000001, 5.0, 12_345.6, 39_072.517, 10**8 + 0.25])
def test_a_price_is_read_as_the_probe_writes_it(planned_s: float) -> None:
    assert planned_us(canonical(planned_price(planned_s)).encode()) == round(planned_s * 1_000_000)


def test_a_price_that_no_probe_writes_is_refused() -> None:
    with pytest.raises(ValueError, match="not a probe's price"):
        planned_us(b"0.0000001")


def test_the_reader_agrees_with_the_parser() -> None:
    reader = Reader()
    payloads = [
        batch("12.5", 3),
        batch("12.5", 3, 10),
        batch("12.5", 2, 11),  # another user's half of the same tick
        batch("13", 3, 12),
        batch("12.5", 3, 13),  # replayed
        b'{"type":"token_update","sequence":2,"timestamp":1,"data":{"address":"a","price":"7.25","marketCap":"0"}}',
        b'{"type":"heartbeat","sequence":2,"timestamp":1,"data":{}}',
        b'{ "sequence": 4, "type": "token_update", "data": {"price": "1", "address": "a"}}',
    ]
    assert [reader.read(payload) for payload in payloads] == [read_fully(payload) for payload in payloads]


def test_a_token_that_stands_twice_in_a_message_is_one_token() -> None:
    reader = Reader()
    reader.read(batch("12.5", 3))
    known = batch("12.5", 2)
    for payload in (batch("13", 3).replace(b'"a2"', b'"a0"'), known, known.replace(b'"a1"', b'"a0"')):
        message = reader.read(payload)
        assert message == read_fully(payload)
    assert (message.updates, message.tokens) == (2, frozenset({b"a0"}))


@pytest.mark.parametrize(
    "payload",
    [
        b"no",
        b"[]",
        b'{"type":"token_batch","sequence":1,"timestamp":1,"data":{"updates":[]}}',
        b'{"type":"token_update","sequence":1,"timestamp":1,"data":{"address":"a"}}',
        b'{"type":"token_update","sequence":1,"timestamp":1,"data":{"price":"1"}}',
        b'{"type":"token_update","sequence":1,"timestamp":1,"data":{"price":"1","address":7}}',
        batch("1.5", 2).replace(b'"1.5"', b'"1.6"', 1),
        batch("1.5", 2)[:-1],
    ],
)
def test_what_no_probe_sends_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Reader().read(payload)


def test_types_without_a_number() -> None:
    numbered = {kind: read_fully(json.dumps({"type": kind, "sequence": 1, "data": {}}).encode()).is_numbered
                for kind in ("heartbeat", "gap", "connection", "error")}  # fmt: skip
    assert numbered == {"heartbeat": False, "gap": False, "connection": True, "error": True}


def test_holes_and_repetitions() -> None:
    numbers = Numbers()
    assert [numbers.follow(n) for n in (1, 2, 5, 5, 4, 6)] == [0, 0, 2, -1, -1, 0]
    assert numbers.last == 6
