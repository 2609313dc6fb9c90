"""What a server answers over HTTP, beside its WebSocket: trades, bars, tokens, indicators.

Requests are few and small, so they need no HTTP library: each runs ``urllib`` in a thread of its own.
"""

import asyncio
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from decimal import Decimal
from http.client import HTTPException
from typing import Any, Final, Literal

from tokenwire.cuts import cut
from tokenwire.errors import TokenwireError
from tokenwire.url import ENDPOINT

__all__ = ["MAX_ANSWER_BYTES", "Rest", "RestError"]

MAX_ANSWER_BYTES: Final = 16_777_216
_TIMEOUT_S: Final = 10.0
_REMEDY: Final = "Check the address of the server; its REST interface is described at /docs"


class RestError(TokenwireError):
    """A request over HTTP did not bring what was asked for. ``status`` is that of the answer, None without one."""

    def __init__(self, code: str, message: str, remedy: str, status: int | None = None) -> None:
        super().__init__(code, message, remedy)
        self.status = status


class Rest:
    """The HTTP side of the server at the WebSocket address ``url``; the other arguments as for ``TokenClient``."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None = None,
        proxy: str | Literal[True] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        scheme = "https" if parts.scheme == "wss" else "http"
        self._base = f"{scheme}://{parts.netloc}{parts.path.removesuffix(ENDPOINT).rstrip('/')}"
        self._headers = {**headers, "Accept": "application/json"}
        self._timeout_s = timeout_s
        proxies = None if proxy is True else {} if proxy is None else {"http": proxy, "https": proxy}
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=tls), _NoRedirect()
        )

    async def get(self, *path: str, **query: str | int | None) -> Any:
        """The JSON that ``path`` answers with, numbers with a fraction as Decimals; parts of None are left out.

        Raises:
            RestError: another answer than 200, none at all, or one that is no JSON.
        """
        asked = {name.rstrip("_"): str(value) for name, value in query.items() if value is not None}
        url = "/".join((self._base, "api/v1", *(urllib.parse.quote(part, safe="") for part in path)))
        if asked:
            url += "?" + urllib.parse.urlencode(asked)
        return await asyncio.to_thread(self._get, url)

    def _get(self, url: str) -> Any:
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - http or https, see above
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                body: bytes = answer.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read(MAX_ANSWER_BYTES)) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise RestError("NO_ANSWER", f"no answer over HTTP: {cut(str(reason))}", _REMEDY) from None
        if len(body) > MAX_ANSWER_BYTES:
            raise RestError("INVALID_ANSWER", f"the answer exceeds {MAX_ANSWER_BYTES} bytes", _REMEDY, 200)
        try:
            return json.loads(body, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise RestError("INVALID_ANSWER", "the answer is no JSON", _REMEDY, 200) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Credentials must not follow to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refused(status: int, body: bytes) -> RestError:
    """By the problem document of the answer, if there is one (RFC 9457)."""
    detail = ""
    try:
        problem = json.loads(body)
        if isinstance(problem, dict):
            detail = str(problem.get("detail") or problem.get("title") or "")
    except (ValueError, RecursionError):
        pass
    return RestError("REFUSED", f"HTTP {status}{': ' if detail else ''}{cut(detail)}", "", status)
