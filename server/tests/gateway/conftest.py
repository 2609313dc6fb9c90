"""A real server on a loopback port, fed by a source that the test drives."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
import uvloop

from tokenwire_server.app import Running, running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.settings import Settings

TIME_MS = 1_700_000_000_000


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in production: its transports behave unlike those of the standard library."""
    return {"uvloop": uvloop.new_event_loop}


class ManualSource:
    """Announces tokens when it runs; trades when told to."""

    name = "manual"
    cadence_ms = 60_000

    def __init__(self, tokens: Sequence[str] = ("DOGE", "PEPE", "SHIB", "FLOKI")) -> None:
        self.symbols = tokens
        self.sink: Sink | None = None
        self.trades = 0

    async def run(self, sink: Sink) -> None:
        self.sink = sink
        sink.tokens(self.name, [TokenInfo(f"{symbol}-address", symbol) for symbol in self.symbols])
        for symbol in self.symbols:
            self.trade(symbol, "1")
        sink.state(self.name, SourceState.LIVE)
        await asyncio.Event().wait()

    def trade(self, symbol: str, price: str) -> None:
        assert self.sink is not None
        self.trades += 1
        trade = Trade(
            f"{symbol}-address", str(self.trades), Decimal(price), Decimal(1), Side.BUY, TIME_MS + self.trades
        )
        self.sink.clock(self.name, TIME_MS + self.trades)
        self.sink.trades(self.name, [trade])


Serve = Callable[..., AbstractAsyncContextManager[tuple[Running, ManualSource]]]


@pytest.fixture
def serve() -> Serve:
    """``async with serve(setting=…, hub=HubConfig(…)) as (server, source)``; a tick every 50 ms."""

    @asynccontextmanager
    async def start(
        hub: HubConfig | None = None, tokens: Sequence[str] = ("DOGE", "PEPE", "SHIB", "FLOKI"), **settings: Any
    ) -> AsyncIterator[tuple[Running, ManualSource]]:
        source = ManualSource(tokens)
        chosen = Settings(**{"port": 0, "update_interval_s": 0.05, "drain_s": 0, **settings})
        async with running(chosen, [source], hub) as server:
            while source.sink is None:
                await asyncio.sleep(0)
            yield server, source

    return start
