"""The whole server, put together: the only module that knows every part."""

import asyncio
import gc
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from uvicorn.config import Config

from tokenwire_server.cache.service import SharedCache, open_cache
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.core.plain_hub import PlainConfig
from tokenwire_server.errors import AwayError, UserError
from tokenwire_server.feeding import OwnMarket
from tokenwire_server.gateway.bar_rows import kline_row
from tokenwire_server.gateway.dispatch import dispatcher
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.http import SOCKETIO_PATH, ASGIApp, build_http_app
from tokenwire_server.gateway.plain_streams import PlainStreams
from tokenwire_server.gateway.server import GatewayServer
from tokenwire_server.history.service import KeptHistory, open_history
from tokenwire_server.instruments import build_instruments, observe_socketio
from tokenwire_server.intake import Intake
from tokenwire_server.market.bar_pages import PageBar
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Source
from tokenwire_server.preflight import bind_socket, raise_file_limit, tls_context
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources
from tokenwire_server.sources.aggregator import Aggregator
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.logs import configure_logging, get_log
from tokenwire_server.telemetry.metrics import Metrics
from tokenwire_server.waiting import open_when_there

if TYPE_CHECKING:
    from tokenwire_server.gateway.socketio_face import SocketIOFace

__all__ = ["Feed", "Running", "announce", "running", "serve", "serving", "until_finished", "with_loop"]

_log = get_log(__name__)

T = TypeVar("T")

DEFAULT_DATA: Final = Path("tokenwire-data")
_KEEP_ALIVE_S: Final = 5
_HTTP_SHUTDOWN_S: Final = 3
MAX_ASGI_MESSAGE_BYTES: Final = 131_072  # of one message of a Socket.IO client: the longest names fit several times


class Feed(Protocol):
    """What the market of a server comes from: sources of its own, or a log that it follows."""

    @property
    def sources(self) -> Sequence[Source]:
        """Its own sources."""

    async def build(self, hub_config: HubConfig) -> Pipeline:
        """The pipeline, as it begins. Raises UserError."""

    def intake(self, pipeline: Pipeline) -> Intake | None:
        """Where posted trades go; None: they are taken elsewhere."""

    def observe(self, metrics: Metrics) -> None:
        """Have measured what there is to measure."""

    def run(
        self, pipeline: Pipeline, sources: Sequence[Source], intake: Intake | None, stop: Callable[[], None]
    ) -> list[asyncio.Task[None]]:
        """Feed the pipeline, from ``sources`` if it has any. ``stop`` ends the server."""


@dataclass(frozen=True)
class Running:
    """A server that listens: its ``url`` and ``port``, and its parts for those who embed it."""

    url: str
    port: int
    pipeline: Pipeline
    endpoint: Endpoint
    streams: PlainStreams
    metrics: Metrics
    server: GatewayServer
    serving: asyncio.Task[None]
    socketio: "SocketIOFace | None" = None
    intake: Intake | None = None


def serve(settings: Settings) -> int:
    """Run the server until a signal ends it; the process's exit status.

    Raises:
        UserError: something the user can mend (a busy port, an unreadable tape or certificate …).
    """
    configure_logging(settings.log_level, settings.log_format, access_log=settings.access_log)
    for notice in settings.notices:
        _log.warning(notice)
    raise_file_limit(settings.max_connections)
    with_loop(_serve(settings))
    return 0


def with_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in the quickest event loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - absent where it has no build
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> None:
    if (
        settings.data is None and settings.timescale_host is None and not settings.sources
    ):  # what is posted is taken only where it is kept
        settings = settings.model_copy(update={"data": DEFAULT_DATA})
    sources = build_sources(settings)
    try:
        kept = await open_when_there(settings, "run", port=settings.port, flag="--port")
    except AwayError as error:
        _log.info("ended before the database could be had", reason=str(error))
        return
    async with _serving_kept(settings, sources, kept, None, handle_signals=True) as started:
        announce(settings, started)
        await until_finished(started)


async def until_finished(started: Running) -> None:
    """Return when a signal, or whatever else, has ended the server."""
    gc.collect()
    gc.freeze()  # what lives now lives as long as the process; collections needn't look at it again
    finished = asyncio.create_task(started.server.finished.wait())
    await asyncio.wait((finished, started.serving), return_when=asyncio.FIRST_COMPLETED)
    finished.cancel()


@asynccontextmanager
async def running(
    settings: Settings,
    sources: Sequence[Source],
    hub_config: HubConfig | None = None,
    *,
    handle_signals: bool = False,
) -> AsyncIterator[Running]:
    """Serve within the block; leaving it drains and stops. Port 0 takes a free one.

    Raises:
        UserError: the port, the certificate, the data directory, the database or the limit of open files is not as it
            must be, or an extra is missing.
    """
    kept = await open_history(settings)
    async with _serving_kept(settings, sources, kept, hub_config, handle_signals=handle_signals) as started:
        yield started


@asynccontextmanager
async def _serving_kept(
    settings: Settings,
    sources: Sequence[Source],
    kept: KeptHistory | None,
    hub_config: HubConfig | None,
    *,
    handle_signals: bool,
) -> AsyncIterator[Running]:
    """The same with a history that is open, and is closed afterwards."""
    try:
        async with (
            open_cache(settings) as cache,
            serving(
                settings, OwnMarket(settings, sources, kept), cache, hub_config, handle_signals=handle_signals
            ) as started,
        ):
            yield started
    finally:
        if kept is not None:
            await kept.close()


