"""The global tick: planned instants, nothing doubled."""

import asyncio
import time

import pytest

from tokenwire_server.gateway.endpoint import next_tick

from .conftest import Serve


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
