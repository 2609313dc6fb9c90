"""Tokens of the shared index, in pages and single; while it is away, of the last generation that this process knows."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, TypeVar, cast

from tokenwire_server.cache.election import LEASE_MS, RETRY_MS
from tokenwire_server.cache.link import CacheTask, Link
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import Cache, CacheError
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.token_index import TokenIndex
from tokenwire_server.market.token_pages import SingleToken, TokenPage, TokenPages, TokenQuery
from tokenwire_server.telemetry.metrics import Kind, Metrics

__all__ = ["SharedPages"]

LATE_MS: Final = LEASE_MS + RETRY_MS + 4_000
"""Longer than from the last refresh of a leader that died to the first of the next one, besides the longest time
between two refreshes."""

T = TypeVar("T")


class PageOrigin(StrEnum):
    """Where a page is from: the shared index, the last generation that is known here, or this process's own market."""

    INDEX = "index"
    KEPT = "kept"
    MARKET = "market"


class SharedPages:
    """``live`` are the pages of this process's own market, for as long as nobody has published anything. The index is
    refreshed at least every ``refresh_interval_ms``."""

    def __init__(
        self, cache: Cache, link: Link, live: TokenPages, now_ms: Callable[[], int], refresh_interval_ms: int
    ) -> None:
        self._cache = cache
        self._link = link
        self._live = live
        self._now_ms = now_ms
        self._reload_s = refresh_interval_ms / 1_000
        self._young_ms = refresh_interval_ms + LATE_MS
        self._last = MemoryCache(now_ms)
        self._served = dict.fromkeys(PageOrigin, 0)

    @property
    def generation(self) -> int:
        """The last one known."""
        return self._last.generation

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage:
        """The first page, or the one that ``cursor`` asks for. Raises CursorError, CursorExpiredError."""
        page, origin = await self._ask(lambda cache: cache.page(query, cursor, limit))
        if page is None:
            page, origin = self._live.page(query, cursor, limit, self._now_ms()), PageOrigin.MARKET
        self._served[origin] += 1
        return page

    async def token(self, name: str) -> SingleToken | Resolution | None:
        """The token that a name means, or why it means none; None: nothing is published."""
        found, _ = await self._ask(lambda cache: cache.token(name))
        return found

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
                self._link.failed(CacheTask.RELOAD, error)
            else:
                self._link.worked(CacheTask.RELOAD)
                if loaded is not None and loaded.generation > self._last.generation:
                    self._last.put(loaded.generation, loaded.tokens, loaded.since, loaded.age_ms)
            await asyncio.sleep(self._reload_s)

    def observe(self, metrics: Metrics) -> None:
        """Have measured what is served, and how old it is."""
        last = self._last
        metrics.observe(
            "cache_pages",
            description="Pages of tokens: from the shared index, what this instance kept of it, or its own market.",
            kind=Kind.COUNTER,
            read=lambda: [(count, {"from": origin.value}) for origin, count in self._served.items()],
        )
        metrics.observe(
            "cache_generation",
            description="The newest generation of the shared index that this instance has; 0: none.",
            kind=Kind.GAUGE,
            read=lambda: [(last.generation, {})],
        )
        metrics.observe(
            "cache_generation_age",
            description="How long ago that generation was published.",
            unit="s",
            kind=Kind.GAUGE,
            read=lambda: [((self._now_ms() - last.published_ms) / 1_000, {})] if last.generation else [],
        )

    async def _ask(self, ask: Callable[[Cache], Awaitable[T]]) -> tuple[T, PageOrigin]:
        if self._link.is_up:
            try:
                found = await ask(self._cache)
            except CacheError as error:
                self._link.failed(CacheTask.PAGES, error)
            else:
                self._link.worked(CacheTask.PAGES)
                if found is not None:
                    return self._marked(found), PageOrigin.INDEX
        return await ask(self._last), PageOrigin.KEPT

    def _marked(self, found: T) -> T:
        """With its age only if somebody should have refreshed it."""
        if isinstance(found, TokenPage | SingleToken) and found.age_ms is not None and found.age_ms <= self._young_ms:
            return cast(T, found._replace(age_ms=None))
        return found