@asynccontextmanager
async def serving(
    settings: Settings,
    feed: Feed,
    cache: SharedCache | None,
    hub_config: HubConfig | None = None,
    *,
    handle_signals: bool,
) -> AsyncIterator[Running]:
    """Serve the market of ``feed`` within the block; leaving it drains and stops. Raises UserError."""
    make_face = _socketio() if settings.socketio else None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls_context(settings.tls_cert, settings.tls_key)
    raise_file_limit(settings.max_connections)
    listener = bind_socket(settings.host, settings.port)
    port: int = listener.getsockname()[1]
    try:
        pipeline = await feed.build(hub_config or _hub_config(settings))
    except UserError:
        listener.close()
        raise
    endpoint = Endpoint(pipeline.hub, settings.update_interval_s, settings.origin_allowed)
    endpoint.before_tick = pipeline.tick_callbacks
    face = make_face(endpoint, pipeline) if make_face is not None else None
    streams = PlainStreams(endpoint, pipeline, PlainConfig(channel_messages=settings.broadcast_channel_size))
    pipeline.trade_listeners.append(streams.on_trade)
    pipeline.bar_listeners.append(streams.on_bar)
    intake = feed.intake(pipeline)
    metrics = build_instruments(pipeline, endpoint, streams.hub, settings.otlp_endpoint)
    feed.observe(metrics)
    sources = _share(cache, pipeline, feed.sources, metrics)
    http = build_http_app(pipeline, metrics.exposition, settings, pipeline, intake)
    sockets = dispatcher(endpoint, {} if face is None else {SOCKETIO_PATH: face.protocol}, streams)
    server = GatewayServer(_config(settings, http, sockets), endpoint, settings.drain_s, handle_signals=handle_signals)
    server.drains.append(streams.drain)
    if face is not None:
        _serve_socketio(face, pipeline, metrics, server)

    def stop() -> None:
        server.should_exit = True

    feeding = feed.run(pipeline, sources, intake, stop)
    served = asyncio.create_task(server.serve([listener]), name="serve")
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait((listening, served), return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            await served  # it could not start: let its error out
        yield Running(_url(settings, port), port, pipeline, endpoint, streams, metrics, server, served, face, intake)
    finally:
        listening.cancel()
        stop()
        try:
            await served
        finally:
            listener.close()
            await end(*feeding)
            metrics.shutdown()


def _serve_socketio(face: "SocketIOFace", pipeline: Pipeline, metrics: Metrics, server: GatewayServer) -> None:
    pipeline.before_tick(face.tick)
    observe_socketio(metrics, face.sockets, lambda: face.cut)
    server.drains.append(face.drain)


def _config(settings: Settings, http: ASGIApp, sockets: object) -> Config:
    return Config(
        http,
        ws=cast(Any, sockets),
        ws_max_size=MAX_ASGI_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_HTTP_SHUTDOWN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _share(
    cache: SharedCache | None, pipeline: Pipeline, sources: Sequence[Source], metrics: Metrics
) -> Sequence[Source]:
    """Answer pages of tokens from the cache, if there is one, publish there while this instance leads, and poll only
    then."""
    if cache is None:
        return sources
    pipeline.shared_pages = cache.read(pipeline)
    pipeline.read_cache_status = cache.status
    cache.publish(pipeline, lambda token, interval, bar: kline_row(token, interval, PageBar(bar, is_closed=False)))
    cache.observe(metrics)
    return cache.elected(sources, lambda source: isinstance(source, Aggregator))


def _hub_config(settings: Settings) -> HubConfig:
    return HubConfig(
        max_connections=settings.max_connections,
        update_interval_ms=int(settings.update_interval_s * 1000),
        resume_window_ms=int(settings.resume_window_s * 1000),
        resume_instance_bytes=settings.resume_memory_mib * 1_048_576,
    )


def _socketio() -> "type[SocketIOFace]":
    try:
        from tokenwire_server.gateway.socketio_face import SocketIOFace  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name not in ("socketio", "engineio"):
            raise
        raise UserError("--socketio needs python-socketio; install it: pip install 'tokenwire[socketio]'") from None
    return SocketIOFace


def _url(settings: Settings, port: int) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    return f"{'wss' if settings.tls_cert else 'ws'}://{host}:{port}{ENDPOINT}"


def announce(settings: Settings, started: Running) -> None:
    """Tell whoever started the server where it is, and how to try it."""
    page = started.url.replace("ws", "http", 1).removesuffix(ENDPOINT) + "/"
    known = {token.symbol for token in started.pipeline.market}
    names = [name for name in ("DOGE", "PEPE") if name in known] or sorted(known)[:2]
    data = json.dumps({"action": "subscribe", "tokens": names}, separators=(",", ":"))
    trust = f" --ca {settings.tls_cert}" if settings.tls_cert else ""
    subscribe = f"""-x '{{"type":"subscription","data":{data}}}' -w 20""" if names else "(no tokens are known yet)"
    lines = [
        f"Token Data WebSocket v1.0 on {started.url}",
        f"  try it:    npx -y wscat -c {started.url}{trust} {subscribe}",
        f"  browser:   {page}    health: {page}health    metrics: {page}metrics",
        *([] if settings.kept_in is None else [f"  history:   kept in {settings.kept_in}"]),
        "  stop with Ctrl-C",
    ]
    print("\n".join(lines), file=sys.stderr if settings.log_format == "json" else sys.stdout, flush=True)
