"""Indicators against TA-Lib and against folds written down here; what they depend on, and what their names may be."""

import json
import math
import os
import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarPlan, TokenBars
from tokenwire_server.market.indicators import (
    EXAMPLES,
    MAX_INDICATORS,
    MAX_WARM_UP_BARS,
    IndicatorError,
    IndicatorSeries,
    IndicatorValue,
    day_before,
    parse_indicator,
    parse_indicators,
    warm_up_bars,
)
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, parse_interval, parse_intervals
from tokenwire_server.market.trades import Side, Trade

from .test_bars import BEGIN_MS, turnover

DAY_MS = 86_400_000
MINUTE_MS = 60_000
FOLDER = os.environ.get("TOKENWIRE_TAPES", "")


def bars_from(trades: Sequence[Trade], interval: str = "1s") -> list[Bar]:
    """Closed bars and the open one."""
    bars = TokenBars(BarPlan(parse_intervals([interval]), history=100_000), lambda change: None)
    for trade in trades:
        bars.add(trade, turnover(trade))
    running = bars.open_bar(0)
    assert running is not None
    return [*bars.closed_bars(0, 0, 1 << 53, 1 << 53), running]


def random_trades(seed: int, seconds: int = 1_200) -> list[Trade]:
    chance = random.Random(seed)
    price, trades = 100.0, []
    for second in range(seconds):
        for part in range(3):
            price *= math.exp(chance.gauss(0, 0.002))
            amount = Decimal(chance.randrange(1, 10_000)) / 1_000
            time_ms = BEGIN_MS + second * 1_000 + part * 300
            trades.append(Trade("X", "id", Decimal(f"{price:.6f}"), amount, Side.BUY, time_ms))
    return trades


def trades_of_tape(name: str) -> list[Trade]:
    """Those of the symbol that has the most, by the frames' own fields."""
    found = []
    for line in (Path(FOLDER) / name).read_text().splitlines():
        frame = json.loads(line.partition(":")[2])
        data = frame.get("data", frame) if isinstance(frame, dict) else {}
        if data.get("e") in ("aggTrade", "trade"):
            found.append(data)
    ((symbol, _),) = Counter(each["s"] for each in found).most_common(1)
    mine = [each for each in found if each["s"] == symbol]
    return [Trade("X", "id", Decimal(each["p"]), Decimal(each["q"]), Side.BUY, each["T"]) for each in mine]


@pytest.fixture(
    params=[
        *range(3),
        pytest.param(
            "binance-futures-2021-07-22.txt",
            marks=[pytest.mark.tapes, pytest.mark.skipif(not FOLDER, reason="TOKENWIRE_TAPES names no folder")],
        ),
    ]
)
def bars(request: pytest.FixtureRequest) -> list[Bar]:
    found = bars_from(trades_of_tape(request.param) if isinstance(request.param, str) else random_trades(request.param))
    assert len(found) > 14
    return found


def values(text: str, bars: Sequence[Bar]) -> list[IndicatorValue]:
    series = IndicatorSeries(parse_indicator(text))
    return [series.add(bar) for bar in bars]


def parts(found: Sequence[IndicatorValue], name: str) -> list[float | None]:
    return [each[name] if isinstance(each, dict) else None for each in found]


def assert_same(ours: Sequence[Any], theirs: Any, since: int = 0) -> None:
    """Equal to about 10 digits, missing in the same places; ``since``: from this bar on."""
    mine = np.array([math.nan if each is None else each for each in ours], dtype=float)
    assert np.isfinite(theirs[since:]).any()
    np.testing.assert_allclose(mine[since:], theirs[since:], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("period", [2, 5, 14])
def test_what_ta_lib_calculates(bars: list[Bar], period: int) -> None:
    closes = np.array([float(bar.close) for bar in bars])
    highs, lows = (np.array([float(getattr(bar, name)) for bar in bars]) for name in ("high", "low"))
    assert_same(values(f"sma:{period}", bars), talib.SMA(closes, period))
    assert_same(values(f"ema:{period}", bars), talib.EMA(closes, period))
    assert_same(values(f"rsi:{period}", bars), talib.RSI(closes, period))
    found = values(f"bollinger:{period}:2.5", bars)
    upper, middle, lower = talib.BBANDS(closes, period, 2.5, 2.5)
    for name, theirs in (("upper", upper), ("middle", middle), ("lower", lower)):
        mine = np.array([math.nan if each is None else each for each in parts(found, name)])
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, equal_nan=True)  # theirs loses digits in the squares
    # Both begin with a mean of their own, which fades.
    if len(bars) > 60 * period:
        theirs = talib.ATR(highs, lows, closes, period)
        assert_same(values(f"atr:{period}", bars), theirs, since=40 * period)


