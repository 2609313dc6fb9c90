"""Posted trades as JSON texts: what is understood, what is refused and in which words."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.decimals import EXACT, canonical
from tokenwire_server.market.posted import (
    MAX_POST_TRADES,
    Posted,
    PostError,
    Refusal,
    TooManyTradesError,
    read_post,
    read_trade,
)
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.validation.trades import MAX_SKEW_MS

NOW_MS = 1_774_089_000_000
GOOD = {
    "id": '"a-1"',
    "symbol": '"PEPE"',
    "price": "0.000001234",
    "amount": "1000000.0",
    "side": '"Buy"',
    "timestamp": '"2026-03-21T10:30:00Z"',
}


def read(**changes: str | None) -> Posted | Refusal:
    """One trade of JSON texts, of which some are others or missing."""
    fields = {**GOOD, **changes}
    text = ",".join(f'"{name}":{value}' for name, value in fields.items() if value is not None)
    (raw,) = read_post(f"{{{text}}}".encode())
    return read_trade(raw, "posted", NOW_MS)


def test_a_trade_as_it_is_documented() -> None:
    assert read() == Posted(
        "PEPE",
        "posted",
        Trade("posted:PEPE", "a-1", Decimal("0.000001234"), Decimal("1000000.0"), Side.BUY, NOW_MS),
    )


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("price", '"0.10"', Decimal("0.1")),
        ("price", "1e-7", Decimal("0.0000001")),
        ("price", '"1E-7"', Decimal("0.0000001")),
        ("price", "0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        ("price", "99999999999999999999999999999999999999", Decimal("9" * 38)),
        ("amount", "12", Decimal(12)),
        ("side", '"sell"', Side.SELL),
        ("side", '"BUY"', Side.BUY),
        ("timestamp", "1774089000123", NOW_MS + 123),
        ("timestamp", '"1774089000123"', NOW_MS + 123),
        ("timestamp", "1774089000", NOW_MS),
        ("timestamp", '"2026-03-21T11:30:00.1239+01:00"', NOW_MS + 123),
        ("timestamp", '"1999-12-31T00:00:00Z"', 946_598_400_000),
        ("timestamp", str(NOW_MS + MAX_SKEW_MS), NOW_MS + MAX_SKEW_MS),
        ("id", "4711", "4711"),
        ("id", '"\\u00e4 b"', "ä b"),
        ("venue", '"my-venue"', "my-venue:PEPE"),
        ("more", '{"nested": [1, null]}', None),
    ],
)
def test_what_is_understood(field: str, written: str, expected: object) -> None:
    found = read(**{field: written})
    assert isinstance(found, Posted), found
    names = {"id": "trade_id", "timestamp": "time_ms", "venue": "address"}
    if expected is not None:
        assert getattr(found.trade, names.get(field, field)) == expected


@pytest.mark.parametrize(
    ("field", "written", "reason"),
    [
        *[(field, None, reason) for field, reason in (
            ("id", "trade_id_invalid"), ("symbol", "symbol_invalid"), ("price", "price_invalid"),
            ("amount", "amount_invalid"), ("side", "side_invalid"), ("timestamp", "time_invalid"))],
        *[(field, written, reason) for written in ("null", "true", "[]", '{"a":1}', '""') for field, reason in (
            ("id", "trade_id_invalid"), ("symbol", "symbol_invalid"), ("price", "price_invalid"),
            ("amount", "amount_invalid"), ("side", "side_invalid"), ("timestamp", "time_invalid"),
            ("venue", "venue_invalid"))],
        ("id", "1.5", "trade_id_invalid"),
        ("id", "-1", "trade_id_invalid"),
        ("id", f'"{"x" * 257}"', "trade_id_invalid"),
        ("id", '"a\\nb"', "trade_id_invalid"),
        ("symbol", "7", "symbol_invalid"),
        ("symbol", '"a\\u0000"', "symbol_invalid"),
        ("price", "0", "price_not_positive"),
        ("price", "-1", "price_not_positive"),
        ("price", "-0.0", "price_not_positive"),
        ("price", '"NaN"', "price_invalid"),
        ("price", '"Infinity"', "price_invalid"),
        ("price", '" 1"', "price_invalid"),
        ("price", '"1_000"', "price_invalid"),
        ("price", '"0x10"', "price_invalid"),
        ("price", "1e40", "price_out_of_bounds"),
        ("price", "1e-39", "price_out_of_bounds"),
        ("price", "1e999999999", "price_invalid"),
        ("price", "9" * 200, "price_invalid"),
        ("amount", '"0"', "amount_not_positive"),
        ("amount", "1e40", "amount_out_of_bounds"),
        ("side", '"hold"', "side_invalid"),
        ("side", "1", "side_invalid"),
        ("timestamp", '"yesterday"', "time_invalid"),
        ("timestamp", '"2026-03-21T10:30:00"', "time_invalid"),
        ("timestamp", "-5", "time_invalid"),
        ("timestamp", "0", "time_invalid"),
        ("timestamp", "1.5", "time_invalid"),
        ("timestamp", '"0001-01-01T00:00:00+14:00"', "time_invalid"),
        ("timestamp", str(NOW_MS + MAX_SKEW_MS + 1), "time_in_future"),
        ("timestamp", '"9999-12-31T23:59:59-14:00"', "time_invalid"),
        ("venue", '"a:b"', "venue_invalid"),
        ("venue", f'"{"v" * 33}"', "venue_invalid"),
    ],
)  # fmt: skip
def test_what_is_refused(field: str, written: str | None, reason: str) -> None:
    found = read(**{field: written})
    assert isinstance(found, Refusal), found
    assert found.reason == reason
    assert found.id == (None if field == "id" else "a-1")
    assert len(found.message) < 200


def test_a_refused_time_is_named() -> None:
    found = read(timestamp='"yesterday"')
    assert isinstance(found, Refusal)
    assert found.message.startswith("timestamp: a Unix time in s or ms")
    assert found.message.endswith("not 'yesterday'")
    missing = read(timestamp=None)
    assert isinstance(missing, Refusal)
    assert ", not" not in missing.message


@pytest.mark.parametrize("body", [b"[1]", b'["x"]', b"[null]", b"[[]]", b'[{"id":' + b"[" * 500 + b"]" * 500 + b"}]"])
def test_an_item_that_is_no_trade_is_refused_alone(body: bytes) -> None:
    (raw,) = read_post(body)
    assert isinstance(read_trade(raw, "posted", NOW_MS), Refusal)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"   ", b"null", b"7", b'"x"', b"<html>", b"{", b"[", b"[{}", b"{}{}", b"{},{}", b"[{}]x", b"[,]"),
        *(b'{"price":NaN}', b'{"price":Infinity}', b'{"price":1e}', b'{"price":01}', b'{"id":"\\ud800"}'),
        *(b"\xff", b'{"a":"\xff"}', b"\xef\xbb\xbf[]", b"[" * 100_000, b'{"a":' * 100_000),
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(PostError) as caught:
        read_post(body)
    assert len(str(caught.value)) < 200


def test_one_or_many_but_not_too_many() -> None:
    one = json.dumps({"id": "a"}).encode()
    assert len(read_post(one)) == len(read_post(b" [%b]\n" % one)) == 1
    assert read_post(b"[]") == []
    assert len(read_post(b"[%b]" % b",".join([one] * MAX_POST_TRADES))) == MAX_POST_TRADES
    with pytest.raises(TooManyTradesError):
        read_post(b"[%b]" % b",".join([one] * (MAX_POST_TRADES + 1)))


@given(st.decimals(min_value="1e-38", max_value="1e37", allow_nan=False, places=None), st.booleans())
def test_numbers_are_taken_digit_by_digit(number: Decimal, is_text: bool) -> None:
    written = str(number)
    found = read(price=f'"{written}"' if is_text else written)
    exponent = number.normalize(EXACT).as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -38:
        assert isinstance(found, Refusal)
    else:
        assert isinstance(found, Posted)
        assert canonical(found.trade.price) == canonical(number)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "venue", "x"]), inner, max_size=7)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=300)
def test_no_json_does_harm(value: Any) -> None:
    try:
        raws = read_post(json.dumps(value).encode())
    except PostError:
        return
    for raw in raws:
        assert isinstance(read_trade(raw, "posted", NOW_MS), Posted | Refusal)


@given(st.binary(max_size=60))
def test_no_bytes_do_harm(body: bytes) -> None:
    try:
        raws = read_post(body)
    except PostError:
        return
    for raw in raws:
        assert isinstance(read_trade(msgspec.Raw(raw), "posted", NOW_MS), Posted | Refusal)
