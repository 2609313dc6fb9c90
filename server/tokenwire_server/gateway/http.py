"""The plain-HTTP side of the one port.

Paths that probes and scrapers ask for all day are answered here with a few bytes. The described REST API needs
FastAPI, which costs some 20 MB: it is imported, in a thread, by the first request that wants it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol

from tokenwire_server.cache.port import CacheStatus
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.pages import page
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import HistoryStatus
from tokenwire_server.ports import DELIVERING, FollowStatus, LoadingError, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.validation.wrong_clocks import WrongClocks

if TYPE_CHECKING:
    from tokenwire_server.gateway.ingest import TradeIntake
    from tokenwire_server.gateway.rest import RestDirectory

__all__ = [
    "SOCKETIO_PATH",
    "ASGIApp",
    "Answer",
    "HttpApp",
    "Status",
    "build_http_app",
    "problem",
    "send_answer",
    "unreadable",
    "without_upgrade",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[int, bytes, dict[str, str]]
"""Status, body, headers; the content length is added when it is sent."""

SOCKETIO_PATH: Final = "/socket.io/"
RETRY_AFTER_S: Final = 5
LOADING_RETRY_AFTER_S: Final = 1
READ_METHODS: Final = frozenset({"GET", "HEAD"})
_STREAMS: Final = "/ws/"
_DESCRIBED: Final = ("/api/", "/internal/", "/udf/", "/openapi.json", "/docs", "/asyncapi.json")
_CACHE_FIELDS: Final = ("reason", "engine", "role", "generation")


class Status(Protocol):
    """What the answers need to know of the running server."""

    @property
    def draining(self) -> bool:
        """Whether a shutdown has begun."""

    def source_states(self) -> Mapping[str, SourceState]:
        """Each source's state by its name; empty when the server was started without one."""

    @property
    def wrong_clocks(self) -> WrongClocks:
        """Of which sources nothing can be used, as a clock is wrong."""

    @property
    def history_status(self) -> Callable[[], HistoryStatus | None]:
        """Whether what comes in is stored; None where nothing is."""

    @property
    def follow_status(self) -> Callable[[], FollowStatus | None]:
        """How it is with following a log; None where none is followed."""

    def cache_status(self) -> CacheStatus | None:
        """How the shared cache is; None without one."""


def problem(status: int, detail: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error as ``application/problem+json`` (RFC 9457)."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": path,
    }
    return status, json.dumps(body).encode(), {"content-type": "application/problem+json", **(headers or {})}


def unreadable(error: HistoryError, path: str) -> Answer:
    """What is asked for is stored, and the store can't be read."""
    headers = {"retry-after": str(RETRY_AFTER_S), "cache-control": "no-store"}
    return problem(503, f"what is stored can't be read now: {error}", path, headers)


def not_yet(error: LoadingError, path: str) -> Answer:
    """What is asked for is being read."""
    headers = {"retry-after": str(LOADING_RETRY_AFTER_S), "cache-control": "no-store"}
    return problem(503, f"{error}; ask again in {LOADING_RETRY_AFTER_S} s", path, headers)


