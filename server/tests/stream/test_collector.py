"""The collector's sink: what sources deliver is written once, in order, with where they stand."""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import AbortedError, BusError, FencedError, Outgoing, Place, TopicSpec
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.sources.tape import Tape
from tokenwire_server.stream import collector
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import COMMIT_INTERVAL_S, BusSink
from tokenwire_server.stream.collector_writer import read_positions
from tokenwire_server.stream.records import RawEvent, State, read_raw
from tokenwire_server.stream.topics import Topics, partition_of

from ..sources.conftest import agg_trade, write_tape
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
async def collecting(bus: Any, name: str = "c", replays: Sequence[str] = ()) -> AsyncIterator[BusSink]:
    sink = BusSink(bus, TOPICS, name, replays, cadences_ms={"s": 700}, clock=BrokersClock(wall_ms))
    await sink.begin()
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
            sink.state("s", SourceState.STARTING)  # nobody is told: it may stand by
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
            assert [event for event in each if isinstance(event, State)] == [State("s", SourceState.LIVE, "hello", 700)]
            told = [event.time_ms for event in each if isinstance(event, raw.Clock)]
            carried = [event.clock_ms for event in each if isinstance(event, raw.Trades) and event.clock_ms is not None]
            assert sorted(carried + told) == [NOW_MS - 5, NOW_MS], "each partition is told each time once"
            announced = [info.address for event in each if isinstance(event, raw.Tokens) for info in event.tokens]
            assert announced == [name for name in NAMES if partition_of(name, 3) == number]
        assert await ids(bus) == {NAMES[0]: ["1", "2"], NAMES[1]: ["1"]}
        assert await read_positions(bus, TOPICS, "c") == {"s": "line 4"}
        assert sink.rejections == {("s", "price_not_positive"): 1, ("s", "bad_json"): 1}
        assert (sink.trades_taken, sink.values_taken, sink.gaps) == ({"s": 3}, {"s": 1}, {"s": (1, 7)})

    run_virtual(scenario)


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


async def killed_again_and_again(
    bus: MemoryBus, chance: random.Random, play: Callable[[BusSink, Mapping[str, str]], Coroutine[Any, Any, None]]
) -> int:
    """Collect what ``play`` delivers, to its end, however often it is killed; how often that was."""
    for kills in itertools.count():
        sink = BusSink(Shaky(bus, chance), TOPICS, "c", ["tape"], clock=BrokersClock(wall_ms))

        async def collect(sink: BusSink = sink) -> None:
            positions = await sink.begin()
            async with asyncio.TaskGroup() as group:
                group.create_task(sink.run())
                await play(sink, positions)
                sink.close()

        task = asyncio.create_task(collect())
        await asyncio.wait((task,), timeout=chance.random() * 4)
        if task.done():
            await task
            return kills
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    raise AssertionError


def of_each(trades: Iterable[Trade]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in trades:
        found.setdefault(one.address, []).append(one.trade_id)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_source_that_goes_on_where_it_stood_loses_and_doubles_nothing(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()
        tape = [trade(chance.choice(NAMES), number) for number in range(600)]

        async def play(sink: BusSink, positions: Mapping[str, str]) -> None:
            for at in range(int(positions.get("s", "0")), len(tape), 3):
                sink.trades("s", tape[at : at + 3])
                sink.offset("s", str(at + 3))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 5)

        kills = await killed_again_and_again(bus, chance, play)
        assert await ids(bus) == of_each(tape)
        assert kills > 1

    run_virtual(scenario)


async def a_while(seconds: float) -> None:
    await asyncio.sleep(max(seconds, 0.001))  # less is nothing in virtual time


@pytest.mark.parametrize("seed", range(3))
def test_a_tape_is_written_once_however_often_it_is_killed(seed: int, tmp_path: Path) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "XRPUSDT")
    path = write_tape(tmp_path / "tape", [agg_trade(n, symbols[n % 3]) for n in range(900)], step_ms=20)

    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()

        async def play(sink: BusSink, positions: Mapping[str, str]) -> None:
            tape = Tape(path, speed=chance.choice((0, 1, 3)), name="tape", sleep=a_while)
            if "tape" in positions:
                tape.resume(positions["tape"])
            await tape.run(sink)

        kills = await killed_again_and_again(bus, chance, play)
        expected = {f"binance:{symbol}": [str(n) for n in range(at, 900, 3)] for at, symbol in enumerate(symbols)}
        assert await ids(bus) == expected
        assert kills > 1

    run_virtual(scenario)


class Away:
    """A bus that nobody answers for while ``is_away``."""

    def __init__(self, bus: MemoryBus) -> None:
        self.is_away = False
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

    def ask(self) -> None:
        if self.is_away:
            raise BusError("nobody answers")


