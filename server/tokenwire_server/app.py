"""The whole server, put together: the only module that knows every part."""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from uvicorn.config import Config

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.gateway.dispatch import dispatcher
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.http import build_http_app
from tokenwire_server.gateway.server import GatewayServer
from tokenwire_server.instruments import build_instruments
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.preflight import bind_socket, raise_file_limit, tls_context
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources
from tokenwire_server.telemetry.logs import configure_logging, get_log
from tokenwire_server.telemetry.metrics import Metrics

__all__ = ["Running", "running", "serve"]

_log = get_log(__name__)

_KEEP_ALIVE_S: Final = 5
_HTTP_SHUTDOWN_S: Final = 3


@dataclass(frozen=True)
class Running:
    """A server that listens: its ``url`` and ``port``, and its parts for those who embed it."""

    url: str
    port: int
    pipeline: Pipeline
    endpoint: Endpoint
    metrics: Metrics
    server: GatewayServer
    serving: asyncio.Task[None]


def serve(settings: Settings) -> int:
    """Run the server until a signal ends it; the process's exit status.

    Raises:
        UserError: something the user can mend (a busy port, an unreadable tape or certificate …).
    """
    configure_logging(settings.log_level, settings.log_format, access_log=settings.access_log)
    for notice in settings.notices:
        _log.warning(notice)
    raise_file_limit(settings.max_connections)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - absent where it has no build
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> None:
    async with running(settings, build_sources(settings), handle_signals=True) as started:
        gc.collect()
        gc.freeze()  # what lives now lives as long as the process; collections needn't look at it again
        _announce(settings, started)
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
        UserError: the port, the certificate or the limit of open files is not as it must be.
    """
    loop = asyncio.get_running_loop()
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls_context(settings.tls_cert, settings.tls_key)
    raise_file_limit(settings.max_connections)
    listener = bind_socket(settings.host, settings.port)
    port: int = listener.getsockname()[1]
    pipeline = Pipeline(
        settings.max_tokens,
        lambda: int(loop.time() * 1000),
        lambda: time.time_ns() // 1_000_000,
        hub_config or _hub_config(settings),
    )
    endpoint = Endpoint(pipeline.hub, settings.update_interval_s, settings.origin_allowed)
    endpoint.before_tick = pipeline.tick_callbacks
    metrics = build_instruments(pipeline, endpoint, settings.otlp_endpoint)
    config = Config(
        build_http_app(pipeline, metrics.exposition, settings, pipeline),
        ws=cast(Any, dispatcher(endpoint)),
        lifespan="off",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_HTTP_SHUTDOWN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = GatewayServer(config, endpoint, settings.drain_s, handle_signals=handle_signals)
    for source in sources:
        pipeline.add_source(source)
    feeding = [asyncio.create_task(_run_source(source, pipeline), name=source.name) for source in sources]
    serving = asyncio.create_task(server.serve([listener]), name="serve")
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait((listening, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # it could not start: let its error out
        yield Running(_url(settings, port), port, pipeline, endpoint, metrics, server, serving)
    finally:
        listening.cancel()
        server.should_exit = True
        try:
            await serving
        finally:
            listener.close()
            for task in feeding:
                task.cancel()
            await asyncio.gather(*feeding, return_exceptions=True)
            metrics.shutdown()


def _hub_config(settings: Settings) -> HubConfig:
    return HubConfig(
        max_connections=settings.max_connections,
        update_interval_ms=int(settings.update_interval_s * 1000),
        resume_window_ms=int(settings.resume_window_s * 1000),
        resume_instance_bytes=settings.resume_memory_mib * 1_048_576,
    )


async def _run_source(source: Source, pipeline: Pipeline) -> None:
    """Run one source; a defect in it must not take the server down, but is never silent."""
    try:
        await source.run(pipeline)
    except Exception as error:  # whatever it is, the others go on
        pipeline.state(source.name, SourceState.FAILED, repr(error))
        _log.error("source failed", exc_info=error, source=source.name)


def _url(settings: Settings, port: int) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    return f"{'wss' if settings.tls_cert else 'ws'}://{host}:{port}{ENDPOINT}"


def _announce(settings: Settings, started: Running) -> None:
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
        "  stop with Ctrl-C",
    ]
    print("\n".join(lines), file=sys.stderr if settings.log_format == "json" else sys.stdout, flush=True)