class Answers:
    """The answers themselves, shared by the light paths here and their described twins in the REST API."""

    def __init__(self, status: Status, exposition: Callable[[], tuple[bytes, str]]) -> None:
        self._status = status
        self._exposition = exposition

    def health(self) -> Answer:
        """The process runs and its event loop turns."""
        return 200, b"OK", {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}

    def trouble(self) -> str | None:
        """Why no clients are to be sent here; None: they are."""
        followed = self._status.follow_status()
        states = self._status.source_states()
        if self._status.draining:
            return "draining: the server is shutting down"
        if followed is not None and followed.reason:
            return followed.reason
        delivering = [name for name, state in states.items() if state in DELIVERING]
        wrong = self._status.wrong_clocks.reasons
        if states and not delivering:
            return "no source delivers"
        if delivering and all(name in wrong for name in delivering):
            return "; ".join(wrong[name] for name in delivering)
        return None

    def ready(self) -> Answer:
        """Whether to send clients here. A finished tape has delivered all it had, so it counts as fine."""
        states = self._status.source_states()
        body: dict[str, object] = {"ready": True, "sources": {name: str(state) for name, state in states.items()}}
        if self._status.wrong_clocks.reasons:
            body["clocks"] = dict(self._status.wrong_clocks.reasons)
        history = self._status.history_status()
        if history is not None:  # live data is served all the same
            body["history"] = {
                "state": str(history.state),
                **({"reason": history.reason} if history.reason else {}),
                **({"engine": history.engine} if history.engine else {}),
            }
        cache = self._status.cache_status()
        if cache is not None:  # what was known last is served all the same
            body["cache"] = cache.body()
        followed = self._status.follow_status()
        if followed is not None:
            log = {"lag": followed.lag_records, "clock_skew_ms": followed.skew_ms}
            body["log"] = {**log, **({"reason": followed.reason} if followed.reason else {})}
        reason = self.trouble()
        if reason is not None:
            body |= {"ready": False, "reason": reason}
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        return 200 if reason is None else 503, json.dumps(body).encode(), headers

    def metrics(self) -> Answer:
        """All metrics in the Prometheus text format."""
        body, content_type = self._exposition()
        return 200, body, {"content-type": content_type, "cache-control": "no-store"}

    def upgrade_required(self) -> Answer:
        """The endpoint, asked without an upgrade."""
        return without_upgrade(ENDPOINT)

    def index(self, accept: str) -> Answer:
        """A live page for browsers, a list of what there is for everybody else."""
        if "text/html" in accept:
            body, policy = page("index")
            headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
            return 200, body, {**headers, "vary": "accept", "referrer-policy": "no-referrer"}
        listed = {
            "service": "tokenwire",
            "version": version("tokenwire"),
            "endpoints": {
                ENDPOINT: "WebSocket: live token data",
                "/ws/transactions/{symbol}": "WebSocket: every trade",
                "/ws/klines/{symbol}/{interval}": "WebSocket: bars, the open one included",
                "/ws/{symbol}": "WebSocket: every trade in plain numbers",
                "/api/v1/klines/{symbol}": "bars: ?interval=1m&limit=100&from=&to=&fill=none",
                "/api/klines/{symbol}": "the newest bars in plain numbers, for charts",
                "/api/v1/trades/{symbol}": "trades by number: ?after=&before=&limit=100",
                "/api/v1/book/{symbol}": "the order book, where its source has one",
                "/api/v1/tokens": "all tokens: ?sort=volume&order=&q=&limit=100",
                "/api/v1/tokens/{symbol}": "one token",
                "/api/v1/trades": "POST trades of your own",
                "/internal/trades": "the same",
                "/api/v1/indicators/{symbol}": "indicators of bars: ?indicator=sma:20,macd:12:26:9&interval=1m",
                "/udf/config": "TradingView's charting library: what there is",
                "/udf/symbols": "... one token: ?symbol=",
                "/udf/search": "... tokens by a part of their name: ?query=&limit=",
                "/udf/history": "... bars: ?symbol=&resolution=&from=&to=&countback=",
                "/udf/time": "... the server's time",
                "/api/v1/errors": "the error catalogue",
                "/asyncapi.json": "the messages, as AsyncAPI 3",
                "/openapi.json": "the REST API, as OpenAPI 3",
                "/docs": "the REST API, to read",
                "/health": "OK while the process lives",
                "/ready": "whether it serves live data",
                "/metrics": "Prometheus metrics",
            },
        }
        return (
            200,
            json.dumps(listed, indent=2).encode() + b"\n",
            {"content-type": "application/json", "vary": "accept"},
        )


