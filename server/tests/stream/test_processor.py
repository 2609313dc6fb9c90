"""Processors over a bus: whatever dies, what is written is what one undisturbed processor writes."""

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import AbortedError, Bus, BusError, FencedError, Outgoing, Place, Polled, Record
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.processor import NewerDataError, Processor, UnusableStateError
from tokenwire_server.stream.records import BarKind, Numbered, RawEvent, Standing, encode, read_bar, read_logged
from tokenwire_server.stream.topics import Topics, partition_of

from .virtual import run_virtual

NOW_MS = 1_774_089_400_000
PLAN = BarPlan(parse_intervals(("1s", "1m")), history=50)
TOPICS = Topics(partitions=3)


def topics_named(prefix: str) -> Topics:
    """The same topics under other names."""
    names = (f"{prefix}-{name}" for name in TOPICS[:-1])
    return Topics(*names, partitions=TOPICS.partitions)


NAMES = [f"x:T{number}" for number in range(7)]


class Clock:
    """Wall clock of records: they are written at one instant, whenever the test runs."""

    def __call__(self) -> int:
        return NOW_MS


def outgoing(event: RawEvent, address: str) -> Outgoing:
    return Outgoing(TOPICS.place(TOPICS.raw, address), address.encode(), encode(event))


def tape(seed: int, count: int) -> list[Outgoing]:
    """Trades of several tokens in order, some of them twice, and clocks."""
    chance = random.Random(seed)
    found = [outgoing(raw.Tokens("s", (TokenInfo(name, name),)), name) for name in NAMES]
    for number in range(count):
        name = chance.choice(NAMES)
        at_ms = NOW_MS - 100_000 + number * 40 - chance.choice((0, 0, 0, 5_000))
        one = Trade(
            name, str(number - chance.choice((0, 0, 0, 1))), Decimal(chance.randint(1, 9)), Decimal(1), Side.BUY, at_ms
        )
        found.append(outgoing(raw.Trades("s", (one,)), name))
        if number % 50 == 0:
            found += [
                Outgoing(Place(TOPICS.raw, partition), b"", encode(raw.Clock("s", at_ms)))
                for partition in range(TOPICS.partitions)
            ]
    return found


Result = tuple[dict[str, list[tuple[int, str]]], dict[tuple[str, int, int], Any], list[int]]


async def written(bus: Bus, topic: str) -> list[Record]:
    found: list[Record] = []
    for number in range(TOPICS.partitions):
        place = Place(topic, number)
        _, end = await bus.bounds(place)
        found += await bus.read(place, 0, end)
    return found


async def result(bus: Bus, topics: Topics = TOPICS) -> Result:
    """Numbered trades by token, bars as a loader has them, and the numbers of the log's records by partition."""
    trades: dict[str, list[tuple[int, str]]] = {}
    seqs: dict[int, list[int]] = {number: [] for number in range(TOPICS.partitions)}
    for record in await written(bus, topics.log):
        logged = read_logged(record.value)
        if isinstance(logged.event, Standing):
            continue
        seqs[record.place.partition].append(logged.seq)
        if isinstance(logged.event, Numbered):
            event = logged.event
            numbered = trades.setdefault(event.trades[0].address, [])
            numbered += ((event.first + at, each.trade_id) for at, each in enumerate(event.trades))
    bars: dict[tuple[str, int, int], Any] = {}
    for record in await written(bus, topics.bars):
        bar = read_bar(record.value)
        key = bar.address, bar.interval_ms, bar.open_time
        if bar.kind is BarKind.LATE and key in bars:
            trades_before, volume, revision = bars[key]
            bars[key] = (trades_before + bar.trades, volume + bar.volume, revision + bar.revision)
        else:
            bars[key] = (bar.trades, bar.volume, bar.revision)
    for number, found in seqs.items():
        assert found == list(range(1, len(found) + 1)), number
    return trades, bars, [len(found) for found in seqs.values()]


