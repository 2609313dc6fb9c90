"""Pages of bars and trades that reach beyond what is at hand, as if all of it were."""

from typing import Final, Protocol

from tokenwire_server.history.port import Stored
from tokenwire_server.market.bar_pages import Fill, Page, PageBar, PageRequest, page_from, page_of
from tokenwire_server.market.bars import TokenBars
from tokenwire_server.market.records import Series
from tokenwire_server.market.trade_log import TradeLog
from tokenwire_server.market.trade_pages import TradePage, TradeRequest, trade_page_of

__all__ = ["HistoryPages", "Settling"]

_END_OF_TIME_MS: Final = 1 << 53


class Settling(Protocol):
    """Whoever knows what waits to be stored."""

    async def bars_settled(self, series: Series, before_ms: int) -> None:
        """Return when no bars of this series that begin before this time wait to be stored. Raises HistoryError."""

    async def trades_settled(self, address: str, before: int) -> None:
        """Return when no trades of this token below this number wait to be stored. Raises HistoryError."""


class HistoryPages:
    """What is at hand, and beyond it what is stored. All methods raise HistoryError if the store fails, or if what
    is asked for waits to be stored and can't be."""

    def __init__(self, history: Stored, settling: Settling) -> None:
        self._history = history
        self._settling = settling

    async def bar_page(self, address: str, bars: TokenBars, index: int, now_ms: int, request: PageRequest) -> Page:
        """Exactly what :func:`~tokenwire_server.market.bar_pages.page_of` would answer if all bars were at hand."""
        interval, from_ms, to_ms, limit, fill = request
        if bars.complete_since_ms(index) == 0 or (from_ms is None and self._holds_page(bars, index, to_ms, limit)):
            return page_of(bars, index, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)
        last_ms = _END_OF_TIME_MS if to_ms is None else to_ms
        first_ms = from_ms if from_ms is not None and fill is Fill.NONE else 0
        known = [PageBar(bar, True) for bar in bars.closed_bars(index, first_ms, last_ms + 1, _END_OF_TIME_MS)]
        running = bars.open_bar(index)
        if running is not None and first_ms <= running.open_ms <= last_ms:
            known.append(PageBar(running, False))
        # From here on only the past is looked at, which late trades alone can change.
        since_ms = min(bars.complete_since_ms(index), last_ms + 1)
        series = address, interval.ms
        if from_ms is None:
            missing = limit + 2 - len(known)  # with one that tells of more, and one to fill from
            if missing > 0 and since_ms > 0:
                known = await self._stored(series, 0, since_ms, missing, newest=True) + known
        else:
            older: list[PageBar] = []
            if fill is Fill.PREVIOUS and since_ms > 0 and not (known and known[0].bar.open_ms <= from_ms):
                older = await self._stored(series, 0, min(from_ms, since_ms), 1, newest=True)
            if from_ms < since_ms:
                older += await self._stored(series, from_ms, since_ms, limit + 1)
            known = older + known
        return page_from(known, interval, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)

    @staticmethod
    def _holds_page(bars: TokenBars, index: int, to_ms: int | None, limit: int) -> bool:
        before_ms = _END_OF_TIME_MS if to_ms is None else to_ms + 1
        return len(bars.closed_bars(index, 0, before_ms, limit + 2)) == limit + 2

    async def trade_page(self, address: str, log: TradeLog, request: TradeRequest) -> TradePage:
        """Exactly what :func:`~tokenwire_server.market.trade_pages.trade_page_of` would answer if all trades that were
        ever stored were at hand."""
        after, before, limit = request
        page = trade_page_of(log, request)
        oldest, newest = log.oldest, log.newest
        await self._settling.trades_settled(address, oldest)
        stored = await self._history.oldest(address)
        first = oldest if stored is None else min(stored, oldest)
        if after is None:
            end = oldest if before is None else min(before, oldest)
            missing = limit - len(page.trades)
            if missing <= 0 or end <= first:
                return TradePage(page.trades, first, newest)
            older = await self._history.trades_before(address, end, missing)
            return TradePage([*older, *page.trades], first, newest)
        if after + 1 >= oldest:
            return TradePage(page.trades, first, newest)
        end = oldest if before is None else min(before, oldest)
        older = [each for each in await self._history.trades(address, after, limit) if each.number < end]
        return TradePage([*older, *page.trades][:limit], first, newest)

    async def _stored(
        self, series: Series, from_ms: int, before_ms: int, limit: int, *, newest: bool = False
    ) -> list[PageBar]:
        await self._settling.bars_settled(series, before_ms)
        found = await self._history.bars(*series, from_ms, before_ms, limit, newest=newest)
        return [PageBar(bar, True) for bar in found]