class HttpApp:
    """The ASGI application behind everything that is not the raw endpoint."""

    def __init__(
        self, answers: Answers, settings: Settings, directory: "RestDirectory", intake: "TradeIntake | None"
    ) -> None:
        self._answers = answers
        self._settings = settings
        self._directory = directory
        self._intake = intake
        self._described: ASGIApp | None = None
        self._lock = asyncio.Lock()
        self._light: dict[str, Callable[[], Answer]] = {
            "/health": answers.health,
            "/ready": answers.ready,
            "/metrics": answers.metrics,
            ENDPOINT: answers.upgrade_required,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await _refuse_websocket(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        light = self._light.get(path)
        if self._settings.socketio and path.startswith(SOCKETIO_PATH):
            await send_answer(send, method, _socketio_polling(path))
            return
        # The middleware of the described application is the one place that knows about other origins.
        if method == "OPTIONS" or b"origin" in headers or (light is None and path.startswith(_DESCRIBED)):
            await self._pass_on(scope, receive, send)
        elif light is None and path.startswith(_STREAMS):
            await send_answer(send, method, without_upgrade(path))
        elif light is None and path != "/":
            await send_answer(send, method, problem(404, "there is nothing here; GET / lists what there is", path))
        elif method not in READ_METHODS:
            allow = {"allow": "GET, HEAD, OPTIONS"}
            await send_answer(send, method, problem(405, f"{method} is not possible here; use GET", path, allow))
        elif light is None:
            await send_answer(send, method, self._answers.index(headers.get(b"accept", b"").decode("latin-1")))
        else:
            await send_answer(send, method, light())

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        described = self._described or await self._build()
        if scope["method"] != "HEAD":
            await described(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # Every GET route answers HEAD as well, without saying so twice in the API's description.
        await described({**scope, "method": "GET"}, receive, without_body)

    async def _build(self) -> ASGIApp:
        async with self._lock:
            if self._described is None:
                # The import takes a few hundred milliseconds; ticks must not wait for it.
                with ThreadPoolExecutor(1, "import-rest") as pool:
                    build = asyncio.get_running_loop().run_in_executor(pool, self._import)
                    self._described = await build
            return self._described

    def _import(self) -> ASGIApp:
        from tokenwire_server.gateway.rest import build_rest  # noqa: PLC0415 - see above

        return build_rest(self._answers, self._settings, self._directory, self._intake)


def without_upgrade(path: str) -> Answer:
    """A WebSocket path, asked without an upgrade."""
    detail = f"this is a WebSocket endpoint: connect with a WebSocket client, e.g. wscat -c ws://HOST:PORT{path}"
    return problem(426, detail, path, {"upgrade": "websocket", "connection": "upgrade"})


def _socketio_polling(path: str) -> Answer:
    """Socket.IO's other transport, which is not served; a page of any origin may read why."""
    detail = 'only the transport websocket is served here: io(url, {transports: ["websocket"]})'
    return problem(400, detail, path, {"access-control-allow-origin": "*"})


async def send_answer(send: Send, method: str, answer: Answer) -> None:
    """Send the whole answer; to HEAD without its body."""
    status, body, headers = answer
    # The length of a 304 would be taken for that of what the client has.
    length = {} if status == HTTPStatus.NOT_MODIFIED else {"content-length": str(len(body))}
    named = {**length, "x-content-type-options": "nosniff", **headers}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" in (scope.get("extensions") or {}):
        status, body, headers = problem(404, f"no WebSocket here; the endpoint is {ENDPOINT}", scope["path"])
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "websocket.http.response.start", "status": status, "headers": raw})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close"})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def build_http_app(
    status: Status,
    metrics_exposition: Callable[[], tuple[bytes, str]],
    settings: Settings,
    directory: "RestDirectory",
    intake: "TradeIntake | None" = None,
) -> HttpApp:
    """The application to give uvicorn.

    Args:
        status: asked at each request to ``/ready``.
        metrics_exposition: body and content type of ``/metrics``.
        settings: the allowed origins and, for the descriptions, whether TLS is on.
        directory: where tokens, bars and trades are.
        intake: where posted trades go; None: they are refused.
    """
    return HttpApp(Answers(status, metrics_exposition), settings, directory, intake)
