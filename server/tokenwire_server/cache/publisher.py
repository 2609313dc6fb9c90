"""Publishes the token index of the instance that leads: when its market changed, at most once a second."""

import asyncio
from collections.abc import Callable
from typing import Final

from tokenwire_server.cache.leadership import Leadership
from tokenwire_server.cache.link import CacheTask, Link
from tokenwire_server.cache.market import PublishedMarket
from tokenwire_server.cache.port import Cache, CacheError, FencedError
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.token_index import TokenIndex, index_order, index_values
from tokenwire_server.market.token_names import TokenNames
from tokenwire_server.telemetry.logs import get_log

__all__ = ["PUBLISH_INTERVAL_S", "PUBLISH_SHARE", "Publisher", "build_index"]

PUBLISH_INTERVAL_S: Final = 1.0
PUBLISH_SHARE: Final = 0.1  # of the time: where there are very many tokens, a refresh is rarer than once a second
_VALUES: Final = 1_000  # read without a pause
_ROWS: Final = 100  # made without a pause

_log = get_log(__name__)


async def build_index(market: PublishedMarket, before: TokenIndex | None = None) -> TokenIndex:
    """All tokens as they are now; ``before`` is one of the same market. The event loop turns in between: what changes
    meanwhile may be in it or not."""
    orders = {}
    for key in SortKey:
        ranked = market.ranking.ranked(key, market.now_ms())
        values: list[float] = []
        for first in range(0, len(ranked.tokens), _VALUES):
            await asyncio.sleep(0)
            values += index_values(key, ranked, first, first + _VALUES)
        orders[key] = index_order(key, ranked, values)
        await asyncio.sleep(0)
    rows, facts = {}, {}
    # The list comes last: it has every token that an order has.
    tokens = list(market.market)
    for number, token in enumerate(tokens):
        rows[token.address] = market.token_pages.row(token)
        if token.facts:
            facts[token.address] = market.token_pages.detail(token).facts
        if not number % _ROWS:
            await asyncio.sleep(0)
    if before is not None and len(before.rows) == len(tokens):
        return TokenIndex(rows, orders, before.names, facts)  # no token goes away or gets another name
    names = TokenNames()
    for number, token in enumerate(tokens):
        names.add(token.address, token.symbol)
        if not number % _VALUES:
            await asyncio.sleep(0)
    return TokenIndex(rows, orders, names.fields, facts)


class Publisher:
    """``max_age_ms``: so old is the index at most while nothing changes. ``published`` is told of each generation."""

    def __init__(
        self,
        market: PublishedMarket,
        cache: Cache,
        link: Link,
        leadership: Leadership,
        max_age_ms: int,
        published: Callable[[int, TokenIndex], None],
    ) -> None:
        self.refreshes = 0
        self.refused = 0
        self._market = market
        self._cache = cache
        self._link = link
        self._leadership = leadership
        self._max_age_s = max_age_ms / 1_000
        self._tell = published
        self._last: tuple[object, ...] = ()
        self._last_s = 0.0
        self._index: TokenIndex | None = None

    async def run(self) -> None:
        """Publish until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._leadership.wait(leads=True)
            await self._link.wait_up()
            if not self._leadership.leads:
                continue  # not any more
            begun_s = loop.time()
            await self.refresh()
            took_s = loop.time() - begun_s
            await asyncio.sleep(max(PUBLISH_INTERVAL_S - took_s, took_s * (1 / PUBLISH_SHARE - 1)))

    async def refresh(self) -> None:
        """Publish once, if there is anything new."""
        now_s = asyncio.get_running_loop().time()
        market, fence = self._market.market, self._leadership.fence
        stand = (market.changes, len(market), fence, self._link.lost_count)
        if stand == self._last and now_s - self._last_s < self._max_age_s:
            return
        index = self._index = await build_index(self._market, self._index)
        if self._leadership.fence != fence:
            return  # it ended meanwhile, perhaps since this market is an old one
        try:
            generation = await self._cache.publish(index, self._leadership.lock, fence)
        except FencedError:
            self.refused += 1
            _log.warning("refresh refused", reason="another instance leads", fence=fence)
            self._leadership.fenced(fence)
        except CacheError as error:
            self._link.failed(CacheTask.PUBLISH, error)
        else:
            self._link.worked(CacheTask.PUBLISH)
            self._last, self._last_s = stand, now_s
            if generation is not None:
                self.refreshes += 1
                self._tell(generation, index)
