"""Bars of one token in several lengths at once, from trades by event time.

A trade is folded into the shortest bar only. When that closes it goes into the next longer one that it lies in, and so
on: ``1s → 1m → 5m → 15m → 1h``. What a longer bar holds is thus the closed shorter ones; whoever looks at it while it
is open gets the open shorter ones on top. So a trade costs the same however many lengths there are.

Bars close by event time, which only moves forward: with the newest trade, or as the source's clock says. A trade of an
earlier time corrects every bar that it belongs to, closed or not, and raises the ``revision`` of the closed ones. How
late it came decides only whether the correction is still told to whoever listens (``grace_ms``).
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from decimal import Decimal
from enum import Enum, auto
from itertools import islice
from typing import Final, NamedTuple

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, Interval
from tokenwire_server.market.snapshots import BarsSnapshot, LevelSnapshot
from tokenwire_server.market.trades import Trade

__all__ = ["GRACE_MS", "MAX_HISTORY", "BarChange", "BarEvent", "BarPlan", "TokenBars"]

MAX_HISTORY: Final = 1_000  # closed bars kept at hand, of each length
GRACE_MS: Final = 10_000
_NEVER: Final = 1 << 62


class BarEvent(Enum):
    """What became of a bar that is no longer open."""

    CLOSED = auto()
    REVISED = auto()
    """Corrected within the grace period: to be told to listeners too."""
    CORRECTED = auto()
    """Corrected later: to be stored."""
    BEYOND = auto()
    """It is older than what is at hand: the trade is to be folded into what is stored, if anything."""


class BarChange(NamedTuple):
    """``bar`` as it is now, not to be kept: it may change. With ``BEYOND`` it holds the one trade."""

    event: BarEvent
    interval: Interval
    bar: Bar


class BarPlan:
    """Which lengths there are, and which is made of which. ``parents[i]``: the longest that lies within, if any.

    ``history``: so many closed bars of each length are kept at hand; 0: only those whose corrections are told to
    listeners (``grace_ms``), and every later correction is ``BEYOND``.
    """

    __slots__ = ("grace_ms", "history", "index", "intervals", "parents")

    def __init__(
        self,
        intervals: Sequence[Interval] = DEFAULT_INTERVALS,
        history: int = MAX_HISTORY,
        grace_ms: int = GRACE_MS,
    ) -> None:
        self.intervals = tuple(sorted(intervals, key=lambda interval: interval.ms))
        self.history = history
        self.grace_ms = grace_ms
        self.index = {interval.text: number for number, interval in enumerate(self.intervals)}
        self.parents: list[int | None] = []
        for number, interval in enumerate(self.intervals):
            within = (each for each in reversed(range(number)) if interval.holds(self.intervals[each]))
            self.parents.append(next(within, None))

    def without_history(self) -> "BarPlan":
        """The same lengths, for whoever only tells of bars and never shows old ones."""
        return BarPlan(self.intervals, 0, self.grace_ms)


class _Level:
    """One length. ``bar``: what is known to belong to the open bar (of a longer one: the closed shorter ones)."""

    __slots__ = ("bar", "children", "closed", "end_ms", "interval", "keys", "parent", "since_ms")

    def __init__(self, interval: Interval, parent: "_Level | None") -> None:
        self.interval = interval
        self.parent = parent
        self.children: list[_Level] = []
        self.bar: Bar | None = None
        self.end_ms = _NEVER  # of the open bar
        self.closed: dict[int, Bar] = {}
        self.keys: deque[int] = deque()  # beginnings of the closed bars, ascending
        self.since_ms = 0  # every closed bar that begins here or later is at hand, unless there is no history
        if parent is not None:
            parent.children.append(self)

    def open(self, bar: Bar) -> None:
        self.bar = bar
        self.end_ms = bar.open_ms + self.interval.ms

    def absorb(self, shorter: Bar) -> None:
        """A shorter bar of the running interval has closed."""
        if self.bar is None:
            self.open(shorter.starting(self.interval.open_ms(shorter.open_ms)))
        else:
            self.bar.merge(shorter)

    def keep(self, bar: Bar, plan: BarPlan, now_ms: int) -> None:
        """A closed bar, at whatever place in time, while event time is ``now_ms``."""
        key = bar.open_ms
        keys = self.keys
        if not keys or key > keys[-1]:
            keys.append(key)
        else:
            insort(keys, key)
        self.closed[key] = bar
        told_ms = now_ms - plan.grace_ms - self.interval.ms
        while len(keys) > plan.history and (plan.history or keys[0] < told_ms):
            oldest = keys.popleft()
            del self.closed[oldest]
            if plan.history:
                self.since_ms = oldest + self.interval.ms

    def whole(self) -> Bar | None:
        """A copy of the open bar with everything in it."""
        parts = [level.bar for level in self._lineage() if level.bar is not None]
        if not parts:
            return None
        whole = parts[0].starting(self.interval.open_ms(parts[0].open_ms))
        for part in parts[1:]:
            whole.merge(part)
        return whole

    def _lineage(self) -> Iterable["_Level"]:
        level: _Level | None = self
        while level is not None:
            yield level
            level = level.parent


class TokenBars:
    """All bars of one token. ``tell`` is called for every bar that closes and every correction, in order."""

    __slots__ = ("_due_ms", "_levels", "_now_ms", "_plan", "_roots", "_tell", "address")

    def __init__(self, plan: BarPlan, tell: Callable[[BarChange], None], address: str = "") -> None:
        self.address = address
        self._plan = plan
        self._tell = tell
        self._now_ms = 0
        self._due_ms = _NEVER  # when the next open bar closes
        self._levels: list[_Level] = []
        for interval, parent in zip(plan.intervals, plan.parents, strict=True):
            self._levels.append(_Level(interval, None if parent is None else self._levels[parent]))
        self._roots = [level for level in self._levels if level.parent is None]

    @property
    def now_ms(self) -> int:
        """Event time (Unix ms) up to which bars are closed."""
        return self._now_ms

    @property
    def due_ms(self) -> int | None:
        """Event time (Unix ms) at which the next open bar closes; None while none is open."""
        return None if self._due_ms == _NEVER else self._due_ms

    def add(self, trade: Trade, turnover: Decimal) -> None:
        """Fold one validated trade; ``turnover`` is its price times its amount, exactly."""
        time_ms = trade.time_ms
        if time_ms > self._now_ms:
            if time_ms >= self._due_ms:
                self.advance(time_ms)
            self._now_ms = time_ms
        for root in self._roots:
            bar = root.bar
            if bar is None:
                open_ms = root.interval.open_ms(time_ms)
                if open_ms + root.interval.ms <= self._now_ms:
                    self._correct(root, trade, turnover)
                else:
                    self._open(root, Bar.of(open_ms, trade, turnover))
            elif time_ms < bar.open_ms:
                self._correct(root, trade, turnover)
            else:
                bar.add(trade, turnover)

    def advance(self, now_ms: int) -> None:
        """Event time moved to ``now_ms`` (never back): close what has ended."""
        self._now_ms = max(self._now_ms, now_ms)
        if now_ms < self._due_ms:
            return
        for level in self._levels:  # shorter ones first: they belong to what closes after them
            bar = level.bar
            if bar is None or level.end_ms > now_ms:
                continue
            level.bar = None
            level.end_ms = _NEVER
            for child in level.children:
                child.absorb(bar)
            level.keep(bar, self._plan, self._now_ms)
            self._tell(BarChange(BarEvent.CLOSED, level.interval, bar))
        self._due_ms = min(level.end_ms for level in self._levels)

    def interval(self, index: int) -> Interval:
        """The length of the bars with this place in the plan."""
        return self._levels[index].interval

    def open_bar(self, index: int) -> Bar | None:
        """A copy of the running bar of ``plan.intervals[index]``, everything included; None while it has no trade."""
        return self._levels[index].whole()

    def closed_bars(self, index: int, from_ms: int, before_ms: int, limit: int) -> list[Bar]:
        """The newest ``limit`` closed bars that begin within ``[from_ms, before_ms)``, oldest first."""
        level = self._levels[index]
        keys = level.keys
        first, last = bisect_left(keys, from_ms), bisect_left(keys, before_ms)
        return [level.closed[key] for key in islice(keys, max(first, last - limit), last)]

    def complete_since_ms(self, index: int) -> int:
        """Closed bars that begin at this time or later are all at hand."""
        return self._levels[index].since_ms

    def running(self) -> list[tuple[Interval, Bar]]:
        """Copies of the open bars that no shorter ones are part of: with the closed ones they are everything."""
        return [(root.interval, copy(root.bar)) for root in self._roots if root.bar is not None]

    def restore(self, now_ms: int, stored: Sequence[Sequence[Bar]]) -> None:
        """Go on from what was stored, of each interval, ascending; ``now_ms``: the event time then.

        What was open of a longer bar is made again of the shorter ones, which must reach back to its beginning
        (however few of them are kept at hand then).
        """
        self._now_ms = now_ms
        closed: list[list[Bar]] = []
        for level, bars in zip(self._levels, stored, strict=True):
            closed.append([copy(bar) for bar in bars if bar.open_ms + level.interval.ms <= now_ms])
            for bar in closed[-1]:
                level.keep(bar, self._plan, now_ms)
            level.since_ms = max(level.since_ms, level.keys[0] if level.keys else level.interval.open_ms(now_ms))
            if level.parent is None:
                for bar in bars[len(closed[-1]) :]:
                    level.open(copy(bar))
        for level, parent in zip(self._levels, self._plan.parents, strict=True):
            if parent is not None:
                start = level.interval.open_ms(now_ms)
                for bar in closed[parent]:
                    if bar.open_ms >= start:
                        level.absorb(bar)
        self._due_ms = min(level.end_ms for level in self._levels)

    def snapshot(self) -> BarsSnapshot:
        """What the bars to come, and corrections that are told, depend on."""
        levels = []
        for level in self._levels:
            since_ms = max(level.since_ms, self._now_ms - self._plan.grace_ms - level.interval.ms)
            first = bisect_left(level.keys, since_ms)
            closed = tuple(copy(level.closed[key]) for key in islice(level.keys, first, None))
            levels.append(LevelSnapshot(level.interval.ms, copy(level.bar), since_ms, closed))
        return BarsSnapshot(self._now_ms, tuple(levels))

    def load(self, snapshot: BarsSnapshot) -> None:
        """Be what the snapshot is of; these are new.

        Raises:
            ValueError: it is of other lengths of bars.
        """
        if [level.interval_ms for level in snapshot.levels] != [level.interval.ms for level in self._levels]:
            raise ValueError("the bars that were kept are of other lengths")
        self._now_ms = snapshot.now_ms
        for level, kept in zip(self._levels, snapshot.levels, strict=True):
            for bar in kept.closed:
                level.keep(copy(bar), self._plan, snapshot.now_ms)
            level.since_ms = max(level.since_ms, kept.since_ms)
            if kept.bar is not None:
                level.open(copy(kept.bar))
        self._due_ms = min(level.end_ms for level in self._levels)

    def _open(self, level: _Level, bar: Bar) -> None:
        level.open(bar)
        self._due_ms = min(self._due_ms, level.end_ms)

    def _correct(self, root: _Level, trade: Trade, turnover: Decimal) -> None:
        """A trade whose shortest bar has closed: into every bar up to the first that is open, which passes it on."""
        waiting = [root]
        for level in waiting:
            open_ms = level.interval.open_ms(trade.time_ms)
            if level.bar is not None and level.bar.open_ms == open_ms:
                level.bar.add(trade, turnover)
            elif open_ms + level.interval.ms > self._now_ms:
                self._open(level, Bar.of(open_ms, trade, turnover))
            else:
                waiting += level.children
                self._tell(self._corrected(level, open_ms, trade, turnover))

    def _corrected(self, level: _Level, open_ms: int, trade: Trade, turnover: Decimal) -> BarChange:
        interval, plan = level.interval, self._plan
        in_time = self._now_ms - (open_ms + interval.ms) <= plan.grace_ms
        bar = level.closed.get(open_ms) if plan.history or in_time else None
        if bar is not None:
            bar.add(trade, turnover)
            bar.revision += 1
        elif open_ms < level.since_ms or not (plan.history or in_time):
            return BarChange(BarEvent.BEYOND, interval, Bar.of(open_ms, trade, turnover, 1))
        else:
            bar = Bar.of(open_ms, trade, turnover, 1)
            level.keep(bar, plan, self._now_ms)
        return BarChange(BarEvent.REVISED if in_time else BarEvent.CORRECTED, interval, bar)
