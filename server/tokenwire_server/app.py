"""The whole server, put together: the only module that knows every part."""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Sequence

from uvicorn.config import Config

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.gateway.dispatch import dispatcher
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.http import build_http_app
from tokenwire_server.gateway.http_protocol import TimedHttpProtocol
from tokenwire_server.gateway.server import GatewayServer
from tokenwire_server.instruments import build_instruments
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.preflight import preflight
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources
from tokenwire_server.telemetry.logs import configure_logging, get_log

__all__ = ["serve"]

_log = get_log(__name__)

_KEEP_ALIVE_S = 5
_HTTP_SHUTDOWN_S = 3


def serve(settings: Settings) -> int:
    """Run the server until a signal ends it; the process's exit status.

    Raises:
        UserError: something the user can mend (a busy port, an unreadable tape or certificate …).
    """
    configure_logging(settings.log_level, settings.log_format, access_log=settings.access_log)
    preflight(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - absent where it has no build
    except ImportError:
        return None
    return uvloop.Loop


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    sources = build_sources(settings)
    pipeline = Pipeline(
        settings.max_tokens,
        lambda: int(loop.time() * 1000),
        lambda: time.time_ns() // 1_000_000,
        HubConfig(max_connections=settings.max_connections),
    )
    endpoint = Endpoint(pipeline.hub, settings.update_interval_s, settings.origin_allowed)
    metrics = build_instruments(pipeline, endpoint, settings.otlp_endpoint)
    config = Config(
        build_http_app(pipeline, metrics.exposition, settings),
        host=settings.host,
        port=settings.port,
        http=TimedHttpProtocol,
        ws=dispatcher(endpoint),
        lifespan="off",
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_HTTP_SHUTDOWN_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = GatewayServer(config, endpoint, settings.drain_s, lambda port: _announce(settings, port))
    tasks = [asyncio.create_task(_run_source(source, pipeline), name=source.name) for source in sources]
    gc.collect()
    gc.freeze()
    try:
        await server.serve()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        metrics.shutdown()
    return 0


async def _run_source(source: Source, pipeline: Pipeline) -> None:
    """Run one source; a defect in it must not take the server down, but is never silent."""
    pipeline.add_source(source)
    try:
        await source.run(pipeline)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        pipeline.state(source.name, SourceState.FAILED, repr(error))
        _log.error("source failed", exc_info=error, source=source.name)


def _announce(settings: Settings, port: int) -> None:
    scheme = "wss" if settings.tls_cert else "ws"
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{host}:{port}{ENDPOINT}"
    page = f"{'https' if settings.tls_cert else 'http'}://{host}:{port}/"
    subscribe = '{"type":"subscription","data":{"action":"subscribe","tokens":["DOGE","PEPE"]}}'
    lines = [
        f"Token Data WebSocket v1.0 on {url}",
        f"  try it:    npx -y wscat -c {url} -x '{subscribe}' -w 20",
        f"  browser:   {page}    health: {page}health    metrics: {page}metrics",
        "  stop with Ctrl-C",
    ]
    print("\n".join(lines), file=sys.stderr if settings.log_format == "json" else sys.stdout, flush=True)
