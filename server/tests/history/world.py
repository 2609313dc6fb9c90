"""A market with its history, that can crash: fed step by step from a log that can be read again from any place."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tokenwire_server.history.pages import HistoryPages
from tokenwire_server.history.port import Reservation
from tokenwire_server.history.postgres import PostgresHistory, PostgresReservation
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.reservation import FileReservation
from tokenwire_server.history.restore import restore
from tokenwire_server.history.sqlite import SqliteHistory
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarPlan
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, Interval
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.trades import TokenInfo, Trade

SOURCE = "feed"
END_MS = 1 << 53

Step = Trade | int
"""A trade, or the time that the source's clock shows."""


@dataclass
class Sent:
    """What clients were told of, over all lives: which trade each number was given to."""

    numbers: dict[tuple[str, int], str] = field(default_factory=dict)

    def __call__(self, token: TokenState, number: int, trade: Trade) -> None:
        before = self.numbers.setdefault((token.address, number), trade.trade_id)
        assert before == trade.trade_id, f"number {number} was {before} and is now {trade.trade_id}"


class Life:
    """One process: opened, fed, and then ended well or not. Its history is in a folder, or in PostgreSQL."""

    history: SqliteHistory | PostgresHistory
    reservation: Reservation

    def __init__(self, place: Path | PostgresPlace, sent: Sent, intervals: tuple[Interval, ...], history: int) -> None:
        self._place = place
        self._sent = sent
        bars = MarketBars(BarPlan(intervals, history), self._bar_changed)
        self.market = Market(lambda token: None, 0, bars=bars, on_trade=self._traded)
        self.at = 0

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        self._sent(token, number, trade)
        self.recorder.builder.traded(token, number, trade)

    def _bar_changed(self, address: str, change: BarChange) -> None:
        self.recorder.builder.bar_changed(address, change)

    async def open(self, most_rows: int = 10**6) -> "Life":
        if isinstance(self._place, PostgresPlace):
            self.history = await PostgresHistory.open(self._place)
            self.reservation = PostgresReservation(self.history)
        else:
            self.reservation = FileReservation(self._place)
            self.history = await SqliteHistory.open(self._place)
        beginning = await self.history.begin(self.reservation.upto, "lineage")
        await restore(self.market, self.history, beginning.floor, {SOURCE})
        self.recorder = Recorder(self.market, self.history, self.reservation, interval_s=3_600, most_rows=most_rows)
        await self.recorder.start(beginning.numbered)
        self.pages = HistoryPages(self.history, self.recorder)
        self.at = int(beginning.offsets.get(SOURCE, "0"))
        return self

    def feed(self, steps: Sequence[Step], until: int) -> None:
        """Everything from where it stands up to there, with nothing in between."""
        if not self.market.event_now_ms(SOURCE):
            self.market.advance(SOURCE, max((step for step in steps[: self.at] if isinstance(step, int)), default=0))
        for step in steps[self.at : until]:
            if isinstance(step, int):
                self.market.advance(SOURCE, step)
            else:
                self.market.add_tokens(SOURCE, [TokenInfo(step.address, step.address)])
                self.market.apply(SOURCE, step)
        self.at = max(self.at, until)
        self.recorder.builder.offset(SOURCE, str(self.at))

    async def crash(self) -> None:
        for task in self.recorder._tasks:
            task.cancel()
        await asyncio.gather(*self.recorder._tasks, return_exceptions=True)
        if isinstance(self.history, PostgresHistory):
            vanish(self.history)
        else:
            await self.history.close()
        self.reservation.close()

    async def end(self) -> None:
        await self.recorder.close()
        await self.history.close()
        self.reservation.close()


def vanish(history: PostgresHistory) -> None:
    """As a process that is killed: its connections are cut."""
    if history._writer._connection is not None:
        history._writer._connection.terminate()
    history._readers.terminate()


def scratch() -> AbstractContextManager[Path]:
    """A folder in memory where there is such a thing: what is synchronised to a disk here matters to nobody."""
    memory = Path("/dev/shm")

    @contextmanager
    def made() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
            yield Path(folder)

    return made()


def unbroken(
    steps: Sequence[Step], intervals: tuple[Interval, ...] = DEFAULT_INTERVALS
) -> tuple[Market, dict[tuple[str, str, int], Bar]]:
    """A market that nothing ever happened to and that forgets nothing, and all its closed bars."""
    market = Market(lambda token: None, 0, bars=MarketBars(BarPlan(intervals, 10**6), max_bars=10**9))
    for step in steps:
        if isinstance(step, int):
            market.advance(SOURCE, step)
        else:
            market.add_tokens(SOURCE, [TokenInfo(step.address, step.address)])
            market.apply(SOURCE, step)
    closed = {}
    for token in market:
        bars = market.bars.get(token.address)
        assert bars is not None
        for index, interval in enumerate(intervals):
            for bar in bars.closed_bars(index, 0, END_MS, END_MS):
                closed[token.address, interval.text, bar.open_ms] = bar
    return market, closed
