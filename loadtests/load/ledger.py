"""What one user must have received, pure: every planned tick of its subscriptions, delivered or lost."""

from typing import Protocol

from loadtests.load.grid import Grid

__all__ = ["Book", "Ledger"]


class Book(Protocol):
    """Where the verdict on each tick goes. Times in microseconds."""

    def delivered(self, latency_us: int) -> None:
        """All values of a tick arrived, the last ``latency_us`` after the planned instant."""

    def lost(self, waited_us: int) -> None:
        """A tick never came, or not all of it; known ``waited_us`` after its planned instant."""

    def unjudged(self) -> None:
        """The user left by itself before the tick was due."""


class Ledger:
    """The ticks of one user, while it holds a subscription of ``need`` tokens.

    Every tick planned after the subscription was confirmed is expected with all tokens. Values planned before are
    the answer to the subscribe, or of a tick that was under way: they are not judged. When the user leaves, a tick
    older than ``limit_us`` that has not come is lost; a younger one could still be in time and is left unjudged.
    """

    def __init__(self, grid: Grid, book: Book, limit_us: int) -> None:
        self._grid = grid
        self._book = book
        self._limit_us = limit_us
        self._need = 0
        self._from_us = 0
        self._expected: int | None = None  # the tick to come next; None until the grid is known
        self._got = 0

    @property
    def is_open(self) -> bool:
        """Whether ticks are expected."""
        return self._need > 0

    def begin(self, now_us: int, need: int) -> None:
        """From now on every tick carries ``need`` tokens."""
        self._need = need
        self._from_us = now_us
        self._got = 0
        self._expected = self._grid.after(now_us) if self._grid.is_known else None

    def values(self, planned_us: int, count: int, now_us: int) -> None:
        """``count`` values of the tick planned at ``planned_us`` arrived."""
        number = self._grid.index(planned_us)
        if not self._need or planned_us <= self._from_us:
            return
        if self._expected is None:
            self._expected = self._grid.after(self._from_us)
        while self._expected < number:
            self._book.lost(now_us - self._grid.planned_us(self._expected))
            self._expected += 1
            self._got = 0
        if number < self._expected:
            return  # more of a tick that is complete already
        self._got += count
        if self._got >= self._need:
            self._book.delivered(now_us - planned_us)
            self._expected += 1
            self._got = 0

    def end(self, now_us: int) -> None:
        """No more ticks: the user unsubscribes or leaves."""
        if not self._need:
            return
        self._need = 0
        if not self._grid.is_known:
            return  # nobody ever received anything; the gate says so
        if self._expected is None:
            self._expected = self._grid.after(self._from_us)
        while (planned_us := self._grid.planned_us(self._expected)) <= now_us:
            waited_us = now_us - planned_us
            if waited_us > self._limit_us:
                self._book.lost(waited_us)
            else:
                self._book.unjudged()
            self._expected += 1
