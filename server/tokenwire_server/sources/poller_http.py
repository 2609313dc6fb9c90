"""One HTTP request to an API that is polled, and the rate at which there may be any."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from tokenwire_server.sources.frames import FormatError, load, shown
from tokenwire_server.sources.http_get import REQUEST_TIMEOUT_S, BodyTooLongError, read_body
from tokenwire_server.sources.poller_findings import Answer, Question
from tokenwire_server.sources.retry_after import retry_after_s

__all__ = ["FetchError", "Pace", "fetch", "poll_session"]

_WINDOW_S: Final = 60.0
_SHARE: Final = 0.9  # of the allowed rate: the network brings requests closer together
_RETRIED: Final = frozenset({408, 425, 429})


class FetchError(Exception):
    """There is no answer. ``reason`` is a short constant name; ``retry`` says whether asking again may help, and
    ``wait_s`` how long the service wants to be left alone before. ``is_data``: something came, and can't be used."""

    def __init__(self, reason: str, detail: str, *, retry: bool, wait_s: float = 0.0, is_data: bool = False) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.retry = retry
        self.wait_s = wait_s
        self.is_data = is_data


class Pace:
    """At most ``requests_per_minute`` (a tenth less, for safety) in any 60 s, and none while the service wants to be
    left alone; pure. Times are seconds of any one clock. All pollers of one service share it."""

    def __init__(self, requests_per_minute: int) -> None:
        self._starts: deque[float] = deque(maxlen=max(1, int(requests_per_minute * _SHARE)))
        self._held_until_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long the next request must wait."""
        wait_s = self._held_until_s - now_s
        if len(self._starts) == self._starts.maxlen:
            wait_s = max(wait_s, self._starts[0] + _WINDOW_S - now_s)
        return max(0.0, wait_s)

    def held_s(self, now_s: float) -> float:
        """How much longer the service wants to be left alone."""
        return max(0.0, self._held_until_s - now_s)

    def started(self, now_s: float) -> None:
        """A request begins."""
        self._starts.append(now_s)

    def hold(self, until_s: float) -> None:
        """The service wants no request before ``until_s``."""
        self._held_until_s = max(self._held_until_s, until_s)


def poll_session() -> aiohttp.ClientSession:
    """A session for any number of APIs; close it."""
    headers = {"User-Agent": "tokenwire", "Accept": "application/json"}
    return aiohttp.ClientSession(headers=headers, trust_env=True)  # a proxy of the environment


async def fetch(
    session: aiohttp.ClientSession,
    base_url: str,
    question: Question,
    headers: Mapping[str, str],
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Answer:
    """The JSON answer to one GET. Redirects are not followed: the key is for this host alone.

    Raises:
        FetchError: no answer in time, another status than 200, more than ``MAX_BODY_BYTES``, or no JSON.
    """
    try:
        async with session.get(
            base_url + question.path,
            params=question.params,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            if response.status != 200:
                raise _refused(response, wall_ms())
            body = await read_body(response)
    except BodyTooLongError as error:
        raise FetchError("too_large", str(error), retry=False, is_data=True) from None
    except TimeoutError:
        raise FetchError("timeout", f"no answer within {timeout_s:g} s", retry=True) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchError("unreachable", shown(f"{type(error).__name__}: {error}"), retry=True) from None
    try:
        return Answer(load(body), wall_ms())
    except FormatError as error:
        raise FetchError(error.reason, error.detail, retry=False, is_data=True) from None


def _refused(response: aiohttp.ClientResponse, now_ms: int) -> FetchError:
    status = response.status
    detail = ""
    if status in (401, 403):
        detail = "the API refuses the key, or wants one"
    wait_s = retry_after_s(response.headers.get("Retry-After"), now_ms) if status in (429, 503) else 0.0
    return FetchError(f"http_{status}", detail, retry=status in _RETRIED or status >= 500, wait_s=wait_s)
