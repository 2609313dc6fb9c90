"""The processor: raw events become numbered ones and bars, each exactly once, whatever dies in between.

Every transaction holds what became of some raw records together with how far they were read, so there is either all
of it or nothing. What a processor knows of its partitions is made again from its own output: the newest snapshots, and
the raw records between them and what was committed, folded once more without writing anything.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Record, Worker
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.stream.fold import Fold, Output
from tokenwire_server.stream.records import CUT_KEY, Cut, PoisonError, encode, read_cut, read_raw, read_snapshot
from tokenwire_server.stream.topics import Topics, partition_of
from tokenwire_server.telemetry.logs import get_log

__all__ = ["GROUP", "NewerDataError", "Processor", "read_state"]

_log = get_log(__name__)

GROUP: Final = "tokenwire-processor"
MAX_POLLED: Final = 2_000  # raw records a transaction, so that one takes some tenths of a second at most
POLL_S: Final = 0.05  # a record waits no longer for others to share its transaction
SNAPSHOT_INTERVAL_S: Final = 10.0  # what is folded again after a take-over
MAX_RETRY_S: Final = 5.0


class NewerDataError(Exception):
    """A newer version of this program wrote what is to be read; it must be updated, and nothing was skipped."""


class _Partition:
    """One partition at work: its fold, and how far it has come."""

    def __init__(self, number: int, fold: Fold, offset: int, log_offset: int) -> None:
        self.number = number
        self.fold = fold
        self.offset = offset  # of the next raw record
        self.log_offset = log_offset  # the next log record is written there or later
        self.snapshot_due_s = 0.0


class Processor:
    """One instance. ``monotonic_s`` is a clock."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        instance: str,
        plan: BarPlan,
        max_tokens: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transactions = 0
        self.aborted = 0
        self.rebuilt = 0  # partitions
        self.refolded = 0  # raw records, for that
        self.poisoned = 0  # records that were set aside
        self.raw_records = 0
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._plan = plan
        self._max_tokens = max_tokens
        self._now_s = monotonic_s
        self._partitions: dict[int, _Partition] = {}

    @property
    def assigned(self) -> tuple[int, ...]:
        """Partitions that this instance works on."""
        return tuple(sorted(self._partitions))

    def rejections(self) -> dict[tuple[str, str], int]:
        """What could not be used, by source and reason."""
        found: dict[tuple[str, str], int] = {}
        for partition in self._partitions.values():
            for key, count in partition.fold.rejections.items():
                found[key] = found.get(key, 0) + count
        return found

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            FencedError: another process goes by the name of this instance.
            NewerDataError: a newer version of this program wrote what is to be read.
        """
        worker = self._bus.worker(self._topics.raw, GROUP, self._instance)
        retry_s = POLL_S
        try:
            while True:
                try:
                    await self._step(worker)
                    retry_s = POLL_S
                except FencedError:
                    raise
                except BusError as error:  # whatever was folded since the last commit did not happen
                    self._partitions.clear()
                    worker.reset()
                    if isinstance(error, AbortedError):
                        self.aborted += 1
                        _log.warning("transaction aborted", reason=str(error))
                        continue
                    _log.warning("bus unavailable", reason=str(error), retry_s=retry_s)
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
        finally:
            self._partitions.clear()
            await worker.close()

    async def _step(self, worker: Worker) -> None:
        polled = await worker.poll(MAX_POLLED, POLL_S)
        for number in polled.revoked:
            self._partitions.pop(number, None)
        for number, offset in polled.assigned.items():
            self._partitions[number] = await self._rebuilt(number, offset)
        outgoing: list[Outgoing] = []
        offsets: dict[int, int] = {}
        for record in polled.records:
            partition = self._partitions[record.place.partition]
            self._feed(partition, record, outgoing)
            offsets[partition.number] = partition.offset = record.offset + 1
        self.raw_records += len(polled.records)
        for number in offsets:
            self._write(self._partitions[number], outgoing)
        if offsets:
            after = await worker.commit(outgoing, offsets)
            self.transactions += 1
            for number in offsets:
                partition = self._partitions[number]
                partition.log_offset = after.get(Place(self._topics.log, number), partition.log_offset)

    def _feed(self, partition: _Partition, record: Record, outgoing: list[Outgoing] | None) -> None:
        try:
            partition.fold.feed(read_raw(record.value), record.time_ms)
        except PoisonError as error:
            if error.is_newer:
                raise NewerDataError(
                    f"{record.place.topic}/{record.place.partition} at {record.offset}: {error}"
                ) from None
            if outgoing is not None:
                self.poisoned += 1
                _log.warning("record set aside", partition=partition.number, offset=record.offset, reason=str(error))
                outgoing.append(Outgoing(Place(self._topics.rejects, 0), record.key, _dead(record, error)))

    def _write(self, partition: _Partition, outgoing: list[Outgoing]) -> None:
        topics, number = self._topics, partition.number
        output: Output = partition.fold.take()
        log, bars, tokens = Place(topics.log, number), Place(topics.bars, number), Place(topics.tokens, number)
        outgoing += (Outgoing(log, key.encode(), encode(logged)) for key, logged in output.log)
        outgoing += (Outgoing(bars, key.encode(), encode(bar)) for key, bar in output.bars)
        now_s = self._now_s()
        if now_s >= partition.snapshot_due_s:
            partition.snapshot_due_s = now_s + SNAPSHOT_INTERVAL_S
            snapshots = partition.fold.snapshots(partition.offset, partition.log_offset)
            outgoing += (Outgoing(tokens, each.info.address.encode(), encode(each)) for each in snapshots.tokens)
            outgoing.append(Outgoing(tokens, CUT_KEY, encode(snapshots.cut)))

    async def _rebuilt(self, number: int, committed: int) -> _Partition:
        """What is known of a partition, from what was written of it."""
        topics = self._topics
        tokens, cut = await read_state(self._bus, Place(topics.tokens, number))
        fold = Fold(self._plan, self._max_tokens, lambda address: partition_of(address, topics.partitions) == number)
        fold.load(tokens, cut)
        partition = _Partition(number, fold, cut.raw_offset, cut.log_offset)
        for record in await self._bus.read(Place(topics.raw, number), cut.raw_offset, committed):
            self._feed(partition, record, None)
            self.refolded += 1
        fold.take()
        partition.offset = committed
        self.rebuilt += 1
        _log.info("partition taken over", partition=number, tokens=len(tokens), again=committed - cut.raw_offset)
        return partition


def _dead(record: Record, error: PoisonError) -> bytes:
    return f"{_where(record, error)}\n".encode() + record.value


def _where(record: Record, error: PoisonError) -> str:
    return f"{record.place.topic}/{record.place.partition} at {record.offset}: {error}"


async def read_state(bus: Bus, place: Place) -> tuple[Sequence[TokenSnapshot], Cut]:
    """The newest snapshot of each token of a partition, and where they belong; nothing was written yet: none, at the
    beginning of everything."""
    cut = Cut(0, 0, 0, {})
    tokens: dict[bytes, bytes] = {}
    _, end = await bus.bounds(place)
    for record in await bus.read(place, 0, end):
        if record.key == CUT_KEY:
            cut = read_cut(record.value)
        else:
            tokens[record.key] = record.value
    return [read_snapshot(value) for value in tokens.values()], cut
