"""Sets of subscribed tokens, one object per distinct set, so that clients with equal sets share all work."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from tokenwire_server.core.board import Row

if TYPE_CHECKING:
    from tokenwire_server.core.session import Session

__all__ = ["NO_TOKENS", "TokenSet", "TokenSets"]

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


class TokenSet:
    """A distinct set of rows and the sessions that hold it.

    ``live`` members got everything up to the last tick, grouped by whether they take compressed frames, each with
    its socket's write; ``behind`` members could not be written to, and what
    they miss is derived when they drain, so they cost nothing per tick.
    """

    __slots__ = ("behind", "indices", "live", "pick", "rows")

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self.indices = frozenset(row.index for row in rows)
        self.pick: Callable[[Sequence[bytes]], tuple[bytes, ...]] = _picker(tuple(row.index for row in rows))
        self.live: dict[bool, dict[Session, Write]] = {False: {}, True: {}}
        self.behind: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def members(self) -> "list[Session]":
        """Everybody who holds this set."""
        return [*self.live[False], *self.live[True], *self.behind]

    def add(self, session: "Session") -> None:
        """Put ``session`` where its state says: behind, or live in its format."""
        if session.is_behind:
            self.behind[session] = None
        else:
            self.live[session.deflated][session] = session.write

    def discard(self, session: "Session") -> None:
        """Take ``session`` out, wherever it is."""
        self.behind.pop(session, None)
        self.live[session.deflated].pop(session, None)

    @property
    def is_empty(self) -> bool:
        """Nobody holds it."""
        return not (self.behind or self.live[False] or self.live[True])

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
