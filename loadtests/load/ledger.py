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

    def repeated(self, values: int) -> None:
        """So many values came again, or too late: their tick had come whole, or was given up as lost."""


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
        self._got: set[bytes] = set()  # of the tick to come next

    @property
    def is_open(self) -> bool:
        """Whether ticks are expected."""
        return self._need > 0

    def begin(self, now_us: int, need: int) -> None:
        """From now on every tick carries ``need`` tokens."""
        self._need = need
        self._from_us = now_us
        self._got.clear()
        self._expected = self._grid.after(now_us) if self._grid.is_known else None

    def values(self, planned_us: int, tokens: frozenset[bytes], count: int, now_us: int) -> None:
        """``count`` values of the tick planned at ``planned_us`` arrived; more than ``tokens`` if some came twice."""
        number = self._grid.index(planned_us)
        # The grid's instant decides, not the value's, which is rounded: else a tick could be neither old nor expected.
        if not self._need or self._grid.planned_us(number) <= self._from_us:
            return
        if self._expected is None:
            self._expected = self._grid.after(self._from_us)
        while self._expected < number:
            self._book.lost(now_us - self._grid.planned_us(self._expected))
            self._expected += 1
            self._got.clear()
        if number < self._expected:
            self._book.repeated(count)
            return
        again = count - len(tokens - self._got if self._got else tokens)
        if again:
            self._book.repeated(again)
        if self._got or len(tokens) < self._need:  # a whole tick at once, as most are, needs no set of its own
            self._got |= tokens
        if len(self._got or tokens) >= self._need:
            self._book.delivered(now_us - planned_us)
            self._expected += 1
            self._got.clear()

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
