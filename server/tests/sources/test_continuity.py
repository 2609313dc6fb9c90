"""Holes, what is held back for them, the breaker, Retry-After: the pure parts of a collector."""

from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources.breaker import Breaker, BreakerState
from tokenwire_server.sources.continuity import Continuity, Hole
from tokenwire_server.sources.event_clock import EventClock
from tokenwire_server.sources.frames import VenueTrade
from tokenwire_server.sources.holds import Holds
from tokenwire_server.sources.reconnection import OPENS_AFTER, STABLE_S, Reconnection
from tokenwire_server.sources.retry_after import retry_after_s

NOW_MS = 1_774_089_400_000
HOUR_MS = 3_600_000


def item(number: int, symbol: str = "A", *, first: int | None = None, numbered: bool = True) -> VenueTrade:
    trade = Trade(f"v:{symbol}", str(number), Decimal(1), Decimal(1), Side.BUY, 1_000 + number)
    return VenueTrade(symbol, trade, number if numbered else None, first)


def test_numbers_have_holes_only_forwards() -> None:
    continuity = Continuity()
    holes = [continuity.observe(item(n)) for n in (5, 6, 6, 4, 7, 10)]
    assert holes == [None] * 5 + [Hole("A", "v:A", "7", 1_007, "10", 1_010, 8, 9)]
    assert continuity.observe(item(1, "B")) is None
    continuity.reconnected()
    hole = continuity.observe(item(20, first=13))
    assert hole is not None
    assert (hole.first, hole.last, hole.size) == (11, 12, 2)
    assert continuity.observe(item(25, first=21)) is None


def test_without_numbers_only_a_reconnection_leaves_a_hole() -> None:
    continuity = Continuity()
    assert continuity.observe(item(1, numbered=False)) is None
    assert continuity.observe(item(9, numbered=False)) is None
    continuity.reconnected()
    hole = continuity.observe(item(30, numbered=False))
    assert hole == Hole("A", "v:A", "9", 1_009, "30", 1_030)
    assert hole.size == 0
    assert continuity.observe(item(31, numbered=False)) is None
    continuity.reconnected()
    assert continuity.observe(item(31, numbered=False)) is None  # the same trade again: nothing between


@given(st.lists(st.integers(0, 60), max_size=60))
def test_the_holes_and_the_trades_make_up_every_number(numbers: list[int]) -> None:
    """Whatever arrives: what was seen, and what was told to be missing, are all numbers from the first on."""
    continuity = Continuity()
    covered: set[int] = set()
    for number in numbers:
        hole = continuity.observe(item(number))
        if hole is not None:
            assert hole.first is not None
            assert hole.last is not None
            told = set(range(hole.first, hole.last + 1))
            assert not told & covered
            covered |= told
        if numbers and number >= numbers[0]:
            covered.add(number)
    if numbers:
        assert covered == set(range(numbers[0], max(covered) + 1))


