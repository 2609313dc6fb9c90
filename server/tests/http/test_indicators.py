"""Indicators over HTTP: the same value on whatever page, the open bar, and what a wrong request is told."""

import asyncio
import random
from typing import Any

import pytest

from tokenwire_server.gateway import indicators
from tokenwire_server.gateway.http import HttpApp
from tokenwire_server.market.indicators import MAX_INDICATORS, IndicatorSeries, parse_indicator
from tokenwire_server.pipeline import Pipeline

from .asgi import ask
from .market import BEGIN_MS, PEPE, trade

ALL = "sma:5,ema:5,rsi:5,macd:3:6:4,bollinger:5:2,atr:5,vwap"


async def rows(app: HttpApp, query: str, status: int = 200) -> Any:
    reply = await ask(app, f"/api/v1/indicators/{query}")
    assert reply.status == status, reply.body
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.json["detail"]
    return reply.json


def numbers(value: Any) -> list[float]:
    """Those of a value; a missing one stands out."""
    listed = value.values() if isinstance(value, dict) else [value]
    return [-1e9 if each is None else each for each in listed]


@pytest.fixture
def busy(pipeline: Pipeline) -> Pipeline:
    """400 seconds of trades, with some silent ones; the last bar is open."""
    chance = random.Random(1)
    for second in range(400):
        if second % 17:
            trade(pipeline, second, str(chance.randrange(90, 110)), str(chance.randrange(1, 9)))
    return pipeline


async def test_each_bar_has_the_values_at_it_the_open_one_too(app: HttpApp, pipeline: Pipeline) -> None:
    for second, price in enumerate(["1", "2", "6"]):
        trade(pipeline, second, price, "1")
    assert await rows(app, "PEPE?interval=1s&indicator=sma:2,vwap,macd:1:2:2") == {
        "data": [
            {
                "open_time": "2023-11-14T22:00:00Z",
                "closed": True,
                "values": {"sma:2": None, "vwap": 1.0, "macd:1:2:2": None},
            },
            {
                "open_time": "2023-11-14T22:00:01Z",
                "closed": True,
                "values": {
                    "sma:2": 1.5,
                    "vwap": 1.5,
                    "macd:1:2:2": {"macd": 0.5, "signal": None, "histogram": None},
                },
            },
            {
                "open_time": "2023-11-14T22:00:02Z",
                "closed": False,
                "values": {
                    "sma:2": 4.0,
                    "vwap": 3.0,
                    "macd:1:2:2": {"macd": 1.5, "signal": 1.0, "histogram": 0.5},
                },
            },
        ],
        "nextCursor": None,
    }


@pytest.mark.parametrize("fill", ["none", "previous"])
async def test_a_value_does_not_depend_on_the_page_it_is_on(app: HttpApp, busy: Pipeline, fill: str) -> None:
    common = f"PEPE?interval=1s&indicator={ALL}&fill={fill}"
    whole = (await rows(app, f"{common}&limit=1000"))["data"]
    assert whole[-1]["closed"] is False
    paged: list[Any] = []
    cursor = ""
    while True:
        found = await rows(app, f"{common}&limit=50{cursor}")
        paged = found["data"] + paged
        if found["nextCursor"] is None:
            break
        cursor = f"&cursor={found['nextCursor']}"
    assert [row["open_time"] for row in paged] == [row["open_time"] for row in whole]
    for mine, theirs in zip(paged, whole, strict=True):
        for name, value in theirs["values"].items():
            assert numbers(mine["values"][name]) == pytest.approx(numbers(value), rel=1e-6, abs=1e-6), name


async def test_vwap_of_seconds_counts_the_day_from_longer_bars(app: HttpApp, busy: Pipeline) -> None:
    busy.bar_plan.history = 20  # of each length
    for second in range(400, 500):
        trade(busy, second, "100", "1")
    by_second = (await rows(app, "PEPE?interval=1s&indicator=vwap&limit=1"))["data"][-1]
    by_hour = (await rows(app, "PEPE?interval=1h&indicator=vwap"))["data"][-1]
    assert by_second["values"]["vwap"] == pytest.approx(by_hour["values"]["vwap"], rel=1e-12)


async def test_the_open_bar_moves_the_last_value_only(app: HttpApp, busy: Pipeline) -> None:
    query = f"PEPE?interval=1s&indicator={ALL}&limit=5"
    before = (await rows(app, query))["data"]
    trade(busy, 399.5, "400")
    after = (await rows(app, query))["data"]
    assert before[:-1] == after[:-1]
    assert all(before[-1]["values"][name] != value for name, value in after[-1]["values"].items())


async def test_a_token_that_never_traded_has_none(app: HttpApp) -> None:
    assert await rows(app, "IDLE?indicator=sma:20") == {"data": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("PEPE", 422, "indicator is missing: up to 8, separated by commas: sma:20, ema:50, rsi:14, macd:12:26:9"),
        ("PEPE?indicator=", 422, "there are sma:20"),
        ("PEPE?indicator=wma:3", 422, "indicator: there are sma:20"),
        ("PEPE?indicator=sma", 422, "sma is written like sma:20"),
        ("PEPE?indicator=sma:1001", 422, "from 1 to 1000"),
        ("PEPE?indicator=rsi:1", 422, "from 2 to 1000"),
        ("PEPE?indicator=" + "vwap," * 200, 422, f"at most {MAX_INDICATORS} at once"),
        ("PEPE?indicator=sma:3&limit=1001", 422, "limit"),
        ("PEPE?indicator=sma:3&interval=2m", 422, "interval: one of"),
        ("PEPE?indicator=sma:3&from=20&to=10", 422, "from is later than to"),
        ("PEPE?indicator=sma:3&cursor=x", 422, "cursor"),
        ("NOBODY?indicator=sma:3", 404, "no token has this address or symbol: NOBODY"),
        ("TWICE?indicator=sma:3", 404, "X1, X2"),
    ],
)
async def test_wrong_requests(app: HttpApp, query: str, status: int, says: str) -> None:
    assert says in await rows(app, query, status)


async def test_a_long_calculation_lets_others_have_the_event_loop(
    app: HttpApp, busy: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indicators, "_MAX_SLICE_S", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    heavy = ",".join(f"bollinger:{300 + number}:2" for number in range(MAX_INDICATORS))
    await rows(app, f"PEPE?interval=1s&limit=1000&indicator={heavy}")
    counting.cancel()
    assert turns > 1_000, turns


async def test_too_many_at_once_are_told_to_come_again(
    app: HttpApp, busy: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indicators, "MAX_WAITING_CALCULATIONS", 3)
    path = f"/api/v1/indicators/PEPE?interval=1s&indicator={ALL}"
    await ask(app, "/api/v1/errors")
    replies = await asyncio.gather(*(ask(app, path) for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 200, 200, 503, 503]
    assert {reply.headers.get("retry-after") for reply in replies if reply.status == 503} == {"1"}
    assert (await ask(app, path)).status == 200


async def test_the_answer_is_what_the_series_makes_of_the_bars(app: HttpApp, busy: Pipeline) -> None:
    bars = busy.market.bars.get(PEPE)
    assert bars is not None
    series = IndicatorSeries(parse_indicator("ema:9"))
    expected = [series.add(bar) for bar in bars.closed_bars(0, 0, 2 * BEGIN_MS, 1_000)]
    found = (await rows(app, "PEPE?interval=1s&indicator=ema:9&limit=1000"))["data"]
    assert [row["values"]["ema:9"] for row in found[:-1]] == expected
