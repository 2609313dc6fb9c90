"""Sets of subscribed tokens, one object per distinct set, so that clients with equal sets share all work.

Sets that overlap share a part of it: rows that are held by exactly the same sets form a *segment*, if there are
enough of them, whose compressed form serves all of these sets.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from tokenwire_server.core.board import Row
from tokenwire_server.core.cohort import Cohort, Windows
from tokenwire_server.core.compression import Encoder

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["MIN_SEGMENT_TOKENS", "NO_TOKENS", "PLAIN", "Format", "Segment", "TokenSet", "TokenSets"]

MIN_SEGMENT_TOKENS: Final = 10  # fewer of them compressed apart come out nearly as long as they were

_MARK_BITS: Final = 64
_MARK_FACTOR: Final = 0x9E3779B97F4A7C15  # odd, and its multiples are spread over 64 bits (Knuth 6.4)

T = TypeVar("T")


def _picker(indices: tuple[int, ...]) -> Callable[[Sequence[T]], tuple[T, ...]]:
    """A function that picks ``indices`` out of a sequence, in C where the standard library allows."""
    if len(indices) > 1:
        return itemgetter(*indices)
    if indices:
        only = indices[0]
        return lambda table: (table[only],)
    return lambda table: ()


class Format(NamedTuple):
    """How a session gets its values; sessions with equal sets and formats get equal bytes but for the numbers.

    ``replayable``: what is sent is kept for a resume. ``every``: each single version, from the session's own queue.
    """

    encoder: Encoder | None = None
    batch: bool = False
    details: bool = False
    replayable: bool = False
    every: bool = False


PLAIN = Format()


class Segment:
    """Rows that all sets which hold one of them hold."""

    __slots__ = ("__weakref__", "pick")

    def __init__(self, indices: tuple[int, ...]) -> None:
        self.pick: Callable[[Sequence[bytes]], tuple[bytes, ...]] = _picker(indices)


class Partition(NamedTuple):
    """A set's segments, and a picker for the rows that belong to none."""

    segments: tuple[Segment, ...]
    rest: Callable[[Sequence[bytes]], tuple[bytes, ...]]


class TokenSet:
    """A distinct set of rows and the sessions that hold it.

    ``live`` members got everything up to the last tick. ``behind`` members could not be written to (or have no
    socket at all); what they miss is derived when they drain, so they cost nothing per tick. ``streams`` get every
    version, through a queue of their own.
    """

    __slots__ = ("behind", "indices", "live", "mark", "partition", "partitioned_at", "pick", "rows", "streams")

    def __init__(self, rows: tuple[Row, ...], mark: int = 0) -> None:
        self.rows = rows
        self.mark = mark
        self.partition: Partition | None = None
        self.partitioned_at = 0
        self.indices = frozenset(row.index for row in rows)
        self.pick: Callable[[Sequence[bytes]], tuple[bytes, ...]] = _picker(tuple(row.index for row in rows))
        self.live: dict[Format, Cohort] = {}
        self.behind: dict[Session, None] = {}
        self.streams: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def members(self) -> "list[Session]":
        """Everybody who holds this set."""
        live = [session for cohort in self.live.values() for session in cohort.sessions()]
        return [*live, *self.behind, *self.streams]

    def add(self, session: "Session") -> None:
        """Put ``session`` where its state and format say."""
        if session.format.every:
            if not self.streams:
                for row in self.rows:
                    row.stream_holders += 1
            self.streams[session] = None
        elif session.is_behind:
            self.behind[session] = None
        else:
            cohort = self.live.get(session.format)
            if cohort is None:
                cohort = self.live[session.format] = Cohort()
            cohort.add(session)

    def discard(self, session: "Session") -> None:
        """Take ``session`` out, wherever it is."""
        if session in self.streams:
            del self.streams[session]
            if not self.streams:
                for row in self.rows:
                    row.stream_holders -= 1
            return
        self.behind.pop(session, None)
        cohort = self.live.get(session.format)
        if cohort is not None:
            cohort.discard(session)
            if not len(cohort):
                del self.live[session.format]

    @property
    def is_empty(self) -> bool:
        """Nobody holds it."""
        return not (self.behind or self.live or self.streams)

    def __contains__(self, row: Row) -> bool:
        return row.index in self.indices


NO_TOKENS = TokenSet(())


class TokenSets:
    """Interns token sets; a set lives while a session holds it."""

    __slots__ = ("_generation", "_segments", "_sets", "subscriptions", "windows")

    def __init__(self) -> None:
        self.subscriptions = 0
        self.windows = Windows()
        self._sets: dict[frozenset[int], TokenSet] = {}
        self._generation = 0  # rises when a distinct set comes or goes
        self._segments: WeakValueDictionary[tuple[int, ...], Segment] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._sets)

    def occupied(self) -> list[TokenSet]:
        """All non-empty sets that a session holds."""
        return list(self._sets.values())

    def enter(self, session: "Session", rows: tuple[Row, ...]) -> None:
        """Move ``session`` to the set of exactly ``rows``, keeping its place (live or behind)."""
        self.leave(session)
        if not rows:
            session.tokens = NO_TOKENS
            return
        key = frozenset(row.index for row in rows)
        tokens = self._sets.get(key)
        if tokens is None:
            self._generation += 1
            mark = self._generation * _MARK_FACTOR % (1 << _MARK_BITS)
            tokens = TokenSet(tuple(sorted(rows, key=lambda row: row.index)), mark)
            self._sets[tokens.indices] = tokens
            for row in rows:
                row.holders += 1
                row.mark ^= mark
        session.tokens = tokens
        self.subscriptions += len(tokens)
        tokens.add(session)

    def leave(self, session: "Session") -> None:
        """Forget ``session``; it holds the empty set afterwards."""
        tokens = session.tokens
        if tokens is NO_TOKENS:
            return
        tokens.discard(session)
        session.tokens = NO_TOKENS
        self.subscriptions -= len(tokens)
        if tokens.is_empty:
            self._generation += 1
            del self._sets[tokens.indices]
            for row in tokens.rows:
                row.holders -= 1
                row.mark ^= tokens.mark

    def partition(self, tokens: TokenSet) -> Partition:
        """What ``tokens`` shares with other sets; looked for again only when sets have come or gone.

        Should two marks be equal by chance, no more is lost than a segment that serves one set.
        """
        partition = tokens.partition
        if partition is None or tokens.partitioned_at != self._generation:
            groups: dict[int, list[int]] = {}
            for row in tokens.rows:
                groups.setdefault(row.mark if row.holders > 1 else 0, []).append(row.index)
            rest = groups.pop(0, [])
            segments = []
            for indices in groups.values():
                if len(indices) >= MIN_SEGMENT_TOKENS:
                    segments.append(self._segment(tuple(indices)))
                else:
                    rest += indices
            partition = tokens.partition = Partition(tuple(segments), _picker(tuple(sorted(rest))))
            tokens.partitioned_at = self._generation
        return partition

    def _segment(self, indices: tuple[int, ...]) -> Segment:
        segment = self._segments.get(indices)
        if segment is None:
            segment = self._segments[indices] = Segment(indices)
        return segment
