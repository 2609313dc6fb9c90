"""Any exchange that ccxt can watch, for the long tail: ``ccxt:EXCHANGE:SYM,SYM`` with the extra ``ccxt``.

What ccxt hides stays hidden: no subscription is acknowledged (live means that a trade came), no numbering is known (so
no hole is seen), and where an exchange sends prices as JSON numbers, ccxt has made floats of them before their text
is seen here. The four exchanges with sources of their own are better served by those.
"""

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final

from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.source_spec import MAX_SYMBOLS, clean_symbols
from tokenwire_server.sources.event_clock import CLOCK_INTERVAL_MS, EventClock
from tokenwire_server.sources.frames import FormatError, number, shown, side, whole
from tokenwire_server.sources.reconnection import Reconnection
from tokenwire_server.sources.steady import steady_ms

__all__ = ["CcxtSource", "read_trade"]

CADENCE_MS: Final = 30_000  # ccxt's own pings
CLOSE_TIMEOUT_S: Final = 5.0

_TAKER: Final = {"buy": Side.BUY, "sell": Side.SELL}


def read_trade(exchange: str, item: object) -> Trade:
    """A trade as ccxt gives it, with numbers as text. Raises FormatError."""
    if not isinstance(item, Mapping):
        raise FormatError("not_an_object", item)
    symbol, identifier = item.get("symbol"), item.get("id")
    if not isinstance(symbol, str) or not symbol:
        raise FormatError("bad_symbol", symbol)
    if not isinstance(identifier, str) or not identifier:
        raise FormatError("bad_id", identifier)
    return Trade(
        address=f"{exchange}:{symbol}",
        trade_id=identifier,
        price=number(item.get("price"), "bad_price"),
        amount=number(item.get("amount"), "bad_amount"),
        side=side(item.get("side"), _TAKER),
        time_ms=whole(item, "timestamp", "bad_time"),
    )


class CcxtSource:
    """Trades of ``symbols`` (as ccxt writes them, like BTC/USDT) at ``EXCHANGE:SYMBOL``.

    ``configure`` may change ccxt's exchange object before it is used. Counters: ``batches``, ``reconnects``.
    Raises UserError when ccxt is missing or knows no such exchange, ValueError for unusable symbols.
    """

    def __init__(
        self,
        exchange: str,
        symbols: Sequence[str],
        *,
        name: str | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        configure: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._symbols = clean_symbols("ccxt", symbols, MAX_SYMBOLS)
        self._exchange = exchange
        self._make = _maker(exchange)
        self._name = name or f"ccxt:{exchange}"
        self._clock = clock
        self._sleep = sleep
        self._configure = configure
        self._reconnection = Reconnection(rng or Random())
        self._event_clock = EventClock()
        self._live = False
        self._begun_s = 0.0
        self.batches = 0
        self.reconnects = 0

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """While nothing fails, the clock is told this often."""
        return CADENCE_MS

    def tally(self) -> Iterator[tuple[str, str, int]]:
        """What happened, for the metrics."""
        yield self._name, "batch", self.batches
        yield self._name, "reconnect", self.reconnects

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled; ccxt reconnects, and what makes it fail is answered with a new beginning."""
        loop = asyncio.get_running_loop()
        sink.tokens(self._name, [TokenInfo(f"{self._exchange}:{symbol}", symbol, symbol) for symbol in self._symbols])
        sink.state(self._name, SourceState.STARTING)
        while True:
            await sink.room()
            self._begun_s = loop.time()
            detail = await self._watch_all(sink)
            self._live = False
            self.reconnects += 1
            now_s = loop.time()
            wait_s = self._reconnection.lost(now_s, now_s - self._begun_s)
            told = (f"{self._exchange}: {detail}", self._reconnection.circuit(now_s))
            sink.state(self._name, SourceState.RECONNECTING, "; ".join(filter(None, told)))
            await self._sleep(wait_s)

    async def _watch_all(self, sink: Sink) -> str:
        """Watch every symbol until something fails; what did."""
        api = self._make({"enableRateLimit": True, "newUpdates": True})
        api.number = str  # exact text instead of floats, where ccxt has it
        self._configure(api)
        try:
            await api.load_markets()
            known = [symbol for symbol in self._symbols if symbol in api.markets]
            for symbol in set(self._symbols).difference(known):
                sink.rejected(self._name, "subscribe_refused", f"{self._exchange} has no market {symbol!a}")
            if not known:
                return "it has none of the symbols"
            together = len(known) > 1 and api.has.get("watchTradesForSymbols")
            async with asyncio.TaskGroup() as group:
                for watched in [known] if together else [[symbol] for symbol in known]:
                    group.create_task(self._watch(api, watched, sink))
                group.create_task(self._tick(sink))
        except Exception as error:  # whatever a venue's adapter raises: this source begins anew, the others go on
            cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
            return f"{type(cause).__name__}: {shown(str(cause))}"
        finally:
            await self._close(api)
        return "ended"

    async def _watch(self, api: Any, symbols: Sequence[str], sink: Sink) -> None:
        while True:
            await sink.room()  # ccxt itself keeps the newest of each market meanwhile, 1000 unless configured
            if len(symbols) == 1:
                batch = await api.watch_trades(symbols[0])
            else:
                batch = await api.watch_trades_for_symbols(list(symbols))
            self._receive(batch, sink)

    def _receive(self, batch: object, sink: Sink) -> None:
        self.batches += 1
        trades: list[Trade] = []
        for item in batch if isinstance(batch, Sequence) else ():
            try:
                trade = read_trade(self._exchange, item)
            except FormatError as error:
                sink.rejected(self._name, error.reason, error.detail)
                continue
            self._event_clock.observe(trade.time_ms, self._clock(), steady_ms())
            trades.append(trade)
        if not trades:
            return
        if not self._live:
            self._live = True
            sink.state(self._name, SourceState.LIVE)
        self._tell_clock(sink)
        sink.trades(self._name, trades)

    async def _tick(self, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CLOCK_INTERVAL_MS / 1_000)
            if self._live:
                self._tell_clock(sink)
                if self._reconnection.lived(loop.time() - self._begun_s):
                    sink.state(self._name, SourceState.LIVE, "circuit closed")

    def _tell_clock(self, sink: Sink) -> None:
        event_ms = self._event_clock.due(steady_ms())
        if event_ms is not None:
            sink.clock(self._name, event_ms)

    async def _close(self, api: Any) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await api.close()
        except Exception:  # noqa: S110 - it is left behind anyway
            pass


def _maker(exchange: str) -> Callable[[Mapping[str, object]], Any]:
    """The exchange's class in ccxt."""
    try:
        library = importlib.import_module("ccxt.pro")
    except ImportError:
        raise UserError('a ccxt source needs the extra ccxt: pip install "tokenwire[server,ccxt]"') from None
    if exchange not in library.exchanges:
        raise UserError(f"ccxt cannot watch an exchange {exchange!r}; it knows {', '.join(library.exchanges[:8])} …")
    found: Callable[[Mapping[str, object]], Any] = getattr(library, exchange)
    return found
