"""What a server answers over HTTP, beside its WebSocket: trades, bars, tokens, indicators.

Requests are few and small, so they need no HTTP library: each runs ``urllib`` in a thread of its own. Nobody waits
for a thread whose request was given up: it ends when its socket does, and keeps no program from ending.
"""

import asyncio
import contextlib
import json
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from decimal import Decimal
from http.client import HTTPException
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar, cast

from tokenwire.cuts import cut
from tokenwire.errors import TokenwireError
from tokenwire.transport import retry_after_ms
from tokenwire.url import ENDPOINT

__all__ = ["MAX_ANSWER_BYTES", "MAX_REQUESTS", "UNTIL_HEADER", "Rest", "RestAnswer", "RestError"]

UNTIL_HEADER: Final = "X-Tokenwire-Until-Ms"
"""How far a server knows what it answers with; servers of one market need not be equally far."""

MAX_ANSWER_BYTES: Final = 16_777_216
MAX_REQUESTS: Final = 8
"""Requests of one client that run at the same time; further ones wait for their turn."""
_TIMEOUT_S: Final = 10.0
_MAX_TURN_S: Final = 60.0  # how long a request waits for its turn
_CHUNK_BYTES: Final = 65_536
_MAX_DIGITS: Final = 16  # of a time in ms
_REMEDY: Final = "Check the address of the server; its REST interface is described at /docs"


_T = TypeVar("_T")


class _Answer(Protocol):
    def read1(self, n: int, /) -> bytes: ...


class RestError(TokenwireError):
    """A request over HTTP did not bring what was asked for. ``status`` is that of the answer, None without one.

    ``retry_after_ms``: how long the server wants to be left alone, None if it does not say.
    """

    def __init__(
        self, code: str, message: str, remedy: str, status: int | None = None, retry_after_ms: int | None = None
    ) -> None:
        super().__init__(code, message, remedy)
        self.status = status
        self.retry_after_ms = retry_after_ms


class RestAnswer(NamedTuple):
    """What a request brought. ``until_ms``: the event time (Unix ms) up to which the server knows the token; None if
    it does not say."""

    body: Any
    until_ms: int | None


class Rest:
    """The HTTP side of the server at the WebSocket address ``url``; the other arguments as for ``TokenClient``.

    ``timeout_s`` is what a request may take in all, once it is its turn.
    """

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
        self._turns: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        proxies = None if proxy is True else {} if proxy is None else {"http": proxy, "https": proxy}
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=tls), _NoRedirect()
        )

    async def get(self, *path: str, **query: str | int | None) -> Any:
        """The JSON that ``path`` answers with, numbers with a fraction as Decimals; parts of None are left out.

        Raises:
            RestError: another answer than 200, none in time, or one that is no JSON.
        """
        return (await self.ask(*path, **query)).body

    async def ask(self, *path: str, **query: str | int | None) -> RestAnswer:
        """The same, and how far the server knows it (``until_ms``: Unix ms of event time; None if it does not say).

        Raises:
            RestError: as :meth:`get`.
        """
        asked = {name.rstrip("_"): str(value) for name, value in query.items() if value is not None}
        url = "/".join((self._base, "api/v1", *(urllib.parse.quote(part, safe="") for part in path)))
        if asked:
            url += "?" + urllib.parse.urlencode(asked)
        turns = self._turns_of_loop()
        try:
            async with asyncio.timeout(_MAX_TURN_S):
                await turns.acquire()
            async with asyncio.timeout(self._timeout_s):
                return await _in_thread(lambda: self._get(url), turns.release)
        except TimeoutError:
            raise _no_answer("it took too long") from None

    def _turns_of_loop(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = (loop, asyncio.Semaphore(MAX_REQUESTS))
        return self._turns[1]

    def _get(self, url: str) -> RestAnswer:
        end_s = time.monotonic() + self._timeout_s
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - http or https, see above
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                body = _body(answer, end_s)
                until_ms = _whole(answer.headers.get(UNTIL_HEADER))
        except urllib.error.HTTPError as error:
            with error:
                wait_ms = retry_after_ms(error.headers.get("Retry-After"))
                raise _refused(error.code, _problem(error, end_s), wait_ms) from None
        except (OSError, HTTPException, ValueError) as error:
            raise _no_answer(str(getattr(error, "reason", error))) from None
        if len(body) > MAX_ANSWER_BYTES:
            raise RestError("INVALID_ANSWER", f"the answer exceeds {MAX_ANSWER_BYTES} bytes", _REMEDY, 200)
        try:
            return RestAnswer(json.loads(body, parse_float=Decimal), until_ms)
        except (ValueError, RecursionError):
            raise RestError("INVALID_ANSWER", "the answer is no JSON", _REMEDY, 200) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Credentials must not follow to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


async def _in_thread(function: Callable[[], _T], ended: Callable[[], object]) -> _T:
    """What ``function`` returns or raises in a thread of its own; ``ended`` is called when that is over."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_T] = loop.create_future()

    def finish(value: Any, error: BaseException | None) -> None:
        ended()
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)

    def run() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as caught:  # it is raised where it is waited for
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(finish, value, error)

    threading.Thread(target=run, name="tokenwire request", daemon=True).start()
    return await result


def _body(answer: _Answer, end_s: float) -> bytes:
    """The body of an answer, piece by piece: a server that sends a byte at a time must not take for ever."""
    body = bytearray()
    while len(body) <= MAX_ANSWER_BYTES and (piece := answer.read1(_CHUNK_BYTES)):
        body += piece
        if time.monotonic() > end_s:
            raise TimeoutError("it took too long")
    return bytes(body)


def _whole(text: str | None) -> int | None:
    """The number in a header, if it is one."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _problem(answer: urllib.error.HTTPError, end_s: float) -> bytes:
    try:
        return _body(cast(_Answer, answer.fp), end_s)
    except (OSError, HTTPException, ValueError):
        return b""  # the status says enough


def _no_answer(reason: str) -> RestError:
    return RestError("NO_ANSWER", f"no answer over HTTP: {cut(reason)}", _REMEDY)


def _refused(status: int, body: bytes, wait_ms: int | None) -> RestError:
    """By the problem document of the answer, if there is one (RFC 9457)."""
    detail = ""
    try:
        problem = json.loads(body)
        if isinstance(problem, dict):
            detail = str(problem.get("detail") or problem.get("title") or "")
    except (ValueError, RecursionError):
        pass
    return RestError("REFUSED", f"HTTP {status}{': ' if detail else ''}{cut(detail)}", "", status, wait_ms)
