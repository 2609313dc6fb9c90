"""The processor: raw events become numbered ones and bars, each exactly once, whatever dies in between.

Every transaction holds what became of some raw records together with how far they were read, so there is either all
of it or nothing. What a processor knows of its partitions is made again from its own output: see ``stream.takeover``.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Record, Worker
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.ports import PartState
from tokenwire_server.stream.claim import Claim
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.records import CUT_KEY, PoisonError, encode, read_raw
from tokenwire_server.stream.takeover import Beginning, NewerDataError, UnusableStateError, take_over
from tokenwire_server.stream.topics import PROCESSOR, Topics, partition_of
from tokenwire_server.telemetry.logs import get_log

__all__ = ["NewerDataError", "Processor", "UnusableStateError"]

_log = get_log(__name__)

MAX_POLLED: Final = 2_000  # raw records a transaction, so that one takes some tenths of a second at most
POLL_S: Final = 0.05  # a record waits no longer for others to share its transaction
SNAPSHOT_INTERVAL_S: Final = 10.0  # of a token that changes; what is folded again after a take-over
MAX_SNAPSHOTS: Final = 20  # a transaction, of 1.6 ms and 60 KB each at most
MARK_INTERVAL_S: Final = 0.5  # between two moments at which there may be a cut
MAX_DEAD_BYTES: Final = (
    900_000  # of a record that is set aside: a larger one would not fit into a record with the reason
)
MAX_RETRY_S: Final = 5.0
GAP_RETRY_S: Final = 30.0  # between two looks at whether somebody accepted that raw records are missing
LAST_SNAPSHOTS_S: Final = 5.0  # an end waits no longer for them
_TOLD_GAPS: Final = 3  # that a message names
IN_VAIN_S: Final = 30.0  # after which aborted transactions say nothing of whoever has no partition
MAX_IN_VAIN: Final = 2  # transactions in a row; one is aborted whenever partitions change hands


class _RawGapError(Exception):
    """Raw records that nobody processed are gone; the message names them, and what to do."""

    def __init__(self, gaps: Sequence[str]) -> None:
        more = f"; and {len(gaps) - _TOLD_GAPS} partitions more" if len(gaps) > _TOLD_GAPS else ""
        super().__init__(
            f"{'; '.join(gaps[:_TOLD_GAPS])}{more}. Bring them back, or go on without them, once: "
            "tokenwire-server process --accept-gap"
        )


class _Partition:
    """One partition at work: its fold, and how far it has come."""

    def __init__(self, number: int, fold: Fold, beginning: Beginning) -> None:
        self.number = number
        self.fold = fold
        self.offset = beginning.offset  # of the next raw record
        self.log_offset = beginning.log_offset  # the next log record is written there or later
        self.lineage = beginning.lineage
        self.missing = beginning.missing
        # When there may have been a cut, and its seq. What changed before the take-over has waited long enough.
        self._marks = deque([(-SNAPSHOT_INTERVAL_S, -1 if fold.oldest_change is None else fold.oldest_change)])
        self._cut_due_s = 0.0
        self._cut_offset = beginning.cut_offset  # up to which the newest cut is

    def mark(self, now_s: float) -> None:
        """Everything was written."""
        if now_s >= self._marks[-1][0] + MARK_INTERVAL_S:
            self._marks.append((now_s, self.fold.mark(self.offset, self.log_offset, self.lineage)))

    @property
    def is_dirty(self) -> bool:
        """Whether the newest snapshots and the cut are not of everything."""
        return self.fold.oldest_change is not None or self.offset != self._cut_offset

    def is_behind(self, now_s: float) -> bool:
        """Whether there are snapshots to write, or a cut."""
        oldest = self.fold.oldest_change
        has_due = oldest is not None and oldest <= self._until(now_s)
        return has_due or (self.offset != self._cut_offset and now_s >= self._cut_due_s)

    def snapshots(self, now_s: float, most: int, *, is_last: bool = False) -> list[tuple[bytes, bytes]]:
        """At most so many snapshots of those that are due (``is_last``: of all), and a cut, as keys and values."""
        if not is_last and not self.is_behind(now_s):
            return []
        until = None if is_last else self._until(now_s)
        found = self.fold.snapshots(self.offset, self.log_offset, self.lineage, until=until, most=most)
        self._cut_due_s = now_s + SNAPSHOT_INTERVAL_S
        self._cut_offset = found.cut.raw_offset
        tokens = [(each.info.address.encode(), encode(each)) for each in found.tokens]
        return [*tokens, (CUT_KEY, encode(found.cut))]

    def _until(self, now_s: float) -> int:
        """The seq of the newest mark that is old enough: who changed behind it, or before, is due."""
        marks, old_s = self._marks, now_s - SNAPSHOT_INTERVAL_S
        while len(marks) > 1 and marks[1][0] <= old_s:
            marks.popleft()
        return marks[0][1] if marks[0][0] <= old_s else -1


class Processor:
    """One instance. ``monotonic_s`` is a clock, and ``tell`` hears how the bus is, and why. With ``accepts_gaps`` it
    goes on behind raw records that are gone and that nobody processed; the log gets a hole then."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        instance: str,
        plan: BarPlan,
        max_tokens: int,
        monotonic_s: Callable[[], float] = time.monotonic,
        tell: Callable[[PartState, str], None] = lambda state, reason: None,
        *,
        accepts_gaps: bool = False,
    ) -> None:
        self.transactions = 0
        self.aborted = 0
        self.fenced = 0  # of those that took too long, or were another's by then
        self.rebuilt = 0  # partitions
        self.refolded = 0  # records of the log, for that
        self.poisoned = 0  # records that were set aside
        self.missing = 0  # raw records that are gone and that nobody processed
        self.raw_records = 0
        self.gap = ""  # why nothing is processed though the bus is there
        self._bus = bus
        self._topics = topics
        self._instance = instance
        self._plan = plan
        self._max_tokens = max_tokens
        self._now_s = monotonic_s
        self._tell = tell
        self._accepts_gaps = accepts_gaps
        self._partitions: dict[int, _Partition] = {}
        self._told: set[tuple[str, str]] = set()  # what was rejected: the log has it
        self._in_vain = 0  # transactions in a row that were aborted
        self._vain_s = 0.0  # when the last one was
        self._closing = asyncio.Event()

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

    def close(self) -> None:
        """Have :meth:`run` leave snapshots of everything, and return."""
        self._closing.set()

    async def run(self) -> None:
        """Work until :meth:`close`. While raw records that nobody processed are gone it is no member of the group,
        and looks now and then whether somebody accepted that.

        Raises:
            FencedError: another process goes by the name of this instance.
            NewerDataError: a newer version of this program wrote what is to be read.
            UnusableStateError: see there.
        """
        while not self._closing.is_set():
            try:
                await self._work()
            except _RawGapError as error:
                self.gap = str(error)
                self._tell(PartState.FAILING, self.gap)
                await self._pause(GAP_RETRY_S)

    async def _work(self) -> None:
        """As a member of the group."""
        worker = self._bus.worker(self._topics.raw, self._topics.group, self._instance)
        retry_s = POLL_S
        is_checked = is_ours = False
        look = self._bus.ensure
        claim = Claim(self._bus, Place(self._topics.positions, 0), f"{self._topics.group}/{self._instance}")
        until_s = self._now_s() + GAP_RETRY_S
        try:
            while not self._closing.is_set():
                try:
                    if not is_checked:
                        await look(self._topics.specs(PROCESSOR))
                        look, is_checked = self._bus.check, True
                    if not is_ours:
                        await worker.commit([await claim.record()], {})
                        is_ours, self._in_vain = True, 0
                    await self._step(worker)
                    if not self._in_vain:
                        retry_s = POLL_S
                    if self.gap and (self._partitions or self._now_s() > until_s):  # or others have all partitions
                        self.gap = ""
                        self._is_well()
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
                        self._vain_s = self._now_s()
                        _log.warning("transaction aborted", reason=str(error))
                        if self._in_vain >= MAX_IN_VAIN:
                            self._tell(PartState.FAILING, str(error))
                    else:
                        self._tell(PartState.FAILING, str(error))
                    await self._pause(retry_s)
                    retry_s = min(2 * retry_s, MAX_RETRY_S)
            await self._finish(worker)
        finally:
            self._partitions.clear()
            await worker.close()

    def _is_well(self) -> None:
        if not self.gap:
            self._tell(PartState.OK, "")

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _step(self, worker: Worker) -> None:
        polled = await worker.poll(MAX_POLLED, POLL_S)
        for number in polled.revoked:
            self._partitions.pop(number, None)
        if polled.assigned and not await self._begin(worker, polled.assigned):
            return
        outgoing: list[Outgoing] = []
        offsets: dict[int, int] = {}
        for record in polled.records:
            partition = self._partitions[record.place.partition]
            self._feed(partition, record, outgoing)
            offsets[partition.number] = partition.offset = record.offset + 1
        self.raw_records += len(polled.records)
        self._tell_rejections()
        # Those that fell silent, too: what their newest snapshots do not hold is not kept for ever.
        now_s = self._now_s()
        offsets.update((n, partition.offset) for n, partition in self._partitions.items() if partition.is_behind(now_s))
        for number in offsets:
            self._write(self._partitions[number], outgoing)
        room = MAX_SNAPSHOTS
        for number in sorted(offsets, key=lambda number: (number - self.transactions) % self._topics.partitions):
            room -= self._keep(self._partitions[number], outgoing, room)
        if offsets:
            await self._commit(worker, outgoing, offsets)
        if not self._partitions and self._now_s() - self._vain_s > IN_VAIN_S:
            self._in_vain = 0  # others have all partitions: there is nothing to commit
        if worker.is_member and self._in_vain < MAX_IN_VAIN:
            self._is_well()

    def _tell_rejections(self) -> None:
        """The log tells of the first of each kind."""
        for source, reason in self.rejections().keys() - self._told:
            self._told.add((source, reason))
            _log.warning("data rejected", source=source, reason=reason)

    async def _commit(self, worker: Worker, outgoing: Sequence[Outgoing], offsets: Mapping[int, int]) -> None:
        after = await worker.commit(outgoing, offsets)
        self.transactions += 1
        self._in_vain = 0
        for number in offsets:
            partition = self._partitions[number]
            partition.log_offset = after.get(Place(self._topics.log, number), partition.log_offset)
            partition.mark(self._now_s())

    async def _finish(self, worker: Worker) -> None:
        """Leave snapshots of everything: then nobody needs the log to take over, and it may expire meanwhile."""
        try:
            async with asyncio.timeout(LAST_SNAPSHOTS_S):
                while dirty := {n: each.offset for n, each in self._partitions.items() if each.is_dirty}:
                    outgoing: list[Outgoing] = []
                    room = MAX_SNAPSHOTS
                    for number in dirty:
                        room -= self._keep(self._partitions[number], outgoing, room, is_last=True)
                    await self._commit(worker, outgoing, dirty)
        except (TimeoutError, BusError) as error:
            _log.warning("not all snapshots were written", reason=str(error) or "there are too many")

    def _feed(self, partition: _Partition, record: Record, outgoing: list[Outgoing]) -> None:
        try:
            partition.fold.feed(read_raw(record.value), record.time_ms)
        except PoisonError as error:
            if error.is_newer:
                raise NewerDataError(_where(record, error)) from None
            self.poisoned += 1
            _log.warning("record set aside", partition=partition.number, offset=record.offset, reason=str(error))
            outgoing.append(Outgoing(Place(self._topics.rejects, 0), record.key, _dead(record, error)))

    def _write(self, partition: _Partition, outgoing: list[Outgoing]) -> None:
        log, bars = Place(self._topics.log, partition.number), Place(self._topics.bars, partition.number)
        output = partition.fold.take()
        last = len(output.log) - 1
        for at, (key, logged) in enumerate(output.log):
            told = msgspec.structs.replace(logged, raw_offset=partition.offset) if at == last else logged
            outgoing.append(Outgoing(log, key.encode(), encode(told)))
        outgoing += (Outgoing(bars, key.encode(), encode(bar)) for key, bar in output.bars)

    def _keep(self, partition: _Partition, outgoing: list[Outgoing], room: int, *, is_last: bool = False) -> int:
        """Write snapshots, as far as there is ``room``; how many."""
        if room <= 0:
            return 0
        found = partition.snapshots(self._now_s(), room, is_last=is_last)
        place = Place(self._topics.tokens, partition.number)
        outgoing += (Outgoing(place, key, value) for key, value in found)
        return max(0, len(found) - 1)  # one is the cut

    # --- taking over -------------------------------------------------------------------------------------------

    async def _begin(self, worker: Worker, assigned: Mapping[int, int | None]) -> bool:
        """Take partitions over. False: they will be assigned once more, since they begin elsewhere.

        Raises _RawGapError.
        """
        tasks = [asyncio.create_task(self._taken_over(number, assigned[number])) for number in assigned]
        try:
            taken = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        self._partitions.update({partition.number: partition for partition in taken})
        gaps = [partition.missing.reason for partition in taken if partition.missing is not None]
        if gaps and not self._accepts_gaps:
            raise _RawGapError(gaps)
        moved = [each for each in taken if each.missing is not None or each.offset != (assigned[each.number] or 0)]
        if moved:
            await self._move(worker, moved)
        return not moved

    async def _move(self, worker: Worker, moved: Sequence[_Partition]) -> None:
        outgoing: list[Outgoing] = []
        for partition in moved:
            missing = partition.missing
            if missing is not None:
                partition.fold.lose()
                self._write(partition, outgoing)
                _log.warning("going on without raw records", partition=partition.number, reason=missing.reason)
            else:
                _log.info("the group begins elsewhere", partition=partition.number, offset=partition.offset)
        await self._commit(worker, outgoing, {partition.number: partition.offset for partition in moved})
        self.missing += sum(each.missing.records for each in moved if each.missing is not None)
        self._partitions.clear()
        worker.reset()

    async def _taken_over(self, number: int, committed: int | None) -> _Partition:
        topics = self._topics
        fold = Fold(self._plan, self._max_tokens, lambda address: partition_of(address, topics.partitions) == number)
        beginning = await take_over(self._bus, topics, number, committed, fold)
        self.rebuilt += 1
        self.refolded += beginning.again
        _log.info("partition taken over", partition=number, tokens=len(fold.market), again=beginning.again)
        return _Partition(number, fold, beginning)


def _dead(record: Record, error: PoisonError) -> bytes:
    return f"{_where(record, error)}\n".encode() + record.value[:MAX_DEAD_BYTES]


def _where(record: Record, error: PoisonError) -> str:
    return f"{record.place.topic}/{record.place.partition} at {record.offset}: {error}"
