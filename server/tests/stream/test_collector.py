"""The collector's sink: what sources deliver is written once, in order, with where they stand."""

import asyncio
import logging
from decimal import Decimal

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import Place
from tokenwire_server.market.registry import wire_address
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.collector_writer import read_positions
from tokenwire_server.stream.records import State
from tokenwire_server.stream.topics import partition_of

from .collector_bench import NAMES, NOW_MS, TOPICS, collecting, events, ids, new_bus, trade
from .virtual import run_virtual


def test_everything_is_written_where_it_belongs() -> None:
    infos = [TokenInfo(name, name) for name in NAMES]
    infos += [TokenInfo(f"0x{number:040x}", "E", chain="ethereum") for number in range(9)]

    async def scenario() -> None:
        bus = await new_bus()
        async with collecting(bus) as sink:
            sink.state("s", SourceState.STARTING)  # nobody is told: it may stand by
            sink.state("s", SourceState.LIVE, "hello")
            sink.tokens("s", infos)
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
            announced = [info for event in each if isinstance(event, raw.Tokens) for info in event.tokens]
            assert announced == [info for info in infos if partition_of(wire_address(info), 3) == number]
        assert await ids(bus) == {NAMES[0]: ["1", "2"], NAMES[1]: ["1"]}
        assert await read_positions(bus, TOPICS) == {"s": ("line 4",)}
        assert sink.rejections == {("s", "price_not_positive"): 1, ("s", "bad_json"): 1}
        assert (sink.trades_taken, sink.values_taken, sink.gaps) == ({"s": 3}, {"s": 1}, {"s": (1, 7)})

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
