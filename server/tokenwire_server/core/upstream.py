"""What becomes of the data's sources, told to those who hold their tokens; and single versions for who wants all."""

from collections.abc import Callable, Sequence
from typing import Final

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.board import Change, Row
from tokenwire_server.core.lifecycle import Lifecycle
from tokenwire_server.core.link import Link
from tokenwire_server.core.session import Item, Session
from tokenwire_server.core.staleness import Staleness
from tokenwire_server.core.tokensets import TokenSet
from tokenwire_server.core.topics import TopicSet

__all__ = ["Upstream"]

_NAMED_STALE: Final = 10
_SOURCE_LOST_INTERVAL_MS: Final = 60_000


class Upstream(Lifecycle):
    """The hub's relation to where its data comes from."""

    staleness: Staleness
    _source_lost: dict[str, int]

    def connect(self, link: Link, now: int) -> bool:
        """As of :class:`Lifecycle`; a session that came back is told what became stale meanwhile."""
        admitted = super().connect(link, now)
        if admitted:
            self._warn_if_stale(link.session)
        return admitted

    def check_staleness(self, now: int) -> None:
        """Warn of tokens older than their source promises: once for each connection and episode."""
        newly, recovered = self.staleness.check(self.board.rows, now)
        stale = self.staleness.stale
        if newly:
            indices = {row.index for row in newly}
            for session in self._holders(lambda held: bool(held & indices)):
                self._warn_if_stale(session)
        if recovered:
            for session in self._holders(lambda held: not held & stale):
                if not self._held(session) & stale:
                    session.stale_warned = False

    def source_lost(self, source: str, now: int) -> None:
        """A source that delivered cannot be reached: warn who holds its tokens, at most once a minute."""
        last = self._source_lost.get(source)
        if last is not None and now - last < _SOURCE_LOST_INTERVAL_MS:
            return
        self._source_lost[source] = now
        text = f"the source {source} cannot be reached; its values stand still until it is"
        theirs = {row.index for row in self.board.rows if row.value.source == source}
        for session in self._holders(lambda held: bool(held & theirs)):
            if session.link is not None:
                self._error(session.link, ErrorCode.UPSTREAM_UNAVAILABLE, text)

    def _holders(self, concerns: Callable[[frozenset[int]], bool]) -> list[Session]:
        """The sessions whose tokens, or the tokens of whose topics, are what is asked for (as indices of rows)."""
        found: dict[Session, None] = {}
        for tokens in self.sets.occupied():
            if concerns(tokens.indices):
                found.update(dict.fromkeys(tokens.members()))
        for topics in self.topics.occupied():
            if concerns(self._rows_of(topics)):
                found.update(dict.fromkeys(topics.members()))
        return list(found)

    def _held(self, session: Session) -> frozenset[int]:
        return session.tokens.indices | self._rows_of(session.topics)

    def _rows_of(self, topics: TopicSet) -> frozenset[int]:
        rows = (self.board.at(topic.address) for topic in topics.topics)
        return frozenset(row.index for row in rows if row is not None)

    def _warn_if_stale(self, session: Session) -> None:
        if not self.staleness.stale or session.stale_warned:
            return
        shared = self._held(session) & self.staleness.stale
        link = session.link
        if shared and link is not None and not session.stale_warned:
            session.stale_warned = True
            names = [self.board.rows[index].value.address for index in sorted(shared)]
            more = f" and {len(names) - _NAMED_STALE} more" if len(names) > _NAMED_STALE else ""
            text = f"older than the source promises: {', '.join(names[:_NAMED_STALE])}{more}"
            self._error(link, ErrorCode.UPSTREAM_STALE, text, tokens=names[:_NAMED_STALE])

    def flush_stream(self) -> None:
        """Queue what changed since the last flush for the sessions that get every version, and have them pumped."""
        changes, torn = self.board.take_stream()
        if not changes and not torn:
            return
        by_row: dict[Row, list[tuple[int, Change]]] = {row: [] for row in torn}
        for index, change in enumerate(changes):
            by_row.setdefault(change.row, []).append((index, change))
        for tokens in self.sets.occupied():
            if tokens.streams:
                self._flush_to(tokens, changes, by_row, torn)

    def _flush_to(
        self, tokens: TokenSet, changes: list[Change], by_row: dict[Row, list[tuple[int, Change]]], torn: set[Row]
    ) -> None:
        """One set, found by its rows: most changes are of others."""
        touched = [row for row in tokens.rows if row in by_row]
        if not touched:
            return
        lost = any(row in torn for row in touched)
        queues: dict[bool, tuple[list[Item], int]] = {}
        for session in list(tokens.streams):
            details = session.format.details
            seen = session.seen_of(self.board, changes)
            if seen:  # it took the beginning of the log before
                theirs = [change for change in changes[seen:] if change.row in tokens]
                items: list[Item] = [(change.row, change.data(details)) for change in theirs]
                octets = sum(len(payload) for _, payload in items)
            else:
                if details not in queues:
                    theirs = [change for _, change in sorted(entry for row in touched for entry in by_row[row])]
                    items = [(change.row, change.data(details)) for change in theirs]
                    queues[details] = items, sum(len(payload) for _, payload in items)
                items, octets = queues[details]
            self._stream_to(session, items, octets, lost=lost)

    def _stream_to(self, session: Session, items: Sequence[Item], octets: int, *, lost: bool) -> None:
        fits = session.push_stream(items, octets)
        link = session.link
        if not fits or lost:
            if link is None:
                self._evict(session, "overflow")
            else:
                self.close(link, CloseCode.SESSION_LOST, "more than can be queued", self._now)
        elif link is not None:
            self._ready[link] = None
        else:
            self._charge(session, session.queued_bytes)
