"""Markets that follow the log of a bus: whenever they begin, and whatever fails, they come to be the same."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import Bus, BusError, Outgoing, Place, Record
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.follower import BEHIND_RECORDS, LAG_INTERVAL_S, Follower, FollowError
from tokenwire_server.stream.records import CUT_KEY, State, encode, read_logged

from .test_processor import NOW_MS, PLAN, TOPICS, done, fed, made, outgoing, running, tape
from .virtual import run_virtual


def new_pipeline() -> Pipeline:
    loop = asyncio.get_running_loop()
    return Pipeline(100, lambda: int(loop.time() * 1_000), lambda: NOW_MS, bar_plan=PLAN, is_replica=True)


@contextlib.asynccontextmanager
async def following(bus: Any) -> Any:
    """A follower, its pipeline, and its task, which may end by itself."""
    pipeline = new_pipeline()
    one = Follower(
        bus, TOPICS, await bus.lineage(TOPICS.log), pipeline.market, pipeline, asyncio.get_running_loop().time
    )
    task = asyncio.create_task(one.run())
    try:
        yield one, pipeline, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_at_the_end(bus: Bus, one: Follower) -> None:
    for number in range(TOPICS.partitions):
        _, end = await bus.bounds(Place(TOPICS.log, number))
        while one.next.get(number, 0) < end:
            await asyncio.sleep(0.05)


def standing(pipeline: Pipeline) -> dict[str, object]:
    found: dict[str, object] = {}
    for token in pipeline.market:
        bars = pipeline.market.bars.get(token.address)
        running_bars = None if bars is None else [bars.open_bar(n) for n in range(2)]
        newest = None if token.log is None else token.log.newest
        found[token.address] = (token.version, token.data() if token.has_value else None, newest, running_bars)
    return found


class Shaky:
    """A bus that can't be read now and then."""

    def __init__(self, bus: MemoryBus, chance: random.Random) -> None:
        self._bus = bus
        self._chance = chance
        self.failed = 0
        self.is_well = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def fails(self) -> None:
        if not self.is_well and self._chance.random() < 0.2:
            self.failed += 1
            raise BusError("nobody answers")

    async def pieces(self, place: Place, first: int, end: int) -> AsyncGenerator[Sequence[Record], None]:
        async with contextlib.aclosing(self._bus.pieces(place, first, end)) as pieces:
            async for piece in pieces:
                self.fails()
                yield piece

    def reader(self) -> Any:
        return _ShakyReader(self, self._bus.reader())


class _ShakyReader:
    def __init__(self, bus: Shaky, reader: Any) -> None:
        self._bus = bus
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        self._bus.fails()
        found: Sequence[Record] = await self._reader.poll(30, timeout_s)
        return found


