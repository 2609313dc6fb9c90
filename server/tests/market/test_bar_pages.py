"""Pages of bars: which, how many, and what fills the empty intervals."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.bar_pages import Fill, Page, page_of
from tokenwire_server.market.bars import BarPlan, TokenBars
from tokenwire_server.market.intervals import parse_intervals

from .test_bars import BEGIN_MS, drive, trade_at

SECOND = 1_000


def bars_at(*seconds: int) -> TokenBars:
    """Trades at these seconds, at a price of the second plus one; the last bar is running."""
    bars = TokenBars(BarPlan(parse_intervals(["1s", "1m"])), lambda change: None)
    drive(bars, [trade_at(BEGIN_MS + second * SECOND, second + 1) for second in seconds])
    return bars


def seconds_of(page: Page) -> list[int]:
    return [(each.bar.open_ms - BEGIN_MS) // SECOND for each in page.bars]


def test_the_newest_come_with_the_running_one() -> None:
    page = page_of(bars_at(0, 1, 4, 5), 0, BEGIN_MS + 5 * SECOND, limit=3)
    assert seconds_of(page) == [1, 4, 5]
    assert [each.is_closed for each in page.bars] == [True, True, False]
    assert page.more_before_ms == BEGIN_MS + SECOND
    older = page_of(bars_at(0, 1, 4, 5), 0, 0, to_ms=BEGIN_MS + SECOND - 1, limit=3)
    assert (seconds_of(older), older.more_before_ms) == ([0], None)


def test_from_a_time_on_the_first_come() -> None:
    page = page_of(bars_at(0, 1, 4, 5), 0, BEGIN_MS, from_ms=BEGIN_MS + 1, limit=2)
    assert seconds_of(page) == [1, 4]
    assert page.more_from_ms == BEGIN_MS + 5 * SECOND
    last = page_of(bars_at(0, 1, 4, 5), 0, BEGIN_MS, from_ms=BEGIN_MS + 5 * SECOND, limit=2)
    assert (seconds_of(last), last.more_from_ms) == ([5], None)


def test_both_bounds_belong_to_it() -> None:
    page = page_of(bars_at(0, 1, 4, 5), 0, 0, from_ms=BEGIN_MS + SECOND, to_ms=BEGIN_MS + 4 * SECOND)
    assert seconds_of(page) == [1, 4]


def test_empty_intervals_are_filled_up_to_the_present() -> None:
    page = page_of(bars_at(0, 3), 0, BEGIN_MS + 6_500, fill=Fill.PREVIOUS)
    assert seconds_of(page) == [0, 1, 2, 3, 4, 5, 6]
    assert [each.bar.close for each in page.bars] == [1, 1, 1, 4, 4, 4, 4]
    assert [each.bar.trades for each in page.bars] == [1, 0, 0, 1, 0, 0, 0]
    assert [each.is_closed for each in page.bars[-2:]] == [True, False]
    assert page.bars[1].bar.volume == Decimal(0)


def test_a_long_silence_costs_no_more_than_a_page() -> None:
    year = 365 * 86_400
    page = page_of(bars_at(0, year), 0, BEGIN_MS + year * SECOND, limit=3, fill=Fill.PREVIOUS)
    assert seconds_of(page) == [year - 2, year - 1, year]
    page = page_of(bars_at(0, year), 0, BEGIN_MS, from_ms=BEGIN_MS + 10 * SECOND, limit=3, fill=Fill.PREVIOUS)
    assert seconds_of(page) == [10, 11, 12]
    assert page.more_from_ms == BEGIN_MS + 13 * SECOND


@pytest.mark.parametrize("fill", list(Fill))
def test_nothing_before_the_first_trade(fill: Fill) -> None:
    bars = TokenBars(BarPlan(), lambda change: None)
    assert page_of(bars, 0, BEGIN_MS, fill=fill) == Page([])
    assert page_of(bars_at(5), 0, BEGIN_MS, to_ms=BEGIN_MS, fill=fill) == Page([])
    assert seconds_of(page_of(bars_at(5), 0, BEGIN_MS, from_ms=BEGIN_MS, fill=fill)) == [5]
    assert seconds_of(page_of(bars_at(5), 0, BEGIN_MS, from_ms=BEGIN_MS + 9 * SECOND, fill=fill)) == []


@given(
    st.sets(st.integers(0, 60), min_size=1),
    st.integers(1, 8),
    st.sampled_from(list(Fill)),
    st.integers(0, 10),
    st.none() | st.integers(0, 60),
)
def test_pages_together_are_everything_once(
    seconds: set[int], limit: int, fill: Fill, silence: int, begin: int | None
) -> None:
    bars = bars_at(*sorted(seconds))
    now_ms = BEGIN_MS + (max(seconds) + silence) * SECOND
    whole = seconds_of(page_of(bars, 0, now_ms, limit=1_000, fill=fill))
    last = max(seconds) + (silence if fill is Fill.PREVIOUS else 0)
    assert whole == (sorted(seconds) if fill is Fill.NONE else list(range(min(seconds), last + 1)))
    from_ms = None if begin is None else BEGIN_MS + begin * SECOND
    to_ms: int | None = None
    found: list[int] = []
    for _ in range(200):
        page = page_of(bars, 0, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)
        assert len(page.bars) <= limit
        if begin is None:
            found = seconds_of(page) + found
            if page.more_before_ms is None:
                break
            to_ms = page.more_before_ms - 1
        else:
            found += seconds_of(page)
            if page.more_from_ms is None:
                break
            from_ms = page.more_from_ms
    assert found == [second for second in whole if begin is None or second >= begin]
