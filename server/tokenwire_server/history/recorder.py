"""Brings what changes in the market into the history, without the event loop ever waiting for a disk.

Every quarter of a second what has changed since is committed as one batch; whoever waits for :meth:`Recorder.settled`
has it committed at once, together with all others who wait. While the store fails, batches are tried again and again;
what waits meanwhile is bounded, and what had to be given up is counted.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from tokenwire_server.history.port import History, HistoryError, Reservation
from tokenwire_server.market.batches import MAX_PENDING_ROWS, BatchBuilder
from tokenwire_server.market.market import Market
from tokenwire_server.market.records import Batch, Series
from tokenwire_server.telemetry.logs import get_log

__all__ = ["HistoryState", "HistoryStatus", "Recorder"]

_log = get_log(__name__)

COMMIT_INTERVAL_S: Final = 0.25
MAX_RETRY_INTERVAL_S: Final = 5.0
BEHIND_AFTER_S: Final = 5.0  # a commit that takes longer
LAST_COMMIT_S: Final = 5.0  # a shutdown waits no longer for a store that fails
PRUNE_INTERVAL_S: Final = 600.0
SECONDS_AHEAD: Final = 4  # for so long at the present pace numbers are reserved, at least


class HistoryState(StrEnum):
    """``behind``: everything will be stored, later than it should. ``failing``: nothing can be stored for now."""

    OK = "ok"
    BEHIND = "behind"
    FAILING = "failing"


class HistoryStatus(NamedTuple):
    """How the history is, and why; ``engine`` is what it is stored in."""

    state: HistoryState
    reason: str = ""
    engine: str = ""


class Recorder:
    """Stores what the market's listeners are told. ``builder`` is to be one of these; see :meth:`start`."""

    def __init__(
        self,
        market: Market,
        history: History,
        reservation: Reservation,
        *,
        interval_s: float = COMMIT_INTERVAL_S,
        most_rows: int = MAX_PENDING_ROWS,
    ) -> None:
        self.builder = BatchBuilder(market, most_rows)
        self.commits = 0
        self.failures = 0
        self.rows_pruned = 0
        self.lost_trades = 0  # that were not stored when the process ended
        self._market = market
        self._history = history
        self._reservation = reservation
        self._interval_s = interval_s
        self._retry_s = interval_s
        self._stuck: list[Batch] = []  # taken and not yet known to be stored: the one under way, and what it holds up
        self._failure: str | None = None
        self._number_failure: str | None = None
        self._began_s: float | None = None  # the commit under way
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._refused_until_s = 0.0

    async def start(self, numbered: int) -> None:
        """Begin to store; ``numbered`` trades were numbered before.

        Raises:
            HistoryError: no numbers can be reserved.
        """
        numbers = self._market.numbers
        numbers.given = numbered
        await self._reservation.reserve(numbered + self._reservation.ahead)
        numbers.reserved = self._reservation.upto or 0
        numbers.extend = self._reserve_now
        self._tasks = [
            asyncio.create_task(self._store_all(), name="history"),
            asyncio.create_task(self._prune(), name="history-prune"),
        ]

    async def close(self) -> None:
        """Store what is left, if that is possible within some seconds, and say that nothing follows."""
        self._closing = True
        self._wake.set()
        storing, pruning = self._tasks
        pruning.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(storing, LAST_COMMIT_S)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse(self._waiters, "the server is shutting down")
        left = [*self._stuck, self.builder.waiting()]
        self.lost_trades = sum(len(trades) for batch in left for trades in batch.trades.values())
        if self._stuck:
            _log.error("history not stored", trades=self.lost_trades, reason=self._failure or "took too long")
        self._market.numbers.extend = lambda: False

    @property
    def unnumbered(self) -> int:
        """Trades that got no number, because none could be reserved."""
        return self._market.unnumbered

    @property
    def status(self) -> HistoryStatus:
        """How it is now."""
        engine = self._history.engine
        if self._failure is not None:
            return HistoryStatus(HistoryState.FAILING, self._failure, engine)
        if self._number_failure is not None:
            reason = f"no more trades can be numbered: {self._number_failure}"
            return HistoryStatus(HistoryState.FAILING, reason, engine)
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s > BEHIND_AFTER_S:
            return HistoryStatus(HistoryState.BEHIND, "the store is slow: a commit takes long", engine)
        return HistoryStatus(HistoryState.OK, engine=engine)

    def check(self) -> None:
        """Raises HistoryError while nothing can be stored. Between this and what is then applied nothing may be
        awaited: so it is either stored or told to whoever waits for :meth:`settled`."""
        if self._failure is not None:
            raise HistoryError(self._failure)

    async def settled(self) -> None:
        """Return when everything that was applied so far is stored durably.

        Raises:
            HistoryError: it can't be for now. It is tried again, so repeating what was asked for does no harm.
        """
        self.check()
        if self._closing:
            raise HistoryError("the server is shutting down")
        if self.builder or self._stuck:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._wake.set()
            await waiter

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """Which of these trades' ids are stored, or wait to be. To apply the others at most once, have nobody else
        apply trades of this token between this call and then. Raises HistoryError also while nothing can be stored."""
        self.check()
        waiting = set().union(*(batch.ids_of(address) for batch in self._pending()))
        return waiting.intersection(ids) | await self._history.known_ids(address, ids)

    async def bars_settled(self, series: Series, before_ms: int) -> None:
        """Return when no bars of this series that begin before this time wait to be stored; as :meth:`settled`."""
        if self.builder.is_overfull or any(batch.holds_bars(series, before_ms) for batch in self._pending()):
            await self.settled()

    async def trades_settled(self, address: str, before: int) -> None:
        """Return when no trades of this token below this number wait to be stored; as :meth:`settled`."""
        if any(batch.holds_trades(address, before) for batch in self._pending()):
            await self.settled()

    def _pending(self) -> list[Batch]:
        return [*self._stuck, self.builder.waiting()]

    # --- Storing -----------------------------------------------------------------------------------------------

    async def _store_all(self) -> None:
        while not self._closing:
            # A store that fails is not asked more often because more people wait.
            pause_s = self._interval_s if self._failure is None else self._retry_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            self._wake.clear()
            await self._flush()
        while not await self._flush(is_last=True):
            await asyncio.sleep(self._interval_s)

    async def _flush(self, *, is_last: bool = False) -> bool:
        """Store what there is; False if that failed."""
        waiters, self._waiters = self._waiters, []
        try:
            while True:
                if not self._stuck:
                    batch = self.builder.take(is_last=is_last)
                    if batch is None:
                        break
                    self._stuck.append(batch)
                await self._commit(self._stuck[0])
                stored = self._stuck.pop(0)
                if not self._stuck and (stored.is_last or not is_last):
                    break
            if self._number_failure is not None and not is_last:
                await self._reserve_ahead(0)
        except asyncio.CancelledError:
            self._refuse(waiters, "the server is shutting down")
            raise
        except Exception as error:  # a defect must not end the storing in silence either
            self._failed(error)
            self._refuse(waiters + self._waiters, str(error))
            self._waiters = []
            return False
        if self._failure is not None:
            _log.warning("history stored again", given_up_trades=self.builder.given_up_trades)
        self._failure, self._retry_s = None, self._interval_s
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return True

    async def _commit(self, batch: Batch) -> None:
        self._began_s = time.monotonic()
        try:
            await self._reserve_ahead(sum(map(len, batch.trades.values())))
            await self._history.commit(batch)
            self.commits += 1
        finally:
            self._began_s = None

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        was_well = self._failure is None
        self._failure = str(error) or repr(error)
        if was_well:
            defect = False if isinstance(error, HistoryError | OSError) else error
            _log.error("history failing", reason=str(error), exc_info=defect)
            # Somebody may wait for what was applied up to now: it must not be given up.
            batch = self.builder.take()
            if batch is not None:
                self._stuck.append(batch)
        else:
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_INTERVAL_S)

    @staticmethod
    def _refuse(waiters: Sequence["asyncio.Future[None]"], reason: str) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(HistoryError(reason))

    # --- Numbers -----------------------------------------------------------------------------------------------

    async def _reserve_ahead(self, recent: int) -> None:
        """Have enough numbers reserved for some seconds at the pace of the last batch."""
        numbers = self._market.numbers
        ahead = max(self._reservation.ahead, int(recent / self._interval_s) * SECONDS_AHEAD)
        if numbers.reserved - numbers.given < ahead // 2:
            try:
                await self._reservation.reserve(numbers.given + ahead)
            except HistoryError as error:  # what has its number can be stored all the same
                self._numbers_failed(error)
            else:
                self._number_failure = None
                numbers.reserved = max(numbers.reserved, self._reservation.upto or 0)

    def _reserve_now(self) -> bool:
        """Numbers have run out between two commits: the next trade's must be on disk before anybody hears of it."""
        now_s = time.monotonic()
        if now_s < self._refused_until_s:
            return False
        numbers = self._market.numbers
        try:
            self._reservation.reserve_now(numbers.given + self._reservation.ahead)
        except HistoryError as error:
            self._refused_until_s = now_s + MAX_RETRY_INTERVAL_S
            self._numbers_failed(error)
            return False
        self._number_failure = None
        numbers.reserved = self._reservation.upto or 0
        return numbers.given < numbers.reserved

    def _numbers_failed(self, error: HistoryError) -> None:
        reason = str(error)
        if self._number_failure is None:
            _log.error("trade numbers can't be reserved", reason=reason)
        self._number_failure = reason

    # --- Pruning -----------------------------------------------------------------------------------------------

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                rows = await self._history.prune()
            except HistoryError as error:
                _log.warning("history not pruned", reason=str(error))
                continue
            self.rows_pruned += rows
            if rows:
                _log.info("history pruned", rows=rows)
