"""The market of a gateway: it follows the log that processors write, and reads what a loader stored."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from tokenwire_server.bus.port import Bus
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.history.pages import HistoryPages
from tokenwire_server.history.port import HistoryError, Stored
from tokenwire_server.history.recorder import HistoryState, HistoryStatus
from tokenwire_server.intake import Intake
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.records import Series
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import FollowStatus, Source
from tokenwire_server.settings import Settings
from tokenwire_server.stream.follower import Follower, FollowError
from tokenwire_server.stream.loading import Position
from tokenwire_server.stream.topics import Topics, partition_of
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.telemetry.metrics import Kind, Metrics

__all__ = ["FollowedMarket", "LoadedHistory", "Settled"]

_log = get_log(__name__)

SETTLE_TIMEOUT_S: Final = 3.0  # a page waits no longer for the loader
SETTLE_INTERVAL_S: Final = 0.1
CHECK_INTERVAL_S: Final = 1.0  # between two looks at how far the loader has come


class _NewestStored(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def now_ms(self) -> int: ...


class LoadedHistory(Stored, Protocol):
    """What a loader stores."""

    async def newest(self, address: str) -> _NewestStored | None:
        """How far this token is stored; None: not at all."""

    async def offsets(self) -> Mapping[str, str]:
        """How far each partition is."""

    async def followed(self) -> str | None:
        """The lineage of the log that it comes from."""

    async def close(self) -> None:
        """Afterwards nothing else may be called."""


class Settled:
    """Whether what is not at hand any more is stored by now; see ``history.pages.Settling``. ``applied`` says how far
    each partition of the log was applied here."""

    def __init__(
        self,
        history: LoadedHistory,
        topics: Topics,
        applied: Mapping[int, int],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._history = history
        self._topics = topics
        self._applied = applied
        self._now_s = monotonic_s

    async def trades_settled(self, address: str, before: int) -> None:
        """As of ``Settling``."""
        await self._wait(address, lambda stored: stored.number >= before - 1)

    async def bars_settled(self, series: Series, before_ms: int) -> None:
        """As of ``Settling``."""
        address, interval_ms = series
        # One that begins right before that time has closed an interval later.
        await self._wait(address, lambda stored: stored.now_ms >= before_ms - 1 + interval_ms)

    async def _wait(self, address: str, is_enough: Callable[[_NewestStored], bool]) -> None:
        stored = await self._history.newest(address)
        if stored is not None and is_enough(stored):
            return
        partition = partition_of(address, self._topics.partitions)
        wanted = self._applied[partition]
        until_s = self._now_s() + SETTLE_TIMEOUT_S
        while (await positions(self._history, self._topics)).get(partition, 0) < wanted:
            if self._now_s() > until_s:
                raise HistoryError("it is not stored yet: the loader is behind")
            await asyncio.sleep(SETTLE_INTERVAL_S)


async def positions(history: LoadedHistory, topics: Topics) -> dict[int, int]:
    """The offset of the log up to which each partition is stored. Raises HistoryError."""
    found = {}
    for name, text in (await history.offsets()).items():
        topic, _, number = name.rpartition("/")
        if topic == topics.log:
            found[int(number)] = Position.of(text).log_offset
    return found


class _Check(NamedTuple):
    """How the history is: ``reason`` why it can't be read, ``missing`` why there is a hole before what is at hand."""

    reason: str
    missing: str


