"""What changed in the market since it was stored last, collected into batches. Pure.

A batch is a cut through the market between two of its inputs: everything up to it, and nothing of what came later.
So the positions of sources that belong to it are exact, and whoever goes on from a batch ends up with the same bars.
"""

from copy import copy
from typing import Final

from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.pending_bars import PendingBars
from tokenwire_server.market.records import Batch, NumberedTrade, Series, StoredToken
from tokenwire_server.market.trades import TokenInfo, Trade

__all__ = ["MAX_PENDING_ROWS", "VERSIONS_AHEAD", "BatchBuilder"]

MAX_PENDING_ROWS: Final = 200_000  # trades and bars that wait for a store that fails, of up to 1 KB each
VERSIONS_AHEAD: Final = 1 << 30  # more than are made between two batches

_END_OF_TIME_MS: Final = 1 << 53


class BatchBuilder:
    """Collects what the market tells its listeners; :meth:`take` gives what is to be stored.

    With more than ``most`` rows waiting the trades among them are given up (counted in ``given_up_trades``), and of the
    bars it is remembered from when on they are to be stored: the next batch takes them from what is at hand by then.
    ``given_up_bars`` counts series, each time, of which bars were no longer at hand.
    """

    def __init__(self, market: Market, most: int = MAX_PENDING_ROWS) -> None:
        self.given_up_trades = 0
        self.given_up_bars = 0
        self.is_overfull = False  # something was given up since the last batch
        self.rows = 0  # that wait
        self._market = market
        self._most = most
        self._taken = 0
        self._touched: dict[str, None] = {}
        self._trades: dict[str, list[NumberedTrade]] = {}
        self._bars = PendingBars()
        self._offsets: dict[str, str] = {}
        self._dropped: dict[Series, int] = {}  # bars that begin at this time or later are to be taken from the market

    def __bool__(self) -> bool:
        """Whether there is anything to store."""
        return bool(self._touched or self._offsets)

    def traded(self, token: TokenState, number: int, trade: Trade) -> None:
        """A trade was applied and numbered."""
        address = token.address
        trades = self._trades.get(address)
        if trades is None:
            trades = self._trades[address] = []
            self._touched[address] = None
        trades.append(NumberedTrade(number, trade))
        self.rows += 1
        if self.rows > self._most:
            self._give_up()

    def bar_changed(self, address: str, change: BarChange) -> None:
        """A bar was closed or corrected."""
        self._touched[address] = None
        series = address, change.interval.ms
        if change.event is not BarEvent.BEYOND:
            self._bars.put(series, copy(change.bar))
        else:
            self._bars.merge(series, change.bar)
        self.rows += 1
        if self.rows > self._most:
            self._give_up()

    def offset(self, source: str, position: str) -> None:
        """The source goes on here after everything that was applied so far."""
        self._offsets[source] = position

    def take(self, *, is_last: bool = False) -> Batch | None:
        """Everything since the last call, to be stored as a whole; None if that is nothing (and not the last)."""
        if not self and not is_last:
            return None
        market = self._market
        tokens = []
        self._recover()
        for address in self._touched:
            token, bars = market.get(address), market.bars.get(address)
            if token is None or token.log is None or token.price is None or bars is None:
                continue
            info = TokenInfo(address, token.symbol, token.name, token.chain, token.supply)
            newest = token.log.newest
            tokens.append(StoredToken(info, token.source, newest, bars.now_ms, token.price, token.source_time_ms))
            for interval, bar in bars.running():
                self._bars.put((address, interval.ms), bar)
        self._taken += 1
        batch = Batch(
            number=self._taken,
            tokens=tokens,
            trades=self._trades,
            bars=self._bars.bars,
            late=self._bars.late,
            offsets=self._offsets,
            numbered=market.numbers.given,
            version=market.highest_version + VERSIONS_AHEAD,
            is_last=is_last,
        )
        self._clear()
        self._offsets = {}
        self._touched = {}
        return batch

    def waiting(self) -> Batch:
        """What is collected so far, to look at only: without tokens and open bars."""
        return Batch(number=0, trades=self._trades, bars=self._bars.bars, late=self._bars.late)

    def _clear(self) -> None:
        self._trades, self._bars, self.rows = {}, PendingBars(), 0

    def _give_up(self) -> None:
        self.given_up_trades += sum(map(len, self._trades.values()))
        for key, bars in (*self._bars.bars.items(), *self._bars.late.items()):
            if bars:
                self._dropped[key] = min(*bars, self._dropped.get(key, _END_OF_TIME_MS))
        self.is_overfull = True  # what closes from now on is told as a whole, whatever trades of it were given up
        self._clear()

    def _recover(self) -> None:
        """Take the bars that were given up from those at hand."""
        for (address, interval_ms), from_ms in self._dropped.items():
            bars = self._market.bars.get(address)
            if bars is None:
                continue
            index = next(n for n, each in enumerate(self._market.bars.plan.intervals) if each.ms == interval_ms)
            if bars.complete_since_ms(index) > from_ms:
                self.given_up_bars += 1
            for bar in bars.closed_bars(index, from_ms, _END_OF_TIME_MS, _END_OF_TIME_MS):
                self._bars.put((address, interval_ms), copy(bar))
        self._dropped = {}
        self.is_overfull = False
