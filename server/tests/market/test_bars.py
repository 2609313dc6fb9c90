"""Bars against the plainest fold there is: all trades sorted, grouped by interval."""

import random
from collections.abc import Iterable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarEvent, BarPlan, TokenBars
from tokenwire_server.market.decimals import EXACT
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, Interval, parse_intervals
from tokenwire_server.market.trades import Side, Trade

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000

PLANS = [
    DEFAULT_INTERVALS,
    parse_intervals(["1s", "7s", "1m", "90s", "1h"]),
    parse_intervals(["2s", "3s", "6s", "12s"]),  # two that no other lies in
    parse_intervals(["1m"]),
]


def trade_at(time_ms: int, price: str | int = "1", amount: str | int = "1", side: Side = Side.BUY) -> Trade:
    return Trade("venue:X", "id", Decimal(price), Decimal(amount), side, time_ms)


def turnover(trade: Trade) -> Decimal:
    return EXACT.multiply(trade.price, trade.amount)


class Told:
    """What a listener that stores everything ends up with."""

    def __init__(self) -> None:
        self.bars: dict[tuple[str, int], Bar] = {}
        self.events: list[BarEvent] = []

    def __call__(self, change: BarChange) -> None:
        key = (change.interval.text, change.bar.open_ms)
        self.events.append(change.event)
        if change.event is BarEvent.CLOSED:
            assert key not in self.bars, "closed twice"
        if change.event is not BarEvent.BEYOND:
            self.bars[key] = copy_of(change.bar)
        elif key in self.bars:
            self.bars[key].merge(change.bar)
            self.bars[key].revision += 1
        else:
            self.bars[key] = copy_of(change.bar)


def copy_of(bar: Bar) -> Bar:
    revision = bar.revision
    copied = bar.starting(bar.open_ms)
    copied.revision = revision
    return copied


Step = Trade | int
"""A trade, or the time that a clock shows."""


def expected(interval: Interval, steps: Sequence[Step]) -> dict[int, Bar]:
    """Every bar, open ones too, by sorting all trades; and how often each was corrected, by the clock at arrival."""
    now = 0
    groups: dict[int, list[Trade]] = {}
    late: dict[int, int] = {}
    for step in steps:
        if isinstance(step, int):
            now = max(now, step)
            continue
        now = max(now, step.time_ms)
        start = (step.time_ms - interval.offset_ms) // interval.ms * interval.ms + interval.offset_ms
        groups.setdefault(start, []).append(step)
        if start + interval.ms <= now:
            late[start] = late.get(start, 0) + 1
    bars: dict[int, Bar] = {}
    for start, trades in groups.items():
        in_order = sorted(trades, key=lambda trade: trade.time_ms)  # stable: as delivered where times are equal
        prices = [trade.price for trade in in_order]
        bought = [trade for trade in in_order if trade.side is Side.BUY]
        bars[start] = Bar(
            start,
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum((trade.amount for trade in trades), Decimal(0)),
            sum((trade.price * trade.amount for trade in trades), Decimal(0)),
            sum((trade.amount for trade in bought), Decimal(0)),
            sum((trade.price * trade.amount for trade in bought), Decimal(0)),
            len(trades),
            in_order[0].time_ms,
            in_order[-1].time_ms,
            late.get(start, 0),
        )
    return bars


def drive(bars: TokenBars, steps: Iterable[Step]) -> None:
    for step in steps:
        if isinstance(step, int):
            bars.advance(step)
        else:
            bars.add(step, turnover(step))


def clock_of(steps: Iterable[Step]) -> int:
    return max((step if isinstance(step, int) else step.time_ms for step in steps), default=0)