def test_whoever_can_wait_is_told_to_while_the_bus_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 20)

    async def scenario() -> None:
        bus = Away(await new_bus())
        changes: list[str | None] = []
        async with collecting(bus) as sink:
            sink.on_change = lambda: changes.append(sink.failure)
            bus.is_away = True
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
            bus.is_away = False
            async with asyncio.timeout(6):
                await sink.room()
            assert sink.waiting == 0
            assert changes == ["nobody answers", None]
        assert sink.dropped == {}

    run_virtual(scenario)


def test_many_that_wait_do_not_all_take_the_same_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 20)

    async def scenario() -> None:
        bus = Away(await new_bus())
        async with collecting(bus) as sink:

            async def deliver(number: int) -> None:
                await sink.room()
                sink.trades("s", [trade(name, 10 * number + n) for n in range(4) for name in NAMES[:2]])

            bus.is_away = True
            tasks = [asyncio.create_task(deliver(number)) for number in range(40)]
            await asyncio.sleep(30)
            assert 10 <= sink.waiting < 20
            bus.is_away = False
            await asyncio.gather(*tasks)
        assert sink.dropped == {}
        assert [len(each) for each in (await ids(bus.inner)).values()] == [160, 160]

    run_virtual(scenario)


def test_whoever_waits_for_no_room_is_cut_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 20)

    async def scenario() -> None:
        bus = Away(await new_bus())
        async with collecting(bus) as sink:
            bus.is_away = True
            for number in range(30):
                sink.trades("s", [trade(NAMES[0], number)])
                sink.values("v", [TokenValue(NAMES[4], *map(Decimal, (1, 1, 1, 1, 1)), NOW_MS)])
            sink.gap("s", NAMES[0], 4)
            for state in (SourceState.RECONNECTING, SourceState.LIVE):
                sink.state("s", state)
            sink.tokens("s", [TokenInfo(NAMES[2], "NEW")])
            assert sink.waiting == 20
            assert sink.dropped == {"s": 20, "v": 20}
            assert sink.gaps == {"s": (21, 24)}
            await asyncio.sleep(30)
            bus.is_away = False
            await asyncio.sleep(8)
            sink.trades("s", [trade(NAMES[0], 99)])
        found = await events(bus.inner)
        mine = found[partition_of(NAMES[0], TOPICS.partitions)]
        told = [
            event
            for event in mine
            if isinstance(event, raw.Gap) or (isinstance(event, raw.Trades) and event.source == "s")
        ]
        assert [event.trades[0].trade_id for event in told[:10] if isinstance(event, raw.Trades)] == [
            str(number) for number in range(10)
        ]
        assert told[10] == raw.Gap("s", NAMES[0], 24)
        assert isinstance(told[11], raw.Trades)
        assert told[11].trades[0].trade_id == "99"
        assert [event.state for event in mine if isinstance(event, State)] == [SourceState.LIVE]
        assert any(isinstance(event, raw.Tokens) for event in found[partition_of(NAMES[2], TOPICS.partitions)])

    run_virtual(scenario)


def test_nothing_overtakes_the_hole_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 20)

    async def scenario() -> None:
        bus = await new_bus()
        turns = asyncio.Semaphore(1)  # of transactions
        write = bus.write

        async def slowly(records: Sequence[Outgoing]) -> Mapping[Place, int]:
            await turns.acquire()
            return await write(records)

        monkeypatch.setattr(bus, "write", slowly)
        async with collecting(bus) as sink:
            sink.trades("s", [])
            for number in range(30):
                if number == 10:
                    await asyncio.sleep(1)  # the first ten are on their way
                sink.trades("s", [trade(NAMES[0], number)])
            turns.release()
            await asyncio.sleep(1)
            sink.trades("s", [trade(NAMES[0], 99)])
            for _ in range(5):
                turns.release()
        assert (await ids(bus))[NAMES[0]] == [str(number) for number in range(20)]
        last = (await events(bus))[partition_of(NAMES[0], TOPICS.partitions)][-1]
        assert last == raw.Gap("s", NAMES[0], 11)

    run_virtual(scenario)


def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_BYTES", 20_000)

    async def scenario() -> None:
        bus = Away(await new_bus())
        async with collecting(bus) as sink:
            bus.is_away = True
            for number in range(1_000):
                sink.trades("s", [trade(NAMES[0], number)])
            assert sink.waiting < 200
            assert sink.dropped["s"] == 1_000 - sink.waiting
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(9):
                    await sink.room()
            bus.is_away = False

    run_virtual(scenario)