def processor(bus: Any, name: str) -> Processor:
    return Processor(bus, TOPICS, name, PLAN, 100, asyncio.get_running_loop().time)


@contextlib.asynccontextmanager
async def running(bus: Any, name: str) -> Any:
    one = processor(bus, name)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def done(bus: MemoryBus) -> None:
    while (TOPICS.raw, TOPICS.group) not in bus._groups:
        await asyncio.sleep(0.05)
    group = bus._groups[TOPICS.raw, TOPICS.group]
    for number in range(TOPICS.partitions):
        _, end = await bus.bounds(Place(TOPICS.raw, number))
        while group.committed.get(number, 0) < end:
            await asyncio.sleep(0.05)


async def made(records: Sequence[Outgoing]) -> MemoryBus:
    bus = MemoryBus(Clock())
    await bus.ensure(TOPICS.specs())
    writer = bus.writer("collector")
    for at in range(0, len(records), 40):
        await writer.commit(records[at : at + 40])
    return bus


async def fed(bus: MemoryBus, records: Sequence[Outgoing]) -> None:
    """Write them in the course of a minute, and wait until all is done."""
    writer = bus.writer("collector")
    for at in range(0, len(records), 15):
        await writer.commit(records[at : at + 15])
        await asyncio.sleep(1)
    await done(bus)


async def undisturbed(seed: int) -> Any:
    bus = await made(tape(seed, 900))
    async with running(bus, "only") as one:
        await done(bus)
        assert one.transactions > 0
    return await result(bus)


class Shaky:
    """A bus whose transactions fail now and then, before or after they are committed."""

    def __init__(self, bus: MemoryBus, chance: random.Random) -> None:
        self._bus = bus
        self._chance = chance
        self.aborted = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def worker(self, topic: str, group: str, instance: str) -> Any:
        return _ShakyWorker(self, self._bus.worker(topic, group, instance))

    def fails(self) -> bool:
        return self._chance.random() < 0.3


class _ShakyWorker:
    def __init__(self, bus: Shaky, worker: Any) -> None:
        self._bus = bus
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def poll(self, most: int, timeout_s: float) -> Polled:
        if self._bus.fails():
            raise BusError("nobody answers")
        polled: Polled = await self._worker.poll(40, timeout_s)
        return polled

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        if self._bus.fails():
            self._bus.aborted += 1
            raise AbortedError("not this time")
        after: Mapping[Place, int] = await self._worker.commit(records, offsets)
        return after


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_the_result_is_the_same(seed: int) -> None:
    async def scenario() -> None:
        expected = await undisturbed(seed)
        chance = random.Random(seed)
        bus = await made([])
        shaky = Shaky(bus, chance)
        finished = asyncio.create_task(fed(bus, tape(seed, 900)))
        tasks: dict[str, asyncio.Task[None]] = {}
        names = ("one", "two", "three")
        rebuilt = 0
        while not finished.done():
            name = chance.choice(names)
            task = tasks.pop(name, None)
            if task is not None and chance.random() < 0.6:
                task.cancel()  # as a kill: nothing is finished
                await asyncio.gather(task, return_exceptions=True)
            elif task is not None:
                tasks[name] = task
            if name not in tasks:
                tasks[name] = asyncio.create_task(processor(shaky, name).run())
                rebuilt += 1
            await asyncio.sleep(chance.random() * 2)
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert await result(bus) == expected
        assert shaky.aborted > 0
        assert rebuilt > 3

    run_virtual(scenario)


def test_snapshots_bound_what_is_folded_again() -> None:
    async def scenario() -> None:
        bus = await made([])
        writer = bus.writer("collector")
        records = tape(1, 400)
        async with running(bus, "one"):
            for record in records:
                await writer.commit([record])
                await asyncio.sleep(0.1)
            await done(bus)
        async with running(bus, "two") as two:
            await writer.commit(records[-1:])
            await done(bus)
            assert two.rebuilt == TOPICS.partitions
            assert 0 < two.refolded < 150  # of more than 400: those of ten seconds

    run_virtual(scenario)


