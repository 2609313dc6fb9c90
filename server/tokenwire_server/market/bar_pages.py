"""Pages of bars: which ones a request is answered with, and what stands in for intervals without a trade. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import TokenBars
from tokenwire_server.market.decimals import ZERO
from tokenwire_server.market.intervals import Interval

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "BarPage", "Fill", "Page", "PageBar", "PageRequest", "page_from", "page_of"]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000
_END_OF_TIME_MS: Final = 1 << 53


class Fill(StrEnum):
    """What to answer for an interval in which nobody traded."""

    NONE = "none"
    PREVIOUS = "previous"
    """A bar without volume at the price before it."""


class PageRequest(NamedTuple):
    """Bars of one interval that begin within ``[from_ms, to_ms]``: the first ``limit`` of them, or without ``from_ms``
    the newest."""

    interval: Interval
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int = DEFAULT_LIMIT
    fill: Fill = Fill.NONE


class PageBar(NamedTuple):
    """A bar as it is answered. ``is_closed``: its interval is over."""

    bar: Bar
    is_closed: bool


class Page(NamedTuple):
    """Bars, oldest first. ``more_from_ms``, ``more_before_ms``: where to go on if there are later, or earlier, ones."""

    bars: list[PageBar]
    more_from_ms: int | None = None
    more_before_ms: int | None = None


class BarPage(NamedTuple):
    """A page of one token. ``now_ms``: the event time of its source, 0 before it was first told. ``known_ms``: the one
    that its bars have come to, 0 before its first trade; what is traded before that is a correction."""

    page: Page
    now_ms: int
    known_ms: int = 0


def page_of(
    bars: TokenBars,
    index: int,
    now_ms: int,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    limit: int = DEFAULT_LIMIT,
    fill: Fill = Fill.NONE,
) -> Page:
    """Bars that begin within ``[from_ms, to_ms]``: the first ``limit`` of them, or without ``from_ms`` the newest.

    ``index`` is the interval's place in the plan, ``now_ms`` the event time, up to which is filled.
    """
    interval = bars.interval(index)
    last_ms = _END_OF_TIME_MS if to_ms is None else to_ms
    # Whoever fills needs the bar before the page as well.
    first_ms = 0 if from_ms is None or fill is Fill.PREVIOUS else from_ms
    count = limit + 1 if from_ms is None else _END_OF_TIME_MS
    closed = bars.closed_bars(index, first_ms, last_ms + 1, count)
    known = [PageBar(bar, True) for bar in (closed[: limit + 1] if first_ms else closed)]
    running = bars.open_bar(index)
    if running is not None and first_ms <= running.open_ms <= last_ms:
        known.append(PageBar(running, False))
    return page_from(known, interval, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)


def page_from(
    known: Sequence[PageBar],
    interval: Interval,
    now_ms: int,
    *,
    from_ms: int | None,
    to_ms: int | None,
    limit: int,
    fill: Fill,
) -> Page:
    """The page that is made of these bars, ascending: of all up to ``to_ms`` as many of the page's own as it may need,
    and who fills has the one before it and the last as well."""
    if not known:
        return Page([])
    last_ms = _END_OF_TIME_MS if to_ms is None else to_ms
    found: Sequence[PageBar]
    if fill is Fill.PREVIOUS:
        end_ms = max(interval.open_ms(min(now_ms, last_ms)), known[-1].bar.open_ms)
        found = _filled(known, interval, end_ms, now_ms, from_ms, limit + 1)
    elif from_ms is None:
        found = known[-limit - 1 :]
    else:
        found = known[: limit + 1]
    if from_ms is None:
        page = list(found[-limit:])
        return Page(page, more_before_ms=_open_ms(page[0]) if len(found) > limit else None)
    return Page(list(found[:limit]), more_from_ms=_open_ms(found[limit]) if len(found) > limit else None)


def _open_ms(page_bar: PageBar) -> int:
    return page_bar.bar.open_ms


def _filled(
    known: Sequence[PageBar], interval: Interval, end_ms: int, now_ms: int, from_ms: int | None, count: int
) -> list[PageBar]:
    """Every interval from the first known bar to ``end_ms``, of these the first ``count`` from ``from_ms`` on, or
    the last ``count``."""
    begin_ms = _open_ms(known[0])
    if from_ms is None:
        begin_ms = max(begin_ms, end_ms - (count - 1) * interval.ms)
    elif from_ms > begin_ms:
        begin_ms += -((begin_ms - from_ms) // interval.ms) * interval.ms  # the next beginning at or after it
    found = []
    for open_ms in range(begin_ms, min(end_ms, begin_ms + (count - 1) * interval.ms) + 1, interval.ms):
        before = known[bisect_right(known, open_ms, key=_open_ms) - 1]
        if _open_ms(before) == open_ms:
            found.append(before)
        else:
            found.append(PageBar(_still(before.bar, open_ms), open_ms + interval.ms <= now_ms))
    return found


def _still(before: Bar, open_ms: int) -> Bar:
    """A bar in which nobody traded after ``before``."""
    price = before.close
    return Bar(open_ms, price, price, price, price, ZERO, ZERO, ZERO, ZERO, 0, before.last_ms, before.last_ms)
