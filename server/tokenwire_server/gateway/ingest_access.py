"""Who may post trades.

With an ingest token in the settings, whoever shows it as ``Authorization: Bearer``. Without one, programs on
this machine. A program counts as on this machine if its address is a loopback one, nothing says that the request was
forwarded by a proxy, and ``Host`` names this machine: else a web page could be led here by a name that points to
127.0.0.1. Pages must, besides, be of this server's own origin or of one that the settings name.
"""

import hmac
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from tokenwire_server.settings import Settings

__all__ = ["IngestAccess"]

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


class IngestAccess:
    """Who may post."""

    def __init__(self, settings: Settings) -> None:
        token = settings.ingest_token
        self._token = None if token is None else token.get_secret_value().encode()
        self._origins = settings.allowed_origins or ()

    def check(self, request: Request) -> None:
        """Raises HTTPException unless the client may."""
        if self._token is None:
            self._check_local(request)
        else:
            self._check_token(request, self._token)
        self._check_origin(request)

    def _check_token(self, request: Request, token: bytes) -> None:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode("latin-1"), token):
            detail = "posting needs the ingest token: send Authorization: Bearer TOKEN"
            raise HTTPException(401, detail, {"www-authenticate": 'Bearer realm="ingest"'})

    def _check_local(self, request: Request) -> None:
        client = request.client
        is_local = client is not None and _is_loopback(client.host) and _is_loopback(_host(request))
        if not is_local or any(name in request.headers for name in _FORWARDED):
            raise HTTPException(
                403, "only programs on this machine may post; for others set TOKENWIRE_INGEST_TOKEN and send it"
            )

    def _check_origin(self, request: Request) -> None:
        """A page of any origin may read a server on loopback; writing is for those that are named."""
        origin = request.headers.get("origin")
        if origin is None:
            return
        lower = origin.lower()
        is_own = lower.partition("://")[2] == request.headers.get("host", "").lower() != ""
        if not is_own and lower not in self._origins and not (self._token is not None and "*" in self._origins):
            raise HTTPException(403, "pages of this origin may not post; TOKENWIRE_ALLOWED_ORIGINS can name it")


def _host(request: Request) -> str:
    """The host that the client asked for, without its port."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