def test_macd_is_what_ta_lib_calculates_once_its_beginning_has_faded() -> None:
    bars = bars_from(random_trades(4))
    found = values("macd:12:26:9", bars)
    closes = np.array([float(bar.close) for bar in bars])
    for name, theirs in zip(("macd", "signal", "histogram"), talib.MACD(closes, 12, 26, 9), strict=True):
        assert_same(parts(found, name), theirs, since=600)


def test_macd_is_the_difference_of_two_averages_and_their_average() -> None:
    bars = bars_from(random_trades(5, 100))
    found = values("macd:3:7:4", bars)
    fast, slow = values("ema:3", bars), values("ema:7", bars)
    assert [each is None for each in found] == [True] * 6 + [False] * (len(bars) - 6)
    pairs = zip(fast[6:], slow[6:], strict=True)
    differences = [a - b for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
    assert parts(found, "macd")[6:] == differences
    signal = talib.EMA(np.array(differences), 4)
    assert_same(parts(found, "signal")[6:], signal)
    assert_same(parts(found, "histogram")[6:], np.array(differences) - signal)


@pytest.mark.parametrize("interval", ["1s", "7s", "1m", "1h"])
def test_vwap_is_that_of_the_trades_since_midnight_whatever_the_bars(interval: str) -> None:
    midnight_ms = BEGIN_MS // DAY_MS * DAY_MS + DAY_MS
    chance = random.Random(7)
    trades = [
        Trade("X", "id", Decimal(chance.randrange(1, 1_000)), Decimal(chance.randrange(1, 9)), Side.BUY, time_ms)
        for time_ms in range(midnight_ms - 7_200_000, midnight_ms + 7_200_000, 1_700)
    ]
    length = parse_interval(interval)
    expected: dict[int, float] = {}
    day, volume, paid = 0, Decimal(0), Decimal(0)
    for trade in trades:
        open_ms = length.open_ms(trade.time_ms)  # a bar across midnight belongs to the day it begins on
        if open_ms // DAY_MS != day:
            day, volume, paid = open_ms // DAY_MS, Decimal(0), Decimal(0)
        volume, paid = volume + trade.amount, paid + turnover(trade)
        expected[open_ms] = float(paid / volume)
    bars = bars_from(trades, interval)
    found = dict(zip((bar.open_ms for bar in bars), values("vwap", bars), strict=True))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("interval", "time"),
    [("1s", 37_805), ("1m", 37_800), ("5m", 300), ("15m", 0), ("1h", 3_600), ("7s", 50_000), ("1h", 0), ("40m", 4_800)],
)
def test_the_day_before_a_bar_is_few_bars_that_hold_it_all(interval: str, time: int) -> None:
    length = parse_interval(interval)
    day_ms = BEGIN_MS // DAY_MS * DAY_MS
    open_ms = length.open_ms(day_ms + time * 1_000)
    own = [ms for ms in range(length.open_ms(day_ms), open_ms, length.ms) if ms >= day_ms]
    stretches = day_before(open_ms, length, [*DEFAULT_INTERVALS, *parse_intervals(["7s", "40m", "1d"])])
    covered = [(each.from_ms, each.to_ms + each.interval.ms) for each in stretches]
    if not own:
        assert covered == []
        return
    assert covered[0][0] == own[0]
    assert covered[-1][1] == open_ms
    assert all(before[1] == after[0] for before, after in pairwise(covered))
    if interval != "7s":
        assert sum((each.to_ms - each.from_ms) // each.interval.ms + 1 for each in stretches) < 200


@settings(max_examples=30, deadline=None)
@given(
    text=st.sampled_from(["sma:3", "ema:4", "rsi:5", "macd:3:6:4", "bollinger:4:2", "atr:5", "vwap"]),
    changes=st.lists(st.booleans(), min_size=1, max_size=150),
    seed=st.integers(0, 1_000),
)
def test_a_changed_last_bar_counts_as_if_it_had_come_so(text: str, changes: list[bool], seed: int) -> None:
    bars = bars_from(random_trades(seed, len(changes) + 1))
    live, plain = IndicatorSeries(parse_indicator(text)), IndicatorSeries(parse_indicator(text))
    for place, changed in enumerate(changes):
        expected = plain.add(bars[place])
        if changed:
            live.add(bars[place + 1].starting(bars[place].open_ms))  # as it was a moment before
            assert live.update(bars[place]) == pytest.approx(expected)
        else:
            assert live.add(bars[place]) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["sma:5", "ema:5", "rsi:5", "macd:3:6:4", "bollinger:4:2", "atr:5", "vwap"])
