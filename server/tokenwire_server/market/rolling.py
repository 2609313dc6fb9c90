"""Exact rolling turnover over 24 hours, one hour and five minutes, by event time.

Bucket rule: a window of ``n`` buckets of ``w`` ms that stands at time ``t`` holds the buckets whose number
``time // w`` lies in ``(t // w - n, t // w]``. So it covers the running bucket and the ``n - 1`` before it:
never more than its nominal length, at most one bucket (60 s, 10 s, 1 s) less. An exact window would have to
keep every trade. Sums are exact decimals, and only buckets that hold something use memory.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

from tokenwire_server.market.decimals import EXACT, ZERO
from tokenwire_server.market.snapshots import WindowSnapshot

__all__ = ["H1", "H24", "M5", "M5_MS", "WINDOWS", "Rolling", "RollingSum", "Sums"]

M5: Final = (1_000, 300)  # (bucket width in ms, buckets)
M5_MS: Final = 300_000
H1: Final = (10_000, 360)
H24: Final = (60_000, 1_440)
WINDOWS: Final = {"h24": H24, "h1": H1, "m5": M5}

Sums = Iterable[tuple[int, Decimal]]
"""Turnover by time, Unix ms."""

_add: Final = EXACT.add
_subtract: Final = EXACT.subtract


class RollingSum:
    """One window. ``total`` is the exact sum of what it holds; at most ``buckets`` partial sums are kept."""

    __slots__ = ("_buckets", "_head", "_keys", "_sums", "_width_ms", "total")

    def __init__(self, width_ms: int, buckets: int) -> None:
        self.total = ZERO
        self._width_ms = width_ms
        self._buckets = buckets
        self._head = 0  # number of the newest bucket the window covers
        self._sums: dict[int, Decimal] = {}
        self._keys: deque[int] = deque()  # the numbers in _sums, ascending

    @property
    def next_expiry_ms(self) -> int | None:
        """Event time (Unix ms) at which the oldest bucket leaves, or None when the window is empty."""
        return (self._keys[0] + self._buckets) * self._width_ms if self._keys else None

    def add(self, time_ms: int, value: Decimal) -> bool:
        """Put ``value`` into the bucket of ``time_ms``; False when that bucket has already left."""
        key = time_ms // self._width_ms
        head = self._head
        if key > head:
            self._head = key
            self._expire(key - self._buckets)
        elif key <= head - self._buckets:
            return False
        self.total = _add(self.total, value)
        sums = self._sums
        held = sums.get(key)
        if held is not None:
            sums[key] = _add(held, value)
            return True
        sums[key] = value
        keys = self._keys
        if not keys or key > keys[-1]:
            keys.append(key)
        else:  # late, and the first of its bucket
            insort(keys, key)
        return True

    def advance(self, now_ms: int) -> bool:
        """Let the window stand at ``now_ms`` (never backwards); True when a bucket left."""
        key = now_ms // self._width_ms
        if key <= self._head:
            return False
        self._head = key
        return self._expire(key - self._buckets)

    def snapshot(self) -> WindowSnapshot:
        """All of it."""
        return WindowSnapshot(self._head, tuple((key, self._sums[key]) for key in self._keys))

    def load(self, snapshot: WindowSnapshot) -> None:
        """Be what the snapshot is of; this one is new."""
        self._head = snapshot.head
        self._keys = deque(key for key, _ in snapshot.sums)
        self._sums = dict(snapshot.sums)
        for _, value in snapshot.sums:
            self.total = _add(self.total, value)

    def _expire(self, floor: int) -> bool:
        keys = self._keys
        if not keys or keys[0] > floor:
            return False
        sums = self._sums
        while keys and keys[0] <= floor:
            self.total = _subtract(self.total, sums.pop(keys.popleft()))
        if not keys:
            self.total = ZERO  # forget the exponent of what has left
        return True


class Rolling:
    """The three windows of one token."""

    __slots__ = ("h1", "h24", "m5")

    def __init__(self) -> None:
        self.h24 = RollingSum(*H24)
        self.h1 = RollingSum(*H1)
        self.m5 = RollingSum(*M5)

    @property
    def totals(self) -> tuple[Decimal, Decimal, Decimal]:
        """The sums in the order h24, h1, m5."""
        return self.h24.total, self.h1.total, self.m5.total

    @property
    def next_expiry_ms(self) -> int | None:
        """Event time (Unix ms) of the next change that needs no trade, or None."""
        times = [t for w in (self.m5, self.h1, self.h24) if (t := w.next_expiry_ms) is not None]
        return min(times, default=None)

    def add(self, time_ms: int, value: Decimal) -> bool:
        """Count ``value`` in every window that still holds ``time_ms``; False when none does."""
        m5 = self.m5.add(time_ms, value)
        h1 = self.h1.add(time_ms, value)
        return self.h24.add(time_ms, value) or h1 or m5

    def restore(self, h24: Sums, h1: Sums, m5: Sums) -> None:
        """Go on with what was turned over at which time (Unix ms), ascending, in each window."""
        for window, sums in ((self.h24, h24), (self.h1, h1), (self.m5, m5)):
            for time_ms, value in sums:
                window.add(time_ms, value)

    def snapshot(self) -> tuple[WindowSnapshot, ...]:
        """All three, in the order h24, h1, m5."""
        return self.h24.snapshot(), self.h1.snapshot(), self.m5.snapshot()

    def load(self, snapshots: Sequence[WindowSnapshot]) -> None:
        """Be what the snapshots are of; this one is new."""
        for window, snapshot in zip((self.h24, self.h1, self.m5), snapshots, strict=True):
            window.load(snapshot)

    def advance(self, now_ms: int) -> bool:
        """Let time pass without a trade; True when something left a window."""
        m5 = self.m5.advance(now_ms)
        h1 = self.h1.advance(now_ms)
        return self.h24.advance(now_ms) or h1 or m5
