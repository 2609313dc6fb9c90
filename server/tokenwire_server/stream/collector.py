"""The collector: what sources deliver becomes raw records, and where each source stands is written with them.

A source's calls are kept until the next transaction, which holds them together with the positions they lead to. So
after a crash a source goes on right behind what was written: nothing is missing, and nothing is there twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from tokenwire_server.bus.port import Bus, BusError, FencedError, Outgoing, Place
from tokenwire_server.market.registry import wire_address
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector_writer import CollectorWriter, read_positions
from tokenwire_server.stream.records import RawEvent, State, encode
from tokenwire_server.stream.topics import COLLECTOR, Topics, partition_of
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.validation.reason_counts import ReasonCounts
from tokenwire_server.validation.trades import (
    Reason,
    Rejection,
    validate_recorded,
    validate_token,
    validate_trade,
    validate_value,
)
from tokenwire_server.validation.wrong_clocks import WrongClocks

__all__ = ["COMMIT_INTERVAL_S", "MAX_WAITING_BYTES", "MAX_WAITING_RECORDS", "BusSink"]

_log = get_log(__name__)

COMMIT_INTERVAL_S: Final = 0.05
MAX_WAITING_RECORDS: Final = 50_000  # that the bus did not take yet; from half of it on there is no room
MAX_WAITING_BYTES: Final = 33_554_432  # likewise
MAX_RECORD_BYTES: Final = 900_000  # Kafka refuses batches of more than 1 MiB unless told otherwise
MAX_TRADES_PER_RECORD: Final = 200
MAX_WITHHELD: Final = 10_000  # announcements, states and holes that wait because nothing else fits
MAX_DETAIL_CHARS: Final = 500
MAX_RETRY_S: Final = 5.0
CHECK_INTERVAL_S: Final = 5.0  # without anything to write, after which the brokers are asked whether they are there
CHECK_TIMEOUT_S: Final = 5.0  # for their answer

T = TypeVar("T", Trade, TokenValue)


class _Batch(NamedTuple):
    records: Sequence[Outgoing]
    octets: int
    positions: Mapping[str, str]


class BusSink:
    """The sink of the sources of one collector, which goes by the name ``instance``. Live trades are judged by
    ``clock``; those of ``replays`` (names of sources) are not refused for their age. ``cadences_ms`` are those that
    sources promise.

    What waits for the bus is bounded. A source that delivers though there is no room loses trades and values beyond
    the bound: they are counted (``dropped``), and for trades a hole is told.
    """

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        instance: str,
        replays: Iterable[str] = (),
        cadences_ms: Mapping[str, int] | None = None,
        clock: BrokersClock | None = None,
    ) -> None:
        self.trades_taken: dict[str, int] = {}
        self.values_taken: dict[str, int] = {}
        self.rejections = ReasonCounts()  # by source and reason
        self.wrong_clocks = WrongClocks()
        self.gaps: dict[str, tuple[int, int]] = {}  # holes, and trades in them, by source
        self.dropped: dict[str, int] = {}  # trades and values that nothing could hold, by source
        self.states: dict[str, SourceState] = {}
        self.records = 0  # written
        self.failure: str | None = "the brokers were not asked yet"  # why nothing can be written for now
        self.on_change: Callable[[], None] = lambda: None  # called when ``failure`` or a source's state is another
        self.brokers_clock = clock or BrokersClock()
        self.writer = CollectorWriter(bus, topics, instance, self.brokers_clock)
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._replays = frozenset(replays)
        self._cadences_ms = cadences_ms or {}
        self._waiting: list[Outgoing] = []
        self._waiting_bytes = 0
        self._batch = _Batch((), 0, {})  # that is being written
        self._withheld: dict[tuple[object, ...], RawEvent] = {}  # the newest of each kind
        self._positions: dict[str, str] = {}
        self._clocks: dict[str, int] = {}
        self._told: dict[tuple[str, int], int] = {}  # the clock that a partition knows, by source and partition
        self._callbacks: list[Callable[[float], None]] = []
        self._heard_s = 0.0  # when the brokers answered last, on the loop's clock
        self._room = asyncio.Event()
        self._room.set()
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._batch.records) + len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether sources need not wait."""
        return self._room.is_set()

    # --- Sink --------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens."""
        for info in tokens:
            rejection = validate_token(info)
            if rejection is None:
                self._put(wire_address(info), raw.Tokens(source, (info,)))
            else:
                self.rejected(source, rejection.reason, rejection.detail)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Deliver trades."""
        validate = validate_recorded if source in self._replays else validate_trade
        runs: dict[str, list[Trade]] = {}
        present_ms = self._clocks.get(source, 0) or self.brokers_clock.later_ms()
        for trade in self._valid(source, trades, validate, present_ms, self.trades_taken):
            runs.setdefault(trade.address, []).append(trade)
        for address, run in runs.items():
            for at in range(0, len(run), MAX_TRADES_PER_RECORD):
                some = tuple(run[at : at + MAX_TRADES_PER_RECORD])
                self._put(address, raw.Trades(source, some, self._clock_for(source, address)))

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Deliver stated values."""
        # Who takes them up judges them by the brokers' clock alone.
        present_ms = min(self._clocks.get(source, 0) or self.brokers_clock.wall_ms(), self.brokers_clock.earlier_ms())
        for value in self._valid(source, values, validate_value, present_ms, self.values_taken):
            self._put(value.address, raw.Values(source, (value,)))

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """Have it called by :meth:`tick`."""
        self._callbacks.append(callback)

    def clock(self, source: str, event_time_ms: int) -> None:
        """Event time moved on: all partitions are told with the next transaction."""
        self._clocks[source] = max(event_time_ms, self._clocks.get(source, 0))

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Count what could not be used; the log tells of the first of each kind."""
        if self.rejections.add(source, reason):
            _log.warning("data rejected", source=source, reason=reason, detail=detail)

    def gap(self, source: str, token: str, missed: int) -> None:
        """Trades of a token are missing."""
        self._count_gap(source, missed)
        self._put(token, raw.Gap(source, token, missed))

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The source changed its state: all partitions are told, but of a beginning. That changes nothing, and
        perhaps it only stands by while another collector has the same source."""
        if self.states.get(source) is not state:
            tell = _log.warning if state in (SourceState.RECONNECTING, SourceState.FAILED) else _log.info
            tell("source state", source=source, state=state, **({"detail": detail} if detail else {}))
        self.states[source] = state
        self.on_change()
        event = State(source, state, detail[:MAX_DETAIL_CHARS], self._cadences_ms.get(source, 0))
        if state is SourceState.STARTING:
            return
        if self._is_full:
            self._withhold(event)
        else:
            self._tell_all(event)

    def offset(self, source: str, position: str) -> None:
        """The source goes on here after everything that it delivered so far."""
        self._positions[source] = position

    async def room(self) -> None:
        """Return when there is room for more."""
        while not self._room.is_set():  # whoever was woken first may have filled it
            await self._room.wait()

    def tick(self, planned_s: float) -> None:
        """Call what sources want called before each tick of a server, unless there is no room for what they say."""
        if self._room.is_set():
            for callback in self._callbacks:
                callback(planned_s)

    # --- writing -----------------------------------------------------------------------------------------------

    async def begin(self) -> Mapping[str, Sequence[str]]:
        """Be the collector of this name, as soon as the bus can be had: where each source stands, as of
        :func:`read_positions`.

        Raises:
            FencedError: another collector has taken the name over.
        """
        found: dict[str, Sequence[str]] = {}

        async def begin() -> None:
            await self._bus.ensure(self._topics.specs(COLLECTOR))
            await self.writer.open()
            found.update(await read_positions(self._bus, self._topics))
            self._heard_s = asyncio.get_running_loop().time()

        retry_s = COMMIT_INTERVAL_S
        while not await self._attempt(begin):
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, MAX_RETRY_S)
        return found

    async def run(self) -> None:
        """Write until :meth:`close`, and then what is left; :meth:`begin` comes first.

        Raises:
            FencedError: another collector has taken the name over.
        """
        retry_s = COMMIT_INTERVAL_S
        try:
            while self._is_pending() or not self._closing.is_set():
                retry_s = COMMIT_INTERVAL_S if await self._attempt(self._flush) else min(2 * retry_s, MAX_RETRY_S)
                await asyncio.sleep(retry_s)
        finally:
            await self.writer.close()

    def close(self) -> None:
        """Have :meth:`run` end once everything is written."""
        self._closing.set()

    async def _attempt(self, act: Callable[[], Awaitable[None]]) -> bool:
        """Whether the bus did it; ``failure`` says why not."""
        before, failure = self.failure, None
        try:
            await act()
        except FencedError:
            raise
        except BusError as error:
            failure = str(error)
        self.failure = failure
        if failure != before:
            self.on_change()
        return failure is None

    async def _flush(self) -> None:
        """Write everything in one transaction: a part of it might be without the position that it leads to."""
        if not self._batch.records and not self._batch.positions:
            self._batch = _Batch(self._waiting, self._waiting_bytes, self._positions)
            self._waiting, self._waiting_bytes, self._positions = [], 0, {}
        batch, now_s = self._batch, asyncio.get_running_loop().time
        if batch.records or batch.positions:
            if self.failure is not None:  # so it is told what exactly is refused, if anything is
                await self._bus.check(self._topics.specs(COLLECTOR))
            await self.writer.write(batch.records, batch.positions)
            self.records += len(batch.records)
            self._batch = _Batch((), 0, {})
            self._heard_s = now_s()
        elif now_s() - self._heard_s >= CHECK_INTERVAL_S:
            await self._check()
            self._heard_s = now_s()
        if self._withheld and not self._waiting:
            withheld, self._withheld = self._withheld, {}
            for event in withheld.values():
                self._put_control(event)
        if not self._is_narrow:
            self._room.set()

    async def _check(self) -> None:
        """Raises BusError if the brokers are away, which is not heard of otherwise while there is nothing to write."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._bus.ends([Place(self._topics.positions, 0)])
        except TimeoutError:
            raise BusError(f"the brokers did not answer within {CHECK_TIMEOUT_S:g} s") from None

    def _is_pending(self) -> bool:
        """Whether there is anything to write, clocks among it."""
        self._tell_clocks()
        return bool(self.waiting or self._positions or self._batch.positions or self._withheld)

    # --- what waits --------------------------------------------------------------------------------------------

    @property
    def _is_narrow(self) -> bool:
        octets = self._waiting_bytes + self._batch.octets
        return self.waiting >= MAX_WAITING_RECORDS // 2 or octets >= MAX_WAITING_BYTES // 2

    @property
    def _is_full(self) -> bool:
        """Also until what was withheld is written: nothing overtakes it."""
        octets = self._waiting_bytes + self._batch.octets
        return bool(self._withheld) or self.waiting >= MAX_WAITING_RECORDS or octets >= MAX_WAITING_BYTES

    def _tell_clocks(self) -> None:
        for source, now_ms in self._clocks.items():
            for partition in range(self._topics.partitions):
                if self._told.get((source, partition), 0) < now_ms and not self._is_full:
                    self._told[source, partition] = now_ms
                    self._append(Place(self._topics.raw, partition), "", raw.Clock(source, now_ms))

    def _clock_for(self, source: str, address: str) -> int | None:
        """The source's clock, if the partition of this token does not know it yet; it does then."""
        now_ms = self._clocks.get(source, 0)
        key = source, partition_of(address, self._topics.partitions)
        if self._told.get(key, 0) >= now_ms or self._is_full:
            return None
        self._told[key] = now_ms
        return now_ms

    def _valid(
        self,
        source: str,
        items: Sequence[T],
        validate: Callable[[T, int], Rejection | None],
        present_ms: int,
        taken: dict[str, int],
    ) -> list[T]:
        found = []
        for item in items:
            rejection = validate(item, present_ms)
            if rejection is None:
                found.append(item)
                if self.wrong_clocks.taken(source):
                    self.on_change()
                continue
            self.rejected(source, rejection.reason, rejection.detail)
            if rejection.reason is Reason.TIME_IN_FUTURE and self.wrong_clocks.refused(
                source, item.time_ms - present_ms, "this machine's clock or the brokers'"
            ):
                _log.error("clock wrong", reason=self.wrong_clocks.reasons[source])
                self.on_change()
        taken[source] = taken.get(source, 0) + len(found)
        return found

    def _put(self, address: str, event: raw.Tokens | raw.Trades | raw.Values | raw.Gap) -> None:
        if self._is_full:
            self._withhold(event)
        else:
            self._append(self._topics.place(self._topics.raw, address), address, event)

    def _put_control(self, event: RawEvent) -> None:
        match event:
            case State():
                self._tell_all(event)
            case raw.Tokens():
                self._put(wire_address(event.tokens[0]), event)
            case raw.Gap():
                self._put(event.token, event)

    def _tell_all(self, event: State) -> None:
        for partition in range(self._topics.partitions):
            self._append(Place(self._topics.raw, partition), "", event)

    def _append(self, place: Place, key: str, event: RawEvent) -> None:
        record = Outgoing(place, key.encode(), encode(event))
        octets = len(record.key) + len(record.value)
        if octets > MAX_RECORD_BYTES:
            self.rejected(event.source, "record_too_large", f"{octets} bytes")
            return
        self._waiting.append(record)
        self._waiting_bytes += octets
        if self._is_narrow:
            self._room.clear()

    def _withhold(self, event: RawEvent) -> None:
        """Nothing fits: a trade becomes a part of a hole, and of everything else the newest is kept."""
        match event:
            case raw.Trades():
                self._drop(event.source, len(event.trades))
                self._count_gap(event.source, len(event.trades))
                self._withhold(raw.Gap(event.source, event.trades[0].address, len(event.trades)))
                return
            case raw.Values():
                self._drop(event.source, len(event.values))
                return
            case raw.Gap():
                key: tuple[object, ...] = (raw.Gap, event.source, event.token)
                before = self._withheld.get(key)
                if isinstance(before, raw.Gap):
                    event = raw.Gap(event.source, event.token, before.missed + event.missed)
            case raw.Tokens():
                key = (raw.Tokens, wire_address(event.tokens[0]))
            case _:
                key = (State, event.source)
        if key in self._withheld or len(self._withheld) < MAX_WITHHELD:
            self._withheld[key] = event
        else:
            self._drop(event.source, 1)

    def _count_gap(self, source: str, missed: int) -> None:
        gaps, trades = self.gaps.get(source, (0, 0))
        self.gaps[source] = (gaps + 1, trades + missed)

    def _drop(self, source: str, count: int) -> None:
        if source not in self.dropped:
            _log.error("nothing fits any more", source=source, waiting=self.waiting, reason=self.failure)
        self.dropped[source] = self.dropped.get(source, 0) + count
