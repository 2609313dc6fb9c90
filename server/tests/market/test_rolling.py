"""Rolling windows against an oracle that keeps every trade."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.rolling import WINDOWS, Rolling, RollingSum

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000

values = st.decimals(min_value="0.000001", max_value="1000000000", places=9)
jumps = st.one_of(st.integers(0, 3_000), st.integers(0, 400_000), st.integers(0, DAY_MS + 120_000))
lateness = st.one_of(st.just(0), st.integers(0, 310_000), st.integers(0, DAY_MS + 120_000))
events = st.lists(st.tuples(jumps, lateness, st.one_of(st.none(), values)), max_size=60)


class Oracle:
    """Keeps every trade that ever came; a trade counts while its bucket is one of the newest ``buckets``."""

    def __init__(self, width_ms: int, buckets: int) -> None:
        self.width_ms, self.buckets = width_ms, buckets
        self.now_ms = 0
        self.trades: list[tuple[int, Decimal]] = []

    def see(self, time_ms: int, value: Decimal | None) -> None:
        self.now_ms = max(self.now_ms, time_ms)
        if value is not None:
            self.trades.append((time_ms, value))

    @property
    def total(self) -> Decimal:
        newest = self.now_ms // self.width_ms
        held = (v for t, v in self.trades if newest - self.buckets < t // self.width_ms <= newest)
        return sum(held, Decimal(0))


@settings(deadline=None)
@given(events)
def test_sums_equal_the_oracles(moves: list[tuple[int, int, Decimal | None]]) -> None:
    rolling = Rolling()
    oracles = {name: Oracle(*window) for name, window in WINDOWS.items()}
    now_ms = START_MS
    for jump_ms, late_ms, value in moves:
        now_ms += jump_ms
        before = rolling.totals
        if value is None:
            changed = rolling.advance(now_ms)
        else:
            rolling.advance(now_ms - late_ms)  # never takes a window back
            changed = rolling.add(now_ms - late_ms, value) or rolling.totals != before
        for oracle in oracles.values():
            oracle.see(now_ms - late_ms if value is not None else now_ms, value)
        assert rolling.totals == tuple(oracles[name].total for name in ("h24", "h1", "m5"))
        assert changed or rolling.totals == before


@settings(deadline=None)
@given(events)
def test_nothing_changes_before_the_announced_expiry(moves: list[tuple[int, int, Decimal | None]]) -> None:
    rolling = Rolling()
    now_ms = START_MS
    for jump_ms, late_ms, value in moves:
        now_ms += jump_ms
        if value is not None:
            rolling.advance(now_ms)
            rolling.add(now_ms - late_ms, value)
    due_ms = rolling.next_expiry_ms
    if due_ms is None:
        assert rolling.totals == (0, 0, 0)
        return
    before = rolling.totals
    assert not rolling.advance(due_ms - 1)
    assert rolling.totals == before
    assert rolling.advance(due_ms)
    assert rolling.totals != before


@pytest.mark.parametrize(("width_ms", "buckets"), WINDOWS.values(), ids=WINDOWS)
def test_memory_is_bounded_by_the_buckets(width_ms: int, buckets: int) -> None:
    window = RollingSum(width_ms, buckets)
    for number in range(3 * buckets):
        window.add(START_MS + number * width_ms, Decimal(1))
    assert window.total == buckets
    assert len(window._sums) == len(window._keys) == buckets
    window.advance(START_MS + 10 * buckets * width_ms)
    assert window.total == 0
    assert not window._sums
    assert not window._keys


def test_a_late_trade_goes_into_its_own_bucket() -> None:
    window = RollingSum(1_000, 300)
    window.add(START_MS, Decimal(1))
    window.add(START_MS + 200_000, Decimal(2))
    assert window.add(START_MS + 100_000, Decimal(4))
    assert window.total == 7
    assert window.advance(START_MS + 300_000)
    assert window.total == 6
    assert window.advance(START_MS + 400_000)
    assert window.total == 2
    assert not window.add(START_MS + 100_000, Decimal(8))
    assert window.total == 2
