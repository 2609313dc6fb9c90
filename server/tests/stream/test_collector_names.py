"""Two collectors of one name: one of them goes on."""

import asyncio
import itertools
import random

import pytest

from tokenwire_server.bus.port import FencedError
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import COMMIT_INTERVAL_S, BusSink

from .collector_bench import NAMES, TOPICS, Shaky, collecting, ids, new_bus, trade, wall_ms
from .virtual import run_virtual


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
