"""What ``tokenwire-server process`` does: raw events of Kafka become numbered trades, bars and token states."""

import asyncio
from collections.abc import Callable
from typing import Final

from tokenwire_server.bus.port import Bus, BusError, FencedError, Place
from tokenwire_server.command_progress import stopping
from tokenwire_server.errors import ReplacedError, UserError
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.ports import PartState
from tokenwire_server.roles import RoleAnswers, RoleStatus, build_role_metrics, instance_of, open_bus, serve_health
from tokenwire_server.settings import Settings
from tokenwire_server.stream.processor import NewerDataError, Processor, UnusableStateError
from tokenwire_server.stream.topics import Topics, topics_of
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.metrics import Kind, Metrics, Readings

__all__ = ["ROLE_PLACE", "process_log"]

ROLE_PLACE: Final = 1  # of its port in a range of role ports
LAG_INTERVAL_S: Final = 2.0
LAST_S: Final = 10.0  # an end waits no longer for the last snapshots, or for what is being read
_ROLE: Final = "process"


async def process_log(
    settings: Settings, *, accepts_gaps: bool = False, announce: Callable[[str], None] = lambda _: None
) -> int:
    """Process until Ctrl-C or SIGTERM; how many raw records were. ``announce`` is told the URL of the role port.

    Raises:
        UserError: the brokers are not named, an extra is missing, the role port is taken, a newer version of this
            program wrote what is to be read, or what was kept of a partition can't be gone on from.
        ReplacedError: another processor has this one's name.
    """
    bus = open_bus(settings, _ROLE)
    topics, instance = topics_of(settings), instance_of(settings)
    try:
        status = RoleStatus(_ROLE, instance, ("kafka",))
        found = _Found(status)
        processor = Processor(
            bus, topics, instance, BarPlan(parse_intervals(settings.bar_intervals)), settings.max_tokens,
            tell=found.by_processor, accepts_gaps=accepts_gaps,
        )  # fmt: skip
        lag = _Lag(bus, topics, processor, found.by_lag)
        status.details = lambda: {"partitions": processor.assigned, "lag": lag.records}
        metrics = build_role_metrics(status, settings.otlp_endpoint)
        _observe(metrics, processor, lag)
        try:
            with stopping() as stop:
                port = settings.port_of_role(ROLE_PLACE)
                async with serve_health(RoleAnswers(status, metrics), settings.host, port) as url:
                    announce(url)
                    await _until(stop, status, processor, lag)
        finally:
            metrics.shutdown()
    except FencedError:
        raise ReplacedError(
            f"another process goes by the name {instance} and has taken over; give each processor a name of its own: "
            "--instance, or TOKENWIRE_INSTANCE"
        ) from None
    except NewerDataError as error:
        raise UserError(f"{error}; update this one") from None
    except UnusableStateError as error:
        raise UserError(str(error)) from None
    finally:
        await bus.close()
    return processor.raw_records


async def _until(stop: asyncio.Event, status: RoleStatus, processor: Processor, lag: "_Lag") -> None:
    processing = asyncio.create_task(processor.run(), name=_ROLE)
    asking = asyncio.create_task(lag.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((processing, stopped), return_when=asyncio.FIRST_COMPLETED)
        status.is_stopping = True
        processor.close()
        await asyncio.wait((processing,), timeout=LAST_S)
        if processing.done():
            await processing
    finally:
        await end(processing, asking, stopped)  # a transaction that is not committed did not happen


class _Found:
    """How Kafka is, as the processor and whoever asks for its lag found it."""

    def __init__(self, status: RoleStatus) -> None:
        self._status = status
        self._processing = (PartState.STARTING, "")
        self._lag_reason = ""

    def by_processor(self, state: PartState, reason: str) -> None:
        self._processing = state, reason
        self._tell()

    def by_lag(self, reason: str) -> None:
        self._lag_reason = reason
        self._tell()

    def _tell(self) -> None:
        state, reason = self._processing
        if self._lag_reason and state is not PartState.FAILING:
            state, reason = PartState.FAILING, self._lag_reason
        self._status.tell("kafka", state, reason)


class _Lag:
    """How many raw records of its partitions the processor has not read, about. Whoever has nothing to do notices here
    that the brokers are away."""

    def __init__(self, bus: Bus, topics: Topics, processor: Processor, tell: Callable[[str], None]) -> None:
        self.records = 0
        self._bus = bus
        self._topics = topics
        self._processor = processor
        self._tell = tell

    async def run(self) -> None:
        places = [Place(self._topics.raw, number) for number in range(self._topics.partitions)]
        while True:
            await asyncio.sleep(LAG_INTERVAL_S)
            try:
                ends = await self._bus.ends(places)
            except BusError as error:
                self._tell(str(error))
                continue
            self._tell("")
            # The mark at the end of a transaction is no record.
            offsets = self._processor.offsets
            self.records = sum(max(0, ends[places[number]] - 1 - offset) for number, offset in offsets.items())


def _observe(metrics: Metrics, processor: Processor, lag: _Lag) -> None:
    def transactions() -> Readings:
        counts = {"committed": processor.transactions, "aborted": processor.aborted, "fenced": processor.fenced}
        return [(count, {"outcome": outcome}) for outcome, count in counts.items()]

    def rejections() -> Readings:
        return [(n, {"source": source, "reason": reason}) for (source, reason), n in processor.rejections().items()]

    observed: dict[str, tuple[str, Kind, Callable[[], Readings]]] = {
        "processor_records": ("Raw records read.", Kind.COUNTER, lambda: [(processor.raw_records, {})]),
        "processor_transactions": ("Transactions, by outcome.", Kind.COUNTER, transactions),
        "processor_rebuilt": ("Partitions taken over.", Kind.COUNTER, lambda: [(processor.rebuilt, {})]),
        "processor_refolded": (
            "Records of the log that were folded again for that.",
            Kind.COUNTER,
            lambda: [(processor.refolded, {})],
        ),
        "processor_poisoned": (
            "Records that could not be read and were set aside.",
            Kind.COUNTER,
            lambda: [(processor.poisoned, {})],
        ),
        "processor_missing_records": (
            "Raw records that were deleted before anybody processed them, passed over with --accept-gap.",
            Kind.COUNTER,
            lambda: [(processor.missing, {})],
        ),
        "processor_partitions": ("Partitions at work here.", Kind.GAUGE, lambda: [(len(processor.assigned), {})]),
        "processor_lag_records": ("Raw records not read yet, about.", Kind.GAUGE, lambda: [(lag.records, {})]),
        "processor_rejected": ("Data that could not be used, by source and reason.", Kind.GAUGE, rejections),
    }
    for name, (description, kind, read) in observed.items():
        metrics.observe(name, description=description, kind=kind, read=read)
