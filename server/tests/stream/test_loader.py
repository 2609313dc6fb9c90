"""The loader over a bus and a history that fail and die: what is stored is what a single server would have stored."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import BusError, Outgoing, Place, Record
from tokenwire_server.errors import UserError
from tokenwire_server.history.port import History, HistoryError, HistoryTakenError
from tokenwire_server.market.records import Batch
from tokenwire_server.market.retention import Retention
from tokenwire_server.ports import PartState
from tokenwire_server.stream import loader as loader_module
from tokenwire_server.stream import topic_feed
from tokenwire_server.stream.loader import LAST_COMMIT_S, Loader

from .loader_bench import Kept, Told, by_recorder, ended, loaded, loading, stored
from .test_processor import TOPICS, done, fed, made, running, tape
from .virtual import run_virtual


def test_what_is_stored_is_what_a_single_server_stores(tmp_path: Path) -> None:
    async def scenario() -> None:
        records = tape(3, 900)
        bus = await made(records)
        async with running(bus, "p"), loading(bus, tmp_path / "loaded") as one:
            await done(bus)
            await loaded(one)
            assert one.rows["trades"] > 700
            assert one.batches > 0
            assert one.failures == one.missing == 0
            assert min(one.records.values()) > 100
        assert await stored(tmp_path / "loaded") == await by_recorder(tmp_path / "recorded", records)

    run_virtual(scenario)


class Shaky:
    """A bus whose readers and answers fail now and then."""

    def __init__(self, bus: MemoryBus, chance: random.Random) -> None:
        self._bus = bus
        self._chance = chance
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def ask(self) -> None:
        if self._chance.random() < 0.1:
            self.failures += 1
            raise BusError("nobody answers")

    async def ensure(self, topics: Any) -> None:
        self.ask()

    async def check(self, topics: Any) -> None:
        self.ask()

    def reader(self) -> Any:
        return _ShakyReader(self, self._bus.reader(), self._chance)


class _ShakyReader:
    def __init__(self, bus: Shaky, reader: Any, chance: random.Random) -> None:
        self._bus = bus
        self._reader = reader
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def assign(self, offsets: Mapping[Place, int]) -> None:
        self._bus.ask()
        again = {place: max(0, offset - self._chance.randint(0, 2)) for place, offset in offsets.items()}
        await self._reader.assign(again)

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        self._bus.ask()
        records: Sequence[Record] = await self._reader.poll(self._chance.randint(1, 30), timeout_s)
        return records


class ShakyHistory(Kept):
    """Fails before or after a batch is stored."""

    chance: random.Random
    failed = 0

    async def commit(self, batch: Batch) -> None:
        fate = self.chance.random()
        if fate < 0.15:
            type(self).failed += 1
            raise HistoryError("not now")
        await super().commit(batch)
        if fate > 0.85:
            type(self).failed += 1
            raise HistoryError("no answer")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_and_dies_the_same_is_stored(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "MAX_BATCH_ROWS", 15)
    monkeypatch.setattr(topic_feed, "MAX_WAITING_ROWS", 25)

    async def scenario() -> None:
        records = tape(seed, 900)
        chance = random.Random(seed)
        ShakyHistory.chance, ShakyHistory.failed = chance, 0
        bus = await made([])
        shaky = Shaky(bus, chance)
        feeding = asyncio.create_task(fed(bus, records))
        kills = 0

        async def opened() -> History:
            if chance.random() < 0.2:
                raise HistoryError("nobody answers")
            return ShakyHistory._open(tmp_path / "loaded", Retention())

        async with running(bus, "p"):
            while not feeding.done():
                one = Loader(shaky, TOPICS, opened)  # type: ignore[arg-type]
                task = asyncio.create_task(one.run())
                await asyncio.sleep(chance.random() * 8)
                task.cancel()  # as a kill: nothing is finished
                await asyncio.gather(task, return_exceptions=True)
                kills += 1
            async with loading(shaky, tmp_path, open_history=opened) as one:
                await loaded(one)
        assert await stored(tmp_path / "loaded") == await by_recorder(tmp_path / "recorded", records)
        assert kills > 5
        assert min(shaky.failures, ShakyHistory.failed) > 5

    run_virtual(scenario)


def test_while_the_history_is_away_no_more_is_read_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_feed, "MAX_WAITING_ROWS", 50)
    monkeypatch.setattr(topic_feed, "MAX_POLLED", 10)
    told = Told()

    class Away(Kept):
        is_away = True

        async def commit(self, batch: Batch) -> None:
            if self.is_away:
                raise HistoryError("the disk is full")
            await super().commit(batch)

    async def opened() -> History:
        return Away._open(tmp_path, Retention())

    async def scenario() -> None:
        bus = await made([])
        async with running(bus, "p"):
            await fed(bus, tape(1, 900))  # in small transactions

            async with loading(bus, tmp_path, open_history=opened, tell=told) as one:
                await asyncio.sleep(60)
                read = sum(feed.records for feed in one._feeds.values())
                assert 50 < read < 50 + 50 + 200, "what is stuck, and about as much again"
                assert one.batches == 0
                assert one.failures > 5
                assert told[-1] == ("history", PartState.FAILING, "the disk is full")
                Away.is_away = False
                await loaded(one)
                assert told[-1] == ("history", PartState.OK, "")

    run_virtual(scenario)


def test_what_belongs_together_may_be_more_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_feed, "MAX_WAITING_ROWS", 10)
    monkeypatch.setattr(topic_feed, "MAX_POLLED", 7)

    async def scenario() -> None:
        bus = await made(tape(1, 900))  # few transactions
        async with running(bus, "p"), loading(bus, tmp_path) as one:
            await done(bus)
            await loaded(one)
            assert one.rows["trades"] > 700

    run_virtual(scenario)


def test_one_waits_while_another_writes_and_then_takes_over(tmp_path: Path) -> None:
    told = Told()
    writers: list[object] = [object()]

    async def opened() -> History:
        if writers:
            raise HistoryTakenError("process 7 writes")
        return Kept._open(tmp_path, Retention())

    async def scenario() -> None:
        bus = await made(tape(1, 100))
        async with running(bus, "p"):
            await done(bus)

            async with loading(bus, tmp_path, open_history=opened, tell=told) as one:
                await asyncio.sleep(30)
                assert told[-1] == ("history", PartState.WAITING, "process 7 writes")
                assert one.batches == 0
                writers.clear()
                await loaded(one)
                assert ("history", PartState.OK, "") in told

    run_virtual(scenario)


def test_whoever_was_replaced_throws_away_what_it_has_and_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 100))
        replaced = False

        class Replaced(Kept):
            async def commit(self, batch: Batch) -> None:
                nonlocal replaced
                if batch.trades and not replaced:
                    replaced = True
                    raise HistoryTakenError("process 7 writes by now")
                await super().commit(batch)

        async def opened() -> History:
            return Replaced._open(tmp_path / "loaded", Retention())

        async with running(bus, "p"), loading(bus, tmp_path, open_history=opened) as one:
            await done(bus)
            await loaded(one)
            assert replaced
        assert await stored(tmp_path / "loaded") == await by_recorder(tmp_path / "recorded", tape(1, 100))

    run_virtual(scenario)


async def lost(tmp_path: Path) -> MemoryBus:
    """A log of which a loader has stored the beginning, and lost some of what follows."""
    records = tape(1, 600)
    bus = await made(records[:200])
    async with running(bus, "p"):
        await done(bus)
        async with loading(bus, tmp_path) as one:
            await loaded(one)
        writer = bus.writer("more")
        await writer.commit(records[200:])
        await done(bus)
    place = Place(TOPICS.log, 1)
    _, end = await bus.bounds(place)
    bus.forget(place, end - 5)
    return bus


def test_records_that_were_deleted_before_they_were_stored_are_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await lost(tmp_path)
        with pytest.raises(UserError, match=r"numbered-trades/1: records \d+ to \d+ are missing.*--accept-gap"):
            await ended(bus, tmp_path)
        async with loading(bus, tmp_path, accepts_gaps=True) as one:
            await loaded(one)
            assert one.missing > 50
        async with loading(bus, tmp_path) as again:
            await loaded(again)
            assert again.missing == 0

    run_virtual(scenario)


def test_what_was_deleted_after_it_was_stored_is_not_missed(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        async with running(bus, "p"):
            await done(bus)
            async with loading(bus, tmp_path) as one:
                await loaded(one)
            for number in range(TOPICS.partitions):
                for topic in (TOPICS.log, TOPICS.bars):
                    _, end = await bus.bounds(Place(topic, number))
                    bus.forget(Place(topic, number), end)
            await bus.writer("more").commit(tape(1, 300)[200:])
            await done(bus)
            async with loading(bus, tmp_path) as again:
                await loaded(again)
                assert again.rows["trades"] > 0
                assert again.missing == 0

    run_virtual(scenario)


@pytest.mark.parametrize("topic", [TOPICS.log, TOPICS.bars])
def test_what_can_not_be_read_stops_it_until_it_can(topic: str, tmp_path: Path) -> None:
    told = Told()

    async def scenario() -> None:
        bus = await made(tape(1, 100))
        place = Place(topic, 2)
        async with running(bus, "p"):
            await done(bus)
            _, end = await bus.bounds(place)
            await bus.writer("wrong").commit([Outgoing(place, b"k", b"{")])

            async with loading(bus, tmp_path, tell=told):
                await asyncio.sleep(30)
                kafka = [each for each in told if each[0] == "kafka"]
                assert kafka[-1][1] is PartState.FAILING
                assert kafka[-1][2].startswith(f"{topic}/2 at {end} can't be read: ")
                del bus.records(place)[-1]
                await asyncio.sleep(30)
                assert [each for each in told if each[0] == "kafka"][-1][1] is PartState.OK

    run_virtual(scenario)


def test_a_bus_that_is_away_is_told_from_one_that_has_nothing_new(tmp_path: Path) -> None:
    told = Told()

    async def scenario() -> None:
        bus = await made([])
        shaky = Shaky(bus, random.Random(1))
        shaky.ask = lambda: None  # type: ignore[method-assign]

        async def away(place: Place) -> tuple[int, int]:
            raise BusError("nobody answers")

        async with loading(shaky, tmp_path, tell=told):
            await asyncio.sleep(20)
            assert [each for each in told if each[0] == "kafka"][-1][1] is PartState.OK
            shaky.bounds = away  # type: ignore[attr-defined]
            await asyncio.sleep(20)
            assert [each for each in told if each[0] == "kafka"][-1] == ("kafka", PartState.FAILING, "nobody answers")
            del shaky.bounds  # type: ignore[attr-defined]
            await asyncio.sleep(20)
            assert [each for each in told if each[0] == "kafka"][-1][1] is PartState.OK

    run_virtual(scenario)


def test_what_is_newer_ends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made([])
        await bus.writer("newer").commit([Outgoing(Place(TOPICS.log, 0), b"", b'{"v":2,"seq":1,"event":{}}')])
        with pytest.raises(UserError, match="numbered-trades/0 at 0 can't be read: written by a newer version"):
            await ended(bus, tmp_path)

    run_virtual(scenario)


def test_a_history_of_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made([])
        history = Kept._open(tmp_path, Retention())
        await history.begin(None, "mine")
        await history.commit(Batch(number=1, numbered=5, is_last=True))
        await history.close()
        with pytest.raises(UserError, match="written by run, collect or import"):
            await ended(bus, tmp_path)
        history = Kept._open(tmp_path, Retention())
        assert (await history.begin(99, "mine")).numbered == 5, "it is as it was"
        await history.close()

    run_virtual(scenario)


def test_a_history_of_another_log_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        for number in range(2):
            bus = await made([])
            if number == 0:
                async with loading(bus, tmp_path) as one:
                    await loaded(one)
            else:
                with pytest.raises(UserError, match="another log"):
                    await ended(bus, tmp_path)
        history = Kept._open(tmp_path, Retention())
        with pytest.raises(HistoryError, match="by way of load"):
            await history.begin(None, "x")
        await history.close()

    run_virtual(scenario)


def test_the_end_stores_what_there_is_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        async with running(bus, "p"), loading(bus, tmp_path / "well") as one:
            await done(bus)
            await loaded(one)
            before = one.rows["trades"]
            await bus.writer("more").commit(tape(1, 300)[200:])
            while not sum(feed.records for feed in one._feeds.values()):
                await asyncio.sleep(0.001)
            assert one.rows["trades"] == before, "it is read and not stored yet"
        assert one.rows["trades"] > before

        class Away(Kept):
            async def commit(self, batch: Batch) -> None:
                raise HistoryError("no")

        async def opened() -> History:
            return Away._open(tmp_path / "away", Retention())

        other = Loader(bus, TOPICS, opened)
        task = asyncio.create_task(other.run())
        await asyncio.sleep(3)
        other.close()
        begun_s = asyncio.get_running_loop().time()
        await task
        assert asyncio.get_running_loop().time() - begun_s < LAST_COMMIT_S + 1

    run_virtual(scenario)


def test_an_idle_one_says_that_it_lives(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made([])
        async with loading(bus, tmp_path) as one:
            await asyncio.sleep(60)
            assert 10 < one.batches < 15

    run_virtual(scenario)


def test_a_position_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = await made([])
        history = Kept._open(tmp_path, Retention())
        await history.begin(0, await bus.lineage(TOPICS.log), follows=True)
        await history.commit(Batch(number=1, offsets={f"{TOPICS.log}/1": "7"}))
        await history.close()
        with pytest.raises(UserError, match=r"numbered-trades/1 that can't be read: '7'"):
            await ended(bus, tmp_path)

    run_virtual(scenario)
