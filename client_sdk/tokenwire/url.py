"""The address of a server, as people write it and as it is dialled."""

import ipaddress
import urllib.parse
from typing import Final

from tokenwire.errors import ConfigError

__all__ = ["ENDPOINT", "InvalidUrlError", "endpoint_url", "is_exposed"]

ENDPOINT: Final = "/api/v1/ws/token-data"
"""The path that the specification fixes; added to a URL that has none."""

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_REMEDY: Final = f"Write it like ws://127.0.0.1:8080{ENDPOINT} or wss://example.org"


class InvalidUrlError(ConfigError):
    """What was given as URL is none that a client can dial."""

    def __init__(self, message: str) -> None:
        super().__init__("INVALID_URL", message, _REMEDY)


def endpoint_url(url: str) -> str:
    """``url`` with ws or wss as scheme and the specification's path if it has none.

    ``http`` and ``https`` are understood as ``ws`` and ``wss``.

    Raises:
        InvalidUrlError: no URL, another scheme, no host, a bad port, or credentials within it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # parsed only when asked for
    except ValueError as error:
        raise InvalidUrlError(f"{_shown(url)} is no URL: {error}") from None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname or any(character <= " " for character in url):
        raise InvalidUrlError(f"{_shown(url)} is no WebSocket URL")
    if parts.username is not None or parts.password is not None:
        raise InvalidUrlError("the URL holds a user name or password; URLs are logged, so pass token= instead")
    if parts.fragment:
        raise InvalidUrlError(f"{_shown(url)} has a fragment (#…), which WebSocket URLs cannot have")
    path = ENDPOINT if parts.path in ("", "/") else parts.path
    return urllib.parse.urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def is_exposed(url: str) -> bool:
    """Whether what is sent to ``url`` crosses a network unencrypted."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return parts.scheme == "ws" and not local


def _shown(url: str) -> str:
    """``url`` in a message: without what may be secret, and not endless."""
    return repr(url.rpartition("@")[2].partition("?")[0][:100])
