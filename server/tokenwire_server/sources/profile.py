"""What distinguishes one exchange from another, as data and pure functions; ``exchange`` does the rest.

To add an exchange, write its ``…_format`` module and one :class:`Profile`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import Frame, VenueTrade

__all__ = ["Backfill", "Ping", "Profile", "Request", "with_path"]


class Request(msgspec.Struct, frozen=True):
    """A text to send, and the keys under which the venue's :class:`~.frames.Reply` will answer it, once each."""

    text: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """The text that keeps a connection alive, sent every ``interval_s``; or only when nothing came for so long."""

    text: str
    interval_s: float
    only_when_idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """How the venue's REST interface gives trades again."""

    default_url: str
    """Base URL."""
    interval_s: float
    """Least time between two requests, from the venue's published limits."""
    page: Callable[[Hole], str]
    """Path and query of the page to ask for next, for what is still missing."""
    read: Callable[[str, bytes], Sequence[VenueTrade]]
    """The trades in an answer, for the symbol asked for. Raises FormatError."""
    newest_first: bool
    """Whether pages go from the end of a hole to its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One exchange's stream of trades."""

    kind: str
    """Its name in source specs and addresses (``kind:SYMBOL``)."""
    channel: str
    """The channel whose trades are asked for; those of another are rejected."""
    default_url: str
    endpoint: Callable[[str], str]
    """The URL to connect to, from the base URL."""
    requests: Callable[[Sequence[str], int], Sequence[Request]]
    """What subscribes to these symbols; requests are numbered from the second argument on."""
    parse: Callable[[str | bytes], Frame]
    """Read a frame. Raises FormatError."""
    max_symbols: int
    """Of one connection."""
    request_interval_s: float
    """Least time between two requests over the socket."""
    ping: Ping | None = None
    max_age_s: float | None = None
    """A connection is renewed at this age, because the venue would cut it."""
    backfill: Backfill | None = None


def with_path(path: str) -> Callable[[str], str]:
    """An ``endpoint`` that adds the venue's path to a URL without one."""

    def endpoint(url: str) -> str:
        return url.rstrip("/") + path if urlsplit(url).path in ("", "/") else url

    return endpoint
