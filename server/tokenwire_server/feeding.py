"""Sources at work: from where they stood, beside each other, until it is time to stop."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.history.service import KeptHistory
from tokenwire_server.intake import POSTED, Intake
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Resumable, Sink, Source, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.telemetry.metrics import Metrics

__all__ = ["OwnMarket", "attach", "build_pipeline", "feed", "run_source"]

_log = get_log(__name__)


def build_pipeline(
    settings: Settings,
    kept: KeptHistory | None,
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
    pipeline: Pipeline, sources: Sequence[Source], kept: KeptHistory, others: Collection[str] = ()
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
            source.resume([position])
    if len(pipeline.market):
        _log.info("history restored", tokens=len(pipeline.market), trades=kept.beginning.numbered)


class OwnMarket:
    """The market that a server makes of ``sources`` by itself, and keeps in ``kept``, if anywhere; posted trades are
    one more source."""

    def __init__(self, settings: Settings, sources: Sequence[Source], kept: KeptHistory | None) -> None:
        self.sources = sources
        self._settings = settings
        self._kept = kept

    async def build(self, hub_config: HubConfig) -> Pipeline:
        """The pipeline, as the process before left it. Raises UserError if the history can't be read."""
        pipeline = build_pipeline(self._settings, self._kept, hub_config=hub_config)
        if self._kept is not None:
            await attach(pipeline, self.sources, self._kept, {POSTED})
        return pipeline

    def intake(self, pipeline: Pipeline) -> Intake:
        """Where posted trades go."""
        return Intake(pipeline, pipeline.recorder, self._settings.ingest_venue)

    def observe(self, metrics: Metrics) -> None:
        """There is nothing to measure here."""

    def run(
        self, pipeline: Pipeline, sources: Sequence[Source], intake: Intake | None, _: Callable[[], None]
    ) -> list[asyncio.Task[None]]:
        """Have all sources run. (None of them ends the server.)"""
        for source in sources:
            pipeline.add_source(source)
        posted = () if intake is None else (intake.source,)
        return [asyncio.create_task(run_source(each, pipeline), name=each.name) for each in (*sources, *posted)]


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
        await end(*feeding, *others, stopped, ended)