@pytest.mark.parametrize("seed", range(3))
def test_whenever_they_begin_and_whatever_fails_they_are_the_same(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await made([])
        shaky = Shaky(bus, chance)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(running(bus, "one"))
            followers = [await stack.enter_async_context(following(shaky))]
            feeding = asyncio.create_task(fed(bus, tape(seed, 600)))
            while not feeding.done():
                await asyncio.sleep(chance.random() * 20)
                followers.append(await stack.enter_async_context(following(shaky)))
            shaky.is_well = True
            for one, _, _ in followers:
                await is_at_the_end(bus, one)
            await asyncio.sleep(10)
            expected = standing(followers[0][1])
            assert len(expected) == 7
            assert len(followers) > 3
            assert shaky.failed > 0
            assert followers[-1][0].records < followers[0][0].records / 2  # snapshots were of use
            for one, pipeline, task in followers:
                assert not task.done()
                assert standing(pipeline) == expected
                assert not one.status().reason

    run_virtual(scenario)


class Silent:
    """A bus that does not say where the log ends while ``is_silent``, which takes ten seconds each time."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.is_silent = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def ends(self, places: Sequence[Place]) -> Mapping[Place, int]:
        if self.is_silent:
            await asyncio.sleep(10)
            raise BusError("no answer")
        return await self._bus.ends(places)


def test_a_broker_that_does_not_say_where_the_log_ends_holds_up_nothing() -> None:
    async def scenario() -> None:
        bus = await made([])
        silent = Silent(bus)
        async with running(bus, "one"), following(silent) as (one, _, task):
            await asyncio.sleep(1)
            silent.is_silent = True
            await asyncio.sleep(LAG_INTERVAL_S)
            for number in range(1, 8):
                before = one.records
                await fed(bus, tape(number, 10))
                await asyncio.sleep(1)
                assert one.records > before
            await asyncio.sleep(10)
            assert one.status().reason == "nobody knows where the log ends: no answer"
            assert one.failures
            silent.is_silent = False
            await asyncio.sleep(10 + 2 * LAG_INTERVAL_S)
            assert not one.status().reason
            silent.is_silent = True
            await asyncio.sleep(LAG_INTERVAL_S + 1)  # it ends while it asks
            assert not task.done()

    run_virtual(scenario)


def test_a_log_that_is_empty_is_followed_from_its_beginning() -> None:
    async def scenario() -> None:
        bus = await made([])
        async with following(bus) as (one, pipeline, _):
            assert one.status().reason == "the log is being read"
            assert one.is_loading
            await asyncio.sleep(1)
            assert not one.status().reason
            assert not one.is_loading
            async with running(bus, "one"):
                await fed(bus, tape(1, 30))
            await is_at_the_end(bus, one)
            assert one.begun == {0: 0, 1: 0, 2: 0}
            assert pipeline.accepted["s"] == pipeline.market.trades > 0

    run_virtual(scenario)


def test_the_state_of_sources_is_that_of_the_collector_whenever_one_begins() -> None:
    async def scenario() -> None:
        states = [Outgoing(Place(TOPICS.raw, n), b"", encode(State("s", SourceState.LIVE, "", 400))) for n in range(3)]
        bus = await made(states)
        async with running(bus, "one"), following(bus) as (_, early, _):
            await done(bus)
            await bus.writer("c").commit([outgoing(raw.Clock("s", NOW_MS), "x:T1")])
            await asyncio.sleep(15)  # a snapshot more
            await bus.writer("c").commit(tape(1, 50))
            await done(bus)
            await asyncio.sleep(1)
            async with following(bus) as (_, late, _):
                await asyncio.sleep(1)
                for pipeline in (early, late):
                    assert pipeline.source_states() == {"s": SourceState.LIVE}
                    assert {health.cadence_ms for health in pipeline.hub.staleness.sources.values()} == {400}
                    assert {token.source_name for token in pipeline.market} == {"s"}
                    stale = pipeline.hub.staleness.sources[next(iter(pipeline.market)).source]
                    assert stale.alive_ms > 0

    run_virtual(scenario)


async def log_of(records: Sequence[Outgoing]) -> MemoryBus:
    bus = await made(records)
    async with running(bus, "one"):
        await done(bus)
    return bus


def test_a_hole_ends_it() -> None:
    async def scenario() -> None:
        bus = await log_of(tape(1, 100))
        async with following(bus) as (_, _, task):
            await asyncio.sleep(1)
            place = Place(TOPICS.log, 0)
            newest = bus.records(place)[-1].value.replace(b'"seq":', b'"seq":9')
            await bus.writer("x").commit([Outgoing(place, b"", newest)])
            with pytest.raises(
                FollowError, match=r"numbered-trades/0 at \d+: records \d+ to \d+ of the log are missing"
            ):
                await task

    run_virtual(scenario)


@pytest.mark.parametrize(("value", "reason"), [(b"{", "truncated"), (b'{"v":9,"seq":1}', "newer version")])
def test_what_can_not_be_read_ends_it(value: bytes, reason: str) -> None:
    async def scenario() -> None:
        for topic in (TOPICS.log, TOPICS.tokens):
            bus = await log_of(tape(1, 20))
            key = CUT_KEY if topic == TOPICS.tokens else b"k"
            await bus.writer("x").commit([Outgoing(Place(topic, 1), key, value)])
            async with following(bus) as (_, _, task):
                with pytest.raises(FollowError, match=reason):
                    await task

    run_virtual(scenario)


def expire(bus: MemoryBus) -> None:
    """Delete all of the log, with the mark that stands behind the last record, as retention does."""
    for number in range(TOPICS.partitions):
        place = Place(TOPICS.log, number)
        records = bus.records(place)
        records.append(Record(place, len(records), b"", b"mark", NOW_MS))
        bus.forget(place, len(records))


def test_a_log_that_has_expired_is_followed_from_snapshots_of_everything() -> None:
    async def scenario() -> None:
        records = tape(1, 200)
        bus = await made(records[:100])
        async with running(bus, "one"), following(bus) as (early, early_pipeline, early_task):
            await done(bus)
            await asyncio.sleep(15)
            expire(bus)
            async with following(bus) as (late, late_pipeline, late_task):
                await asyncio.sleep(15)
                for one in (early, late):
                    assert not one.status().reason
                assert late.records == 0
                await bus.writer("collector").commit(records[100:])
                await done(bus)
                await is_at_the_end(bus, late)
                await is_at_the_end(bus, early)
                assert not early_task.done()
                assert not late_task.done()
                assert standing(late_pipeline) == standing(early_pipeline)
                assert early.records > late.records > 0

    run_virtual(scenario)


class Away(Shaky):
    """A bus that can't be read for a while."""

    is_away = False

    def fails(self) -> None:
        if self.is_away:
            raise BusError("nobody answers")

    async def firsts(self, places: Sequence[Place]) -> Mapping[Place, int]:
        self.fails()
        return await self._bus.firsts(places)


def test_what_expired_before_it_was_read_ends_it() -> None:
    async def scenario() -> None:
        records = tape(1, 200)
        bus = await made(records[:100])
        away = Away(bus, random.Random(1))
        async with running(bus, "one"), following(away) as (_, _, task):
            await done(bus)
            await asyncio.sleep(1)
            away.is_away = True
            await bus.writer("collector").commit(records[100:])
            await done(bus)
            await asyncio.sleep(15)
            expire(bus)
            away.is_away = False
            with pytest.raises(FollowError, match=r"numbered-trades/\d: records \d+ to \d+ were deleted unread"):
                await task

    run_virtual(scenario)


@pytest.mark.parametrize("has_some", [True, False])
def test_a_log_that_lacks_what_no_snapshot_has_ends_it(has_some: bool) -> None:
    async def scenario() -> None:
        bus = await log_of(tape(1, 100))
        if has_some:
            bus._partitions[Place(TOPICS.tokens, 2)].clear()
            bus.forget(Place(TOPICS.log, 2), 3)
            reason = "records 1 to 3 of the log are missing"
        else:
            newest = bus.records(Place(TOPICS.log, 2))[-1]
            snapshot = encode(TokenSnapshot(TokenInfo("x:new", "N"), "s", 1, seq=read_logged(newest.value).seq + 1))
            await bus.writer("x").commit([Outgoing(Place(TOPICS.tokens, 2), b"x:new", snapshot)])
            reason = "before the newest snapshots"
        async with following(bus) as (_, _, task):
            with pytest.raises(FollowError, match=reason):
                await task

    run_virtual(scenario)


def test_whoever_lags_says_so() -> None:
    async def scenario() -> None:
        bus = await log_of(tape(1, 20))
        async with following(bus) as (one, _, _):
            await asyncio.sleep(1)
            one._ends = {0: one.next[0] + BEHIND_RECORDS + 2}
            assert one.status()[:2] == (f"{BEHIND_RECORDS + 1} records behind the log", BEHIND_RECORDS + 1)

    run_virtual(scenario)
