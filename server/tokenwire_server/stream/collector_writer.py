"""What a collector writes, each batch exactly once, and where its sources stand.

A transaction whose end nobody heard of may have been committed or not: the brokers were away at the wrong moment. So
every batch has a number, which is written with it, and before it is tried again one looks whether it is there. The
same records tell two things apart that the brokers answer alike: another collector has taken this one's name over, or
this one's transaction took too long and was ended for it.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tokenwire_server import tasks
from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Record, Writer
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.claim import Claim
from tokenwire_server.stream.topics import Topics
from tokenwire_server.telemetry.logs import get_log

__all__ = ["CollectorWriter", "read_positions"]

_log = get_log(__name__)

SETTLE_S: Final = 30.0  # a transaction of another writer that was killed holds up readers for ten
SETTLE_POLL_S: Final = 0.1
COMPARE_INTERVAL_S: Final = 60.0  # between two looks at the brokers' clock
COMPARE_RETRY_S: Final = 1.0
_BATCH: Final = "#batch/"  # no collector's name begins so


class _Position(msgspec.Struct, frozen=True):
    position: str


class _Mark(msgspec.Struct, frozen=True):
    """``owner`` is a process, ``batch`` the newest one that it wrote."""

    owner: str
    batch: int


_marks: Final = msgspec.json.Decoder(_Mark)
_positions: Final = msgspec.json.Decoder(_Position)


class CollectorWriter:
    """The writer of the collector ``instance``, which finds out what ``clock`` says of the brokers."""

    def __init__(self, bus: Bus, topics: Topics, instance: str, clock: BrokersClock | None = None) -> None:
        self.transactions = 0
        self.aborted = 0
        self._bus = bus
        self._place = Place(topics.positions, 0)
        self._instance = instance
        # Installations that share brokers differ in their topics.
        self._name = f"{topics.raw}.{instance}"
        self._clock = clock or BrokersClock()
        self._compare_s = 0.0  # when to look at the brokers' clock again
        self._comparing: asyncio.Task[None] | None = None
        self._claim = Claim(bus, self._place, instance)
        self._writer: Writer | None = None
        self._written = 0  # batches
        self._is_unsettled = False  # nobody knows whether the batch after that was written

    async def open(self) -> None:
        """Take the name: whoever had it before writes nothing more. May be called again after an error.

        Raises:
            BusError: try again.
            FencedError: somebody else took it at the same time, and has it.
        """
        await self._take_name()

    async def write(self, records: Sequence[Outgoing], positions: Mapping[str, str]) -> None:
        """Write a batch, together with where sources stand by then, by name.

        Raises:
            BusError: give the same batch again, until it is written.
            FencedError: another collector has this name now; nothing of this batch is written.
        """
        if self._is_unsettled:
            self._is_unsettled = not await self._take_name()
            if not self._is_unsettled:
                self.transactions += 1
                return
        mark = msgspec.json.encode(_Mark(self._claim.owner, self._written + 1))
        marks = [Outgoing(self._place, self._batch_key, mark)]
        for source, position in positions.items():
            key = f"{self._instance}/{source}".encode()
            marks.append(Outgoing(self._place, key, msgspec.json.encode(_Position(position))))
        self._is_unsettled = True
        before_ms = self._clock.wall_ms()
        end = (await self._commit([*records, *marks]))[self._place]
        after_ms = self._clock.wall_ms()
        self._claim.know(end)
        self._is_unsettled = False
        self._written += 1
        self.transactions += 1
        if time.monotonic() >= self._compare_s and (self._comparing is None or self._comparing.done()):
            self._comparing = asyncio.create_task(self._compare(end, before_ms, after_ms), name="compare-clocks")

    async def _compare(self, end: int, before_ms: int, after_ms: int) -> None:
        """See when by the brokers' clock that was written what ends there; nothing waits for it."""
        pause_s = COMPARE_RETRY_S
        with contextlib.suppress(BusError):
            written = await self._bus.read(self._place, end - 1, end)
            if written:
                self._clock.judge(written[-1].time_ms, before_ms, after_ms)
                pause_s = COMPARE_INTERVAL_S
        self._compare_s = time.monotonic() + pause_s

    async def close(self) -> None:
        """Let go of the name."""
        if self._comparing is not None:
            await tasks.end(self._comparing)
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    # --- whose name it is, and what was written --------------------------------------------------------------------

    @property
    def _batch_key(self) -> bytes:
        return f"{_BATCH}{self._instance}".encode()

    async def _take_name(self) -> bool:
        """Say whose name it is, which ends what is not committed yet; whether the batch in doubt was written.

        Raises FencedError if somebody else said so meanwhile: that one goes on from what was written by then."""
        claim = await self._claim.record()
        now = (await self._bus.ends([self._place]))[self._place]
        self._check_owners(await self._claim.read(now))  # before the name is taken back
        before_ms = self._clock.wall_ms()
        end = (await self._commit([claim]))[self._place]
        records = await self._look(end)
        self._check_owners(records)
        self._clock.judge(records[-1].time_ms, before_ms, self._clock.wall_ms())
        self._compare_s = time.monotonic() + COMPARE_INTERVAL_S
        marks = [_marks.decode(record.value) for record in records if record.key == self._batch_key]
        is_written = any(mark.owner == self._claim.owner and mark.batch > self._written for mark in marks)
        self._claim.know(end)
        self._written += is_written
        return is_written

    async def _look(self, end: int) -> Sequence[Record]:
        """What was written since it was last looked at, up to our own record before ``end``."""
        until_s = time.monotonic() + SETTLE_S
        while True:
            records = await self._claim.read(end)
            if records and records[-1].offset == end - 1:
                return records
            if time.monotonic() > until_s:
                raise BusError(f"what was written to {self._place.topic} can't be read back: a transaction is open")
            await asyncio.sleep(SETTLE_POLL_S)

    async def _commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        if self._writer is None:
            self._writer = self._bus.writer(self._name)
        try:
            return await self._writer.commit(records)
        except FencedError as error:
            if await self._claim.is_lost():
                raise self._replaced() from error
            await self.close()  # a new one has the name again
            self.aborted += 1
            raise AbortedError(f"a transaction took too long: {error}") from None
        except BusError:
            self.aborted += 1
            raise

    def _check_owners(self, records: Sequence[Record]) -> None:
        """Raises FencedError if somebody else has the name, or had it while a batch was in doubt: the positions may
        have gone on from before that batch."""
        owners = self._claim.owners(records)
        if any(owner != self._claim.owner for owner in (owners if self._is_unsettled else owners[-1:])):
            raise self._replaced()

    def _replaced(self) -> FencedError:
        return FencedError(f"another collector has taken over the name {self._instance}")


async def read_positions(bus: Bus, topics: Topics) -> dict[str, Sequence[str]]:
    """Where each source stands, by name: the last position that each collector wrote of it, the oldest first."""
    place = Place(topics.positions, 0)
    _, end = await bus.bounds(place)
    found: dict[str, dict[str, str]] = {}  # by source and collector
    for record in await bus.read(place, 0, end):
        try:
            whose, _, source = record.key.decode().partition("/")
            if not whose.startswith("#"):
                position = _positions.decode(record.value).position
                written = found.setdefault(source, {})
                written.pop(whose, None)
                written[whose] = position
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            _log.warning("position left aside", topic=place.topic, offset=record.offset, reason=str(error))
    return {source: tuple(written.values()) for source, written in found.items()}
