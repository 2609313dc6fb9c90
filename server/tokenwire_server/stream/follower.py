"""Follows all partitions of the log: from the newest snapshots to its end, and on and on.

So every gateway has the market that the processors have, to the version. What it would have to leave out it never
leaves out in silence: then it ends, and whoever starts it again begins with newer snapshots.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from tokenwire_server import tasks
from tokenwire_server.bus.port import Bus, BusError, Place, Record
from tokenwire_server.market.market import PART_MARK, Market
from tokenwire_server.ports import FollowStatus
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.records import PoisonError, read_logged
from tokenwire_server.stream.replica import LogHoleError, Replica, ReplicaSink
from tokenwire_server.stream.state_topic import StoredState, load_state, read_state
from tokenwire_server.stream.topics import GATEWAY, Topics
from tokenwire_server.telemetry.logs import get_log

__all__ = ["FollowError", "Follower"]

_log = get_log(__name__)

MAX_POLLED: Final = 500  # records that are applied in a row: some ms
POLL_S: Final = 0.1
MAX_RETRY_S: Final = 5.0
LAG_INTERVAL_S: Final = 2.0  # between two questions for the end of the log
BEHIND_RECORDS: Final = 20_000  # whoever lags by more has other data than everybody else


class FollowError(Exception):
    """The log can't be followed any further; a new start, from newer snapshots, can."""