def test_who_falls_silent_leaves_snapshots_of_everything() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        async with running(bus, "one"):
            await done(bus)
            await asyncio.sleep(15)
            written_then = len(await written(bus, TOPICS.tokens))
            await asyncio.sleep(60)
            assert len(await written(bus, TOPICS.tokens)) == written_then
        for number in range(TOPICS.partitions):
            place = Place(TOPICS.raw, number)
            bus.forget(place, (await bus.bounds(place))[1])  # as retention does after an hour
        async with running(bus, "two") as two:
            await bus.writer("collector").commit(tape(2, 1)[-1:])
            await done(bus)
            assert two.rebuilt == TOPICS.partitions
            assert two.refolded == 0

    run_virtual(scenario)


def test_state_that_was_made_with_other_settings_is_not_gone_on_from() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 100))
        async with running(bus, "one"):
            await done(bus)
            await asyncio.sleep(15)
        other = Processor(bus, TOPICS, "two", BarPlan(parse_intervals(("5s",))), 100, asyncio.get_running_loop().time)
        with pytest.raises(UnusableStateError, match="other lengths"):
            await other.run()

    run_virtual(scenario)


def test_poison_is_set_aside_and_what_is_newer_is_not_thrown_away() -> None:
    async def scenario() -> None:
        name = NAMES[0]
        foreign = next(each for each in NAMES if partition_of(each, 3) != partition_of(name, 3))
        wrong = raw.Tokens("s", (TokenInfo(foreign, foreign),))
        place = TOPICS.place(TOPICS.raw, name)
        bus = await made([*tape(1, 20), Outgoing(place, b"k", b"\xff{"), Outgoing(place, b"k", encode(wrong))])
        async with running(bus, "one") as one:
            await done(bus)
            assert one.poisoned == 2
        dead = await bus.read(Place(TOPICS.rejects, 0), 0, 9)
        assert [record.value.partition(b"\n")[2] for record in dead] == [b"\xff{", encode(wrong)]
        assert b"another partition" in dead[1].value
        await bus.writer("collector").commit([Outgoing(place, b"k", b'{"tokenwire":"dance","v":2}')])
        with pytest.raises(NewerDataError, match="newer version"):
            await processor(bus, "one").run()

    run_virtual(scenario)


def test_a_second_one_of_a_name_ends_the_first() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 20))
        first = asyncio.create_task(processor(bus, "one").run())
        await asyncio.sleep(1)
        async with running(bus, "one") as second:
            with pytest.raises(FencedError):
                await first
            await asyncio.sleep(1)
            assert second.assigned == (0, 1, 2)

    run_virtual(scenario)


class Slow:
    """A bus that shuts a worker out now and then, as Kafka does when a transaction takes too long."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def worker(self, topic: str, group: str, instance: str) -> Any:
        return _SlowWorker(self, self._bus.worker(topic, group, instance))


class _SlowWorker:
    def __init__(self, bus: Slow, worker: Any) -> None:
        self._bus = bus
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        self._bus.commits += 1
        if self._bus.commits % 10 == 5:
            raise FencedError("the epoch is another one")
        after: Mapping[Place, int] = await self._worker.commit(records, offsets)
        return after


def test_one_that_is_only_slow_is_not_taken_for_replaced() -> None:
    async def scenario() -> None:
        expected = await undisturbed(2)
        bus = await made([])
        async with asyncio.timeout(3_600), running(Slow(bus), "one") as one:
            await fed(bus, tape(2, 900))
            assert one.fenced > 2
        assert await result(bus) == expected

    run_virtual(scenario)


def test_what_was_deleted_before_it_was_read_is_not_passed_over() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        for number in range(3):
            bus.forget(Place(TOPICS.raw, number), 5)
        async with running(bus, "one") as one:
            await asyncio.sleep(5)
            assert one.raw_records == 0
        assert await written(bus, TOPICS.log) == []

    run_virtual(scenario)
