"""What tests of the collector's sink have in common: buses that fail, and what was written to them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Outgoing, Place, TopicSpec
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.records import RawEvent, read_raw
from tokenwire_server.stream.topics import Topics, partition_of

NOW_MS = 1_774_089_400_000
TOPICS = Topics(partitions=3)
NAMES = [f"x:T{number}" for number in range(5)]


def wall_ms() -> int:
    return NOW_MS


def trade(name: str, number: int, price: int = 1) -> Trade:
    return Trade(name, str(number), Decimal(price), Decimal(1), Side.BUY, NOW_MS - 1_000 + number)


async def new_bus() -> MemoryBus:
    bus = MemoryBus(wall_ms)
    await bus.ensure(TOPICS.specs())
    return bus


async def events(bus: MemoryBus) -> dict[int, list[RawEvent]]:
    found = {}
    for number in range(TOPICS.partitions):
        place = Place(TOPICS.raw, number)
        _, end = await bus.bounds(place)
        found[number] = [read_raw(record.value) for record in await bus.read(place, 0, end)]
    return found


async def ids(bus: MemoryBus) -> dict[str, list[str]]:
    """Ids of the trades of each token, in order."""
    found: dict[str, list[str]] = {}
    for number, each in (await events(bus)).items():
        for event in each:
            if isinstance(event, raw.Trades):
                for one in event.trades:
                    assert partition_of(one.address, TOPICS.partitions) == number
                    found.setdefault(one.address, []).append(one.trade_id)
    return found


@contextlib.asynccontextmanager
async def collecting(
    bus: Any, name: str = "c", replays: Sequence[str] = (), clock: BrokersClock | None = None
) -> AsyncIterator[BusSink]:
    sink = BusSink(bus, TOPICS, name, replays, cadences_ms={"s": 700}, clock=clock or BrokersClock(wall_ms))
    await sink.begin()
    task = asyncio.create_task(sink.run())
    try:
        yield sink
        sink.close()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Shaky:
    """A bus that fails now and then: before it wrote something, or right after, so that nobody knows of it."""

    def __init__(self, bus: MemoryBus, chance: random.Random) -> None:
        self._bus = bus
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def writer(self, instance: str) -> Any:
        return _ShakyWriter(self._bus.writer(instance), self._chance)


class _ShakyWriter:
    def __init__(self, writer: Any, chance: random.Random) -> None:
        self._writer = writer
        self._chance = chance

    async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        await asyncio.sleep(self._chance.random() / 10)
        if self._chance.random() < 0.3:
            raise self._chance.choice((AbortedError, BusError, FencedError))("not now")
        after: Mapping[Place, int] = await self._writer.commit(records)
        await asyncio.sleep(self._chance.random() / 100)
        if self._chance.random() < 0.3:
            raise self._chance.choice((AbortedError, BusError, FencedError))("who knows")
        return after

    async def close(self) -> None:
        await self._writer.close()


class Away:
    """A bus that is refused while ``is_away``, and does not answer for its ends while ``is_silent``."""

    def __init__(self, bus: MemoryBus) -> None:
        self.is_away = False
        self.is_silent = False
        self.asked = 0  # for the ends
        self.inner = self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        self.ask()
        await self._bus.ensure(topics)

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        self.ask()
        await self._bus.check(topics)

    def writer(self, instance: str) -> Any:
        outer, inner = self, self._bus.writer(instance)

        class Writer:
            async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
                outer.ask()
                return await inner.commit(records)

            async def close(self) -> None:
                await inner.close()

        return Writer()

    async def ends(self, places: Sequence[Place]) -> Mapping[Place, int]:
        self.asked += 1
        self.ask()
        if self.is_silent:
            await asyncio.Event().wait()
        return await self._bus.ends(places)

    def ask(self) -> None:
        if self.is_away:
            raise BusError("nobody answers")
