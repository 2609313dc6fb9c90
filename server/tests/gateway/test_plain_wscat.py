"""wscat, and with it the npm client `ws`, which offers compression, just connects to a plain path."""

import asyncio

import pytest

from .conftest import Serve
from .test_javascript import NODE_TESTS, pytestmark, run

__all__ = ["pytestmark"]


@pytest.mark.parametrize("path", ["/ws/DOGE", "/ws/transactions/DOGE", "/ws/klines/DOGE/1s"])
async def test_wscat_shows_what_comes(serve: Serve, path: str) -> None:
    async with serve() as (server, source):
        target = f"ws://127.0.0.1:{server.port}{path}"
        wscat = str(NODE_TESTS / "node_modules/.bin/wscat")
        lines = asyncio.create_task(run(wscat, "-c", target, "-w", "1", "-x", ""))
        while not server.streams.hub.consumers:
            await asyncio.sleep(0.01)
        source.trade("DOGE", "0.25")
        assert any("0.25" in line for line in (await lines)[0])
