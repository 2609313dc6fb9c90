"""What the pure session asks its shell to do."""

import msgspec

from tokenwire.cuts import as_repr, hidden_values, shown, without_secrets

__all__ = ["Action", "Close", "Connect", "Ping", "Send"]


class Connect(msgspec.Struct, frozen=True):
    """Open a socket to ``url`` with these extra ``headers`` (they may hold secrets); give up after ``timeout_ms``.

    ``deflate``: offer permessage-deflate; a server that grants zstd declines it.
    Any socket open before is dead: drop it first.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    timeout_ms: int
    deflate: bool

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """The fields without what may be secret in ``url`` and ``headers``."""
        return shown(self, url=without_secrets(self.url), headers=hidden_values(self.headers))

    def __repr__(self) -> str:
        """Without what may be secret."""
        return as_repr(type(self).__name__, self.__rich_repr__())


class Send(msgspec.Struct, frozen=True):
    """Send one text message."""

    text: str


class Ping(msgspec.Struct, frozen=True):
    """Send a WebSocket ping; report the pong with ``ClientSession.alive``."""


class Close(msgspec.Struct, frozen=True):
    """End the socket: with a close frame, or at once when ``code`` is None (nobody answers there)."""

    code: int | None
    reason: str = ""


Action = Connect | Send | Ping | Close
