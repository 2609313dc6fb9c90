"""The pure normalisers of Coinbase, Kraken, Bybit and OKX; frames and pages as documented."""

import json
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources import bybit_format, coinbase_format, kraken_format, okx_format
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import FormatError, Frame, Ignored, Reply, Shutdown, TradesFrame, VenueTrade

from .venues.bybit import PAGE as BYBIT_PAGE
from .venues.bybit import TRADE as BYBIT_TRADE
from .venues.coinbase import MATCH
from .venues.kraken import PAGE as KRAKEN_PAGE
from .venues.kraken import UPDATE
from .venues.okx import PAGE as OKX_PAGE
from .venues.okx import TRADE as OKX_TRADE

PARSERS: dict[str, Callable[[str | bytes], Frame]] = {
    "coinbase": coinbase_format.parse_frame,
    "kraken": kraken_format.parse_frame,
    "bybit": bybit_format.parse_frame,
    "okx": okx_format.parse_frame,
}
DOCUMENTED = {"coinbase": MATCH, "kraken": UPDATE, "bybit": BYBIT_TRADE, "okx": OKX_TRADE}


def one(frame: Frame) -> VenueTrade:
    assert isinstance(frame, TradesFrame)
    assert not frame.refused
    (item,) = frame.trades
    return item


def test_coinbase_names_the_makers_side() -> None:
    trade = Trade(
        "coinbase:BTC-USD", "10", Decimal("400.23"), Decimal("5.23512"), Side.BUY, 1_415_348_367_028
    )  # the maker sold, so the taker bought
    assert one(coinbase_format.parse_frame(MATCH)) == VenueTrade("BTC-USD", trade, 10)
    last = one(coinbase_format.parse_frame(MATCH.replace('"match"', '"last_match"').replace('"sell"', '"buy"')))
    assert last.trade.side is Side.SELL


def test_kraken_numbers_are_exact() -> None:
    trade = Trade("kraken:MATIC/USD", "4665906", Decimal("0.5117"), Decimal(40), Side.SELL, 1_695_628_177_708)
    assert one(kraken_format.parse_frame(UPDATE)) == VenueTrade("MATIC/USD", trade, 4_665_906)
    exact = one(kraken_format.parse_frame(UPDATE.replace("0.5117", "0.51170000000000000000000000000001")))
    assert exact.trade.price == Decimal("0.51170000000000000000000000000001")
    tiny = one(kraken_format.parse_frame(UPDATE.replace("0.5117", "1.2E-9").replace("40.0", "7")))
    assert (tiny.trade.price, tiny.trade.amount) == (Decimal("0.0000000012"), 7)


def test_bybit_has_ids_and_no_numbers() -> None:
    identifier = "20f43950-d8dd-5b31-9112-a178eb6023af"
    trade = Trade("bybit:BTCUSDT", identifier, Decimal("16578.50"), Decimal("0.001"), Side.BUY, 1_672_304_486_865)
    assert one(bybit_format.parse_frame(BYBIT_TRADE)) == VenueTrade("BTCUSDT", trade)


def test_okx_counts_the_matches_of_a_message() -> None:
    trade = Trade("okx:BTC-USDT", "130639474", Decimal("42219.9"), Decimal("0.12060306"), Side.BUY, 1_630_048_897_897)
    assert one(okx_format.parse_frame(OKX_TRADE)) == VenueTrade("BTC-USDT", trade, 130_639_474, 130_639_472)
    old = one(okx_format.parse_frame(OKX_TRADE.replace('"count":"3",', "")))
    assert old.first == old.number


HOLE = Hole("BTC-USD", "x", "4", 1_688_669_597_827, "8", 2, 5, 7)


def test_pages_ask_for_what_is_missing() -> None:
    assert coinbase_format.page_path(HOLE) == "/products/BTC-USD/trades?limit=3&after=8"
    assert okx_format.page_path(HOLE) == "/api/v5/market/history-trades?instId=BTC-USD&type=1&after=8&limit=3"
    pair = Hole("BTC/USD", "x", "4", 1_688_669_597_827, "8", 2, 5, 7)
    assert kraken_format.page_path(pair) == "/0/public/Trades?pair=BTCUSD&since=1688669597826999999&count=1000"
    assert bybit_format.page_path("linear", HOLE).endswith("category=linear&symbol=BTC-USD&limit=1000")


def test_documented_pages() -> None:
    body = (
        b'[{"time":"2020-03-20T00:36:59.860Z","trade_id":86327327,"price":"6225.32000000","size":"0.06469797",'
        b'"side":"sell"}]'
    )
    (match,) = coinbase_format.read_page("BTC-USD", body)
    assert (match.number, match.trade.side, match.trade.time_ms) == (86_327_327, Side.BUY, 1_584_664_619_860)
    rows = kraken_format.read_page("BTC/USD", KRAKEN_PAGE.encode())
    assert [row.number for row in rows] == [61_044_952, 61_044_953, 61_044_956]
    assert [row.trade.side for row in rows] == [Side.BUY, Side.SELL, Side.SELL]
    assert [row.trade.time_ms for row in rows] == [1_688_669_597_827, 1_688_669_598_280, 1_688_669_602_698]
    assert rows[0].trade.address == "kraken:BTC/USD"
    (recent,) = bybit_format.read_page("BTCUSDT", BYBIT_PAGE.encode())
    assert (recent.trade.trade_id, recent.trade.time_ms) == ("2100000000007764263", 1_672_052_955_758)
    history = okx_format.read_page("BTC-USDT", OKX_PAGE.encode())
    assert [item.number for item in history] == [242_720_720, 242_720_719]
    assert {item.trade.side for item in history} == {Side.SELL}


