"""Sources at work: from where they stood, beside each other, until it is time to stop."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.history.service import DataDirectory
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Resumable, Sink, Source, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import get_log

__all__ = ["attach", "build_pipeline", "feed", "run_source"]

_log = get_log(__name__)


def build_pipeline(
    settings: Settings,
    kept: DataDirectory | None,
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    hub_config: HubConfig | None = None,
) -> Pipeline:
    """A pipeline whose versions go on where those of the history ended. ``wall_ms`` is Unix time."""
    loop = asyncio.get_running_loop()
    return Pipeline(
        settings.max_tokens,
        lambda: int(loop.time() * 1_000),
        wall_ms,
        hub_config,
        stream=None if kept is None else kept.beginning.stream,
        version_floor=0 if kept is None else kept.beginning.version,
        bar_plan=BarPlan(parse_intervals(settings.bar_intervals), settings.max_history),
    )


async def attach(
    pipeline: Pipeline, sources: Sequence[Source], kept: DataDirectory, others: Collection[str] = ()
) -> None:
    """Be where the process before ended, and have everything from here on stored. ``others`` name what is written
    besides ``sources``.

    Raises:
        UserError: the history can't be read.
    """
    recorder, pages = await kept.attach(pipeline.market, {*others, *(source.name for source in sources)})
    pipeline.keep(recorder, pages)
    for source in sources:
        position = kept.beginning.offsets.get(source.name)
        if position is not None and isinstance(source, Resumable):
            source.resume(position)
    if len(pipeline.market):
        _log.info("history restored", tokens=len(pipeline.market), trades=kept.beginning.numbered)


async def run_source(source: Source, sink: Sink) -> None:
    """Run one source; a defect in it must not end anything else, but is never silent."""
    try:
        await source.run(sink)
    except Exception as error:  # whatever it is, the others go on
        sink.state(source.name, SourceState.FAILED, repr(error))
        _log.error("source failed", exc_info=error, source=source.name)


async def feed(
    sources: Sequence[Source],
    sink: Sink,
    stop: asyncio.Event,
    duration_s: float | None,
    *beside: Coroutine[object, object, None],
) -> None:
    """Run sources, and what goes on ``beside`` them, until ``stop``, the end of the time, or the end of all sources."""
    feeding = [asyncio.create_task(run_source(source, sink), name=source.name) for source in sources]
    others = [asyncio.create_task(each) for each in beside]
    stopped = asyncio.create_task(stop.wait())
    ended = asyncio.create_task(asyncio.wait(feeding))
    try:
        await asyncio.wait((stopped, ended), timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*feeding, *others, stopped, ended):
            task.cancel()
        await asyncio.gather(*feeding, *others, stopped, ended, return_exceptions=True)
