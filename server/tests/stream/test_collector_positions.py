"""Where sources go on: everything is written once, however often collectors end and whoever goes on."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.market.trades import Trade
from tokenwire_server.sources.tape import Tape
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.collector_writer import read_positions

from ..sources.conftest import agg_trade, write_tape
from .collector_bench import NAMES, TOPICS, Shaky, collecting, ids, new_bus, trade, wall_ms
from .virtual import run_virtual


async def killed_again_and_again(
    bus: MemoryBus,
    chance: random.Random,
    play: Callable[[BusSink, Mapping[str, Sequence[str]]], Coroutine[Any, Any, None]],
    names: Sequence[str],
) -> int:
    """Collect what ``play`` delivers, to its end, however often it is killed; how often that was. ``names`` are those
    that collectors go by in turn."""
    for kills in itertools.count():
        sink = BusSink(Shaky(bus, chance), TOPICS, names[kills % len(names)], ["tape"], clock=BrokersClock(wall_ms))

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


@pytest.mark.parametrize("names", ["c", "cd"])
@pytest.mark.parametrize("seed", range(6))
def test_a_source_that_goes_on_where_it_stood_loses_and_doubles_nothing(seed: int, names: str) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()
        tape = [trade(chance.choice(NAMES), number) for number in range(600)]

        async def play(sink: BusSink, positions: Mapping[str, Sequence[str]]) -> None:
            for at in range(max(map(int, positions.get("s", ["0"]))), len(tape), 3):
                sink.trades("s", tape[at : at + 3])
                sink.offset("s", str(at + 3))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 5)

        kills = await killed_again_and_again(bus, chance, play, names)
        assert await ids(bus) == of_each(tape)
        assert kills > 1

    run_virtual(scenario)


async def a_while(seconds: float) -> None:
    await asyncio.sleep(max(seconds, 0.001))  # less is nothing in virtual time


@pytest.mark.parametrize("names", ["c", "cd"])
@pytest.mark.parametrize("seed", range(3))
def test_a_tape_is_written_once_however_often_it_is_killed(seed: int, names: str, tmp_path: Path) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "XRPUSDT")
    path = write_tape(tmp_path / "tape", [agg_trade(n, symbols[n % 3]) for n in range(900)], step_ms=20)

    async def scenario() -> None:
        chance = random.Random(seed)
        bus = await new_bus()

        async def play(sink: BusSink, positions: Mapping[str, Sequence[str]]) -> None:
            tape = Tape(path, speed=chance.choice((0, 1, 3)), name="tape", sleep=a_while)
            if "tape" in positions:
                tape.resume(positions["tape"])
            await tape.run(sink)

        kills = await killed_again_and_again(bus, chance, play, names)
        expected = {f"binance:{symbol}": [str(n) for n in range(at, 900, 3)] for at, symbol in enumerate(symbols)}
        assert await ids(bus) == expected
        assert kills > 1

    run_virtual(scenario)


def test_the_last_position_of_each_collector_is_found_the_oldest_first() -> None:
    async def scenario() -> None:
        bus = await new_bus()
        for name, position in (("a", "1"), ("b", "2"), ("c", "3"), ("b", "4"), ("a", "5")):
            async with collecting(bus, name) as sink:
                sink.offset("s", position)
        place = Place(TOPICS.positions, 0)
        await bus.write([Outgoing(place, b"\xff/s", b"{}"), Outgoing(place, b"a/s", b"rubbish")])
        assert await read_positions(bus, TOPICS) == {"s": ("3", "4", "5")}

    run_virtual(scenario)
