"""The collector: what sources deliver becomes raw records, and where each source stands is written with them.

A source's calls are kept until the next transaction, which holds them together with the positions they lead to. So
after a crash a source goes on right behind what was written: nothing is missing, and nothing is there twice.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Writer
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.records import RawEvent, State, encode
from tokenwire_server.stream.topics import Topics, partition_of
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.validation.trades import Rejection, validate_recorded, validate_trade, validate_value

__all__ = ["COMMIT_INTERVAL_S", "MAX_WAITING_RECORDS", "BusSink", "read_positions"]

_log = get_log(__name__)

COMMIT_INTERVAL_S: Final = 0.05
MAX_WAITING_RECORDS: Final = 50_000  # that the bus did not take yet; sources that can wait do so from half of it on
MAX_RETRY_S: Final = 5.0

T = TypeVar("T", Trade, TokenValue)


class _Position(msgspec.Struct, frozen=True):
    position: str


class BusSink:
    """The sink of the sources of one collector. ``wall_ms`` is Unix time, by which live trades are judged; those of
    ``replays`` (names of sources) are not refused for their age."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        instance: str,
        replays: Iterable[str] = (),
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.trades_taken: dict[str, int] = {}
        self.values_taken: dict[str, int] = {}
        self.rejections: dict[tuple[str, str], int] = {}  # by source and reason
        self.gaps: dict[str, tuple[int, int]] = {}  # holes, and trades in them, by source
        self.states: dict[str, SourceState] = {}
        self.records = 0  # written
        self.transactions = 0
        self.aborted = 0
        self.failure: str | None = None  # why nothing can be written for now
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._replays = frozenset(replays)
        self._wall_ms = wall_ms
        self._waiting: list[Outgoing] = []
        self._positions: dict[str, str] = {}
        self._clocks: dict[str, int] = {}
        self._told: dict[tuple[str, int], int] = {}  # the clock that a partition knows, by source and partition
        self._room = asyncio.Event()
        self._room.set()
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._waiting)

    # --- Sink --------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens."""
        for info in tokens:
            self._put(info.address, raw.Tokens(source, (info,)))

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Deliver trades."""
        validate = validate_recorded if source in self._replays else validate_trade
        runs: dict[str, list[Trade]] = {}
        for trade in self._valid(source, trades, validate, self.trades_taken):
            runs.setdefault(trade.address, []).append(trade)
        for address, run in runs.items():
            self._put(address, raw.Trades(source, tuple(run), self._clock_for(source, address)))

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Deliver stated values."""
        for value in self._valid(source, values, validate_value, self.values_taken):
            self._put(value.address, raw.Values(source, (value,)))

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """There are no ticks here."""

    def clock(self, source: str, event_time_ms: int) -> None:
        """Event time moved on: all partitions are told with the next transaction."""
        self._clocks[source] = max(event_time_ms, self._clocks.get(source, 0))

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Count what could not be used; the log tells of the first of each kind."""
        key = source, reason
        count = self.rejections[key] = self.rejections.get(key, 0) + 1
        if count == 1:
            _log.warning("data rejected", source=source, reason=reason, detail=detail)

    def gap(self, source: str, token: str, missed: int) -> None:
        """Trades of a token are missing."""
        gaps, trades = self.gaps.get(source, (0, 0))
        self.gaps[source] = (gaps + 1, trades + missed)
        self._put(token, raw.Gap(source, token, missed))

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The source changed its state: all partitions are told."""
        if self.states.get(source) is not state:
            _log.info("source state", source=source, state=state, **({"detail": detail} if detail else {}))
        self.states[source] = state
        for partition in range(self._topics.partitions):
            self._append(Place(self._topics.raw, partition), "", State(source, state, detail))

    def offset(self, source: str, position: str) -> None:
        """The source goes on here after everything that it delivered so far."""
        self._positions[source] = position

    async def room(self) -> None:
        """Return when there is room for more: a source that can wait does so before it delivers."""
        await self._room.wait()

    # --- writing -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write until :meth:`close`, and then what is left.

        Raises:
            FencedError: another collector goes by this name.
        """
        writer = self._bus.writer(self._instance)
        retry_s = COMMIT_INTERVAL_S
        try:
            while self._is_pending() or not self._closing.is_set():
                try:
                    await self._flush(writer)
                    retry_s = COMMIT_INTERVAL_S
                except FencedError:
                    raise
                except BusError as error:
                    self.aborted += isinstance(error, AbortedError)
                    if self.failure is None:
                        _log.warning("bus unavailable", reason=str(error))
                    self.failure = str(error)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
                await asyncio.sleep(retry_s)
        finally:
            await writer.close()

    def close(self) -> None:
        """Have :meth:`run` end once everything is written."""
        self._closing.set()

    async def _flush(self, writer: Writer) -> None:
        """Write everything in one transaction: a part of it might be without the position that it leads to."""
        count, positions = len(self._waiting), dict(self._positions)
        place = Place(self._topics.positions, 0)
        marks = (Outgoing(place, name.encode(), _encoded(position)) for name, position in positions.items())
        records = [*self._waiting, *marks]
        if records:
            await writer.commit(records)
            self.transactions += 1
            self.records += len(records)
        del self._waiting[:count]
        for name, position in positions.items():
            if self._positions.get(name) == position:
                del self._positions[name]
        if self.failure is not None:
            _log.info("bus available again")
            self.failure = None
        if len(self._waiting) < MAX_WAITING_RECORDS // 2:
            self._room.set()

    def _is_pending(self) -> bool:
        """Whether there is anything to write, clocks among it."""
        self._tell_clocks()
        return bool(self._waiting or self._positions)

    def _tell_clocks(self) -> None:
        for source, now_ms in self._clocks.items():
            for partition in range(self._topics.partitions):
                if self._told.get((source, partition), 0) < now_ms:
                    self._told[source, partition] = now_ms
                    self._append(Place(self._topics.raw, partition), "", raw.Clock(source, now_ms))

    def _clock_for(self, source: str, address: str) -> int | None:
        """The source's clock, if the partition of this token does not know it yet; it does then."""
        now_ms = self._clocks.get(source, 0)
        key = source, partition_of(address, self._topics.partitions)
        if self._told.get(key, 0) >= now_ms:
            return None
        self._told[key] = now_ms
        return now_ms

    def _valid(
        self,
        source: str,
        items: Sequence[T],
        validate: Callable[[T, int], Rejection | None],
        taken: dict[str, int],
    ) -> list[T]:
        present_ms = self._clocks.get(source, 0) or self._wall_ms()
        found = []
        for item in items:
            rejection = validate(item, present_ms)
            if rejection is None:
                found.append(item)
            else:
                self.rejected(source, rejection.reason, rejection.detail)
        taken[source] = taken.get(source, 0) + len(found)
        return found

    def _put(self, address: str, event: RawEvent) -> None:
        self._append(self._topics.place(self._topics.raw, address), address, event)

    def _append(self, place: Place, key: str, event: RawEvent) -> None:
        self._waiting.append(Outgoing(place, key.encode(), encode(event)))
        if len(self._waiting) >= MAX_WAITING_RECORDS // 2:
            self._room.clear()


def _encoded(position: str) -> bytes:
    return msgspec.json.encode(_Position(position))


async def read_positions(bus: Bus, topics: Topics) -> dict[str, str]:
    """Where each source stands, by name."""
    place = Place(topics.positions, 0)
    _, end = await bus.bounds(place)
    found = {}
    for record in await bus.read(place, 0, end):
        found[record.key.decode()] = msgspec.json.decode(record.value, type=_Position).position
    return found
