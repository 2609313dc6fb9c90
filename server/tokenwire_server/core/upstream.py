"""What becomes of the data's sources, told to those who hold their tokens."""

from typing import Final

from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.lifecycle import Lifecycle
from tokenwire_server.core.link import Link
from tokenwire_server.core.session import Session
from tokenwire_server.core.staleness import Staleness

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
            for tokens in self.sets.occupied():
                if tokens.indices & indices:
                    for session in tokens.members():
                        self._warn_if_stale(session)
        if recovered:
            for tokens in self.sets.occupied():
                if not tokens.indices & stale:
                    for session in tokens.members():
                        session.stale_warned = False

    def source_lost(self, source: str, now: int) -> None:
        """A source that delivered cannot be reached: warn who holds its tokens, at most once a minute."""
        last = self._source_lost.get(source)
        if last is not None and now - last < _SOURCE_LOST_INTERVAL_MS:
            return
        self._source_lost[source] = now
        text = f"the source {source} cannot be reached; its values stand still until it is"
        for tokens in self.sets.occupied():
            if any(row.value.source == source for row in tokens.rows):
                for session in tokens.members():
                    if session.link is not None:
                        self._error(session.link, ErrorCode.UPSTREAM_UNAVAILABLE, text)

    def _warn_if_stale(self, session: Session) -> None:
        shared = session.tokens.indices & self.staleness.stale
        link = session.link
        if shared and link is not None and not session.stale_warned:
            session.stale_warned = True
            names = [self.board.rows[index].value.address for index in sorted(shared)]
            more = f" and {len(names) - _NAMED_STALE} more" if len(names) > _NAMED_STALE else ""
            text = f"older than the source promises: {', '.join(names[:_NAMED_STALE])}{more}"
            self._error(link, ErrorCode.UPSTREAM_STALE, text, tokens=names[:_NAMED_STALE])
