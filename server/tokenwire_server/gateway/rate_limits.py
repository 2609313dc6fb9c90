"""How much one client may ask of the REST API: a sliding window for each, in bounded memory.

The strategy and its arithmetic are those of the library ``limits``, which can keep the same windows in Redis. Its own
memory storage is not used: it keeps the key of every client that ever came, and starts a thread every few
milliseconds under load. A moving window would keep an entry for every request; this one keeps two numbers a client.
"""

import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import lru_cache
from math import floor
from typing import Any, Final, NoReturn

from limits import RateLimitItem
from limits.aio.storage import SlidingWindowCounterSupport, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.http import ASGIApp, Message, Receive, Scope, Send, problem, send_answer

__all__ = ["EXEMPT_PATHS", "LIMIT_HEADERS", "MAX_CLIENTS", "BoundedWindows", "RateLimits", "client_network"]

MAX_CLIENTS: Final = 10_000  # remembered at once, some 300 bytes each; beyond, whoever asked longest ago is forgotten
LIMIT_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After")
EXEMPT_PATHS: Final = frozenset({"/", "/health", "/ready", "/metrics", ENDPOINT})
_IPV6_CLIENT_BITS: Final = 64  # what one customer is given at least
_NEARLY: Final = 1 - 1e-9
_CLOCK_SLACK_S: Final = 0.01
_KEY_HEADER: Final = b"x-api-key"


class BoundedWindows(Storage, SlidingWindowCounterSupport):
    """Counts of the current and the previous window of the clients that asked last.

    ``clock`` gives seconds. Only what sliding windows need is there.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_clients: int = MAX_CLIENTS) -> None:
        super().__init__()
        self._clock = clock
        self._max_clients = max_clients
        self._windows: OrderedDict[str, tuple[int, int, int]] = OrderedDict()  # number of the window, its count, before

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._windows)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """None of its own."""
        return ()

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Count of the previous window and seconds until it no longer counts; the same of this one."""
        current, previous, left_s = self._counts(key, expiry)[1:]
        return previous, left_s if previous else 0.0, current, left_s + expiry

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` requests if there is room for them."""
        window, current, previous, left_s = self._counts(key, expiry)
        allowed = floor(previous * left_s / expiry + current) + amount <= limit
        self._windows[key] = (window, current + amount if allowed else current, previous)
        self._windows.move_to_end(key)
        if len(self._windows) > self._max_clients:
            self._windows.popitem(last=False)
        return allowed

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget one client."""
        self._windows.pop(key, None)

    async def check(self) -> bool:
        """It is always there."""
        return True

    async def reset(self) -> int | None:
        """Forget all clients; how many they were."""
        count = len(self._windows)
        self._windows.clear()
        return count

    async def clear(self, key: str) -> None:
        """Forget one client."""
        self._windows.pop(key, None)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Only fixed windows need it."""
        self._not_here()

    async def get(self, key: str) -> int:
        """Only fixed windows need it."""
        self._not_here()

    async def get_expiry(self, key: str) -> float:
        """Only fixed windows need it."""
        self._not_here()

    def _counts(self, key: str, expiry: int) -> tuple[int, int, int, float]:
        """Number of the present window, its count, that of the one before, and the seconds left."""
        now_s = self._clock()
        window = int(now_s // expiry)
        known, current, previous = self._windows.get(key, (window, 0, 0))
        if known < window:
            current, previous = 0, current if known == window - 1 else 0
        left_s = (window + 1) * expiry - now_s
        # At its very first instant a window would count as ending for the library, and the one before in full.
        return window, current, previous, min(left_s, expiry * _NEARLY)

    def _not_here(self) -> NoReturn:
        raise NotImplementedError("this storage has sliding windows only")


class RateLimits:
    """An ASGI application: what ``app`` answers, with the client's limit in its headers, and 429 beyond the limit.

    A client is its address (of IPv6 the network of 64 bits), or one of ``keys`` if it shows that as ``X-API-Key``;
    an unknown key counts as none. Probes and metrics are exempt. POST and the like are not counted: who may write is
    judged elsewhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: RateLimitItem,
        keys: Collection[str] = (),
        storage: Storage | None = None,
    ) -> None:
        self._app = app
        self._limit = limit
        self._keys = {_digest(key.encode()) for key in keys}
        self._limiter = SlidingWindowCounterRateLimiter(BoundedWindows() if storage is None else storage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or scope["path"] in EXEMPT_PATHS:
            await self._app(scope, receive, send)
            return
        client = self._client(scope)
        allowed = await self._limiter.hit(self._limit, client)
        stats = await self._limiter.get_window_stats(self._limit, client)
        # The library adds the seconds to its own reading of the clock; what that loses must not tell anybody too early.
        reset_s = max(0, floor(stats.reset_time - time.time() + _CLOCK_SLACK_S)) + 1
        if not allowed:
            detail = f"more than {self._limit}; ask again in {reset_s} s, or set a higher limit (REST_RATE_LIMIT)"
            headers = {"retry-after": str(reset_s), "cache-control": "no-store", **self._shown(0, reset_s)}
            await send_answer(send, scope["method"], problem(429, detail, scope["path"], headers))
            return
        shown = [(name.encode(), value.encode()) for name, value in self._shown(stats.remaining, reset_s).items()]

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *shown]}
            await send(message)

        await self._app(scope, receive, with_headers)

    def _shown(self, remaining: int, reset_s: int) -> dict[str, str]:
        return {
            "ratelimit-limit": str(self._limit.amount),
            "ratelimit-policy": f"{self._limit.amount};w={self._limit.get_expiry()}",
            "ratelimit-remaining": str(remaining),
            "ratelimit-reset": str(reset_s),
        }

    def _client(self, scope: Scope) -> str:
        if self._keys:
            for name, value in scope["headers"]:
                if name == _KEY_HEADER and (digest := _digest(value)) in self._keys:
                    return digest
        peer: Any = scope.get("client")
        return client_network(peer[0]) if peer else "unknown"


@lru_cache(maxsize=1_024)
def client_network(host: str) -> str:
    """What counts as one client: an IPv4 address, or the network of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, 128)).supernet(new_prefix=_IPV6_CLIENT_BITS))
    return str(address)


def _digest(key: bytes) -> str:
    return f"key:{hashlib.sha256(key).hexdigest()[:32]}"
