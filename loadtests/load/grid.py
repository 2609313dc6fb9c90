"""The grid of planned ticks, pure: which ticks there must have been is known from a single one of them."""

from typing import Final

__all__ = ["MISFIT_US", "Grid"]

MISFIT_US: Final = 1_000  # planned instants are exact; farther off the grid the interval is not what we were told


class Grid:
    """Ticks every ``interval_us`` microseconds, anchored at the first planned instant anybody received.

    All users of a process share one. ``misfits`` counts planned instants that lie on no grid of this interval.
    """

    def __init__(self, interval_us: int) -> None:
        if interval_us <= 0:
            raise ValueError(f"an interval is positive, not {interval_us} us")
        self.interval_us = interval_us
        self.misfits = 0
        self._anchor_us: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether any tick was ever received."""
        return self._anchor_us is not None

    def index(self, planned_us: int) -> int:
        """The number of the tick that was planned at ``planned_us``; the first one received is 0."""
        if self._anchor_us is None:
            self._anchor_us = planned_us
        number = round((planned_us - self._anchor_us) / self.interval_us)
        if abs(self.planned_us(number) - planned_us) > MISFIT_US:
            self.misfits += 1
        return number

    def planned_us(self, index: int) -> int:
        """When the tick was planned, monotonic microseconds."""
        return (self._anchor_us or 0) + index * self.interval_us

    def after(self, now_us: int) -> int:
        """The first tick planned later than ``now_us``."""
        return (now_us - (self._anchor_us or 0)) // self.interval_us + 1
