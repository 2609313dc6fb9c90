"""When the index is published, and open bars written, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tokenwire_server.cache.bar_writer import MAX_FLUSHED_TOKENS, BarWriter
from tokenwire_server.cache.election import CHECK_MS
from tokenwire_server.cache.leadership import Leadership
from tokenwire_server.cache.link import Link
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import AgainError, CacheError, OpenBar
from tokenwire_server.cache.publisher import Publisher
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.token_index import TokenIndex
from tokenwire_server.market.token_pages import SingleToken
from tokenwire_server.market.trades import TokenInfo

from ..stream.virtual import run_virtual
from .world import LOCK, World

MAX_AGE_MS = 30_000


class FlakyCache(MemoryCache):
    """Fails with what it is told to."""

    error: CacheError | None = None
    asked = 0

    async def publish(self, index: TokenIndex, lock: str, fence: int) -> int | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await super().publish(index, lock, fence)

    async def put_bars(self, bars: list[OpenBar]) -> None:  # type: ignore[override]
        if self.error is not None:
            raise self.error
        await super().put_bars(bars)


class Instance:
    """One that leads."""

    def __init__(self, count: int) -> None:
        self.may_lead = True
        loop = asyncio.get_running_loop()
        self.cache = FlakyCache(lambda: int(loop.time() * 1_000))
        self.world = World(count, lambda: int(loop.time() * 1_000))
        self.link = Link(self.ping)
        self.leadership = Leadership(self.cache, self.link, LOCK, lambda: self.may_lead)
        self.told: list[int] = []
        self.publisher = Publisher(
            self.world.pipeline,
            self.cache,
            self.link,
            self.leadership,
            MAX_AGE_MS,
            lambda generation, _: self.told.append(generation),
        )
        self.bars = BarWriter(self.world.pipeline, self.cache, self.link, self.leadership, lambda *_: b"{}")
        self.world.pipeline.trade_listeners.append(self.bars.on_trade)
        self.tasks = [
            asyncio.create_task(work)
            for work in (self.link.run(), self.leadership.run(), self.publisher.run(), self.bars.run())
        ]

    async def ping(self) -> str:
        if self.cache.error is not None and not isinstance(self.cache.error, AgainError):
            raise self.cache.error
        return "memory 1"

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def virtual(main: Callable[[Instance], Coroutine[Any, Any, None]], count: int = 3) -> None:
    async def run() -> None:
        instance = Instance(count)
        try:
            await main(instance)
        finally:
            await instance.end()

    run_virtual(run)


def test_a_market_that_changes_is_published_once_a_second_and_one_that_does_not_when_it_is_old() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        assert instance.told == [1]
        for step in range(100):
            instance.world.trade("v:0", step + 5)
            await asyncio.sleep(0.1)
        assert 9 <= len(instance.told) <= 11
        before = len(instance.told)
        await asyncio.sleep(10 * MAX_AGE_MS / 1_000)
        assert 9 <= len(instance.told) - before <= 11

    virtual(main)


def test_a_new_token_is_news() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        first = instance.cache.index
        instance.world.trade("v:0", 9)
        await asyncio.sleep(1)
        second = instance.cache.index
        assert first is not None
        assert second is not None
        assert second.names is first.names  # made once for as long as no token comes
        instance.world.pipeline.tokens("test", [TokenInfo("w:0", "NEW")])
        await asyncio.sleep(1.5)
        assert instance.told == [1, 2, 3]
        assert isinstance(await instance.cache.token("new"), SingleToken)

    virtual(main)


def test_what_is_refused_is_told_and_tried_again() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        instance.cache.error = AgainError("no memory")
        instance.world.trade("v:0", 9)
        await asyncio.sleep(2)
        assert instance.link.is_up  # it answers
        assert instance.link.reason == "no memory"
        instance.cache.error = None
        await asyncio.sleep(2)
        assert (instance.link.reason, instance.told) == ("", [1, 2])

    virtual(main)


def test_after_an_outage_everything_is_published_again_since_it_may_be_lost() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        instance.cache.error = CacheError("away")
        await asyncio.sleep(60)
        assert (instance.link.is_up, instance.link.reason) == (False, "away")
        instance.cache.error = None
        await asyncio.sleep(6)
        assert (instance.link.reason, instance.told) == ("", [1, 2])

    virtual(main)


def test_a_refresh_of_a_former_leader_is_counted_and_it_asks_for_the_lock_again() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        instance.cache._fences[LOCK] += 1  # another one led meanwhile
        instance.world.trade("v:0", 9)
        await asyncio.sleep(3)
        assert (instance.publisher.refreshes, instance.publisher.refused, instance.told) == (2, 1, [1, 2])

    virtual(main)


def test_one_that_may_not_lead_any_more_stops_also_while_the_cache_is_away() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        instance.cache.error = CacheError("away")
        instance.world.trade("v:0", 9)
        await asyncio.sleep(5)
        assert instance.leadership.leads
        instance.may_lead = False
        await asyncio.sleep(CHECK_MS / 1_000)
        assert not instance.leadership.leads
        asked = instance.cache.asked
        instance.cache.error = None
        await asyncio.sleep(60)
        assert instance.link.is_up
        assert (instance.cache.asked, instance.told) == (asked, [1])
        assert (await instance.cache.acquire(LOCK, "another", 1_000)).fence > 0

    virtual(main)


def test_what_was_begun_before_this_instance_stood_down_is_not_published() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        row = instance.world.pipeline.token_pages.row

        def meanwhile(token: TokenState) -> bytes:
            instance.leadership._election.allow(may_lead=False)
            return row(token)

        instance.world.pipeline.token_pages.row = meanwhile  # type: ignore[method-assign]
        asked = instance.cache.asked
        instance.world.trade("v:0", 9)
        await instance.publisher.refresh()
        assert instance.cache.asked == asked

    virtual(main)


def test_open_bars_are_conflated_bounded_and_not_lost_over_an_outage() -> None:
    async def main(instance: Instance) -> None:
        await asyncio.sleep(0.5)
        count = MAX_FLUSHED_TOKENS + 10
        instance.cache.error = CacheError("away")
        for step in range(3):
            for number in range(count):
                instance.world.trade(f"v:{number}", number + step + 1)
        await asyncio.sleep(10)
        assert not instance.cache.bars
        assert len(instance.bars._changed) == count
        instance.cache.error = None
        intervals = len(instance.world.pipeline.bar_plan.intervals)
        while not instance.bars.written:
            await asyncio.sleep(0.1)
        assert instance.bars.written == MAX_FLUSHED_TOKENS * intervals
        await asyncio.sleep(1.5)
        assert instance.bars.written == count * intervals
        assert ("S0", "1m") in instance.cache.bars

    virtual(main, MAX_FLUSHED_TOKENS + 10)
