"""Taking over what is gone in part: raw records, the log, what the group committed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import Outgoing, Place, Record
from tokenwire_server.ports import PartState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import processor as processor_module
from tokenwire_server.stream import state_topic
from tokenwire_server.stream.processor import GAP_RETRY_S, NewerDataError, Processor, UnusableStateError
from tokenwire_server.stream.records import CUT_KEY, Numbered, encode, read_cut, read_logged, read_snapshot
from tokenwire_server.stream.state_topic import MAX_READ_S, read_state

from .test_processor import (
    NAMES,
    PLAN,
    TOPICS,
    done,
    fed,
    made,
    outgoing,
    processor,
    result,
    running,
    tape,
    undisturbed,
)
from .virtual import run_virtual

SEED = 5
HALF = 430
ALL = range(TOPICS.partitions)


def committed(bus: MemoryBus) -> dict[int, int]:
    return bus._groups[TOPICS.raw, TOPICS.group].committed


def expire_raw(bus: MemoryBus, more: int = 0) -> None:
    """Delete what was processed, and ``more`` records of each partition."""
    for number, offset in committed(bus).items():
        bus.forget(Place(TOPICS.raw, number), offset + more)


async def killed_halfway(bus: MemoryBus) -> list[Outgoing]:
    """Have half of a tape processed, without snapshots of the end; the other half."""
    records = tape(SEED, 900)
    async with running(bus, "one"):
        await fed(bus, records[:HALF])
    return records[HALF:]


async def stopped(bus: MemoryBus, name: str = "one") -> Processor:
    """Process everything, and end as one is told to."""
    one = processor(bus, name)
    task = asyncio.create_task(one.run())
    await done(bus)
    one.close()
    await task
    return one


def test_all_raw_records_that_were_processed_may_be_gone() -> None:
    async def scenario() -> None:
        expected = await undisturbed(SEED)
        bus = await made([])
        rest = await killed_halfway(bus)
        cuts = [await read_state(bus, Place(TOPICS.tokens, number)) for number in ALL]
        assert any(cut.raw_offset < committed(bus)[number] for number, (cut, _) in enumerate(cuts))
        expire_raw(bus)
        async with running(bus, "two") as two:
            await fed(bus, rest)
            assert two.refolded > 0
        assert await result(bus) == expected

    run_virtual(scenario)


def test_the_mark_of_a_transaction_is_not_missed() -> None:
    async def scenario() -> None:
        expected = await undisturbed(SEED)
        bus = await made([])
        rest = await killed_halfway(bus)
        for number in ALL:
            place = Place(TOPICS.raw, number)
            records = bus.records(place)
            records.append(Record(place, len(records), b"", b"mark", 0))
        expire_raw(bus, more=1)
        async with running(bus, "two") as two:
            await fed(bus, rest)
            assert two.missing == 0
        assert await result(bus) == expected

    run_virtual(scenario)


def test_the_group_may_forget_what_it_committed() -> None:
    async def scenario() -> None:
        expected = await undisturbed(SEED)
        bus = await made([])
        rest = await killed_halfway(bus)
        before = dict(committed(bus))
        committed(bus).clear()
        async with running(bus, "two") as two:
            await asyncio.sleep(1)
            assert committed(bus) == before
            assert (two.missing, two.raw_records) == (0, 0)
            await fed(bus, rest)
        assert await result(bus) == expected

    run_virtual(scenario)


@asynccontextmanager
async def telling(bus: MemoryBus, name: str, *, accepts_gaps: bool = False) -> Any:
    """One at work, and what it told last."""
    told: list[tuple[PartState, str]] = []
    one = Processor(
        bus, TOPICS, name, PLAN, 100, asyncio.get_running_loop().time, lambda *state: told.append(state),
        accepts_gaps=accepts_gaps,
    )  # fmt: skip
    task = asyncio.create_task(one.run())
    try:
        yield one, told, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_without_leave_nothing_is_passed_over_and_once_it_is_all_go_on() -> None:
    async def scenario() -> None:
        bus = await made([])
        rest = await killed_halfway(bus)
        writer = bus.writer("collector")
        await writer.commit(rest[:300])
        waiting = sum(len(bus.records(Place(TOPICS.raw, n))) - offset for n, offset in committed(bus).items())
        expire_raw(bus, more=5)
        offset = committed(bus)[1]
        log_before = [bus.records(Place(TOPICS.log, number))[:] for number in ALL]
        async with telling(bus, "two") as (two, told, task):
            await asyncio.sleep(1)
            state, reason = told[-1]
            assert state is PartState.FAILING
            assert f"raw-market-data/1: up to 5 records ({offset} to {offset + 4}) are gone unprocessed" in reason
            assert reason.endswith("tokenwire-server process --accept-gap")
            assert not bus._groups[TOPICS.raw, TOPICS.group].members
            await asyncio.sleep(10 * GAP_RETRY_S)
            assert [bus.records(Place(TOPICS.log, number)) for number in ALL] == log_before
            assert not task.done()
            assert not [each for each in told if each[0] is PartState.OK]
            async with telling(bus, "three", accepts_gaps=True) as (three, _, _):
                await done(bus)
                assert three.missing == 5 * TOPICS.partitions
                assert three.raw_records + three.missing == waiting
            await bus.writer("collector").commit(rest[300:])
            await done(bus)
            assert told[-1] == (PartState.OK, "")
            assert (two.missing, two.assigned) == (0, tuple(ALL))
        await check_holes(bus, log_before)

    run_virtual(scenario)


def test_who_gets_no_partition_is_well_once_others_go_on() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        for number in ALL:
            bus.forget(Place(TOPICS.raw, number), 5)
        async with telling(bus, "two") as (two, told, _):
            await asyncio.sleep(1)
            assert told[-1][0] is PartState.FAILING
            async with telling(bus, "one", accepts_gaps=True):
                await done(bus)
                async with running(bus, "five"), running(bus, "four"):
                    await asyncio.sleep(3 * GAP_RETRY_S)
                    assert two.assigned == ()
                    assert told[-1] == (PartState.OK, "")

    run_virtual(scenario)


async def check_holes(bus: MemoryBus, log_before: Sequence[Sequence[Record]]) -> None:
    """The log goes on without a hole of its own; each token that had traded has one of unknown size, once."""
    for number in ALL:
        records = bus.records(Place(TOPICS.log, number))
        logged = [read_logged(record.value) for record in records]
        seqs = [each.seq for each in logged]
        assert sorted(set(seqs)) == list(range(1, seqs[-1] + 1))
        newest: dict[str, int] = {}
        for each in logged[: len(log_before[number])]:
            if isinstance(each.event, Numbered):
                newest[each.event.trades[0].address] = each.event.first + len(each.event.trades) - 1
        gaps = [each.event for each in logged if isinstance(each.event, raw.Gap)]
        assert newest
        assert sorted((gap.token, gap.missed) for gap in gaps) == sorted((address, 0) for address in newest)
        for each in logged[len(log_before[number]) :]:
            if isinstance(each.event, Numbered):
                before = newest.pop(each.event.trades[0].address, None)
                assert before is None or each.event.first == before + 2


def test_a_group_that_never_was_does_not_begin_in_the_middle() -> None:
    async def scenario() -> None:
        bus = await made(tape(1, 200))
        for number in ALL:
            bus.forget(Place(TOPICS.raw, number), 5)
        async with telling(bus, "one") as (_, told, _):
            await asyncio.sleep(1)
            assert "raw-market-data/0: up to 5 records (0 to 4)" in told[-1][1]
        async with telling(bus, "one", accepts_gaps=True) as (one, _, _):
            await done(bus)
            assert one.missing == 15

    run_virtual(scenario)


async def made_anew(bus: MemoryBus) -> None:
    committed(bus).clear()
    del bus._lineages[TOPICS.raw]
    for number in ALL:
        del bus._partitions[Place(TOPICS.raw, number)]
    await bus.ensure(TOPICS.specs())


async def cut_short(bus: MemoryBus) -> None:
    for number in ALL:
        del bus._partitions[Place(TOPICS.raw, number)][-3:]


@pytest.mark.parametrize(
    ("lose", "reason"), [(made_anew, "raw-market-data/0 was made anew"), (cut_short, "records behind that are lost")]
)
def test_raw_records_that_nobody_can_count_are_missed_too(
    lose: Callable[[MemoryBus], Awaitable[None]], reason: str
) -> None:
    async def scenario() -> None:
        bus = await made(tape(SEED, 300))
        await stopped(bus)
        numbers, _, _ = await result(bus)
        await lose(bus)
        async with telling(bus, "two") as (_, told, _):
            await asyncio.sleep(1)
            assert reason in told[-1][1]
        async with telling(bus, "two", accepts_gaps=True) as (two, _, _):
            await asyncio.sleep(1)
            one = raw.Trades("s", (tape_trade(bus, NAMES[0]),))
            await bus.writer("collector").commit([outgoing(one, NAMES[0])])
            await done(bus)
            assert two.missing == 0  # as far as anybody knows
        async with telling(bus, "three") as (_, told, _):
            await asyncio.sleep(1)
            assert told[-1][0] is PartState.OK
        after, _, _ = await result(bus)
        assert after[NAMES[0]] == [*numbers[NAMES[0]], (numbers[NAMES[0]][-1][0] + 2, "new")]

    run_virtual(scenario)


def tape_trade(bus: MemoryBus, name: str) -> Any:
    """A trade of the token that is like its newest one."""
    logged = [read_logged(record.value).event for record in bus.records(TOPICS.place(TOPICS.log, name))]
    newest = [each.trades[-1] for each in logged if isinstance(each, Numbered) and each.trades[0].address == name][-1]
    return msgspec.structs.replace(newest, trade_id="new")


# --- the log has expired -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_after_an_end_nothing_but_the_snapshots_is_needed(is_forgotten: bool) -> None:
    async def scenario() -> None:
        expected = await undisturbed(SEED)
        records = tape(SEED, 900)
        bus = await made(records[:HALF])
        await stopped(bus)
        expire_raw(bus)
        for number in ALL:
            place = Place(TOPICS.log, number)
            bus.forget(place, len(bus.records(place)))
        if is_forgotten:
            committed(bus).clear()
        async with running(bus, "two") as two:
            await fed(bus, records[HALF:])
            assert two.refolded == 0
        bus._first.clear()  # to look at all of it
        assert await result(bus) == expected

    run_virtual(scenario)


def test_a_log_that_lacks_what_no_snapshot_has_is_not_gone_on_from() -> None:
    async def scenario() -> None:
        bus = await made([])
        await killed_halfway(bus)
        place = Place(TOPICS.log, 1)
        cut, _ = await read_state(bus, Place(TOPICS.tokens, 1))
        for lost in (cut.log_offset + 1, len(bus.records(place))):
            bus.forget(place, lost)
            with pytest.raises(UnusableStateError, match=r"-trades/1: records .* are missing; .*only new topics"):
                await processor(bus, "two").run()

    run_virtual(scenario)


def test_what_a_newer_version_wrote_ends_it() -> None:
    async def scenario() -> None:
        for topic in (TOPICS.log, TOPICS.tokens):
            bus = await made(tape(1, 20))
            await stopped(bus)
            await bus.writer("x").commit([Outgoing(Place(topic, 0), b"k", b'{"v":2,"seq":1,"event":{}}')])
            with pytest.raises(NewerDataError, match=f"{topic}/0: .*newer version"):
                await processor(bus, "one").run()

    run_virtual(scenario)


# --- snapshots -----------------------------------------------------------------------------------------------------


class Watched(MemoryBus):
    """Knows how many snapshots each transaction held."""

    counts: list[int]

    async def write(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        tokens = [each for each in records if each.place.topic == TOPICS.tokens and each.key != CUT_KEY]
        self.counts.append(len(tokens))
        return await super().write(records)


def test_snapshots_of_many_tokens_are_spread_over_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "MAX_SNAPSHOTS", 2)

    async def scenario() -> None:
        bus = Watched()
        bus.counts = []
        await bus.ensure(TOPICS.specs())
        async with running(bus, "one"):
            await fed(bus, tape(SEED, 900))
            await asyncio.sleep(20)
            assert max(bus.counts) == 2
            assert sum(bus.counts) > 3 * len(NAMES)
            written = len(bus.counts)
            await asyncio.sleep(60)
            assert len(bus.counts) == written, "all was written"
        async with running(bus, "two") as two:
            await asyncio.sleep(1)
            assert (two.rebuilt, two.refolded) == (TOPICS.partitions, 0)

    run_virtual(scenario)


def test_whoever_ends_leaves_snapshots_of_everything_and_cuts_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "MAX_SNAPSHOTS", 2)

    async def scenario() -> None:
        bus = await made(tape(SEED, 300))
        await stopped(bus)
        for number in ALL:
            cut, tokens = await read_state(bus, Place(TOPICS.tokens, number))
            assert cut.raw_offset == committed(bus)[number]
            assert cut.log_offset == len(bus.records(Place(TOPICS.log, number)))
            assert all(read_snapshot(text).seq <= cut.seq for text in tokens.values())

    run_virtual(scenario)


def test_an_end_does_not_wait_for_brokers() -> None:
    async def scenario() -> None:
        bus = await made(tape(SEED, 300))
        one = processor(bus, "one")
        task = asyncio.create_task(one.run())
        await done(bus)
        bus._groups[TOPICS.raw, TOPICS.group].members.clear()
        one.close()
        async with asyncio.timeout(60):
            await task

    run_virtual(scenario)


def test_while_old_snapshots_leave_the_newer_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bus = await made([])
        place = Place(TOPICS.tokens, 0)
        async with running(bus, "one"):
            await fed(bus, tape(SEED, 300))
            await asyncio.sleep(20)
        expected = await read_state(bus, place)
        everything = bus.records(place)[:]
        newest = {record.key: record for record in everything}
        early = everything[: len(everything) // 2]
        bus._partitions[place] = early
        now_s = iter((0.0, MAX_READ_S, 100.0, 101.0))
        pieces = bus.pieces

        def slow(*span: Any) -> Any:  # meanwhile the rest is written, and all that is not the newest leaves
            bus._partitions[place] = [
                each if newest[each.key] is each else each._replace(key=b"gone", value=b"{") for each in everything
            ]
            return pieces(*span)

        monkeypatch.setattr(bus, "pieces", slow)
        found = await state_topic.read_state(bus, place, lambda: next(now_s))
        found.tokens.pop(b"gone", None)
        assert found == expected
        assert encode(found.cut) == encode(read_cut(newest[CUT_KEY].value))

    run_virtual(scenario)
