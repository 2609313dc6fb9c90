"""Bars over HTTP: fields, bounds, pages, and what a wrong request is told."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.gateway.bar_rows import BarRows, kline_row
from tokenwire_server.gateway.http import HttpApp
from tokenwire_server.market.bar_pages import PageBar
from tokenwire_server.market.intervals import parse_interval
from tokenwire_server.market.trades import Side
from tokenwire_server.pipeline import Pipeline

from .asgi import Reply, ask
from .market import BEGIN_MS, PEPE, trade


async def klines(app: HttpApp, query: str, status: int = 200) -> Any:
    reply = await ask(app, f"/api/v1/klines/{query}")
    assert reply.status == status, reply.body
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.json["detail"]
    return reply.json


async def test_a_bar_has_the_fields_of_a_kline_message(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "0.0000012340")
    trade(pipeline, 2, "0.000002", "5.50", Side.SELL)
    trade(pipeline, 61, "0.000001")
    found = await klines(app, "PEPE?interval=1m")
    assert found["nextCursor"] is None
    assert found["data"] == [
        {
            "symbol": "PEPE",
            "interval": "1m",
            "open_time": "2023-11-14T22:00:00Z",
            "close_time": "2023-11-14T22:01:00Z",
            "open": "0.000001234",
            "high": "0.000002",
            "low": "0.000001234",
            "close": "0.000002",
            "volume": "7.5",
            "turnover": "0.000013468",
            "buy_volume": "2",
            "buy_turnover": "0.000002468",
            "trades": 2,
            "closed": True,
            "revision": 0,
        },
        {
            "symbol": "PEPE",
            "interval": "1m",
            "open_time": "2023-11-14T22:01:00Z",
            "close_time": "2023-11-14T22:02:00Z",
            **dict.fromkeys(("open", "high", "low", "close"), "0.000001"),
            "volume": "2",
            "turnover": "0.000002",
            "buy_volume": "2",
            "buy_turnover": "0.000002",
            "trades": 1,
            "closed": False,
            "revision": 0,
        },
    ]


async def test_a_late_trade_revises_a_closed_bar(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "1")
    trade(pipeline, 400, "2")
    trade(pipeline, 2, "9")
    (first, _) = (await klines(app, "PEPE?interval=5m"))["data"]
    assert (first["high"], first["close"], first["revision"]) == ("9", "9", 1)


async def test_the_charts_own_format_has_plain_exact_numbers(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "0.0000000000000000000012345")
    trade(pipeline, 2, "123456789012345678901234567890.5")
    reply = await ask(app, "/api/klines/PEPE?interval=1s&limit=5", headers={"origin": "https://chart.example"})
    assert reply.headers["access-control-allow-origin"] == "*"
    first, second = json.loads(reply.body, parse_float=Decimal)["data"]
    assert first == {
        "timestamp": BEGIN_MS + 1_000,
        **dict.fromkeys(("open", "high", "low", "close"), Decimal("0.0000000000000000000012345")),
        "volume": 2,
    }
    assert second["close"] == Decimal("123456789012345678901234567890.5")


async def test_times_in_seconds_milliseconds_and_text_mean_the_same(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(5):
        trade(pipeline, second, str(second + 1))
    wanted = ["2", "3"]
    begin = BEGIN_MS // 1000
    for first, last in (
        (begin + 1, begin + 2),
        (BEGIN_MS + 1_000, BEGIN_MS + 2_000),
        ("2023-11-14T22:00:01Z", "2023-11-14T23:00:02%2B01:00"),
    ):
        found = await klines(app, f"PEPE?interval=1s&from={first}&to={last}")
        assert [row["open"] for row in found["data"]] == wanted


async def test_pages_go_back_from_the_newest_and_forth_from_a_time(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(7):
        trade(pipeline, second, str(second or 10))
    for begin, expected in (("", "10 1 2 3 4 5 6"), (f"&from={BEGIN_MS + 2_000}", "2 3 4 5 6")):
        query, pages = f"PEPE?interval=1s&limit=3{begin}", []
        while query:
            found = await klines(app, query)
            pages.append([row["open"] for row in found["data"]])
            cursor = found["nextCursor"]
            query = f"PEPE?interval=1s&limit=3{begin}&cursor={cursor}" if cursor else ""
        if not begin:
            pages.reverse()
        assert " ".join(price for page in pages for price in page) == expected


async def test_filling_goes_up_to_the_sources_clock(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 0, "5")
    pipeline.clock("test", BEGIN_MS + 3_500)
    found = await klines(app, "PEPE?interval=1s&fill=previous")
    assert [(row["close"], row["trades"], row["closed"]) for row in found["data"]] == [
        ("5", 1, True),
        ("5", 0, True),
        ("5", 0, True),
        ("5", 0, False),
    ]


async def test_a_token_that_never_traded_has_none(app: HttpApp) -> None:
    assert await klines(app, "IDLE") == {"data": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("NOBODY", 404, "no token has this address or symbol: NOBODY"),
        ("TWICE", 404, "several tokens are called TWICE: X1, X2"),
        ("PEPE?interval=2m", 422, "interval: one of 1s, 1m, 5m, 15m, 1h, not '2m'"),
        ("PEPE?interval=1x", 422, "interval: one of 1s, 1m, 5m, 15m, 1h"),
        ("PEPE?limit=0", 422, "limit: a whole number from 1 to 1000, not '0'"),
        ("PEPE?limit=1001", 422, "limit"),
        ("PEPE?limit=ten", 422, "limit"),
        ("PEPE?limit=%D9%A3", 422, "limit"),
        ("PEPE?limit=1e2", 422, "limit"),
        ("PEPE?limit=", 422, "limit"),
        ("PEPE?limit=5&limit=0", 422, "limit"),
        ("PEPE?" + "&".join(f"a{n}=1" for n in range(100)), 422, "more than 64 parameters"),
        ("P" * 257, 422, "symbol: at most 256 characters"),
        ("P" * 256, 404, "no token has this address or symbol: PPP"),
        ("", 404, "no token has this address or symbol"),
        ("PEPE?from=20&to=10", 422, "from is later than to"),
        ("PEPE?from=yesterday", 422, "from: a Unix time in s or ms, or RFC 3339"),
        ("PEPE?to=2023-11-14T22:00:00", 422, "with its time zone"),
        ("PEPE?from=999999999999999", 422, "from 1970 to 9999"),
        ("PEPE?from=-5", 422, "from"),
        ("PEPE?from=0001-01-01T00:00:00Z", 422, "from 1970 to 9999"),
        ("PEPE?from=0001-01-01T00:00:00%2B23:59", 422, "from 1970 to 9999"),
        ("PEPE?to=9999-12-31T23:59:59-23:59", 422, "from 1970 to 9999"),
        ("PEPE?cursor=nonsense", 422, "not one that this server gave"),
        ("PEPE?cursor=%C3%A4", 422, "not one that this server gave"),
        ("PEPE?cursor=eDE", 422, "not one that this server gave"),
        ("PEPE?fill=zero", 422, "fill"),
    ],
)
async def test_wrong_requests(app: HttpApp, query: str, status: int, says: str) -> None:
    assert says in await klines(app, query, status)


async def test_nothing_else_is_done_with_bars(app: HttpApp) -> None:
    reply: Reply = await ask(app, "/api/v1/klines/PEPE", "DELETE")
    assert reply.status == 405


async def test_a_name_may_hold_a_slash(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "1", address="venue:BTC/USD")
    assert (await klines(app, "venue:BTC/USD"))["data"][0]["symbol"] == "BTC/USD"


async def test_kept_texts_are_those_of_the_bars_as_they_are(app: HttpApp, pipeline: Pipeline) -> None:
    for second in (0, 70, 140):
        trade(pipeline, second, "1")
    filled = "PEPE?interval=1s&fill=previous&limit=1000"
    before = {row["open_time"]: row for row in (await klines(app, filled))["data"]}
    await klines(app, "PEPE?interval=1m")
    trade(pipeline, 1, "7", late=True)
    trade(pipeline, 71, "8", late=True)
    after = {row["open_time"]: row for row in (await klines(app, filled))["data"]}
    changed = sorted(time for time in after if after[time] != before[time])
    assert changed[:2] == ["2023-11-14T22:00:01Z", "2023-11-14T22:00:02Z"]
    assert after["2023-11-14T22:00:02Z"]["close"] == "7"
    assert after["2023-11-14T22:01:11Z"]["close"] == "8"
    rows = (await klines(app, "PEPE?interval=1m"))["data"]
    assert [(row["high"], row["revision"], row["closed"]) for row in rows] == [
        ("7", 1, True),
        ("8", 1, True),
        ("1", 0, False),
    ]


async def test_a_bar_that_closes_without_another_trade_says_so(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "1")
    for second, closed in ((1.5, False), (2, True)):
        pipeline.clock("test", BEGIN_MS + int(second * 1_000))
        assert [row["closed"] for row in (await klines(app, "PEPE?interval=1s"))["data"]] == [closed]


def test_kept_texts_are_bounded(pipeline: Pipeline) -> None:
    for second in range(30):
        trade(pipeline, second, "1")
    token, bars = pipeline.market.get(PEPE), pipeline.market.bars.get(PEPE)
    assert token is not None
    assert bars is not None
    rows = BarRows(kline_row, most=7)
    interval = parse_interval("1s")
    for _ in range(2):
        for bar in bars.closed_bars(0, 0, 2 * BEGIN_MS, 100):
            listed = PageBar(bar, True)
            assert rows.of(token, interval, listed) == kline_row(token, interval, listed)
    assert len(rows) == 7
