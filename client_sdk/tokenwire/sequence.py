"""Reading a numbered stream (I-4, I-58, I-65): what is new, what came before, what is missing."""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Generic, Literal, NamedTuple, TypeVar

__all__ = ["Held", "Lost", "Place", "SequenceReader"]

_M = TypeVar("_M")


class Place(Enum):
    """Where a number stands in the stream."""

    NEXT = auto()
    """The one after the last: deliver it."""
    DUPLICATE = auto()
    """Received before."""
    HELD = auto()
    """Beyond a hole; it was put aside."""
    FULL = auto()
    """Beyond a hole, and there is no room to put it aside; only its number is remembered."""


class Held(NamedTuple, Generic[_M]):
    """A message that was put aside and whose turn has come."""

    sequence: int
    message: _M


class Lost(NamedTuple):
    """Numbers ``first`` to ``last``, both included, are not coming."""

    first: int
    last: int
    cause: str
    repair: Literal["snapshot", "rest", "none"]


class SequenceReader(Generic[_M]):
    """Puts messages back in order and knows the hole in front of what waits.

    Call :meth:`place` for each numbered message, deliver it if it is NEXT, then deliver what :meth:`release` yields.
    """

    __slots__ = ("_announced", "_bytes", "_first_held", "_held", "_max_bytes", "_max_frames", "_seen", "last")

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self.last = 0
        """The last number received (or announced as lost) in order."""
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._held: dict[int, tuple[int, _M]] = {}
        self._first_held = 0
        self._bytes = 0
        self._seen = 0
        self._announced: list[Lost] = []

    def restart(self, last: int) -> None:
        """A new session, or another socket of the same: go on after ``last``, forget what was put aside."""
        self.last = last
        self._held.clear()
        self._bytes = self._seen = 0
        self._announced.clear()

    @property
    def is_straight(self) -> bool:
        """Nothing waits, nothing is known to be missing, and no loss is announced further on."""
        return not self._held and self._seen <= self.last and not self._announced

    @property
    def held(self) -> int:
        """How many messages wait behind a hole."""
        return len(self._held)

    def place(self, sequence: int, size: int, message: _M) -> Place:
        """Judges one numbered message of ``size`` characters and puts it aside if it is early."""
        if sequence == self.last + 1:
            self.last = sequence
            if self._held:
                self._drop(sequence)
            return Place.NEXT
        if sequence <= self.last or sequence in self._held:
            return Place.DUPLICATE
        self._seen = max(self._seen, sequence)
        if len(self._held) >= self._max_frames or self._bytes + size > self._max_bytes:
            return Place.FULL
        self._first_held = min(self._first_held, sequence) if self._held else sequence
        self._held[sequence] = (size, message)
        self._bytes += size
        return Place.HELD

    def _drop(self, sequence: int) -> _M | None:
        found = self._held.pop(sequence, None)
        if found is None:
            return None
        self._bytes -= found[0]
        if sequence == self._first_held and self._held:
            # Usually the next one waits, too; otherwise a look at all of them.
            self._first_held = sequence + 1 if sequence + 1 in self._held else min(self._held)
        return found[1]

    def notice(self, high_water: int) -> None:
        """The server has assigned numbers up to this one."""
        self._seen = max(self._seen, high_water)

    def announce(self, lost: Lost) -> None:
        """The server will not send these numbers (again); those already here are not affected."""
        if lost.last > self.last and len(self._announced) < self._max_frames:
            self._announced.append(lost)

    def abandon(self, cause: str, repair: Literal["snapshot", "rest", "none"]) -> None:
        """Nothing that is missing below the highest number seen will be waited for."""
        if self._seen > self.last:
            self._announced.append(Lost(self.last + 1, self._seen, cause, repair))

    def release(self) -> Iterator[Held[_M] | Lost]:
        """What has its turn now, in order: messages that were put aside, and losses."""
        while True:
            following = self.last + 1
            if following in self._held:
                message = self._drop(following)
                assert message is not None
                self.last = following
                yield Held(following, message)
                continue
            lost = self._covering(following)
            if lost is None:
                return
            end = min(lost.last, self._first_held - 1) if self._held else lost.last
            self.last = end
            yield Lost(following, end, lost.cause, lost.repair)

    def _covering(self, sequence: int) -> Lost | None:
        if not self._announced:
            return None
        self._announced = [lost for lost in self._announced if lost.last >= sequence]
        return next((lost for lost in self._announced if lost.first <= sequence), None)

    def hole(self) -> tuple[int, int] | None:
        """The first run of missing numbers, both ends included; None when nothing is known to be missing."""
        if self._held:
            return self.last + 1, self._first_held - 1
        if self._seen > self.last:
            return self.last + 1, self._seen
        return None
