"""Gateways that are cut off from the log do not publish what they have: two over one cache, in virtual time."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from typing import Any

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import BusError, Outgoing, Place, Record, TopicSpec
from tokenwire_server.cache.election import CHECK_MS, RETRY_MS
from tokenwire_server.cache.link import Link
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.publisher import PUBLISH_INTERVAL_S
from tokenwire_server.cache.service import SharedCache
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.following import FollowedMarket
from tokenwire_server.market.token_pages import SingleToken
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings
from tokenwire_server.sources import recording_events as raw

from ..stream.test_processor import NAMES, NOW_MS, PLAN, TOPICS, done, made, outgoing, running, tape
from ..stream.virtual import run_virtual
from .world import VOLUME, rows

SETTINGS = Settings(bar_intervals=tuple(each.text for each in PLAN.intervals), max_history=PLAN.history)
TAKEN_OVER_S = (CHECK_MS + RETRY_MS) / 1_000 + PUBLISH_INTERVAL_S + 0.5
"""How long after a leader stood down others' pages are those of the next one."""


class CutOff:
    """A bus that one instance can't read while ``is_cut``."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.is_cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def read(self, place: Place, first: int, end: int) -> Sequence[Record]:
        self.ask()
        return await self._bus.read(place, first, end)

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        self.ask()
        await self._bus.check(topics)

    async def lineage(self, topic: str) -> str:
        self.ask()
        return await self._bus.lineage(topic)

    def reader(self) -> Any:
        return _CutOffReader(self, self._bus.reader())

    def ask(self) -> None:
        if self.is_cut:
            raise BusError("nobody answers")


class _CutOffReader:
    def __init__(self, bus: CutOff, reader: Any) -> None:
        self._bus = bus
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        self._bus.ask()
        found: Sequence[Record] = await self._reader.poll(most, timeout_s)
        return found


class GatewayOf:
    """What a gateway follows, and its part in the cache."""

    def __init__(self, bus: CutOff, cache: SharedCache, pipeline: Pipeline) -> None:
        self.bus = bus
        self.cache = cache
        self.pipeline = pipeline
        self.age_ms: int | None = None

    @property
    def leads(self) -> bool:
        return self.cache.status().role == "leading"

    async def price(self, address: str) -> str | None:
        """As its pages have it, and as it tells of the token alone."""
        page = await self.pipeline.token_page(VOLUME, None, 100)
        listed: str | None = next((row["price"] for row in rows(page) if row["address"] == address), None)
        one = await self.pipeline.token(address)
        assert isinstance(one, SingleToken)
        assert json.loads(one.row)["price"] == listed
        assert one.age_ms == page.age_ms
        self.age_ms = page.age_ms
        return listed


@contextlib.asynccontextmanager
async def gateway(bus: MemoryBus, cache: MemoryCache) -> AsyncIterator[GatewayOf]:
    async def ping() -> str:
        return "memory 1"

    settings, mine, link = SETTINGS, CutOff(bus), Link(ping)
    feed: Any = FollowedMarket(settings, TOPICS, mine, await bus.lineage(TOPICS.log), None)  # type: ignore[arg-type]
    pipeline = await feed.build(HubConfig())
    shared = SharedCache(cache, link, settings)
    pipeline.shared_pages = shared.read(pipeline)
    shared.publish(pipeline, lambda *_: b"{}")
    tasks = [asyncio.create_task(link.run()), *feed.run(pipeline, (), None, lambda: None)]
    try:
        yield GatewayOf(mine, shared, pipeline)
    finally:
        await shared.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def traded(bus: MemoryBus, price: int) -> None:
    one = Trade(NAMES[0], f"at {price}", Decimal(price), Decimal(1), Side.BUY, NOW_MS)
    await bus.writer("collector").commit([outgoing(raw.Trades("s", (one,)), NAMES[0])])
    await done(bus)


async def until(holds: Callable[[], bool]) -> None:
    """The runner's own limit ends what never comes."""
    while not holds():
        await asyncio.sleep(0.05)


def test_a_leader_that_is_cut_off_stands_by_and_the_others_pages_are_fresh() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 100))
        loop = asyncio.get_running_loop()
        cache = MemoryCache(lambda: int(loop.time() * 1_000))
        async with running(bus, "one"), gateway(bus, cache) as one:
            await until(lambda: one.leads)
            async with gateway(bus, cache) as two:
                await traded(bus, 70)
                await asyncio.sleep(2)
                assert [await each.price(NAMES[0]) for each in (one, two)] == ["70", "70"]
                assert not two.leads

                one.bus.is_cut = True
                await asyncio.sleep(0.5)
                assert not one.leads
                await traded(bus, 80)
                await asyncio.sleep(TAKEN_OVER_S)
                assert two.leads
                assert [await each.price(NAMES[0]) for each in (one, two)] == ["80", "80"]

                one.bus.is_cut = False
                await asyncio.sleep(30)
                assert (one.leads, two.leads) == (False, True)  # it is as good, and no better

    run_virtual(scenario)


def test_while_all_are_cut_off_nobody_leads_and_the_last_index_stays() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 100))
        loop = asyncio.get_running_loop()
        cache = MemoryCache(lambda: int(loop.time() * 1_000))
        async with running(bus, "one"), gateway(bus, cache) as one, gateway(bus, cache) as two:
            await traded(bus, 70)
            await asyncio.sleep(TAKEN_OVER_S)
            assert one.leads + two.leads == 1
            one.bus.is_cut = two.bus.is_cut = True
            await asyncio.sleep(1)
            generation = cache.generation
            await traded(bus, 80)
            await asyncio.sleep(600)
            assert one.leads + two.leads == 0
            assert cache.generation == generation
            assert [await each.price(NAMES[0]) for each in (one, two)] == ["70", "70"]
            assert [(each.age_ms or 0) // 60_000 for each in (one, two)] == [10, 10]
            two.bus.is_cut = False
            await asyncio.sleep(10)
            assert (one.leads, two.leads) == (False, True)
            assert [await each.price(NAMES[0]) for each in (one, two)] == ["80", "80"]
            assert (one.age_ms, two.age_ms) == (None, None)

    run_virtual(scenario)


def test_a_leader_whose_log_can_not_be_followed_any_further_stands_by_before_it_ends() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 100))
        loop = asyncio.get_running_loop()
        cache = MemoryCache(lambda: int(loop.time() * 1_000))
        async with running(bus, "one"), gateway(bus, cache) as one:
            await until(lambda: one.leads)
            await bus.writer("x").commit([Outgoing(Place(TOPICS.log, 1), b"k", b"{")])
            await asyncio.sleep(0.5)
            assert not one.leads

    run_virtual(scenario)
