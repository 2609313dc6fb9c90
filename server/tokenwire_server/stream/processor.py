"""The processor: raw events become numbered ones and bars, each exactly once, whatever dies in between.

Every transaction holds what became of some raw records together with how far they were read, so there is either all
of it or nothing. What a processor knows of its partitions is made again from its own output: the newest snapshots, and
the raw records between them and what was committed, folded once more without writing anything.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Record, Worker
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.ports import PartState
from tokenwire_server.stream.claim import Claim
from tokenwire_server.stream.fold import Fold, Output
from tokenwire_server.stream.records import CUT_KEY, PoisonError, encode, read_raw
from tokenwire_server.stream.state_topic import read_state
from tokenwire_server.stream.topics import PROCESSOR, Topics, partition_of
from tokenwire_server.telemetry.logs import get_log

__all__ = ["NewerDataError", "Processor", "UnusableStateError"]

_log = get_log(__name__)

MAX_POLLED: Final = 2_000  # raw records a transaction, so that one takes some tenths of a second at most
POLL_S: Final = 0.05  # a record waits no longer for others to share its transaction
SNAPSHOT_INTERVAL_S: Final = 10.0  # what is folded again after a take-over
_BREATH_RECORDS: Final = 500  # are folded again before others have their turn
MAX_DEAD_BYTES: Final = (
    900_000  # of a record that is set aside: a larger one would not fit into a record with the reason
)
MAX_RETRY_S: Final = 5.0
MAX_IN_VAIN: Final = 2  # transactions in a row; one is aborted whenever partitions change hands


class NewerDataError(Exception):
    """A newer version of this program wrote what is to be read; it must be updated, and nothing was skipped."""


class UnusableStateError(Exception):
    """What was kept of a partition can't be gone on from: it was made with other settings, or can't be read."""


class _Partition:
    """One partition at work: its fold, and how far it has come."""

    def __init__(self, number: int, fold: Fold, offset: int, log_offset: int) -> None:
        self.number = number
        self.fold = fold
        self.offset = offset  # of the next raw record
        self.log_offset = log_offset  # the next log record is written there or later
        self.snapshot_due_s = 0.0
        self.snapshot_offset = offset  # up to which the newest snapshots are


class Processor:
    """One instance. ``monotonic_s`` is a clock, and ``tell`` hears how the bus is, and why."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        instance: str,
        plan: BarPlan,
        max_tokens: int,
        monotonic_s: Callable[[], float] = time.monotonic,
        tell: Callable[[PartState, str], None] = lambda state, reason: None,
    ) -> None:
        self.transactions = 0
        self.aborted = 0
        self.fenced = 0  # of those that took too long, or were another's by then
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
        self._tell = tell
        self._partitions: dict[int, _Partition] = {}
        self._told: set[tuple[str, str]] = set()  # what was rejected: the log has it
        self._in_vain = 0  # transactions in a row that were aborted

    @property
    def assigned(self) -> tuple[int, ...]:
        """Partitions that this instance works on."""
        return tuple(sorted(self._partitions))

    @property
    def offsets(self) -> dict[int, int]:
        """The offset of the next raw record, by partition."""
        return {number: partition.offset for number, partition in self._partitions.items()}

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
            UnusableStateError: see there.
        """
        worker = self._bus.worker(self._topics.raw, self._topics.group, self._instance)
        retry_s = POLL_S
        is_checked = is_ours = False
        look = self._bus.ensure
        claim = Claim(self._bus, Place(self._topics.positions, 0), f"{self._topics.group}/{self._instance}")
        try:
            while True:
                try:
                    if not is_checked:
                        await look(self._topics.specs(PROCESSOR))
                        look, is_checked = self._bus.check, True
                    if not is_ours:
                        await worker.commit([await claim.record()], {})
                        is_ours, self._in_vain = True, 0
                    await self._step(worker)
                    retry_s = POLL_S
                except BusError as error:  # whatever was folded since the last commit did not happen
                    self._partitions.clear()
                    worker.reset()
                    is_checked = False
                    if isinstance(error, FencedError):
                        self.fenced += 1
                        if await claim.is_lost():
                            raise
                        is_ours = False
                        _log.warning("transaction took too long", reason=str(error))
                    elif isinstance(error, AbortedError):
                        self.aborted += 1
                        self._in_vain += 1
                        _log.warning("transaction aborted", reason=str(error))
                        if self._in_vain >= MAX_IN_VAIN:
                            self._tell(PartState.FAILING, str(error))
                    else:
                        self._tell(PartState.FAILING, str(error))
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
        finally:
            self._partitions.clear()
            await worker.close()

    async def _step(self, worker: Worker) -> None:
        polled = await worker.poll(MAX_POLLED, POLL_S)
        for number in polled.revoked:
            self._partitions.pop(number, None)
        rebuilt = await asyncio.gather(*(self._rebuilt(*each) for each in polled.assigned.items()))
        self._partitions.update({partition.number: partition for partition in rebuilt})
        outgoing: list[Outgoing] = []
        offsets: dict[int, int] = {}
        for record in polled.records:
            partition = self._partitions[record.place.partition]
            self._feed(partition, record, outgoing)
            offsets[partition.number] = partition.offset = record.offset + 1
        self.raw_records += len(polled.records)
        self._tell_rejections()
        # Those that fell silent, too: what their newest snapshots do not hold is not kept for long.
        now_s = self._now_s()
        for number, partition in self._partitions.items():
            if partition.offset != partition.snapshot_offset and now_s >= partition.snapshot_due_s:
                offsets[number] = partition.offset
        for number in offsets:
            self._write(self._partitions[number], outgoing)
        if offsets:
            after = await worker.commit(outgoing, offsets)
            self.transactions += 1
            self._in_vain = 0
            for number in offsets:
                partition = self._partitions[number]
                partition.log_offset = after.get(Place(self._topics.log, number), partition.log_offset)
        if worker.is_member and self._in_vain < MAX_IN_VAIN:
            self._tell(PartState.OK, "")

    def _tell_rejections(self) -> None:
        """The log tells of the first of each kind."""
        for source, reason in self.rejections().keys() - self._told:
            self._told.add((source, reason))
            _log.warning("data rejected", source=source, reason=reason)

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
            partition.snapshot_offset = partition.offset
            snapshots = partition.fold.snapshots(partition.offset, partition.log_offset)
            outgoing += (Outgoing(tokens, each.info.address.encode(), encode(each)) for each in snapshots.tokens)
            outgoing.append(Outgoing(tokens, CUT_KEY, encode(snapshots.cut)))

    async def _rebuilt(self, number: int, committed: int) -> _Partition:
        """What is known of a partition, from what was written of it."""
        topics = self._topics
        fold = Fold(self._plan, self._max_tokens, lambda address: partition_of(address, topics.partitions) == number)
        try:
            tokens, cut = await read_state(self._bus, Place(topics.tokens, number))
            fold.load(tokens, cut)
        except ValueError as error:  # a record that can't be read among them
            raise UnusableStateError(f"{topics.tokens}/{number}: {error}") from None
        partition = _Partition(number, fold, cut.raw_offset, cut.log_offset)
        for record in await self._bus.read(Place(topics.raw, number), cut.raw_offset, committed):
            self._feed(partition, record, None)
            self.refolded += 1
            if self.refolded % _BREATH_RECORDS == 0:
                await asyncio.sleep(0)
        fold.take()
        partition.snapshot_offset, partition.offset = cut.raw_offset, committed
        self.rebuilt += 1
        _log.info("partition taken over", partition=number, tokens=len(tokens), again=committed - cut.raw_offset)
        return partition


def _dead(record: Record, error: PoisonError) -> bytes:
    return f"{_where(record, error)}\n".encode() + record.value[:MAX_DEAD_BYTES]


def _where(record: Record, error: PoisonError) -> str:
    return f"{record.place.topic}/{record.place.partition} at {record.offset}: {error}"
