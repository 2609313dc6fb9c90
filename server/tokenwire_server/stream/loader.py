"""The loader: what the processors wrote goes into the history, each row exactly once, whatever dies in between.

How far it was read is stored in the same transaction as the rows, so a loader goes on where the one before ended. One
at a time writes; others wait, and take over when it is gone. While the history can't be written no more is read than
about one further batch.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from tokenwire_server.bus.port import Bus, BusError, Place
from tokenwire_server.errors import UserError
from tokenwire_server.history.port import ForeignHistoryError, History, HistoryError, HistoryTakenError
from tokenwire_server.history.recorder import PRUNE_INTERVAL_S
from tokenwire_server.market.records import Batch
from tokenwire_server.ports import PartState
from tokenwire_server.stream.loading import Loading, Position
from tokenwire_server.stream.replica import LogHoleError
from tokenwire_server.stream.topic_feed import BarFeed, LogFeed, TopicFeed
from tokenwire_server.stream.topics import LOADER, Topics
from tokenwire_server.tasks import end
from tokenwire_server.telemetry.logs import get_log

__all__ = ["COMMIT_INTERVAL_S", "IDLE_COMMIT_S", "MAX_BATCH_ROWS", "Loader"]

_log = get_log(__name__)

COMMIT_INTERVAL_S: Final = 0.25
IDLE_COMMIT_S: Final = (
    5.0  # without anything to store: so it is noticed that the store is away, and that this one lives
)
MAX_BATCH_ROWS: Final = 20_000  # and what belongs to the last of them
FIRST_RETRY_S: Final = 0.25
MAX_RETRY_S: Final = 5.0
LAST_COMMIT_S: Final = 5.0  # an end waits no longer for a store that fails


class Loader:
    """``open_history`` opens the store for writing, again and again. ``tell`` hears how ``kafka`` and ``history`` are,
    why, and what the store is. With ``accepts_gaps`` it goes on behind records that the log has lost."""

    def __init__(
        self,
        bus: Bus,
        topics: Topics,
        open_history: Callable[[], Awaitable[History]],
        tell: Callable[[str, PartState, str, str], None] = lambda part, state, reason, engine: None,
        *,
        accepts_gaps: bool = False,
    ) -> None:
        self.records = {topics.log: 0, topics.bars: 0}  # read
        self.rows = {"trades": 0, "bars": 0, "tokens": 0}  # stored
        self.batches = 0
        self.failures = 0  # of commits
        self.missing = 0  # records that the log has lost
        self.rows_pruned = 0
        self._bus = bus
        self._topics = topics
        self._open_history = open_history
        self._tell = tell
        self._accepts_gaps = accepts_gaps
        self._stored: dict[int, Position] = {}
        self._feeds: dict[str, TopicFeed] = {}
        self._troubles: dict[str, str] = {}  # why a topic can't be read
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()  # there is much to store, or an end

    def close(self) -> None:
        """Have :meth:`run` store what it has, and return."""
        self._closing.set()
        self._wake.set()

    def lags(self) -> dict[Place, int]:
        """How many offsets of each partition are not stored yet, as far as is known."""
        found = {}
        for number, position in self._stored.items():
            for topic, offset in ((self._topics.log, position.log_offset), (self._topics.bars, position.bar_offset)):
                end = self._feeds[topic].ends.get(Place(topic, number))
                if end is not None:
                    found[Place(topic, number)] = max(0, end - offset)
        return found

    async def run(self) -> None:
        """Load until :meth:`close`; what fails is tried again.

        Raises:
            UserError: what only a person can mend: the history belongs to others, a newer version of this program
                wrote the log, or records of it are missing.
        """
        retry_s = FIRST_RETRY_S
        while not self._closing.is_set():
            batches = self.batches
            try:
                await self._unless_closing()
            except HistoryTakenError as error:
                self._tell("history", PartState.WAITING, str(error), "")
                retry_s = FIRST_RETRY_S
            except ForeignHistoryError as error:
                raise UserError(str(error)) from None
            except HistoryError as error:
                self._tell("history", PartState.FAILING, str(error), "")
            except BusError as error:
                self._tell("kafka", PartState.FAILING, str(error), "")
            except LogHoleError as error:
                raise UserError(
                    f"{error}: deleted (retention) or lost before they were stored; bring them back, or go on without "
                    "them with load --accept-gap"
                ) from None
            if self.batches > batches:
                retry_s = FIRST_RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(retry_s):
                    await self._closing.wait()
            retry_s = min(2 * retry_s, MAX_RETRY_S)

    async def _unless_closing(self) -> None:
        """Load; what is not yet begun is not waited for at the end."""
        loading = asyncio.create_task(self._load(), name="load")
        closing = asyncio.create_task(self._closing.wait(), name="load-end")
        try:
            await asyncio.wait((loading, closing), return_when=asyncio.FIRST_COMPLETED)
            if loading.done() or self._stored:
                await loading
        finally:
            await end(loading, closing)

    async def _load(self) -> None:
        """From one opening of the history to its end."""
        topics = self._topics
        await self._bus.ensure(topics.specs(LOADER))
        lineage = await self._bus.lineage(topics.log)
        self._tell("kafka", PartState.OK, "", "")
        history = await self._open_history()
        try:
            beginning = await history.begin(0, lineage, follows=True)
            known = [token.info.address for token in await history.tokens()]
            loading = Loading(
                topics.log,
                self._positions(beginning.offsets),
                known,
                beginning.numbered,
                beginning.version,
                accepts_gaps=self._accepts_gaps,
            )
            self._tell("history", PartState.OK, "", history.engine)
            _log.info("loading", partitions=topics.partitions, tokens=len(known), trades=beginning.numbered)
            await self._work(history, loading)
        finally:
            self._stored = {}
            await history.close()

    def _positions(self, offsets: Mapping[str, str]) -> dict[int, Position]:
        found = {}
        for number in range(self._topics.partitions):
            text = offsets.get(f"{self._topics.log}/{number}", str(Position()))
            try:
                found[number] = Position.of(text)
            except ValueError:
                raise UserError(
                    f"the history has a position of {self._topics.log}/{number} that can't be read: {text!r}"
                ) from None
        return found

    async def _work(self, history: History, loading: Loading) -> None:
        topics = self._topics
        self._troubles.clear()
        self._feeds = {
            topic: kind(self._bus, topic, loading, partial(self._tell_topic, topic), self._wake.set)
            for topic, kind in ((topics.log, LogFeed), (topics.bars, BarFeed))
        }
        self._stored = loading.positions()
        reading = [asyncio.create_task(feed.run(), name=topic) for topic, feed in self._feeds.items()]
        storing = asyncio.create_task(self._store_all(history, loading), name="load-store")
        pruning = asyncio.create_task(self._prune(history), name="load-prune")
        closing = asyncio.create_task(self._closing.wait())
        tasks: list[asyncio.Task[Any]] = [*reading, storing, pruning, closing]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set():
                for task in reading:
                    task.cancel()
                await asyncio.wait((storing,), timeout=LAST_COMMIT_S)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for result in ended:
            if isinstance(result, Exception):
                raise result

    def _tell_topic(self, topic: str, trouble: str) -> None:
        if trouble:
            self._troubles[topic] = trouble
            self._tell("kafka", PartState.FAILING, trouble, "")
        elif self._troubles.pop(topic, "") and not self._troubles:
            self._tell("kafka", PartState.OK, "", "")

    # --- storing -----------------------------------------------------------------------------------------------

    async def _store_all(self, history: History, loading: Loading) -> None:
        """Store until the end, and then what is left."""
        now_s = asyncio.get_running_loop().time
        idle_since_s = now_s()
        while True:
            self._wake.clear()
            is_last = self._closing.is_set()
            batch, positions = loading.take(MAX_BATCH_ROWS), loading.positions()
            self._count_lost(loading)
            rows = _rows(batch)
            if batch.offsets or now_s() - idle_since_s >= IDLE_COMMIT_S:
                await self._commit(history, batch)
                self._stored, idle_since_s = positions, now_s()
                for kind, count in rows.items():
                    self.rows[kind] += count
            self._count_records()
            for feed in self._feeds.values():
                feed.room.set()
            if is_last and not batch.offsets:
                return
            if rows["trades"] + rows["bars"] < MAX_BATCH_ROWS and not is_last:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(COMMIT_INTERVAL_S):
                        await self._wake.wait()

    async def _commit(self, history: History, batch: Batch) -> None:
        """Until it is stored; a batch that is tried again is stored once."""
        retry_s = COMMIT_INTERVAL_S
        while True:
            try:
                await history.commit(batch)
                break
            except HistoryTakenError:
                raise
            except HistoryError as error:
                self.failures += 1
                self._tell("history", PartState.FAILING, str(error), "")
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
        self.batches += 1
        self._tell("history", PartState.OK, "", history.engine)

    def _count_records(self) -> None:
        for topic, feed in self._feeds.items():
            self.records[topic] += feed.records
            feed.records = 0

    def _count_lost(self, loading: Loading) -> None:
        lost = loading.lost()
        if lost:
            self.missing += lost
            _log.warning("records of the log are missing", records=lost)

    async def _prune(self, history: History) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                self.rows_pruned += await history.prune()
            except HistoryError as error:  # whether it can be written is said by the batches
                _log.warning("history not pruned", reason=str(error))


def _rows(batch: Batch) -> dict[str, int]:
    bars = (*batch.bars.values(), *batch.late.values())
    return {
        "trades": sum(map(len, batch.trades.values())),
        "bars": sum(map(len, bars)),
        "tokens": len(batch.tokens),
    }
