"""What sources do right before a tick, and the probe over a real socket."""

import asyncio
import itertools
import json
import time
from decimal import Decimal

from websockets.asyncio.client import connect

from tokenwire_server.app import running
from tokenwire_server.settings import Settings
from tokenwire_server.sources.probe import Probe

from .conftest import Serve
from .test_clients import receive, subscribe


async def test_a_callback_gets_the_planned_instant_and_its_values_go_with_that_tick(serve: Serve) -> None:
    async with serve() as (server, source):
        endpoint = server.endpoint
        calls: list[tuple[float, int]] = []
        assert source.sink is not None
        source.sink.before_tick(lambda planned: calls.append((planned, endpoint.hub.stats.ticks)))
        while len(calls) < 3:
            await asyncio.sleep(0.01)
        first = calls[0]
        for planned, ticks in calls:
            steps = (planned - first[0]) / endpoint.update_interval_s
            assert abs(steps - round(steps)) < 1e-6
            assert ticks - first[1] <= round(steps)  # called before the tick, once for each


async def test_a_callback_that_raises_is_a_counted_defect_and_the_tick_goes_on(serve: Serve) -> None:
    async with serve() as (server, source), connect(server.url) as client:
        await client.send(subscribe("DOGE"))
        await receive(client, 3)
        assert source.sink is not None
        raised = 0

        def broken(planned: float) -> None:
            nonlocal raised
            raised += 1
            raise RuntimeError("no")

        source.sink.before_tick(broken)
        source.trade("DOGE", "7")
        (update,) = await receive(client, 1)
        assert update["data"]["price"] == "7"
        while server.endpoint.hub.stats.ticks < 4:
            await asyncio.sleep(0.01)
        assert server.endpoint.defects == raised > 0


async def test_the_price_of_a_probe_is_the_instant_its_tick_was_planned_for() -> None:
    settings = Settings(port=0, update_interval_s=0.05, drain_s=0)
    async with running(settings, [Probe(2)]) as server, connect(server.url) as client:
        await client.send(subscribe("PROBE0", "PROBE1"))
        planned: dict[str, list[Decimal]] = {}
        while min(map(len, planned.values()), default=0) < 5 or len(planned) < 2:
            text = await asyncio.wait_for(client.recv(), 5)
            message = json.loads(text)
            if message["type"] == "token_update":
                price = Decimal(message["data"]["price"])
                # A timer may fire a millisecond early, and an answer to the subscribe repeats the last tick.
                assert -0.002 < time.monotonic() - float(price) < 60
                planned.setdefault(message["data"]["address"], []).append(price)
        for prices in planned.values():
            fresh = sorted(set(prices))
            for one, next_one in itertools.pairwise(fresh):
                steps = (next_one - one) / Decimal("0.05")
                assert abs(steps - round(steps)) <= Decimal("0.0001")
