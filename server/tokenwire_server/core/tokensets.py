"""Sets of subscribed tokens, one object per distinct set, so that clients with equal sets share all work."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tokenwire_server.core.board import Row
from tokenwire_server.core.wire import Encoder

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["NO_TOKENS", "PLAIN", "Cohort", "Format", "TokenSet", "TokenSets"]

T = TypeVar("T")
Write = Callable[[bytes], None]


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


class Cohort:
    """Live sessions with one set and one format, each with its socket's write; ``sent_ms``: when they last got data."""

    __slots__ = ("members", "sent_ms")

    def __init__(self) -> None:
        self.members: dict[Session, Write] = {}
        self.sent_ms = 0


class TokenSet:
    """A distinct set of rows and the sessions that hold it.

    ``live`` members got everything up to the last tick. ``behind`` members could not be written to (or have no
    socket at all); what they miss is derived when they drain, so they cost nothing per tick. ``streams`` get every
    version, through a queue of their own.
    """

    __slots__ = ("behind", "indices", "live", "pick", "rows", "streams")

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self.indices = frozenset(row.index for row in rows)
        self.pick: Callable[[Sequence[bytes]], tuple[bytes, ...]] = _picker(tuple(row.index for row in rows))
        self.live: dict[Format, Cohort] = {}
        self.behind: dict[Session, None] = {}
        self.streams: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def members(self) -> "list[Session]":
        """Everybody who holds this set."""
        live = [session for cohort in self.live.values() for session in cohort.members]
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
            cohort.members[session] = session.write

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
            cohort.members.pop(session, None)
            if not cohort.members:
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

    __slots__ = ("_sets", "subscriptions")

    def __init__(self) -> None:
        self.subscriptions = 0
        self._sets: dict[frozenset[int], TokenSet] = {}

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
            tokens = TokenSet(tuple(sorted(rows, key=lambda row: row.index)))
            self._sets[tokens.indices] = tokens
            for row in rows:
                row.holders += 1
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
            del self._sets[tokens.indices]
            for row in tokens.rows:
                row.holders -= 1
