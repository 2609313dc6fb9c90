"""Where the server to test is, read from its URL."""

import ssl
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from tokenwire_conformance.figures import PATH

__all__ = ["Target", "TargetError", "parse_target"]


class TargetError(Exception):
    """The URL cannot be used; the text says why and what it should look like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server's endpoint and how to reach it."""

    host: str
    port: int
    path: str = PATH
    query: str = ""
    tls: ssl.SSLContext | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every handshake, for example credentials."""

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def base(self) -> str:
        """What stands before the specification's path: a prefix, mostly empty."""
        return self.path.removesuffix(PATH)

    def at(self, path: str) -> "Target":
        """The same server at another path."""
        return replace(self, path=path)

    def request_target(self, query: str = "") -> str:
        """Path and query; ``query`` is added to the URL's own."""
        joined = "&".join(part for part in (self.query, query) if part)
        return f"{self.path}?{joined}" if joined else self.path

    def url(self, query: str = "") -> str:
        """The whole address, for a report."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.request_target(query)}"


def parse_target(
    url: str, *, headers: tuple[tuple[str, str], ...] = (), ca: str | None = None, insecure: bool = False
) -> Target:
    """The target that ``url`` names: ``ws://`` or ``wss://``; a URL without a path gets the specification's.

    ``ca`` is a file of certificates to trust instead of the system's; ``insecure`` checks none.

    Raises:
        TargetError: Not such a URL, or a file of certificates that cannot be read.
    """
    example = f"ws://127.0.0.1:8080{PATH}"
    # No complaint repeats the URL: it may hold credentials, and what is wrong with it may be the place where they end.
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise TargetError(f"that is not a URL; it should look like {example}") from error
    try:
        port = parts.port
    except ValueError as error:
        raise TargetError(
            f"that is not a URL: its port is no number up to 65535; it should look like {example}"
        ) from error
    if parts.scheme not in {"ws", "wss"}:
        what = f"the scheme {parts.scheme}://" if parts.scheme and "://" in url else "no scheme"
        raise TargetError(f"the URL has {what}; it should look like {example} or wss://…")
    if not parts.hostname:
        raise TargetError(f"the URL names no host; it should look like {example}")
    if parts.username is not None or parts.password is not None:
        raise TargetError("the URL holds credentials, which would end up in logs; use --header-file")
    if any(ord(char) <= 0x20 or ord(char) > 0x7E for char in url):
        raise TargetError(
            f"the URL of {parts.scheme}://{ascii(parts.hostname)[1:-1]} holds a character that a URL may not; "
            "encode it as %XX"
        )
    context: ssl.SSLContext | None = None
    if parts.scheme == "wss":
        try:
            context = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise TargetError(f"the certificates in {ca} cannot be read: {error}") from error
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    path = PATH if parts.path in {"", "/"} else parts.path
    port = port or (443 if context else 80)
    return Target(host=parts.hostname, port=port, path=path, query=parts.query, tls=context, headers=headers)
