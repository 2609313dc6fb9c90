"""A collector whose brokers are away: what waits is bounded, whoever can wait does, and what is lost is told."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import collector
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import (
    CHECK_INTERVAL_S,
    CHECK_TIMEOUT_S,
    COMMIT_INTERVAL_S,
    MAX_RETRY_S,
    BusSink,
)
from tokenwire_server.stream.records import State
from tokenwire_server.stream.topics import partition_of

from .collector_bench import NAMES, NOW_MS, TOPICS, Away, collecting, events, ids, new_bus, trade, wall_ms
from .virtual import run_virtual


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


async def topic_ends(bus: MemoryBus) -> Mapping[Place, int]:
    places = [Place(spec.name, number) for spec in TOPICS.specs() for number in range(spec.partitions)]
    return await bus.ends(places)


@pytest.mark.parametrize(
    ("trouble", "reason", "at_most_s"),
    [
        ("is_away", "nobody answers", CHECK_INTERVAL_S),
        ("is_silent", "the brokers did not answer within 5 s", CHECK_INTERVAL_S + CHECK_TIMEOUT_S),
    ],
)
def test_who_has_nothing_to_write_notices_too(trouble: str, reason: str, at_most_s: float) -> None:
    async def scenario() -> None:
        bus = Away(await new_bus())
        async with collecting(bus) as sink:
            changes: list[str | None] = []
            sink.on_change = lambda: changes.append(sink.failure)
            sink.trades("s", [trade(NAMES[0], 1)])
            await asyncio.sleep(60)
            written = await topic_ends(bus.inner)
            for _ in range(2):
                setattr(bus, trouble, True)
                await asyncio.sleep(at_most_s + 2 * COMMIT_INTERVAL_S)
                assert sink.failure == reason
                await asyncio.sleep(300)
                setattr(bus, trouble, False)
                await asyncio.sleep(MAX_RETRY_S + CHECK_TIMEOUT_S)
                assert sink.failure is None
            assert changes == [reason, None, reason, None]
            assert await topic_ends(bus.inner) == written
            assert sink.has_room

    run_virtual(scenario)


def test_only_who_has_nothing_to_write_asks_and_seldom() -> None:
    async def scenario() -> None:
        bus = Away(await new_bus())
        async with collecting(bus) as sink:
            bus.asked = 0
            for number in range(60):
                sink.trades("s", [trade(NAMES[0], number)])
                await asyncio.sleep(1)
            assert bus.asked == 0
            await asyncio.sleep(60)
            assert bus.asked == pytest.approx(60 / CHECK_INTERVAL_S, abs=1)

    run_virtual(scenario)


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
