"""Sessions that can be resumed: by their secret, and those that wait for their client in order of its leaving."""

from collections.abc import Iterator

from tokenwire_server.core.session import Session

__all__ = ["Registry"]


class Registry:
    """Knows every resumable session; ``detached`` maps those without a socket to when they lost it (ms)."""

    __slots__ = ("_by_secret", "detached")

    def __init__(self) -> None:
        self._by_secret: dict[str, Session] = {}
        self.detached: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._by_secret.values())

    def add(self, session: Session) -> None:
        """Know a new session."""
        self._by_secret[session.secret] = session

    def find(self, secret: str) -> Session | None:
        """The session that ``secret`` belongs to."""
        return self._by_secret.get(secret)

    def remove(self, session: Session) -> None:
        """It can't be resumed any more."""
        self._by_secret.pop(session.secret, None)
        self.detached.pop(session, None)

    def detach(self, session: Session, now: int) -> None:
        """Its socket is gone; it waits."""
        self.detached.setdefault(session, now)

    def attach(self, session: Session) -> None:
        """Its client is back."""
        self.detached.pop(session, None)

    def expired(self, now: int, window_ms: int) -> list[Session]:
        """Those that have waited for ``window_ms``."""
        expired = []
        for session, since in self.detached.items():
            if now - since < window_ms:
                break
            expired.append(session)
        return expired

    def oldest(self) -> Session | None:
        """The one that waits longest."""
        return next(iter(self.detached), None)
