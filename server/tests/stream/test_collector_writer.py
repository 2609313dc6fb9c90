"""A collector's writer whose transaction ends in doubt, while another one takes its name."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import BusError, FencedError, Outgoing, Place
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector_writer import CollectorWriter, read_positions
from tokenwire_server.stream.topics import Topics

from .virtual import run_virtual

NOW_MS = 1_774_089_400_000
TOPICS = Topics(partitions=1)
RAW = Place(TOPICS.raw, 0)


def wall_ms() -> int:
    return NOW_MS


class Renewing:
    """A bus whose writer begins anew under its name after an error that says nothing, as one over Kafka does."""

    def __init__(self, bus: MemoryBus) -> None:
        self.is_failing = False
        self._bus = bus
        self._writer: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def writer(self, instance: str) -> "Renewing":
        self._instance = instance
        return self

    async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        if self.is_failing:
            self._writer = None
            raise BusError("who knows")
        if self._writer is None:
            self._writer = self._bus.writer(self._instance)
        after: Mapping[Place, int] = await self._writer.commit(records)
        return after

    async def close(self) -> None:
        self._writer = None


def batch(number: int) -> list[Outgoing]:
    return [Outgoing(RAW, b"", str(number).encode())]


async def written(bus: MemoryBus) -> list[int]:
    return [int(record.value) for record in await bus.read(RAW, *await bus.bounds(RAW))]


def test_who_was_replaced_while_in_doubt_writes_nothing_and_leaves_the_name() -> None:
    async def scenario() -> None:
        bus = MemoryBus(wall_ms)
        await bus.ensure(TOPICS.specs())
        shaky = Renewing(bus)
        former = CollectorWriter(shaky, TOPICS, "c", BrokersClock(wall_ms))  # type: ignore[arg-type]
        await former.open()
        await former.write(batch(1), {"s": "1"})
        shaky.is_failing = True
        with pytest.raises(BusError):
            await former.write(batch(2), {"s": "2"})
        shaky.is_failing = False

        successor = CollectorWriter(bus, TOPICS, "c", BrokersClock(wall_ms))
        await successor.open()
        assert await read_positions(bus, TOPICS) == {"s": ("1",)}
        await successor.write(batch(2), {"s": "2"})
        with pytest.raises(FencedError, match="another collector has taken over the name c"):
            await former.write(batch(2), {"s": "2"})
        await successor.write(batch(3), {"s": "3"})
        assert await written(bus) == [1, 2, 3]

    run_virtual(scenario)


def test_who_is_replaced_while_it_takes_the_name_back_writes_nothing() -> None:
    async def scenario() -> None:
        bus = MemoryBus(wall_ms)
        await bus.ensure(TOPICS.specs())
        shaky = Renewing(bus)
        former = CollectorWriter(shaky, TOPICS, "c", BrokersClock(wall_ms))  # type: ignore[arg-type]
        await former.open()
        shaky.is_failing = True
        with pytest.raises(BusError):
            await former.write(batch(1), {"s": "1"})
        shaky.is_failing = False
        successor = CollectorWriter(bus, TOPICS, "c", BrokersClock(wall_ms))
        ends = bus.ends

        async def late(places: Sequence[Place]) -> Mapping[Place, int]:
            """The other one comes right after it was looked for."""
            found = await ends(places)
            bus.ends = ends  # type: ignore[method-assign]
            await successor.open()
            await successor.write(batch(1), {"s": "1"})
            return found

        bus.ends = late  # type: ignore[method-assign]
        with pytest.raises(FencedError):
            await former.write(batch(1), {"s": "1"})
        assert await written(bus) == [1]

    run_virtual(scenario)


def test_of_two_that_take_the_name_at_the_same_time_the_later_has_it() -> None:
    async def scenario() -> None:
        bus = MemoryBus(wall_ms)
        await bus.ensure(TOPICS.specs())
        earlier, later = (CollectorWriter(bus, TOPICS, "c", BrokersClock(wall_ms)) for _ in range(2))
        ends = bus.ends

        async def late(places: Sequence[Place]) -> Mapping[Place, int]:
            """The earlier one comes right after it was looked for."""
            found = await ends(places)
            bus.ends = ends  # type: ignore[method-assign]
            await earlier.open()
            return found

        bus.ends = late  # type: ignore[method-assign]
        await later.open()
        with pytest.raises(FencedError, match="another collector has taken over the name c"):
            await earlier.write(batch(1), {"s": "1"})
        await later.write(batch(2), {"s": "2"})
        assert await written(bus) == [2]

    run_virtual(scenario)