class Follower:
    """Feeds ``sink``, whose market is ``market``, with what the log of that ``lineage`` says. ``monotonic_s`` is a
    clock that nobody sets; ``clock`` is told how the brokers' differs."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        lineage: str,
        market: Market,
        sink: ReplicaSink,
        monotonic_s: Callable[[], float] = time.monotonic,
        clock: BrokersClock | None = None,
    ) -> None:
        self.clock = clock or BrokersClock()
        self.records = 0  # applied
        self.failures = 0  # of the bus
        self.reason = "the log is being read"  # why this market is not like the others; empty: it is
        self.next: dict[int, int] = {}
        """The offset of the next record of the log, by partition."""
        self.begun: dict[int, int] = {}
        """Likewise, at the start: what comes from there on was or will be seen."""
        self._bus = bus
        self._topics = topics
        self._lineage = lineage
        self._market = market
        self._sink = sink
        self._now_s = monotonic_s
        self._replicas: dict[int, Replica] = {}
        self._ends: dict[int, int] = {}
        self._is_failing = False
        self._unknown = ""  # why nobody knows where the log ends

    @property
    def lag_records(self) -> int:
        """Records of the log that were not applied when its end was last asked for, about: the marks at the ends of
        transactions are counted, except the last."""
        return sum(max(0, end - 1 - self.next[partition]) for partition, end in self._ends.items())

    @property
    def is_loading(self) -> bool:
        """Whether the market is not yet whole: before that, nobody can say what it lacks."""
        return len(self.begun) < self._topics.partitions

    def status(self) -> FollowStatus:
        """How it is now."""
        lag = self.lag_records
        behind = f"{lag} records behind the log" if lag > BEHIND_RECORDS else ""
        return FollowStatus(self.reason or self._unknown or behind, lag, self.clock.skew_ms)

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            FollowError: there is a hole, a record can't be read, or the snapshots can't be used.
        """
        retry_s = POLL_S
        while True:
            try:
                await self._load()
                await self._follow()
            except BusError as error:
                self.failures += 1
                if not self._is_failing:
                    _log.warning("bus unavailable", reason=str(error))
                    self._is_failing, retry_s = True, POLL_S
                self.reason = f"the log can't be read: {error}"
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)

    async def _load(self) -> None:
        """Begin where the newest snapshots are, and come to where the log ends now; once done it is not done again."""
        await self._bus.check(self._topics.specs(GATEWAY))
        if await self._bus.lineage(self._topics.log) != self._lineage:
            raise FollowError(f"the topic {self._topics.log} is another one than before")
        missing = [number for number in range(self._topics.partitions) if number not in self.begun]
        ended = await asyncio.gather(*map(self._load_partition, missing), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _load_partition(self, partition: int) -> None:
        log = Place(self._topics.log, partition)
        if partition not in self._replicas:
            state = await self._state(partition)
            replica = Replica(self._market, self._sink, f"{PART_MARK}{partition}")
            try:
                await load_state(state, replica)
            except ValueError as error:
                raise FollowError(f"{self._topics.tokens}/{partition}: {error}") from None
            self._replicas[partition] = replica
            self.next[partition] = state.cut.log_offset
        first, end = await self._bus.bounds(log)
        await self._pass_over(partition, first)
        async with aclosing(self._bus.pieces(log, self.next[partition], end)) as pieces:
            async for piece in pieces:
                for record in piece:
                    self._apply(record)
        if not self._replicas[partition].is_whole:
            raise FollowError(f"{log.topic}/{partition} ends at {end}, before the newest snapshots")
        self.begun[partition] = self.next[partition]

    async def _state(self, partition: int) -> StoredState:
        try:
            return await read_state(self._bus, Place(self._topics.tokens, partition))
        except PoisonError as error:
            raise FollowError(f"{self._topics.tokens}/{partition}: {error}") from None

    async def _pass_over(self, partition: int, first: int) -> None:
        """The log begins at ``first``. What was before has expired: it was applied, or the newest cut is further than
        this, or the next record will not follow."""
        following = self.next[partition]
        if first <= following:
            return
        if (await self._state(partition)).cut.seq > self._replicas[partition].seq:
            raise FollowError(f"{self._topics.log}/{partition}: records {following} to {first - 1} were deleted unread")
        self.next[partition] = first

    async def _follow(self) -> None:
        log = self._topics.log
        firsts = await self._bus.firsts([Place(log, partition) for partition in self.next])
        for place, first in firsts.items():
            await self._pass_over(place.partition, first)
        reader = self._bus.reader()
        asking: asyncio.Task[None] | None = None  # beside reading, which one silent broker must not hold up
        try:
            await reader.assign({Place(log, partition): offset for partition, offset in self.next.items()})
            await self._ask_ends()
            asked_s = self._now_s()
            self._is_there()
            while True:
                records = await reader.poll(MAX_POLLED, POLL_S)
                if records and not self.lag_records:  # what comes late says nothing of clocks
                    self.clock.heard(records[-1].time_ms, int(self._now_s() * 1_000))
                for record in records:
                    self._apply(record)
                self._is_there()
                if asking is not None and asking.done():
                    self._hear_of_ends(asking)
                    asking = None
                if asking is None and self._now_s() - asked_s >= LAG_INTERVAL_S:
                    asked_s = self._now_s()
                    asking = asyncio.create_task(self._ask_ends(), name="ask-ends")
        finally:
            if asking is not None:
                await tasks.end(asking)
            self._unknown = ""
            await reader.close()

    async def _ask_ends(self) -> None:
        ends = await self._bus.ends([Place(self._topics.log, partition) for partition in self.next])
        self._ends = {place.partition: end for place, end in ends.items()}

    def _hear_of_ends(self, asked: asyncio.Task[None]) -> None:
        try:
            asked.result()
            if self._unknown:
                _log.info("the end of the log is known again")
            self._unknown = ""
        except BusError as error:
            self.failures += 1
            if not self._unknown:
                _log.warning("the end of the log is unknown", reason=str(error))
            self._unknown = f"nobody knows where the log ends: {error}"

    def _is_there(self) -> None:
        self._is_failing = False
        if self.reason:
            _log.info("the log is followed", partitions=len(self.next), tokens=len(self._market), records=self.records)
        self.reason = ""

    def _apply(self, record: Record) -> None:
        partition = record.place.partition
        try:
            self._replicas[partition].apply(read_logged(record.value))
        except (ValueError, LogHoleError) as error:
            raise FollowError(f"{record.place.topic}/{partition} at {record.offset}: {error}") from None
        self.next[partition] = record.offset + 1
        self.records += 1