@pytest.mark.parametrize("read", [coinbase_format, kraken_format, bybit_format, okx_format])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        b"5",
        b"{}",
        b'{"error":["EGeneral:Too many requests"]}',
        b'{"code":"50011","msg":"Too Many Requests"}',
        b'{"retCode":10006,"retMsg":"Too many visits!"}',
        b'{"code":"0","data":{},"retCode":0,"result":{"list":{},"a":[],"b":[]}}',
    ],
)
def test_what_is_no_page_is_refused(read: object, body: bytes) -> None:
    with pytest.raises(FormatError):
        read.read_page("X", body)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("venue", "text", "expected"),
    [
        ("coinbase", '{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD"}', "heartbeat"),
        ("kraken", '{"channel":"heartbeat"}', "heartbeat"),
        ("kraken", '{"channel":"status","type":"update","data":[{"system":"online"}]}', "status"),
        ("kraken", '{"method":"pong","req_id":101}', "pong"),
        ("bybit", '{"success":true,"ret_msg":"pong","conn_id":"0","op":"ping"}', "pong"),
        ("bybit", '{"op":"pong","args":["1675418560633"],"conn_id":"x"}', "pong"),
        ("bybit", '{"topic":"tickers.BTCUSDT","data":{}}', "tickers.BTCUSDT"),
        ("okx", "pong", "pong"),
        ("okx", '{"arg":{"channel":"tickers","instId":"X"},"data":[]}', "tickers"),
        ("okx", '{"event":"subscribe","arg":{"channel":"tickers","instId":"X"}}', "subscribe"),
        ("okx", '{"event":"channel-conn-count","channel":"trades","connCount":"1"}', "channel-conn-count"),
    ],
)
def test_what_is_understood_and_not_used(venue: str, text: str, expected: str) -> None:
    assert PARSERS[venue](text) == Ignored(expected)


@pytest.mark.parametrize(
    ("venue", "text", "expected"),
    [
        (
            "coinbase",
            '{"type":"subscriptions","channels":[{"name":"level2","product_ids":["X-Y"]},'
            '{"name":"matches","product_ids":["BTC-USD","ETH-USD",5]},7]}',
            Reply(("BTC-USD", "ETH-USD")),
        ),
        ("coinbase", '{"type":"error","message":"no","reason":"why"}', Reply((), "'no: why'")),
        ("kraken", '{"method":"subscribe","result":{"symbol":"A/B"},"success":true}', Reply(("A/B",))),
        ("kraken", '{"method":"subscribe","symbol":"A/B","success":false,"error":"no"}', Reply(("A/B",), "'no'")),
        ("kraken", '{"error":"Malformed request"}', Reply((), "'Malformed request'")),
        ("bybit", '{"success":true,"ret_msg":"","op":"subscribe","req_id":"4"}', Reply(("4",))),
        ("bybit", '{"success":false,"ret_msg":"no","op":"subscribe","req_id":"4"}', Reply((), "'no'")),
        ("okx", '{"event":"subscribe","arg":{"channel":"trades","instId":"A-B"}}', Reply(("A-B",))),
        ("okx", '{"event":"error","code":"60012","msg":"Illegal"}', Reply((), "'60012: Illegal'")),
        ("okx", '{"event":"error","code":"60018","msg":"instId:A-B bad"}', Reply(("A-B",), "'60018: instId:A-B bad'")),
        ("okx", '{"event":"notice","code":"64008","msg":"closing"}', Shutdown()),
    ],
)
def test_replies(venue: str, text: str, expected: Frame) -> None:
    assert PARSERS[venue](text) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


@st.composite
def spoilt(draw: st.DrawFn, venue: str) -> str:
    """The documented frame with one value, anywhere in it, replaced by anything."""
    frame = json.loads(DOCUMENTED[venue])
    places: list[tuple[object, object]] = []
    waiting = [frame]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = draw(st.sampled_from(places))
    node[key] = draw(json_values)  # type: ignore[index]
    return json.dumps(frame)


@pytest.mark.parametrize("venue", PARSERS)
@given(data=st.data())
def test_nothing_but_a_format_error_is_ever_raised(venue: str, data: st.DataObject) -> None:
    frame = data.draw(st.one_of(spoilt(venue), st.text(), st.binary(), json_values.map(json.dumps)))
    with suppress(FormatError):
        parsed = PARSERS[venue](frame)
        if isinstance(parsed, TradesFrame):
            assert all(error.detail.isprintable() for error in parsed.refused)
            for item in parsed.trades:
                assert isinstance(item.trade.price, Decimal)
                assert item.trade.price.is_finite()
                assert isinstance(item.trade.time_ms, int)


@pytest.mark.parametrize("read", [coinbase_format, kraken_format, bybit_format, okx_format])
@given(body=st.one_of(st.binary(), json_values.map(lambda value: json.dumps(value).encode())))
def test_no_page_raises_anything_else(read: object, body: bytes) -> None:
    with suppress(FormatError):
        read.read_page("A-B", body)  # type: ignore[attr-defined]
