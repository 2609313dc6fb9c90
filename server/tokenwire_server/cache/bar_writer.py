"""Keeps open bars in the cache: the newest state of those that change, once a second, however many trades there are."""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

from tokenwire_server.cache.leadership import Leadership
from tokenwire_server.cache.link import CacheTask, Link
from tokenwire_server.cache.market import PublishedMarket
from tokenwire_server.cache.port import Cache, CacheError, OpenBar
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.trades import Trade

__all__ = ["FLUSH_INTERVAL_S", "MAX_FLUSHED_TOKENS", "BarWriter", "EncodeBar"]

FLUSH_INTERVAL_S: Final = 1.0
MAX_FLUSHED_TOKENS: Final = 2_000  # in one interval; the others follow in the next
_TOKENS: Final = 50  # sent in one go

EncodeBar = Callable[[TokenState, Interval, Bar], bytes]


class BarWriter:
    """``encode`` gives the JSON of an open bar. Only the instance that leads writes."""

    def __init__(
        self, market: PublishedMarket, cache: Cache, link: Link, leadership: Leadership, encode: EncodeBar
    ) -> None:
        self.written = 0
        self._market = market
        self._cache = cache
        self._link = link
        self._leadership = leadership
        self._encode = encode
        self._changed: dict[TokenState, None] = {}  # never more than there are tokens

    def on_trade(self, token: TokenState, _number: int, _trade: Trade) -> None:
        """A trade changed the bars of this token."""
        self._changed[token] = None

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            if not self._leadership.leads:
                self._changed.clear()
            elif self._link.is_up:
                await self.flush()

    async def flush(self) -> None:
        """Write what changed since the last time."""
        left = MAX_FLUSHED_TOKENS
        while self._changed and left > 0:
            taken = list(islice(self._changed, _TOKENS))
            for token in taken:
                del self._changed[token]
            left -= len(taken)
            bars = [bar for token in taken for bar in self._bars(token)]
            try:
                await self._cache.put_bars(bars)
            except CacheError as error:
                self._link.failed(CacheTask.OPEN_BARS, error)
                self._changed = dict.fromkeys(taken) | self._changed
                return
            self._link.worked(CacheTask.OPEN_BARS)
            self.written += len(bars)

    def _bars(self, token: TokenState) -> list[OpenBar]:
        market = self._market
        # Several tokens of one symbol would take each other's key.
        name = token.symbol if market.resolve(token.symbol).address == token.address else token.address
        bars = []
        for interval in market.bar_plan.intervals:
            bar = market.open_bar(token.address, interval)
            if bar is not None:
                bars.append(OpenBar(name, interval.text, self._encode(token, interval, bar), interval.ms))
        return bars
