"""What ``tokenwire-server collect`` does with Kafka: what sources deliver, as raw records that processors take up."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tokenwire_server.bus.port import Bus, FencedError
from tokenwire_server.cache.elected import Elected
from tokenwire_server.cache.service import POLLERS, SharedCache, open_cache
from tokenwire_server.command_progress import counted, stopping
from tokenwire_server.errors import ReplacedError, UserError
from tokenwire_server.feeding import feed
from tokenwire_server.instruments import FeedCounts, observe_feed
from tokenwire_server.ports import DELIVERING, Replay, Resumable, Source, SourceState, Tallied
from tokenwire_server.roles import PartState, RoleAnswers, RoleStatus, build_role_metrics, instance_of, serve_health
from tokenwire_server.settings import Settings
from tokenwire_server.sources.aggregator import Aggregator
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.topics import topics_of
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.telemetry.metrics import Kind, Metrics

__all__ = ["ROLE_PLACE", "BusSummary", "check_targets", "collect_to_bus"]

_log = get_log(__name__)

ROLE_PLACE: Final = 0  # among the ports of the roles
FINISH_S: Final = 5.0  # for writing what is left at the end
REPORT_INTERVAL_S: Final = 10.0
LOOK_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class BusSummary:
    """What was collected. ``records`` were written, in ``transactions``; ``unwritten`` ones were not, and are told
    again at the next start by sources that can. ``is_failed``: no source could go on."""

    trades: int
    values: int
    rejected: int
    records: int
    transactions: int
    aborted: int
    unwritten: int
    dropped: int
    seconds: float
    is_failed: bool


def check_targets(settings: Settings) -> None:
    """Raises UserError if the settings name both brokers and a directory."""
    if settings.data is not None:
        raise UserError(
            "collect writes to one place: either --kafka (KAFKA_BOOTSTRAP_SERVERS) or --data (TOKENWIRE_DATA); behind "
            "Kafka, load keeps bars and trades"
        )
    if settings.timescale_host is not None:
        _log.info("collecting into Kafka; what is kept in TimescaleDB is written by load")


async def collect_to_bus(
    settings: Settings,
    sources: Sequence[Source],
    bus: Bus,
    *,
    clock: BrokersClock | None = None,
    port: int | None = None,
    duration_s: float | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> BusSummary:
    """Collect until Ctrl-C or SIGTERM, the end of the time, or the end of all sources; what came by then is written, if
    the bus takes it within ``FINISH_S``. ``clock`` is told how the brokers' differs. ``port`` is where to answer for it
    (None: where the settings say). With a cache (Redis), one collector at a time polls.

    ``announce`` is told the URL of that port; the sources begin once the bus can be had.

    Raises:
        UserError: the port can't be used.
        ReplacedError: another collector has this one's name.
    """
    async with open_cache(settings) as cache:
        if cache is not None:
            sources = cache.elected(sources, lambda source: isinstance(source, Aggregator), POLLERS)
        return await _collect_to_bus(settings, sources, bus, cache, clock, port, duration_s, announce)


async def _collect_to_bus(
    settings: Settings,
    sources: Sequence[Source],
    bus: Bus,
    cache: SharedCache | None,
    clock: BrokersClock | None,
    port: int | None,
    duration_s: float | None,
    announce: Callable[[str], None],
) -> BusSummary:
    begun_s = time.monotonic()
    name = instance_of(settings)
    replays = [each.name for each in sources if isinstance(each, Replay) and each.is_replay]
    sink = BusSink(bus, topics_of(settings), name, replays, {each.name: each.cadence_ms for each in sources}, clock)
    status = _status(name, sink, sources, cache)
    metrics = _instruments(status, sink, sources, settings.otlp_endpoint)
    if cache is not None:
        cache.observe(metrics)
    try:
        with stopping() as stop:
            where = settings.port_of_role(ROLE_PLACE) if port is None else port
            async with serve_health(RoleAnswers(status, metrics), settings.host, where) as url:
                announce(url)
                positions = await _begun(sink, stop)
                if positions is not None:
                    _resume(sources, positions)
                    await _collect(settings, sources, sink, status, stop, duration_s)
    except FencedError:
        raise ReplacedError(
            f"another collector goes by the name {name} now, and collects in place of this one; give each a name of "
            "its own with --instance"
        ) from None
    finally:
        metrics.shutdown()
        await bus.close()
    return BusSummary(
        trades=sum(sink.trades_taken.values()),
        values=sum(sink.values_taken.values()),
        rejected=sum(sink.rejections.values()),
        records=sink.records,
        transactions=sink.writer.transactions,
        aborted=sink.writer.aborted,
        unwritten=sink.waiting,
        dropped=sum(sink.dropped.values()),
        seconds=time.monotonic() - begun_s,
        is_failed=bool(sink.states) and all(sink.states.get(each.name) is SourceState.FAILED for each in sources),
    )


async def _begun(sink: BusSink, stop: asyncio.Event) -> Mapping[str, Sequence[str]] | None:
    """Where each source stands, as of ``BusSink.begin``, as soon as the bus tells; None if it is to end before."""
    beginning = asyncio.create_task(sink.begin())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((beginning, stopped), return_when=asyncio.FIRST_COMPLETED)
        return beginning.result() if beginning.done() else None
    finally:
        await end(beginning, stopped)


def _resume(sources: Sequence[Source], positions: Mapping[str, Sequence[str]]) -> None:
    for source in sources:
        stored = positions.get(source.name)
        if stored and isinstance(source, Resumable):
            source.resume(stored)
            _log.info("source goes on", source=source.name, collectors=len(stored), newest=stored[-1][:200])


async def _collect(
    settings: Settings,
    sources: Sequence[Source],
    sink: BusSink,
    status: RoleStatus,
    stop: asyncio.Event,
    duration_s: float | None,
) -> None:
    writing = asyncio.create_task(sink.run(), name="writing")
    writing.add_done_callback(lambda _: stop.set())  # it ends by itself only when it can't go on
    try:
        beside = _report(sink), _tick(sink, settings.update_interval_s), _look_again(sink)
        await feed(sources, sink, stop, duration_s, *beside)
        status.is_stopping = True
        sink.close()
        await asyncio.wait((writing,), timeout=FINISH_S)
    finally:
        writing.cancel()
        await asyncio.wait((writing,))
    if not writing.cancelled():
        writing.result()


def _status(name: str, sink: BusSink, sources: Sequence[Source], cache: SharedCache | None) -> RoleStatus:
    status = RoleStatus("collect", name, ("kafka", "sources"))
    elected = {each.name for each in sources if isinstance(each, Elected)}

    def states() -> dict[str, str]:
        return {each.name: str(SourceState.STARTING) for each in sources} | {
            source: str(state) for source, state in sink.states.items()
        }

    def tell() -> None:
        status.tell("kafka", PartState.FAILING if sink.failure else PartState.OK, sink.failure or "")
        stands_by = any(source in elected and state is SourceState.STARTING for source, state in sink.states.items())
        undecided = "" if cache is None else cache.status().reason
        delivering = [source for source, state in sink.states.items() if state in DELIVERING]
        wrong = sink.wrong_clocks.reasons
        if any(source not in wrong for source in delivering) or (stands_by and not undecided):
            status.tell("sources", PartState.OK)
        elif delivering:
            status.tell("sources", PartState.FAILING, "; ".join(wrong[source] for source in delivering))
        elif stands_by:
            status.tell("sources", PartState.FAILING, f"it can't be known who is to poll: {undecided}")
        elif any(state is not SourceState.STARTING for state in sink.states.values()):
            status.tell("sources", PartState.FAILING, "no source delivers")

    sink.on_change = tell
    status.details = lambda: {
        "sources": states(),
        "waiting_records": sink.waiting,
        "has_room": sink.has_room,
        "clock_skew_ms": sink.brokers_clock.skew_ms,
        **({"clocks": dict(sink.wrong_clocks.reasons)} if sink.wrong_clocks.reasons else {}),
        **({} if cache is None else {"cache": cache.status().body()}),
    }
    return status


def _instruments(status: RoleStatus, sink: BusSink, sources: Sequence[Source], otlp_endpoint: str | None) -> Metrics:
    metrics = build_role_metrics(status, otlp_endpoint)
    tallied = [each for each in sources if isinstance(each, Tallied)]
    feed = FeedCounts(lambda: sink.states, sink.trades_taken, sink.values_taken, sink.gaps, sink.rejections, tallied)
    observe_feed(metrics, feed)
    writer = sink.writer
    metrics.observe(
        "collector_records",
        description="Raw records written.",
        kind=Kind.COUNTER,
        read=lambda: [(sink.records, {})],
    )
    metrics.observe(
        "collector_waiting_records",
        description="Raw records that are not written yet.",
        kind=Kind.UP_DOWN,
        read=lambda: [(sink.waiting, {})],
    )
    metrics.observe(
        "collector_transactions",
        description="Transactions, by how they ended.",
        kind=Kind.COUNTER,
        read=lambda: [(writer.transactions, {"outcome": "committed"}), (writer.aborted, {"outcome": "aborted"})],
    )
    metrics.observe(
        "collector_dropped",
        description="Trades and values of sources that did not wait for room, by source.",
        kind=Kind.COUNTER,
        read=lambda: [(count, {"source": source}) for source, count in sink.dropped.items()],
    )
    metrics.observe(
        "collector_clock_skew",
        description="How far the brokers' clock is ahead of this machine's, as far as that is certain.",
        unit="s",
        kind=Kind.GAUGE,
        read=lambda: [(sink.brokers_clock.skew_ms / 1_000, {})],
    )
    return metrics


async def _tick(sink: BusSink, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(interval_s)
        sink.tick(loop.time())


async def _look_again(sink: BusSink) -> None:
    """At what changes without a word: whether the cache can be had."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        sink.on_change()


async def _report(sink: BusSink) -> None:
    before = 0
    while True:
        await asyncio.sleep(REPORT_INTERVAL_S)
        taken = sum(sink.trades_taken.values()) + sum(sink.values_taken.values())
        fields: dict[str, object] = {
            "trades": sum(sink.trades_taken.values()),
            "per_second": round((taken - before) / REPORT_INTERVAL_S),
            "records": sink.records,
            "waiting": sink.waiting,
        }
        if sink.values_taken:
            fields["values"] = sum(sink.values_taken.values())
        if sink.rejections:
            fields["rejected"] = counted({reason: count for (_, reason), count in sink.rejections.items()})
        if sink.failure is not None:
            fields |= {"kafka": "failing", "reason": sink.failure}
        _log.info("collecting", **fields)
        before = taken