def test_no_record_is_larger_than_the_bus_takes() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        async with collecting(bus) as sink:
            sink.trades("s", [trade(NAMES[0], number) for number in range(10_000)])
            sink.tokens("s", [TokenInfo(NAMES[0], "x" * 2_000_000), TokenInfo(NAMES[0], "FINE")])
            sink.state("s", SourceState.LIVE, "y" * 2_000_000)
            sink.gap("s", "z" * 2_000_000, 1)
        assert [len(each) for each in (await ids(bus)).values()] == [10_000]
        for number in range(TOPICS.partitions):
            place = Place(TOPICS.raw, number)
            assert all(len(record.value) < 100_000 for record in await bus.read(place, *await bus.bounds(place)))
        assert sink.rejections == {("s", "symbol_invalid"): 1, ("s", "record_too_large"): 1}

    run_virtual(scenario)


def test_a_bus_that_is_away_at_the_start_is_waited_for() -> None:
    async def scenario() -> None:
        bus = Away(await new_bus())
        bus.is_away = True
        sink = BusSink(bus, TOPICS, "c", clock=BrokersClock(wall_ms))
        beginning = asyncio.create_task(sink.begin())
        await asyncio.sleep(60)
        assert not beginning.done()
        assert sink.failure == "nobody answers"
        bus.is_away = False
        async with asyncio.timeout(collector.MAX_RETRY_S + 1):
            assert await beginning == {}
        assert sink.failure is None

    run_virtual(scenario)


def test_a_second_collector_of_a_name_ends_the_first_for_good() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        first = BusSink(bus, TOPICS, "c", clock=BrokersClock(wall_ms))
        await first.begin()
        writing = asyncio.create_task(first.run())
        await asyncio.sleep(2 * COMMIT_INTERVAL_S)
        async with collecting(bus) as second:
            await asyncio.sleep(1)
            first.trades("s", [trade(NAMES[0], 1)])
            with pytest.raises(FencedError, match="another collector has taken over the name c"):
                await writing
            second.trades("s", [trade(NAMES[0], 2)])
            await asyncio.sleep(1)
            assert second.writer.aborted == 0
        assert await ids(bus) == {NAMES[0]: ["2"]}

    run_virtual(scenario)


@pytest.mark.parametrize("seed", range(8))
def test_of_two_that_begin_together_one_goes_on(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()

        async def collect() -> None:
            await asyncio.sleep(chance.random() / 5)
            sink = BusSink(Shaky(bus, chance), TOPICS, "c", clock=BrokersClock(wall_ms))
            await sink.begin()
            async with asyncio.TaskGroup() as group:
                group.create_task(sink.run())
                for number in itertools.count():
                    sink.trades("s", [trade(NAMES[0], number)])
                    await asyncio.sleep(0.3)

        tasks = [asyncio.create_task(collect()) for _ in range(2)]
        await asyncio.sleep(120)
        assert sum(task.done() for task in tasks) == 1
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        ended = [result for result in results if not isinstance(result, asyncio.CancelledError)]
        (error,) = ended
        while isinstance(error, ExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, FencedError)

    run_virtual(scenario)


def test_positions_belong_to_a_name_and_are_found_by_another() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        for name, position in (("a", "1"), ("b", "2"), ("a", "3"), ("b", "4")):
            async with collecting(bus, name) as sink:
                sink.offset("s", position)
        place = Place(TOPICS.positions, 0)
        await bus.write([Outgoing(place, b"\xff/s", b"{}"), Outgoing(place, b"a/s", b"rubbish")])
        assert await read_positions(bus, TOPICS, "a") == {"s": "3"}
        assert await read_positions(bus, TOPICS, "new") == {"s": "4"}

    run_virtual(scenario)


def test_a_clock_that_differs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        now_ms = NOW_MS
        bus = MemoryBus(lambda: now_ms)
        async with collecting(bus) as sink:
            assert sink.brokers_clock.skew_ms == 0
        assert "clocks differ" not in caplog.text
        now_ms -= 60_000
        async with collecting(bus) as sink:
            assert sink.brokers_clock.skew_ms == -60_000
        assert "clocks differ" in caplog.text

    run_virtual(scenario)


def test_a_tick_is_not_called_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "MAX_WAITING_RECORDS", 4)

    async def scenario() -> None:
        bus = Away(await new_bus())
        planned: list[float] = []
        async with collecting(bus) as sink:
            sink.before_tick(planned.append)
            sink.tick(1.0)
            bus.is_away = True
            sink.trades("s", [trade(name, 1) for name in NAMES[:2]])
            sink.tick(2.0)
            bus.is_away = False
        assert planned == [1.0]

    run_virtual(scenario)
