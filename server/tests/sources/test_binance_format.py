"""The pure normaliser of Binance's format."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources.binance_format import page_path, parse_frame, read_page
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import FormatError, Ignored, Reply, Shutdown, TradesFrame, VenueTrade

EVENT = {"e": "aggTrade", "E": 2, "s": "BNBBTC", "a": 12345, "p": "0.001", "q": "100", "f": 100, "l": 105}
EVENT |= {"T": 1_626_992_741_421, "m": True}


def event(**changes: Any) -> str:
    return json.dumps(EVENT | changes)


def test_an_aggregate_trade() -> None:
    frame = parse_frame(json.dumps({"stream": "bnbbtc@aggTrade", "data": EVENT}))
    trade = Trade("binance:BNBBTC", "12345", Decimal("0.001"), Decimal(100), Side.SELL, 1_626_992_741_421)
    assert frame == TradesFrame("aggTrade", (VenueTrade("BNBBTC", trade, 12345),))
    assert parse_frame(event()) == frame


def test_a_single_trade_and_its_side() -> None:
    frame = parse_frame(event(e="trade", t=77, m=False))
    assert isinstance(frame, TradesFrame)
    (item,) = frame.trades
    assert (frame.channel, item.number, item.trade.trade_id, item.trade.side) == ("trade", 77, "77", Side.BUY)


def test_json_numbers_never_pass_through_float() -> None:
    text = event().replace('"0.001"', "0.1000000000000000055511151231257827").replace('"100"', "3")
    frame = parse_frame(text)
    assert isinstance(frame, TradesFrame)
    assert frame.trades[0].trade.price == Decimal("0.1000000000000000055511151231257827")
    assert frame.trades[0].trade.amount == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"result":null,"id":3}', Reply(("3",))),
        ('{"result":["a@trade"],"id":3}', Reply(("3",))),
        ('{"code":2,"msg":"Invalid request","id":1}', Reply((), "'2: Invalid request'")),
        ('{"error":{"code":3,"msg":"no"},"id":"x"}', Reply((), "'3: no'")),
        ('{"error":{"code":3,"msg":"no"}}', Reply((), "'3: no'")),
        ('{"e":"serverShutdown","E":1}', Shutdown()),
        ('{"stream":"x","data":{"e":"serverShutdown","E":1}}', Shutdown()),
        ('{"stream":"x@kline_1m","data":{"e":"kline","k":{}}}', Ignored("kline")),
        ('{"stream":"x@bookTicker","data":{"u":1,"b":"1","a":"2"}}', Ignored("unnamed")),
        ('{"u":1,"b":"1","a":"2"}', Ignored("unnamed")),
        ('{"lastUpdateId":1,"bids":[],"asks":[]}', Ignored("unnamed")),
    ],
)
def test_what_else_comes(text: str, expected: object) -> None:
    assert parse_frame(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ('{"a":NaN}', "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"a":' + "9" * 5_000 + "}", "not_json"),
        (b"\xff\xfe\xfd", "not_json"),
        ("[]", "not_an_object"),
        ("{}", "unknown_frame"),
        ('{"stream":"x","data":[]}', "no_data"),
        (event(s="bad sym"), "bad_symbol"),
        (event(s="A" * 65), "bad_symbol"),
        (event(s=5), "bad_symbol"),
        (event(a="5"), "bad_id"),
        (event(a=True), "bad_id"),
        (event(a=-1), "bad_id"),
        (event(a=2**70), "bad_id"),
        (event(m="true"), "bad_side"),
        (event(p="1,5"), "bad_price"),
        (event(p=None), "bad_price"),
        (event(p="1e50"), "bad_price"),
        (event(q="NaN"), "bad_amount"),
        (event(T="now"), "bad_time"),
        (event(T=1.5), "bad_time"),
    ],
)
def test_what_cannot_be_used_has_a_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_frame(text)
    assert caught.value.reason == reason
    assert len(caught.value.detail) < 3_000
    assert caught.value.detail.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("eEsapqTmtkdi"), inner, max_size=6),
    max_leaves=8,
)


spoiled_trades = st.dictionaries(st.sampled_from([*EVENT]), json_values).map(lambda fields: event(**fields))


@given(st.one_of(st.text(), st.binary(), json_values.map(json.dumps), spoiled_trades))
def test_nothing_else_is_ever_raised(text: str | bytes) -> None:
    with suppress(FormatError):
        parse_frame(text)


def test_a_page_of_aggregate_trades() -> None:
    hole = Hole("BNBBTC", "binance:BNBBTC", "4", 1, "8", 2, 5, 7)
    assert page_path(hole) == "/api/v3/aggTrades?symbol=BNBBTC&fromId=5&limit=3"
    # As documented: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints
    body = b"""[{"a": 26129, "p": "0.01633102", "q": "4.70443515", "f": 27781, "l": 27781, "T": 1498793709153,
        "m": true, "M": true}]"""
    (item,) = read_page("BNBBTC", body)
    assert (item.number, item.trade.price, item.trade.side) == (26129, Decimal("0.01633102"), Side.SELL)
    for wrong in (b"{}", b"[1]", b"<html>", b'[{"a":1}]'):
        with pytest.raises(FormatError):
            read_page("BNBBTC", wrong)
