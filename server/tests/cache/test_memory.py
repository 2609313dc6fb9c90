"""What only virtual time shows: how long orders are kept, and how many."""

import pytest

from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.token_pages import ORDER_KEPT_MS, CursorExpiredError, TokenQuery

from .world import LOCK, VOLUME, World, names


class Clock:
    now_ms = 0


async def begun(clock: Clock, count: int, places: int = 1_000_000) -> tuple[MemoryCache, World, int]:
    cache = MemoryCache(lambda: clock.now_ms, max_kept_places=places)
    world = World(count, lambda: clock.now_ms)
    fence = (await cache.acquire(LOCK, "a", 10**9)).fence
    await world.publish(cache, fence)
    return cache, world, fence


async def test_an_order_is_kept_while_it_is_walked_through_and_a_minute_longer() -> None:
    clock = Clock()
    cache, world, fence = await begun(clock, 9)
    page = await cache.page(VOLUME, None, 2)
    assert page is not None
    for expected in (["v:6", "v:5"], ["v:4", "v:3"]):
        clock.now_ms += ORDER_KEPT_MS
        world.trade("v:0", 100 + clock.now_ms)
        await world.publish(cache, fence)
        page = await cache.page(VOLUME, page.next_cursor, 2)
        assert page is not None
        assert names(page) == expected
    clock.now_ms += ORDER_KEPT_MS + 1
    with pytest.raises(CursorExpiredError):
        await cache.page(VOLUME, page.next_cursor, 2)
    assert cache.kept_places == 0


async def test_kept_orders_are_bounded_and_those_used_last_stay() -> None:
    clock = Clock()
    cache, world, fence = await begun(clock, 10, places=35)
    walked, left = await cache.page(VOLUME, None, 2), await cache.page(TokenQuery(SortKey.PRICE), None, 2)
    assert walked is not None
    assert left is not None
    for step in range(8):
        clock.now_ms += 1_000
        world.trade(f"v:{step}", 50 + step)
        await world.publish(cache, fence)
        assert await cache.page(VOLUME, walked.next_cursor, 2)
        await cache.page(VOLUME, None, 2)
        assert cache.kept_places <= 35
    with pytest.raises(CursorExpiredError):
        await cache.page(TokenQuery(SortKey.PRICE), left.next_cursor, 2)