class FollowedMarket:
    """See ``app.Feed``. ``lineage`` is that of the log; ``history``: what a loader stores, None where none does.

    ``failure`` says why the log could not be followed any further.
    """

    sources: Sequence[Source] = ()

    def __init__(
        self, settings: Settings, topics: Topics, bus: Bus, lineage: str, history: LoadedHistory | None
    ) -> None:
        self.failure: str | None = None
        self._settings = settings
        self._bus = bus
        self._topics = topics
        self._lineage = lineage
        self._history = history
        self._check = _Check("", "" if history is None else "the history was not asked yet")
        self._follower: Follower | None = None

    async def build(self, hub_config: HubConfig) -> Pipeline:
        """A pipeline with nothing in it yet."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        pipeline = Pipeline(
            settings.max_tokens * self._topics.partitions,  # as many as all processors together may know
            lambda: int(loop.time() * 1_000),
            lambda: time.time_ns() // 1_000_000,
            hub_config,
            stream=self._lineage,
            bar_plan=BarPlan(parse_intervals(settings.bar_intervals), settings.max_history),
            is_replica=True,
        )
        follower = Follower(self._bus, self._topics, self._lineage, pipeline.market, pipeline)
        self._follower = follower
        pages = None
        if self._history is not None:
            pages = HistoryPages(self._history, Settled(self._history, self._topics, follower.next))
        pipeline.follow(
            lambda: self._status(follower), pages, self._history_status, is_loading=lambda: follower.is_loading
        )
        return pipeline

    def intake(self, _: Pipeline) -> Intake | None:
        """Gateways take no trades."""
        return None

    def observe(self, metrics: Metrics) -> None:
        """How far this gateway is behind the log."""
        follower = self._follower
        assert follower is not None
        metrics.observe(
            "gateway_replica_lag_records",
            description="Records of the log that were not applied yet, about.",
            kind=Kind.GAUGE,
            read=lambda: [(follower.lag_records, {})],
        )
        metrics.observe(
            "gateway_log_records",
            description="Records of the log that were applied.",
            kind=Kind.COUNTER,
            read=lambda: [(follower.records, {})],
        )
        metrics.observe(
            "gateway_clock_skew",
            description="How far the brokers' clock is ahead of this machine's, about.",
            unit="s",
            kind=Kind.GAUGE,
            read=lambda: [(follower.clock.skew_ms / 1_000, {})],
        )
        metrics.observe(
            "gateway_log_failures",
            description="Times that the log could not be read.",
            kind=Kind.COUNTER,
            read=lambda: [(follower.failures, {})],
        )

    def run(
        self, _: Pipeline, __: Sequence[Source], ___: Intake | None, stop: Callable[[], None]
    ) -> list[asyncio.Task[None]]:
        """Follow the log; where that can't go on, the server ends."""
        assert self._follower is not None
        tasks = [asyncio.create_task(self._follow(self._follower, stop), name="follow")]
        if self._history is not None:
            tasks.append(asyncio.create_task(self._look(self._history, self._follower), name="history"))
        return tasks

    async def _follow(self, follower: Follower, stop: Callable[[], None]) -> None:
        try:
            await follower.run()
        except FollowError as error:
            self.failure = str(error)
            _log.error("the log can't be followed any further", reason=str(error))
            stop()
        except Exception as error:  # a defect: clients are to go where it is not
            self.failure = repr(error)
            _log.error("following failed", exc_info=error)
            stop()

    async def _look(self, history: LoadedHistory, follower: Follower) -> None:
        """See how far the loader is: until it has stored what came before that which is at hand, there is a hole."""
        is_covered = False
        while True:
            reason = missing = ""
            try:
                followed = await history.followed()
                if followed not in (None, self._lineage):
                    missing = "the history follows another log; give this one a schema or a database of its own"
                elif not is_covered:
                    missing = await self._missing(history, follower)
                    is_covered = not missing
            except (HistoryError, ValueError) as error:  # positions that can't be read among them
                reason = str(error)
                missing = "" if is_covered else f"the history can't be read: {error}"
            if self._check.reason != reason:
                (_log.warning if reason else _log.info)("history", reason=reason or "it can be read again")
            self._check = _Check(reason, missing)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _missing(self, history: LoadedHistory, follower: Follower) -> str:
        if follower.is_loading:
            return "the log is being read"
        stored = await positions(history, self._topics)
        behind = sum(max(0, begun - stored.get(number, 0)) for number, begun in follower.begun.items())
        return f"the loader is {behind} records behind where this gateway began" if behind else ""

    def _status(self, follower: Follower) -> FollowStatus:
        status = follower.status()
        return status._replace(reason=self.failure or status.reason or self._check.missing)

    def _history_status(self) -> HistoryStatus | None:
        if self._history is None:
            return None
        reason = self._check.reason
        return HistoryStatus(HistoryState.FAILING if reason else HistoryState.OK, reason)
