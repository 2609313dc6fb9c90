"""The collector's sink: what sources deliver is written once, in order, with where they stand."""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Outgoing, Place
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import collector
from tokenwire_server.stream.collector import COMMIT_INTERVAL_S, BusSink, read_positions
from tokenwire_server.stream.records import RawEvent, State, read_raw
from tokenwire_server.stream.topics import Topics, partition_of

from .virtual import run_virtual

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
async def collecting(bus: Any, name: str = "c") -> Any:
    sink = BusSink(bus, TOPICS, name, wall_ms=wall_ms)
    task = asyncio.create_task(sink.run())
    try:
        yield sink
        sink.close()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_everything_is_written_where_it_belongs() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        async with collecting(bus) as sink:
            sink.state("s", SourceState.LIVE, "hello")
            sink.tokens("s", [TokenInfo(name, name) for name in NAMES])
            sink.clock("s", NOW_MS - 5)
            sink.trades("s", [trade(NAMES[0], 1), trade(NAMES[1], 1), trade(NAMES[0], 2), trade(NAMES[0], 3, price=0)])
            sink.values("s", [TokenValue(NAMES[4], *map(Decimal, (1, 1, 1, 1, 1)), NOW_MS)])
            sink.gap("s", NAMES[1], 7)
            sink.rejected("s", "bad_json", "")
            sink.offset("s", "line 4")
            await asyncio.sleep(1)
            sink.clock("s", NOW_MS)
        found = await events(bus)
        for number, each in found.items():
            assert [event for event in each if isinstance(event, State)] == [State("s", SourceState.LIVE, "hello")]
            told = [event.time_ms for event in each if isinstance(event, raw.Clock)]
            carried = [event.clock_ms for event in each if isinstance(event, raw.Trades) and event.clock_ms is not None]
            assert sorted(carried + told) == [NOW_MS - 5, NOW_MS], "each partition is told each time once"
            announced = [info.address for event in each if isinstance(event, raw.Tokens) for info in event.tokens]
            assert announced == [name for name in NAMES if partition_of(name, 3) == number]
        assert await ids(bus) == {NAMES[0]: ["1", "2"], NAMES[1]: ["1"]}
        assert await read_positions(bus, TOPICS) == {"s": "line 4"}
        assert sink.rejections == {("s", "price_not_positive"): 1, ("s", "bad_json"): 1}
        assert (sink.trades_taken, sink.values_taken, sink.gaps) == ({"s": 3}, {"s": 1}, {"s": (1, 7)})

    run_virtual(scenario)


class Shaky:
    """A bus that fails now and then."""

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
            raise self._chance.choice((AbortedError, BusError))("not now")
        after: Mapping[Place, int] = await self._writer.commit(records)
        await asyncio.sleep(self._chance.random() / 100)
        return after

    async def close(self) -> None:
        await self._writer.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_source_that_goes_on_where_it_stood_loses_and_doubles_nothing(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()
        tape = [trade(chance.choice(NAMES), number) for number in range(600)]
        crashes = 0

        async def play(sink: BusSink, first: int) -> None:
            for at in range(first, len(tape), 3):
                sink.trades("s", tape[at : at + 3])
                sink.offset("s", str(at + 3))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 5)

        while True:
            first = int((await read_positions(bus, TOPICS)).get("s", "0"))
            if first >= len(tape):
                break
            sink = BusSink(Shaky(bus, chance), TOPICS, "c", wall_ms=wall_ms)
            writing = asyncio.create_task(sink.run())
            playing = asyncio.create_task(play(sink, first))
            await asyncio.wait((playing,), timeout=chance.random() * 2)
            if playing.done():
                sink.close()
                await writing
            else:
                crashes += 1
            for task in (playing, writing):
                task.cancel()
            await asyncio.gather(playing, writing, return_exceptions=True)
        expected: dict[str, list[str]] = {}
        for one in tape:
            expected.setdefault(one.address, []).append(one.trade_id)
        assert await ids(bus) == expected
        assert crashes > 1

    run_virtual(scenario)


def test_whoever_can_wait_is_told_to_while_the_bus_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 20)

    class Away:
        is_away = True

        async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
            if self.is_away:
                raise BusError("nobody answers")
            return {}

        async def close(self) -> None: ...

    class Bus:
        def writer(self, instance: str) -> Away:
            return away

    away = Away()

    async def scenario() -> None:
        async with collecting(Bus()) as sink:
            delivered = 0
            for number in range(30):
                try:
                    async with asyncio.timeout(20):
                        await sink.room()
                except TimeoutError:
                    break
                sink.trades("s", [trade(NAMES[0], number)])
                delivered += 1
            assert delivered == 10
            assert sink.waiting == 10
            assert sink.failure == "nobody answers"
            away.is_away = False
            async with asyncio.timeout(6):
                await sink.room()
            assert sink.waiting == 0
            assert sink.failure is None

    run_virtual(scenario)


def test_a_second_collector_of_a_name_ends_the_first() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        first = BusSink(bus, TOPICS, "c", wall_ms=wall_ms)
        writing = asyncio.create_task(first.run())
        await asyncio.sleep(2 * COMMIT_INTERVAL_S)
        async with collecting(bus):
            await asyncio.sleep(1)
            first.trades("s", [trade(NAMES[0], 1)])
            with pytest.raises(FencedError):
                await writing
        assert await ids(bus) == {}

    run_virtual(scenario)
