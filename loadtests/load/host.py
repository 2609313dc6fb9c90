"""Which servers can be loaded, pure: those on this machine, since the probe's clock and ours must be one."""

import ipaddress
from urllib.parse import urlsplit

__all__ = ["endpoint"]


def endpoint(url: str) -> tuple[str, int]:
    """Host and port of ``ws://127.0.0.1:PORT``. Raises ValueError, which says what is wrong."""
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
    except ValueError as error:
        raise ValueError(f"--host {url}: {error}") from None
    host = parts.hostname or ""
    if parts.scheme != "ws" or not _is_loopback(host) or parts.query or parts.fragment or not port:
        raise ValueError(f"--host {url}: a load test needs the server's clock, so it takes ws://127.0.0.1:PORT only")
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
