"""Pages of the shared index; while it is away, of the last generation that this process knows."""

import asyncio
from collections.abc import Callable

from tokenwire_server.cache.link import Link
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import Cache, CacheError
from tokenwire_server.market.token_index import TokenIndex
from tokenwire_server.market.token_pages import TokenPage, TokenPages, TokenQuery

__all__ = ["SharedPages"]


class SharedPages:
    """``live`` are the pages of this process's own market, for as long as nobody has published anything."""

    def __init__(
        self, cache: Cache, link: Link, live: TokenPages, now_ms: Callable[[], int], reload_interval_ms: int
    ) -> None:
        self._cache = cache
        self._link = link
        self._live = live
        self._now_ms = now_ms
        self._reload_s = reload_interval_ms / 1_000
        self._last = MemoryCache(now_ms)

    @property
    def generation(self) -> int:
        """The last one known."""
        return self._last.generation

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage:
        """The first page, or the one that ``cursor`` asks for. Raises CursorError, CursorExpiredError."""
        if self._link.is_up:
            try:
                page = await self._cache.page(query, cursor, limit)
            except CacheError as error:
                self._link.failed("pages", error)
            else:
                self._link.worked("pages")
                if page is not None:
                    return page
        page = await self._last.page(query, cursor, limit)
        if page is None:
            return self._live.page(query, cursor, limit, self._now_ms())
        return page._replace(age_ms=self._now_ms() - self._last.published_ms)

    def published(self, generation: int, index: TokenIndex) -> None:
        """This process published it: there is no need to load it."""
        self._last.put(generation, index)

    async def run(self) -> None:
        """Know the newest generation, more or less, until cancelled."""
        while True:
            await self._link.wait_up()
            try:
                loaded = await self._cache.load()
            except CacheError as error:
                self._link.failed("reload", error)
            else:
                self._link.worked("reload")
                if loaded is not None and loaded.generation > self._last.generation:
                    self._last.put(loaded.generation, loaded.tokens, loaded.since)
            await asyncio.sleep(self._reload_s)
