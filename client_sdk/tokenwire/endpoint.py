"""The address to connect to: the user's URL with what is negotiated (I-50, I-54)."""

from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from tokenwire.config import ClientConfig

__all__ = ["SESSION_HEADER", "connect_url", "is_secret"]

SESSION_HEADER: Final = "X-Tokenwire-Session"
_OURS: Final = frozenset({"caps", "delivery", "seq", "attempt", "session"})
_MAX_SECRET_CHARS: Final = 1_024


def connect_url(config: ClientConfig, position: int | None, attempt: int) -> str:
    """The URL of the next try. ``position`` is the last number received in order, None without a session to resume.

    The user's own query is kept as it was written, except for the parameters that are set here.
    """
    parts = urlsplit(config.url)
    query = [piece for piece in parts.query.split("&") if piece and unquote(piece.split("=", 1)[0]) not in _OURS]
    if config.capabilities:
        query.append("caps=" + ",".join(config.capabilities))
    if config.delivery == "every":
        query.append("delivery=every")
    if position is not None:
        query += [f"seq={position}", f"attempt={attempt}"]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "&".join(query), ""))


def is_secret(text: str) -> bool:
    """Whether a server's session secret can travel in a header; a hostile one could smuggle in another header."""
    return 0 < len(text) <= _MAX_SECRET_CHARS and text.isascii() and text.isprintable() and " " not in text