class Held(RuleBasedStateMachine):
    """Trades of two symbols with holes that are settled in any order, late or never: each leaves exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = Holds(3.0, 20)
        self.continuity = Continuity()
        self.now_s = 0.0
        self.next = {"A": 1, "B": 1}
        self.came: list[str] = []
        self.left: list[VenueTrade] = []
        self.open: list[tuple[Hole, float]] = []

    @rule(symbol=st.sampled_from("AB"), skipped=st.integers(0, 3))
    def a_trade_comes(self, symbol: str, skipped: int) -> None:
        number = self.next[symbol] + skipped
        self.next[symbol] = number + 1
        trade = item(number, symbol)
        hole = self.continuity.observe(trade)
        if hole is not None:
            self.holds.open(hole, self.now_s)
            self.open.append((hole, self.now_s))
        self.came.append(f"{symbol}{number}")
        self.left += self.holds.offer(trade)

    @rule(data=st.data())
    def a_hole_is_settled(self, data: st.DataObject) -> None:
        if self.open:
            hole, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            assert hole.first is not None
            assert hole.last is not None
            fetched = [item(n, hole.symbol) for n in range(hole.first, hole.last + 1)]
            self.came += [f"{hole.symbol}{trade.number}" for trade in fetched]
            self.left += self.holds.settle(hole, fetched)

    @rule(seconds=st.floats(0.1, 2))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.left += self.holds.overdue(self.now_s)
        if all(self.now_s - since_s >= 3.0 for _, since_s in self.open):
            assert self.holds.kept == 0, "no hold is older than its time"

    @invariant()
    def what_came_has_left_or_is_held(self) -> None:
        left = [f"{trade.symbol}{trade.number}" for trade in self.left]
        assert len(left) == len(set(left))
        assert len(left) + self.holds.kept == len(self.came)
        assert self.holds.kept <= 20

    @invariant()
    def nothing_waits_for_nothing(self) -> None:
        assert self.open or self.holds.kept == 0

    def teardown(self) -> None:
        self.left += self.holds.flush()
        assert sorted(f"{trade.symbol}{trade.number}" for trade in self.left) == sorted(self.came)
        assert self.holds.kept == 0


TestHeld = Held.TestCase


def test_a_hole_settled_in_time_keeps_the_order() -> None:
    holds = Holds(3.0, 100)
    first, second = (Hole("A", "v:A", "1", 1, "4", 4, 2, 3), Hole("A", "v:A", "4", 4, "6", 6, 5, 5))
    holds.open(first, 0.0)
    assert holds.offer(item(4)) == []
    holds.open(second, 2.0)
    assert holds.offer(item(6)) == []
    assert holds.settle(second, [item(5)]) == []
    assert holds.overdue(2.9) == []
    assert [trade.number for trade in holds.settle(first, [item(2), item(3)])] == [2, 3, 4, 5, 6]
    assert holds.offer(item(7)) == [item(7)]


def test_a_hold_ends_with_its_time_or_with_the_room() -> None:
    holds = Holds(3.0, 2)
    hole = Hole("A", "v:A", "1", 1, "4", 4, 2, 3)
    holds.open(hole, 0.0)
    assert holds.offer(item(4)) == []
    assert holds.overdue(3.0) == [item(4)]
    assert holds.settle(hole, [item(2)]) == [item(2)]  # late
    holds.open(hole, 10.0)
    assert [holds.offer(item(n)) for n in (4, 5)] == [[], []]
    assert holds.offer(item(6)) == [item(4), item(5), item(6)]
    assert holds.offer(item(7)) == [item(7)]


def test_the_breaker_opens_probes_and_closes() -> None:
    breaker = Breaker(3, 10.0, 35.0)
    breaker.failed(0.0)
    breaker.failed(1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED
    assert not breaker.succeeded()
    for _ in range(3):
        breaker.failed(2.0)
    assert (breaker.state(2.0), breaker.wait_s(2.0)) == (BreakerState.OPEN, 10.0)
    breaker.failed(5.0)  # what was under way
    assert breaker.wait_s(5.0) == 7.0
    assert (breaker.state(12.0), breaker.wait_s(12.0)) == (BreakerState.HALF_OPEN, 0.0)
    pauses = []
    now_s = 12.0
    for _ in range(3):
        breaker.failed(now_s)
        pauses.append(breaker.wait_s(now_s))
        now_s += pauses[-1]
    assert pauses == [20.0, 35.0, 35.0]
    assert breaker.succeeded()
    assert (breaker.state(now_s), breaker.failures, breaker.openings) == (BreakerState.CLOSED, 0, 4)
    for _ in range(3):
        breaker.failed(now_s)
    assert breaker.wait_s(now_s) == 10.0


@pytest.mark.parametrize("numbers", [(0, 1.0, 2.0), (1, 0.0, 2.0), (1, 3.0, 2.0)])
def test_a_breaker_needs_sensible_numbers(numbers: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="opens_after"):
        Breaker(*numbers)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100)), max_size=60))
def test_a_breaker_waits_at_most_its_longest_pause(events: list[tuple[bool, float]]) -> None:
    breaker = Breaker(4, 5.0, 50.0)
    now_s, in_a_row = 0.0, 0
    for good, step_s in events:
        now_s += step_s
        if good:
            breaker.succeeded()
            in_a_row = 0
            assert breaker.state(now_s) is BreakerState.CLOSED
        else:
            breaker.failed(now_s)
            in_a_row += 1
        assert 0 <= breaker.wait_s(now_s) <= 50.0
        assert (breaker.state(now_s) is BreakerState.CLOSED) == (in_a_row < 4)


def test_quick_failures_open_the_circuit_and_a_stable_connection_closes_it() -> None:
    reconnection = Reconnection(Random(1))
    waits = [reconnection.lost(float(n), 1.0) for n in range(OPENS_AFTER)]
    assert max(waits[:-1]) <= 30
    assert waits[-1] == 60.0
    assert reconnection.circuit(9.0) == "circuit open for 60 s after 10 quick failures"
    assert reconnection.circuit(70.0) == "circuit half-open"
    assert not reconnection.lived(STABLE_S - 1)
    assert reconnection.lived(STABLE_S)
    assert reconnection.circuit(70.0) == ""
    assert reconnection.lost(100.0, 1.0) <= 1.0
    assert Reconnection(Random(1)).lost(0.0, 1.0, 99.0) == 99.0
    at_once = [Reconnection(Random(1)).lost(0.0, 1.0, at_once=True) for _ in range(2)]
    assert at_once == [0.0, 0.0]
    assert reconnection.lost(101.0, 1.0, at_once=True) > 0


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 120 ", 120),
        ("99999999999", 600),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("²", 0),
        ("x" * 100_000, 0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0),
        ("Tue, 14 Nov 2033 22:00:00 GMT", 600),
        ("Tue, 99 Nov 2023 22:00:00 GMT", 0),
    ],
)
def test_retry_after_is_a_bounded_number_of_seconds(header: str | None, expected: float) -> None:
    assert retry_after_s(header, 1_700_000_000_000) == expected


def test_the_venues_clock_runs_on_between_trades() -> None:
    clock = EventClock()
    assert clock.due(5_000) is None
    clock.observe(1_000, 5_000, 5_000)
    assert clock.due(5_000) == 1_000
    assert clock.due(5_999) is None
    assert clock.due(6_000) == 2_000
    clock.observe(10**9, 6_000, 6_000)  # from the future
    assert clock.due(7_000) == 3_000


@pytest.mark.parametrize("set_by_ms", [-HOUR_MS, HOUR_MS])
def test_the_venues_clock_does_not_care_that_ours_is_set(set_by_ms: int) -> None:
    """Ahead, bars would close an hour early; back, every trade would be from the future."""
    clock = EventClock()
    clock.observe(NOW_MS, NOW_MS, 1_000)
    assert clock.due(1_000) == NOW_MS
    for second in range(2, 100):
        event_ms = NOW_MS + second * 1_001 - 1_001  # each comes a little quicker than the one before
        clock.observe(event_ms, NOW_MS + second * 1_000 + set_by_ms, second * 1_000)
        assert clock.due(second * 1_000) == event_ms
    clock.observe(NOW_MS + 10**9, NOW_MS + 100_000 + set_by_ms, 100_000)  # from the future all the same
    assert clock.due(100_000) == event_ms + 1_000