def test_a_series_that_runs_for_ever_keeps_little(text: str) -> None:
    bars = bars_from(random_trades(9))
    found = values(text, bars)
    recent = IndicatorSeries(parse_indicator(text))
    for bar in bars if text == "vwap" else bars[-1_000:]:
        last = recent.add(bar)
    assert found[-1] == pytest.approx(last, rel=1e-9)
    assert len(recent._series.input_values) < 100


@pytest.mark.parametrize("text", ["sma:50", "ema:20", "rsi:14", "macd:6:13:5", "bollinger:50:2", "atr:14"])
def test_after_the_warm_up_nothing_depends_on_where_it_began(text: str) -> None:
    bars = bars_from(random_trades(11))
    count = warm_up_bars(parse_indicator(text))
    assert 0 < count < 600
    whole, late = values(text, bars), values(text, bars[600 - count :])
    exact = text.startswith(("sma", "bollinger"))
    for mine, theirs in zip(late[count:], whole[600:], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12 if exact else 1e-6)
    assert late[count] is not None
    assert not exact or late[count - 1] is None


def test_the_warm_up_is_bounded() -> None:
    assert warm_up_bars(parse_indicator("macd:999:1000:1000")) == MAX_WARM_UP_BARS
    assert warm_up_bars(parse_indicator("sma:1")) == 0


def test_the_greatest_and_smallest_prices_make_finite_numbers() -> None:
    amounts = [Decimal(10) ** 37, Decimal(10) ** -37]
    trades = [
        Trade("X", "id", amounts[second % 2], amounts[second % 3 == 0], Side.BUY, BEGIN_MS + second * 1_000)
        for second in range(60)
    ]
    for text in ("sma:3", "ema:3", "rsi:3", "macd:3:6:4", "bollinger:3:2", "atr:3", "vwap", "bollinger:1:1", "atr:1"):
        for value in values(text, bars_from(trades)):
            numbers = value.values() if isinstance(value, dict) else [value]
            assert all(number is None or math.isfinite(number) for number in numbers)


def test_names_have_one_spelling() -> None:
    texts = "sma:20,macd:12:26:9, bollinger:20:2.50,bollinger:20:2,vwap,sma:20"
    found = [each.text for each in parse_indicators(texts)]
    assert found == ["sma:20", "macd:12:26:9", "bollinger:20:2.5", "bollinger:20:2", "vwap"]
    assert [parse_indicator(each).text for each in EXAMPLES] == list(EXAMPLES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are sma:20, ema:50"),
        ("wma:3", "there are sma:20, ema:50"),
        ("SMA:3", "there are sma:20"),
        ("sma", "sma is written like sma:20"),
        ("sma:3:4", "sma is written like sma:20"),
        ("vwap:3", "vwap is written like vwap"),
        ("sma:0", "from 1 to 1000"),
        ("sma:1001", "from 1 to 1000"),
        ("sma:-3", "from 1 to 1000"),
        ("sma:3.5", "from 1 to 1000"),
        ("sma:\u0663", "from 1 to 1000"),
        ("sma:03", "from 1 to 1000"),
        ("rsi:1", "from 2 to 1000"),
        ("macd:26:12:9", "shorter"),
        ("macd:12:12:9", "shorter"),
        ("bollinger:20:0", "above 0, up to 100"),
        ("bollinger:20:101", "above 0, up to 100"),
        ("bollinger:20:nan", "above 0, up to 100"),
        ("bollinger:20:1e1", "above 0, up to 100"),
        ("sma:3,,ema:4", "there are"),
        ("sma:" + "9" * 10_000, "there are"),
        (",".join(f"sma:{period}" for period in range(1, MAX_INDICATORS + 2)), f"at most {MAX_INDICATORS}"),
    ],
)
def test_what_names_no_indicator_is_told_what_does(text: str, says: str) -> None:
    with pytest.raises(IndicatorError, match=says):
        parse_indicators(text)


def test_the_shortest_periods_work() -> None:
    bars = bars_from(random_trades(12, 30))
    assert values("sma:1", bars) == pytest.approx([float(bar.close) for bar in bars])
    assert values("ema:1", bars) == pytest.approx([float(bar.close) for bar in bars])
    assert all(0 <= each <= 100 for each in values("rsi:2", bars) if isinstance(each, float))