@st.composite
def lives(draw: st.DrawFn) -> list[Step]:
    """Trades that mostly move on, some late by seconds or hours; clocks in between."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 120))
    pace = draw(st.sampled_from([100, 1_000, 20_000, 400_000]))
    late = draw(st.sampled_from([1_000, 70_000, 5_000_000]))
    now = BEGIN_MS + rng.randrange(3_600_000)
    steps: list[Step] = []
    for _ in range(count):
        now += rng.choice([0, 0, 1, rng.randrange(pace), rng.randrange(pace)])
        if rng.random() < 0.15:
            steps.append(now)
            continue
        time_ms = now - rng.randrange(late) if rng.random() < 0.3 else now
        price, amount = (Decimal(rng.randrange(1, 5_000)).scaleb(-rng.randrange(6)) for _ in range(2))
        steps.append(Trade("venue:X", "id", price, amount, rng.choice([Side.BUY, Side.SELL]), time_ms))
    return steps


@given(st.sampled_from(PLANS), lives(), st.sampled_from([2, 5, 1_000]))
@settings(max_examples=200)
def test_they_are_what_sorting_all_trades_gives(
    intervals: tuple[Interval, ...], steps: list[Step], history: int
) -> None:
    told = Told()
    plan = BarPlan(intervals, history)
    bars = TokenBars(plan, told)
    drive(bars, steps)
    now = clock_of(steps)
    for index, interval in enumerate(intervals):
        wanted = expected(interval, steps)
        open_now = {start: bar for start, bar in wanted.items() if start + interval.ms > now}
        closed = {start: bar for start, bar in wanted.items() if start not in open_now}
        assert bars.open_bar(index) == next(iter(open_now.values()), None)
        assert {key[1]: bar for key, bar in told.bars.items() if key[0] == interval.text} == closed
        since = bars.complete_since_ms(index)
        at_hand = bars.closed_bars(index, since, now + 1, 10**6)
        assert at_hand == [bar for start, bar in sorted(closed.items()) if start >= since]
        assert len(at_hand) <= history


@given(st.sampled_from(PLANS), lives(), st.data())
@settings(max_examples=100)
def test_whoever_restores_what_was_stored_goes_on_as_if_nothing_had_been(
    intervals: tuple[Interval, ...], steps: list[Step], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(steps)))
    plan = BarPlan(intervals)
    unbroken, told = Told(), Told()
    whole, first = TokenBars(plan, unbroken), TokenBars(plan, told)
    drive(whole, steps)
    drive(first, steps[:cut])
    stored: list[list[Bar]] = []
    for index, interval in enumerate(intervals):
        bars = [bar for (text, _), bar in sorted(told.bars.items()) if text == interval.text]
        running = first.open_bar(index)
        stored.append([*map(copy_of, bars), *([running] if running is not None else [])])
    second = TokenBars(plan, told)
    second.restore(clock_of(steps[:cut]), stored)
    drive(second, steps[cut:])
    assert told.bars == unbroken.bars
    for index in range(len(intervals)):
        assert second.open_bar(index) == whole.open_bar(index)


def test_a_late_trade_is_told_within_the_grace_period_and_stored_after_it() -> None:
    told = Told()
    bars = TokenBars(BarPlan(parse_intervals(["1s"]), grace_ms=5_000), told)
    drive(bars, [trade_at(BEGIN_MS), BEGIN_MS + 6_000, trade_at(BEGIN_MS + 10), BEGIN_MS + 6_001])
    drive(bars, [trade_at(BEGIN_MS + 20)])
    assert told.events == [BarEvent.CLOSED, BarEvent.REVISED, BarEvent.CORRECTED]
    assert told.bars["1s", BEGIN_MS].revision == 2
    assert told.bars["1s", BEGIN_MS].trades == 3


def test_bars_close_by_the_clock_when_nobody_trades() -> None:
    told = Told()
    bars = TokenBars(BarPlan(parse_intervals(["1s", "1m"])), told)
    drive(bars, [trade_at(BEGIN_MS + 59_500)])
    assert bars.due_ms == BEGIN_MS + 60_000
    bars.advance(BEGIN_MS + 59_999)
    assert told.events == []
    bars.advance(BEGIN_MS + 60_000)
    assert [key[0] for key in told.bars] == ["1s", "1m"], "the shorter one first"
    assert bars.due_ms is None
    assert bars.open_bar(0) is None


def test_the_open_bar_is_everything_so_far() -> None:
    told = Told()
    bars = TokenBars(BarPlan(), told)
    drive(bars, [trade_at(BEGIN_MS + 1_000 * n, n + 1, 2, Side.SELL if n % 2 else Side.BUY) for n in range(90)])
    hour = bars.open_bar(4)
    assert hour is not None
    assert (hour.open, hour.high, hour.low, hour.close) == (1, 90, 1, 90)
    assert (hour.trades, hour.volume, hour.buy_volume) == (90, 180, 90)
    assert hour.turnover == 2 * sum(range(1, 91))
    again = bars.open_bar(4)
    assert again == hour
    assert again is not hour, "a copy: it must not change with later trades"


@pytest.mark.parametrize("count", [1, 3])
def test_only_so_many_are_at_hand(count: int) -> None:
    bars = TokenBars(BarPlan(parse_intervals(["1s"]), history=count), Told())
    drive(bars, [trade_at(BEGIN_MS + 1_000 * n) for n in range(10)])
    found = bars.closed_bars(0, 0, BEGIN_MS * 2, 100)
    assert [bar.open_ms for bar in found] == [BEGIN_MS + 1_000 * n for n in range(9 - count, 9)]
    assert bars.complete_since_ms(0) == found[0].open_ms


def test_without_a_history_only_what_is_told_again_is_at_hand() -> None:
    told = Told()
    bars = TokenBars(BarPlan(parse_intervals(["1s"]), 50, 5_000).without_history(), told)
    drive(bars, [trade_at(BEGIN_MS + 1_000 * n) for n in range(20)])
    found = bars.closed_bars(0, 0, BEGIN_MS * 2, 100)
    assert [bar.open_ms for bar in found] == [BEGIN_MS + 1_000 * n for n in range(13, 19)]
    told.events.clear()
    drive(bars, [BEGIN_MS + 19_001, trade_at(BEGIN_MS + 13_000), trade_at(BEGIN_MS + 14_010)])
    assert told.events == [BarEvent.BEYOND, BarEvent.REVISED], (
        "the first is still at hand; whether it is does not count"
    )
    assert {key: bar.trades for key, bar in told.bars.items() if bar.trades > 1} == {
        ("1s", BEGIN_MS + 13_000): 2, ("1s", BEGIN_MS + 14_000): 2,
    }  # fmt: skip


def test_of_several_trades_at_the_first_time_the_one_delivered_first_opens() -> None:
    bars = TokenBars(BarPlan(), lambda change: None)
    for time_ms, price in ((BEGIN_MS + 100, 1), (BEGIN_MS + 900, 2), (BEGIN_MS + 100, 3)):
        trade = trade_at(time_ms, price)
        bars.add(trade, turnover(trade))
    bar = bars.open_bar(0)
    assert bar is not None
    assert (bar.open, bar.high, bar.close) == (1, 3, 2)
