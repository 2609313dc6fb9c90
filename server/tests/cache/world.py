"""A market to publish, and what publishes it."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

from tokenwire_server.cache.port import Cache
from tokenwire_server.cache.publisher import build_index
from tokenwire_server.market.token_pages import TokenPage, TokenQuery
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline

BEGIN_MS = 1_700_000_000_000
LOCK = "publisher"
VOLUME = TokenQuery()


class Walker(Protocol):
    """What has pages."""

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None: ...


class World:
    """A market whose tokens have the addresses ``v:0``, ``v:1`` …, and prices of their number and one."""

    def __init__(self, count: int = 0, now_ms: Callable[[], int] = lambda: 0) -> None:
        self.pipeline = Pipeline(100_000, now_ms, lambda: BEGIN_MS)
        self.trades = 0
        for number in range(count):
            self.pipeline.tokens("test", [TokenInfo(f"v:{number}", f"S{number}", f"Name {number % 10}")])
            self.trade(f"v:{number}", number + 1)

    def trade(self, address: str, price: int | str) -> None:
        self.trades += 1
        one = Trade(address, str(self.trades), Decimal(price), Decimal(1), Side.BUY, BEGIN_MS + self.trades)
        self.pipeline.trades("test", [one])

    async def publish(self, cache: Cache, fence: int) -> int | None:
        self.pipeline.ranking._look_ms = None
        return await cache.publish(await build_index(self.pipeline), LOCK, fence)


async def addresses(cache: Walker, limit: int = 1_000, query: TokenQuery = VOLUME) -> list[str]:
    page = await cache.page(query, None, limit)
    assert page is not None
    return names(page)


async def walk(cache: Walker, limit: int, query: TokenQuery = VOLUME) -> list[str]:
    """All pages, one after the other."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await cache.page(query, cursor, limit)
        assert page is not None
        found += names(page)
        cursor = page.next_cursor
        if cursor is None:
            return found


def rows(page: TokenPage | None) -> list[Any]:
    assert page is not None
    return [json.loads(row) for row in page.rows]


def names(page: TokenPage | None) -> list[str]:
    return [row["address"] for row in rows(page)]
