"""The global tick: planned instants, nothing doubled."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect

from tokenwire_server.gateway.endpoint import _WRITES_AT_ONCE, next_tick
from tokenwire_server.gateway.outlet import Outlet

from .conftest import Serve
from .test_clients import receive, subscribe


@pytest.mark.parametrize(
    ("number", "elapsed", "expected"),
    [
        (1, 5.001, 2),
        (1, 4.999, 2),  # a timer that fires a little early does not run twice
        (1, 9.999, 2),
        (1, 10.0, 3),
        (3, 31.0, 7),
    ],
)
def test_a_late_tick_is_skipped(number: int, elapsed: float, expected: int) -> None:
    assert next_tick(number, elapsed, 5.0) == expected


async def test_a_blocked_loop_makes_fewer_ticks_not_a_burst(serve: Serve) -> None:
    async with serve() as (server, _):
        endpoint = server.endpoint
        await asyncio.sleep(0.2)
        before = endpoint.hub.stats.ticks
        time.sleep(0.5)
        await asyncio.sleep(0.06)
        assert endpoint.hub.stats.ticks - before <= 3
        assert endpoint.ticks_skipped >= 7


async def test_a_write_that_fails_ends_that_connection_and_nobody_else_misses_the_tick(serve: Serve) -> None:
    """Numbers were taken for frames that its client does not get: going on would be a silent hole."""

    class Broken(asyncio.Transport):
        aborted = False

        def write(self, data: object) -> None:
            raise OSError("no more")

        def get_write_buffer_size(self) -> int:
            return 0

        def abort(self) -> None:
            self.aborted = True

    async with serve() as (server, source), connect(server.url) as first, connect(server.url) as second:
        for client in (first, second):
            await client.send(subscribe("DOGE"))
            await receive(client, 3)
        hub = server.pipeline.hub
        (cohort,) = next(iter(hub.sets.occupied())).live.values()
        broken = Broken()
        members = cohort.newcomers.members
        members[next(iter(members))] = Outlet(broken).write
        source.trade("DOGE", "7")
        while (await receive(second, 1))[0]["data"]["price"] != "7":
            pass
        assert broken.aborted
        assert server.endpoint.defects == 1


async def test_everybody_is_reached_once_in_a_tick(serve: Serve) -> None:
    """More clients than are written in a row."""
    count = 2 * _WRITES_AT_ONCE + 6
    async with AsyncExitStack() as stack:
        server, source = await stack.enter_async_context(serve())
        clients = [await stack.enter_async_context(connect(server.url)) for _ in range(count)]
        for client in clients:
            await client.send(subscribe("DOGE"))
            await receive(client, 3)
        last = [3] * count
        for price in ("7", "8"):
            source.trade("DOGE", price)
            for number, client in enumerate(clients):
                while True:
                    (message,) = await receive(client, 1)
                    last[number] += 1
                    assert message["sequence"] == last[number]
                    if message["data"]["price"] == price:
                        break


async def test_a_write_and_an_abort_that_fail_cost_nobody_else_anything(serve: Serve) -> None:
    class Broken:
        def write(self, data: bytes) -> None:
            raise OSError("no more")

        def abort(self) -> None:
            raise RuntimeError("not that either")

    async with serve() as (server, source), connect(server.url) as first, connect(server.url) as second:
        for client in (first, second):
            await client.send(subscribe("DOGE"))
            await receive(client, 3)
        (cohort,) = next(iter(server.pipeline.hub.sets.occupied())).live.values()
        members = cohort.newcomers.members
        members[next(iter(members))] = Broken().write
        for price in ("7", "8"):
            source.trade("DOGE", price)
            while (await receive(second, 1))[0]["data"]["price"] != price:
                pass
