"""Reads the log, or the bars, of all partitions into a loading: as much as there is room for, whatever the bus does."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from tokenwire_server.bus.port import Bus, BusError, Place, Reader, Record, Right, TopicSpec
from tokenwire_server.errors import UserError
from tokenwire_server.stream.loading import Loading, PartitionLoading
from tokenwire_server.stream.records import PoisonError, read_bar, read_logged

__all__ = ["MAX_WAITING_ROWS", "BarFeed", "LogFeed", "TopicFeed"]

MAX_WAITING_ROWS: Final = 20_000  # of each topic; beyond it, a partition reads on only what it can't be stored without
MAX_POLLED: Final = 2_000  # records
POLL_S: Final = 0.1
MAX_SILENCE_S: Final = 5.0  # a bus that is away looks like one that has nothing new: after this it is asked
FIRST_RETRY_S: Final = 0.25
MAX_RETRY_S: Final = 5.0


class TopicFeed(ABC):
    """One topic. ``tell`` hears why it can't be read for now, and an empty text when it can again; ``press`` is called
    when much has come to be stored."""

    def __init__(
        self,
        bus: Bus,
        topic: str,
        loading: Loading,
        tell: Callable[[str], None],
        press: Callable[[], None] = lambda: None,
    ) -> None:
        self.records = 0
        self.ends: dict[Place, int] = {}
        """The offsets after the last record of each partition, as far as they are known."""
        self.room = asyncio.Event()
        """To be set when something was taken."""
        self._bus = bus
        self._topic = topic
        self._partitions: Final = loading.partitions
        self._tell = tell
        self._press = press
        self._retry_s = FIRST_RETRY_S

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            LogHoleError: records are missing.
            UserError: a newer version of this program wrote what is to be read.
        """
        while True:
            reader = self._bus.reader()
            try:
                await self._begin()
                await self._read(reader)
            except BusError as error:
                self._tell(str(error))
            except PoisonError as error:
                if error.is_newer:
                    raise UserError(f"{error}; update this program, nothing was skipped") from None
                self._tell(str(error))
            finally:
                with contextlib.suppress(BusError):
                    await reader.close()
            await asyncio.sleep(self._retry_s)
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    async def _begin(self) -> None:
        """Pass over what was deleted: the next record that comes shows whether that was needed."""
        await self._bus.check([TopicSpec(self._topic, len(self._partitions), rights=frozenset({Right.READ}))])
        for number, partition in self._partitions.items():
            place = Place(self._topic, number)
            first, self.ends[place] = await self._bus.bounds(place)
            if first > self._offset(partition):
                self._pass_to(partition, first)

    async def _read(self, reader: Reader) -> None:
        assigned: frozenset[int] = frozenset()
        now_s = asyncio.get_running_loop().time
        heard_s = now_s()
        while True:
            self.room.clear()
            wanted = self._wanted()
            if not wanted:
                await self.room.wait()
                continue
            if wanted != assigned:
                await reader.assign({Place(self._topic, n): self._offset(self._partitions[n]) for n in wanted})
                assigned = wanted
            records = await reader.poll(MAX_POLLED, POLL_S)
            for record in records:
                self._feed_one(record)
            if records and self._waiting() >= MAX_WAITING_ROWS // 2:
                self._press()
            if records:
                heard_s = now_s()
            elif now_s() - heard_s >= MAX_SILENCE_S:
                await self._bus.bounds(Place(self._topic, min(wanted)))
                heard_s = now_s()
            self.ends.update(await reader.ends())
            self._retry_s = FIRST_RETRY_S
            self._tell("")

    def _wanted(self) -> frozenset[int]:
        """The partitions to read on."""
        if self._waiting() < MAX_WAITING_ROWS:
            return frozenset(self._partitions)
        return frozenset(number for number, partition in self._partitions.items() if self._is_needed(partition))

    def _waiting(self) -> int:
        """Rows of all partitions that wait to be stored."""
        return sum(map(self._rows, self._partitions.values()))

    def _feed_one(self, record: Record) -> None:
        try:
            self._feed(self._partitions[record.place.partition], record)
        except PoisonError as error:
            where = f"{self._topic}/{record.place.partition} at {record.offset}"
            raise PoisonError(f"{where} can't be read: {error}", is_newer=error.is_newer) from None
        self.records += 1

    @abstractmethod
    def _offset(self, partition: PartitionLoading) -> int:
        """Of the next record."""

    @abstractmethod
    def _pass_to(self, partition: PartitionLoading, offset: int) -> None:
        """The next record stands here or later."""

    @abstractmethod
    def _rows(self, partition: PartitionLoading) -> int:
        """That wait to be stored."""

    @abstractmethod
    def _is_needed(self, partition: PartitionLoading) -> bool:
        """Nothing can be stored without the next record."""

    @abstractmethod
    def _feed(self, partition: PartitionLoading, record: Record) -> None:
        """Raises PoisonError, LogHoleError."""


class LogFeed(TopicFeed):
    """The log."""

    def _offset(self, partition: PartitionLoading) -> int:
        return partition.log_offset

    def _pass_to(self, partition: PartitionLoading, offset: int) -> None:
        partition.log_offset = offset

    def _rows(self, partition: PartitionLoading) -> int:
        return partition.log_rows

    def _is_needed(self, partition: PartitionLoading) -> bool:
        return partition.needs_log

    def _feed(self, partition: PartitionLoading, record: Record) -> None:
        partition.log(record.offset, record.key.decode(errors="replace"), read_logged(record.value))


class BarFeed(TopicFeed):
    """The bars."""

    def _offset(self, partition: PartitionLoading) -> int:
        return partition.bar_offset

    def _pass_to(self, partition: PartitionLoading, offset: int) -> None:
        partition.bar_offset = offset

    def _rows(self, partition: PartitionLoading) -> int:
        return partition.bar_rows

    def _is_needed(self, partition: PartitionLoading) -> bool:
        return partition.needs_bars

    def _feed(self, partition: PartitionLoading, record: Record) -> None:
        partition.bar(record.offset, read_bar(record.value))
