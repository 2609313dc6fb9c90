"""Bars of many tokens: closed by their source's clock, bounded together."""

from decimal import Decimal

import pytest

from tokenwire_server.market.bars import BarChange, BarEvent, BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.trades import Side, Trade

from .test_bars import BEGIN_MS

PLAN = parse_intervals(["1s", "1m"])


def trade(address: str, time_ms: int) -> Trade:
    return Trade(address, str(time_ms), Decimal(2), Decimal(3), Side.BUY, time_ms)


def make(history: int = 1_000, max_bars: int = 10**6) -> tuple[MarketBars, list[tuple[str, BarChange]]]:
    told: list[tuple[str, BarChange]] = []
    plan = BarPlan(PLAN, history)
    return MarketBars(plan, lambda address, change: told.append((address, change)), max_bars), told


def test_each_sources_clock_closes_its_own_tokens() -> None:
    market, told = make()
    market.fold("one", "A", trade("A", BEGIN_MS), Decimal(6))
    market.fold("two", "B", trade("B", BEGIN_MS), Decimal(6))
    market.advance("one", BEGIN_MS + 999)
    assert told == []
    market.advance("one", BEGIN_MS + 60_000)
    assert [(address, change.event, change.interval.text) for address, change in told] == [
        ("A", BarEvent.CLOSED, "1s"),
        ("A", BarEvent.CLOSED, "1m"),
    ]
    bars = market.get("B")
    assert bars is not None
    assert bars.open_bar(0) is not None
    assert market.get("C") is None


def test_bars_of_one_instant_close_in_the_order_of_addresses() -> None:
    market, told = make()
    for address in "CAB":
        market.fold("one", address, trade(address, BEGIN_MS), Decimal(6))
    market.advance("one", BEGIN_MS + 1_000)
    assert [address for address, _ in told] == ["A", "B", "C"]


@pytest.mark.parametrize("ticks", [True, False])
def test_what_waits_is_bounded_even_if_the_clock_stands(ticks: bool) -> None:
    market, told = make()
    for second in range(2_000):
        market.fold("one", "A", trade("A", BEGIN_MS + second * 1_000), Decimal(6))
        if ticks:
            market.advance("one", BEGIN_MS + second * 1_000)
    assert len(market._clocks["one"]) < 100
    market.advance("one", BEGIN_MS + 10_000_000)
    assert len([change for _, change in told if change.interval.text == "1s"]) == 2_000
    assert len(market._clocks["one"]) == 0


def test_who_keeps_no_history_keeps_none_of_however_few_tokens() -> None:
    market = MarketBars(BarPlan(PLAN).without_history())
    for second in range(100):
        market.fold("one", "A", trade("A", BEGIN_MS + second * 1_000), Decimal(6))
    bars = market.get("A")
    assert bars is not None
    assert len(bars.closed_bars(0, 0, 2 * BEGIN_MS, 1_000)) == 11


def test_the_more_tokens_the_fewer_bars_of_each() -> None:
    market, _ = make(history=100, max_bars=40)
    for token in range(4):
        for second in range(50):
            market.fold("one", f"T{token}", trade(f"T{token}", BEGIN_MS + second * 1_000), Decimal(6))
    held = []
    for token in range(4):
        bars = market.get(f"T{token}")
        assert bars is not None
        held.append(len(bars.closed_bars(0, 0, 2 * BEGIN_MS, 1_000)))
    assert held[-1] == 40 // (4 * 2)
    for token in range(4):
        market.fold("one", f"T{token}", trade(f"T{token}", BEGIN_MS + 60_000), Decimal(6))
        bars = market.get(f"T{token}")
        assert bars is not None
        assert len(bars.closed_bars(0, 0, 2 * BEGIN_MS, 1_000)) == 5
