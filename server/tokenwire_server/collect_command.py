"""What ``tokenwire-server collect`` does: sources into the history, without a gateway for clients."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenwire_server.command_progress import counted, stopping
from tokenwire_server.core.plain_hub import PlainConfig
from tokenwire_server.errors import UserError
from tokenwire_server.feeding import attach, build_pipeline, feed
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.http import Answers
from tokenwire_server.gateway.plain_streams import PlainStreams
from tokenwire_server.history.recorder import HistoryState
from tokenwire_server.instruments import build_instruments
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.roles import serve_health
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import EXCHANGES
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.waiting import open_when_there

__all__ = ["CollectRequest", "CollectSummary", "collect", "exchange_source"]

_log = get_log(__name__)

REPORT_INTERVAL_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class CollectRequest:
    """Where to keep what is collected (None: where the settings say); ``health_port`` is where to answer for it (None:
    nowhere, 0: any free one)."""

    data: Path | None = None
    health_port: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class CollectSummary:
    """What was collected; ``lost_trades`` of them are not stored. ``is_failed``: no source could go on."""

    trades: int
    values: int
    tokens: int
    rejected: int
    seconds: float
    lost_trades: int = 0
    is_failed: bool = False


def exchange_source(exchange: str | None, symbols: str | None) -> list[str]:
    """``--exchange binance --symbols BTCUSDT,ETHUSDT`` as the source that it means; nothing for neither.

    Raises:
        UserError: one stands without the other, or the exchange is not known.
    """
    if exchange is None and symbols is None:
        return []
    if not exchange or not symbols:
        raise UserError("--exchange and --symbols go together: --exchange binance --symbols BTCUSDT,ETHUSDT")
    kind = exchange.strip().lower()
    known = [name for name in EXCHANGES if name != "ccxt"]
    if kind not in known:
        raise UserError(
            f"--exchange: {exchange!r} is none of {', '.join(known)}; others: --source ccxt:EXCHANGE:SYMBOL"
        )
    return [f"{kind}:{symbols.strip()}"]


async def collect(
    settings: Settings,
    sources: Sequence[Source],
    request: CollectRequest,
    announce: Callable[[str], None] = lambda _: None,
) -> CollectSummary:
    """Collect until Ctrl-C or SIGTERM, the end of the time, or the end of all sources; everything is stored then. A
    database that can't be had is waited for.

    ``announce`` is told the URL of the health port, or an empty text, when collecting has begun.

    Raises:
        UserError: the data directory, the database or the port can't be used.
    """
    begun_s = time.monotonic()
    kept = await open_when_there(
        settings,
        "collect",
        request.data,
        port=request.health_port,
        flag="--health-port",
        limit_s=request.duration_s,
    )
    if kept is None:
        raise UserError("collect needs a place to store in: --data DIR, or TIMESCALE_HOST")
    try:
        pipeline = build_pipeline(settings, kept)
        await attach(pipeline, sources, kept)
        endpoint = Endpoint(pipeline.hub, settings.update_interval_s, settings.origin_allowed)
        endpoint.before_tick = pipeline.tick_callbacks
        metrics = build_instruments(
            pipeline, endpoint, PlainStreams(endpoint, pipeline, PlainConfig()).hub, settings.otlp_endpoint
        )
        endpoint.start()
        try:
            answers = Answers(pipeline, metrics.exposition)
            with stopping() as stop:
                async with serve_health(answers, settings.host, request.health_port, "--health-port") as url:
                    announce(url)
                    for source in sources:
                        pipeline.add_source(source)
                    await feed(sources, pipeline, stop, request.duration_s, _report(pipeline))
        finally:
            endpoint.stop()
            metrics.shutdown()
    finally:
        await kept.close()
    recorder = pipeline.recorder
    assert recorder is not None
    states = [pipeline.states[source.name] for source in sources]
    return CollectSummary(
        trades=pipeline.market.trades,
        values=pipeline.market.stated,
        tokens=len(pipeline.market),
        rejected=sum(pipeline.rejections.values()),
        seconds=time.monotonic() - begun_s,
        lost_trades=recorder.lost_trades + recorder.builder.given_up_trades + recorder.unnumbered,
        is_failed=all(state is SourceState.FAILED for state in states),
    )


async def _report(pipeline: Pipeline) -> None:
    market = pipeline.market
    before = 0
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        taken = market.trades + market.stated
        history = pipeline.history_status()
        fields: dict[str, object] = {
            "trades": market.trades,
            "per_second": round((taken - before) / REPORT_INTERVAL_S),
            "tokens": len(market),
        }
        if market.stated:
            fields["values"] = market.stated
        if pipeline.rejections:
            fields["rejected"] = counted({reason: count for (_, reason), count in pipeline.rejections.items()})
        if pipeline.recorder is not None:
            fields["waiting"] = pipeline.recorder.builder.rows
        if history is not None and history.state is not HistoryState.OK:
            fields |= {"history": str(history.state), "reason": history.reason}
        _log.info("collecting", **fields)
        before = taken
