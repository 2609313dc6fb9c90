"""Roles over a bus that refuses them for a while, as brokers do: they say so without wavering until it does not. In
virtual time."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import AbortedError, BusError, Outgoing, Place, Polled, Record, TopicSpec
from tokenwire_server.ports import PartState
from tokenwire_server.process_command import _Found
from tokenwire_server.roles import RoleStatus
from tokenwire_server.stream.processor import IN_VAIN_S, MAX_IN_VAIN, Processor

from .loader_bench import Told, loading
from .test_follower import following
from .test_processor import PLAN, TOPICS, made, tape
from .virtual import run_virtual

LONG_S = 60.0


class Refusing:
    """Kafka says once to each reader that it may not read, and then nothing; ``why`` names what is refused, if anything
    is. ``aborts`` as many transactions of a worker."""

    def __init__(self, bus: MemoryBus) -> None:
        self.why = ""
        self.aborts = 0
        self.is_closed_to_members = False
        self.is_idle = False  # others have all partitions
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        if self.why:
            raise BusError(self.why)
        await self._bus.check(topics)

    def reader(self) -> Any:
        return _Reader(self, self._bus.reader())

    def worker(self, topic: str, group: str, instance: str) -> Any:
        return _Worker(self, self._bus.worker(topic, group, instance))


class _Reader:
    def __init__(self, bus: Refusing, reader: Any) -> None:
        self._bus = bus
        self._reader = reader
        self._polls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        self._polls += 1
        if not self._bus.why:
            records: Sequence[Record] = await self._reader.poll(most, timeout_s)
            return records
        await asyncio.sleep(timeout_s)
        if self._polls % 5 == 0:  # some time after it was assigned
            raise BusError("authorization failed")
        return ()


class _Worker:
    def __init__(self, bus: Refusing, worker: Any) -> None:
        self._bus = bus
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    @property
    def is_member(self) -> bool:
        return bool(self._worker.is_member) and not self._bus.is_closed_to_members

    async def poll(self, most: int, timeout_s: float) -> Polled:
        polled: Polled = await self._worker.poll(most, timeout_s)
        return Polled(frozenset(polled.assigned), {}, ()) if self._bus.is_idle else polled

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        if self._bus.aborts and offsets:
            self._bus.aborts -= 1
            raise AbortedError("not this time")
        after: Mapping[Place, int] = await self._worker.commit(records, offsets)
        return after


def test_a_gateway_that_may_not_read_the_log_says_so_until_it_may() -> None:
    async def scenario() -> None:
        bus = Refusing(await made([]))
        async with following(bus) as (one, _, _):
            await asyncio.sleep(LONG_S)
            assert one.reason == ""
            bus.why = "refused: Read on the log"
            await asyncio.sleep(LONG_S)
            for _ in range(100):
                await asyncio.sleep(0.3)
                assert one.reason == "the log can't be read: refused: Read on the log"
            bus.why = ""
            await asyncio.sleep(LONG_S)
            assert one.reason == ""

    run_virtual(scenario)


def test_a_loader_that_may_not_read_a_topic_says_so_until_it_may(tmp_path: Path) -> None:
    told = Told()

    async def scenario() -> None:
        bus = Refusing(await made([]))
        async with loading(bus, tmp_path, tell=told):
            await asyncio.sleep(LONG_S)
            assert told[-1][1] is PartState.OK
            bus.why = "refused: Read on the log"
            await asyncio.sleep(LONG_S)
            told.clear()
            await asyncio.sleep(LONG_S)
            assert {each[1] for each in told if each[0] == "kafka"} == {PartState.FAILING}
            assert ("kafka", PartState.FAILING, "refused: Read on the log") in told
            bus.why = ""
            await asyncio.sleep(LONG_S)
            assert [each for each in told if each[0] == "kafka"][-1][1] is PartState.OK

    run_virtual(scenario)


@contextlib.asynccontextmanager
async def processing(bus: Any, told: list[tuple[PartState, str]]) -> Any:
    def tell(state: PartState, reason: str) -> None:
        if not told or told[-1] != (state, reason):
            told.append((state, reason))

    now_s = asyncio.get_running_loop().time
    task = asyncio.create_task(Processor(bus, TOPICS, "p", PLAN, 100, now_s, tell).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("aborts", [1, MAX_IN_VAIN + 3])
def test_a_processor_whose_transactions_are_all_in_vain_fails_and_one_is_nothing(aborts: int) -> None:
    async def scenario() -> None:
        told: list[tuple[PartState, str]] = []
        bus = Refusing(await made(tape(1, 60)))
        bus.aborts = aborts
        async with processing(bus, told):
            await asyncio.sleep(LONG_S)
        failing, ok = (PartState.FAILING, "not this time"), (PartState.OK, "")
        assert told in ([failing, ok], [ok, failing, ok]) if aborts > 1 else told == [ok]

    run_virtual(scenario)


def test_a_processor_that_has_no_partition_any_more_does_not_fail_for_ever() -> None:
    async def scenario() -> None:
        told: list[tuple[PartState, str]] = []
        bus = Refusing(await made(tape(1, 60)))
        bus.aborts = 1_000
        async with processing(bus, told):
            await asyncio.sleep(LONG_S)
            assert told[-1] == (PartState.FAILING, "not this time")
            bus.is_idle = True
            await asyncio.sleep(IN_VAIN_S / 2)
            assert told[-1] == (PartState.FAILING, "not this time")
            await asyncio.sleep(IN_VAIN_S)
            assert told[-1] == (PartState.OK, "")

    run_virtual(scenario)


def test_a_processor_is_well_only_once_the_group_has_let_it_in() -> None:
    async def scenario() -> None:
        told: list[tuple[PartState, str]] = []
        bus = Refusing(await made([]))
        bus.is_closed_to_members = True
        async with processing(bus, told):
            await asyncio.sleep(LONG_S)
            assert told == []
            bus.is_closed_to_members = False
            await asyncio.sleep(LONG_S)
            assert told == [(PartState.OK, "")]

    run_virtual(scenario)


def test_brokers_that_answer_one_question_do_not_hide_that_they_refuse_another() -> None:
    status = RoleStatus("process", "p", ("kafka",))
    found = _Found(status)
    found.by_lag("")
    assert status.parts["kafka"].state is PartState.STARTING
    found.by_processor(PartState.FAILING, "refused: Write on the log")
    found.by_lag("")
    assert status.trouble == "kafka failing: refused: Write on the log"
    found.by_lag("nobody answers")
    assert status.trouble == "kafka failing: refused: Write on the log"
    found.by_processor(PartState.OK, "")
    assert status.trouble == "kafka failing: nobody answers"
    found.by_lag("")
    assert status.trouble is None
