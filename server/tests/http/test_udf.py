"""TradingView's charting library: what its datafeed asks, and what it makes of the answers."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.gateway import udf
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.gateway.udf import price_digits, resolution_of
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_interval, parse_intervals
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings

from .asgi import Reply, ask
from .market import BEGIN_MS, PEPE, make_pipeline, trade

BEGIN = BEGIN_MS // 1_000


async def answer(app: HttpApp, path: str, status: int = 200) -> Any:
    reply = await ask(app, f"/udf/{path}")
    assert reply.status == status, reply.body
    assert reply.headers["content-type"] == "application/json"
    return reply.json


async def test_the_configuration_names_the_intervals_and_the_sources(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.states["binance"] = SourceState.LIVE
    config = await answer(app, "config")
    assert config["supported_resolutions"] == ["1S", "1", "5", "15", "60"]
    assert config["supports_search"] is config["supports_time"] is True
    assert config["supports_group_request"] is config["supports_marks"] is config["supports_timescale_marks"] is False
    assert config["exchanges"][0]["value"] == ""
    assert {"value": "binance", "name": "binance", "desc": "binance"} in config["exchanges"]
    assert [each["value"] for each in config["symbols_types"]] == ["", "crypto"]


async def test_a_symbol_by_its_name_or_its_ticker(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "0.00001234")
    symbol = await answer(app, "symbols?symbol=PEPE")
    assert symbol == await answer(app, f"symbols?symbol={PEPE}")
    assert (symbol["name"], symbol["ticker"], symbol["exchange"], symbol["listed_exchange"]) == (
        *("PEPE", PEPE),
        *("test", "test"),
    )
    assert (symbol["session"], symbol["timezone"], symbol["type"]) == ("24x7", "Etc/UTC", "crypto")
    assert (symbol["minmov"], symbol["pricescale"]) == (1, 1_000_000_000)
    assert symbol["has_seconds"] is symbol["has_intraday"] is True
    assert symbol["has_daily"] is symbol["has_weekly_and_monthly"] is False
    assert (symbol["seconds_multipliers"], symbol["intraday_multipliers"]) == (["1"], ["1", "5", "15", "60"])
    assert symbol["data_status"] == "streaming"


@pytest.mark.parametrize(
    ("price", "digits"),
    [
        (None, 2),
        ("0", 2),
        ("60123.4", 2),
        ("999.5", 2),
        ("1", 4),
        ("0.172801", 5),
        ("0.00001234", 9),
        ("1E-30", 15),
        ("1E+37", 2),
    ],
)
def test_the_scale_shows_five_digits_of_a_price(price: str | None, digits: int) -> None:
    assert price_digits(None if price is None else Decimal(price)) == digits


@pytest.mark.parametrize(
    ("interval", "resolution"),
    [("1s", "1S"), ("90s", "90S"), ("1m", "1"), ("4h", "240"), ("1d", "1D"), ("3d", "3D"), ("1w", "1W")],
)
def test_resolutions(interval: str, resolution: str) -> None:
    assert resolution_of(parse_interval(interval)) == resolution


async def test_days_and_weeks_by_either_name() -> None:
    pipeline = make_pipeline()
    pipeline.market.bars = MarketBars(BarPlan(parse_intervals(["1m", "1d", "1w"])))
    app = build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)
    trade(pipeline, 1, "5")
    symbol = await answer(app, "symbols?symbol=PEPE")
    assert (symbol["has_seconds"], symbol["has_daily"], symbol["has_weekly_and_monthly"]) == (False, True, True)
    assert (symbol["daily_multipliers"], symbol["weekly_multipliers"]) == (["1"], ["1"])
    for name in ("D", "1D", "W", "1W", "1"):
        assert (await answer(app, f"history?symbol=PEPE&resolution={name}&countback=1"))["c"] == [5]


async def test_a_range_of_bars_is_columns_and_its_end_is_not_included(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(6):
        trade(pipeline, second, f"0.0000000000000000000{second + 1}", "2.50")
    reply = await ask(app, f"/udf/history?symbol=PEPE&resolution=1S&from={BEGIN + 1}&to={BEGIN + 3}")
    assert json.loads(reply.body, parse_float=Decimal) == {
        "s": "ok",
        "t": [BEGIN + 1, BEGIN + 2],
        **{name: [Decimal("0.00000000000000000002"), Decimal("0.00000000000000000003")] for name in "ohlc"},
        "v": [Decimal("2.5")] * 2,
    }
    newest = await answer(app, f"history?symbol=PEPE&resolution=1S&from={BEGIN}&to={BEGIN + 9}")
    assert newest["t"][-1] == BEGIN + 5  # the open one


async def test_countback_comes_before_the_beginning_of_the_range(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(0, 40, 2):
        trade(pipeline, second, "1")
    common = f"history?symbol=PEPE&resolution=1S&from={BEGIN + 20}&to={BEGIN + 30}"
    assert (await answer(app, f"{common}&countback=7"))["t"] == [BEGIN + second for second in range(16, 30, 2)]
    assert (await answer(app, f"{common}&countback=2"))["t"] == [BEGIN + 26, BEGIN + 28]
    assert len((await answer(app, f"{common}&countback=1000000"))["t"]) == 15


async def test_an_empty_range_says_where_to_look(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 100, "1")
    trade(pipeline, 200, "1")
    common = "history?symbol=PEPE&resolution=1S"
    gap = await answer(app, f"{common}&from={BEGIN + 150}&to={BEGIN + 160}")
    assert gap == {"s": "no_data", "nextTime": BEGIN + 100}
    assert await answer(app, f"{common}&from={BEGIN}&to={BEGIN + 50}") == {"s": "no_data"}
    assert await answer(app, f"{common}&from=0&to=0") == {"s": "no_data"}
    assert await answer(app, f"{common}&countback=5&to={BEGIN + 50}") == {"s": "no_data"}
    assert await answer(app, "history?symbol=IDLE&resolution=1S&from=1&to=2") == {"s": "no_data"}


async def test_a_long_range_has_the_newest_bars_it_has_room_for(
    app: HttpApp, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for second in range(60):
        trade(pipeline, second, "1")
    monkeypatch.setattr(udf, "MAX_LIMIT", 7)  # of a page
    whole = await answer(app, f"history?symbol=PEPE&resolution=1S&from={BEGIN + 3}&to={BEGIN + 100}")
    assert whole["t"] == [BEGIN + second for second in range(3, 60)]
    monkeypatch.setattr(udf, "MAX_HISTORY_BARS", 20)
    newest = await answer(app, f"history?symbol=PEPE&resolution=1S&from={BEGIN}&to={BEGIN + 100}")
    assert newest["t"] == whole["t"][-20:]


async def test_what_is_over_may_be_kept(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(60):
        trade(pipeline, second, "1")

    async def cached(query: str) -> str:
        return (await ask(app, f"/udf/history?symbol=PEPE&resolution=1S&{query}")).headers["cache-control"]

    assert (await cached(f"from={BEGIN}&to={BEGIN + 49}")).startswith("public, max-age=60")
    assert (await cached(f"countback=5&to={BEGIN + 49}")).startswith("public, max-age=60")
    assert await cached(f"from={BEGIN}&to={BEGIN + 60}") == "no-cache"
    assert await cached("countback=5") == "no-cache"


async def test_search_finds_the_closest_first(pipeline: Pipeline, app: HttpApp) -> None:
    for number, symbol in enumerate(["XPEPE", "PEPE2", "pepe", "DOGE"]):
        pipeline.tokens("other", [TokenInfo(f"A{number}", symbol)])

    async def found(query: str) -> list[str]:
        return [each["symbol"] for each in await answer(app, f"search?{query}")]

    assert await found("query=pepe&type=&exchange=&limit=30") == ["PEPE", "pepe", "PEPE2", "XPEPE"]
    assert await found("query=pepe&limit=2") == ["PEPE", "pepe"]
    assert await found("query=pepe&exchange=other") == ["pepe", "PEPE2", "XPEPE"]
    assert await found("query=pepe&type=stock") == []
    assert await found("query=a3") == ["DOGE"]
    assert await found("query=nothing") == []
    assert len(await found("")) == 9
    (first, *_) = await answer(app, "search?query=pepe2")
    assert (first["ticker"], first["exchange"], first["type"]) == ("A1", "other", "crypto")


async def test_search_among_many_tokens_is_bounded(pipeline: Pipeline) -> None:
    pipeline = Pipeline(10_000, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo(f"A{number}", f"T{number}") for number in range(9_000)])
    app = build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)
    found = await answer(app, "search?query=t&limit=100")
    assert [each["symbol"] for each in found] == [f"T{number}" for number in range(100)]
    assert len(await answer(app, "search?query=t")) == 30
    assert [each["symbol"] for each in await answer(app, "search?query=8999")] == ["T8999"]


async def test_the_time_is_plain_text(app: HttpApp) -> None:
    reply: Reply = await ask(app, "/udf/time")
    assert (reply.status, reply.body) == (200, str(BEGIN).encode())
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("symbols?symbol=NOBODY", 404, "no token has this address or symbol: NOBODY"),
        ("symbols?symbol=TWICE", 404, "X1, X2"),
        ("symbols", 200, "symbol is missing"),
        ("history?symbol=NOBODY&resolution=1&from=1&to=2", 404, "NOBODY"),
        ("history?symbol=PEPE&resolution=7&from=1&to=2", 200, "resolution: one of 1S, 1, 5, 15, 60"),
        ("history?symbol=PEPE&from=1&to=2", 200, "resolution is missing"),
        ("history?symbol=PEPE&resolution=1&from=x&to=2", 200, "from: a whole number"),
        ("history?symbol=PEPE&resolution=1&from=3&to=2", 200, "from is later than to"),
        ("history?symbol=PEPE&resolution=1&countback=0", 200, "countback: a whole number"),
        ("history?symbol=PEPE&resolution=1&to=99999999999999999999", 200, "to: a whole number"),
        ("search?limit=101", 200, "limit: a whole number from 1 to 100"),
        ("search?query=" + "a" * 300, 200, "query: at most 256 characters"),
    ],
)
async def test_errors_have_the_form_that_the_library_reads(app: HttpApp, path: str, status: int, says: str) -> None:
    found = await answer(app, path, status)
    assert found["s"] == "error"
    assert says in found["errmsg"]


async def test_another_path_is_nothing(app: HttpApp) -> None:
    assert (await ask(app, "/udf/quotes")).status == 404
    assert (await ask(app, "/udf/config", "POST")).status == 405
