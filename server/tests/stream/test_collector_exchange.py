"""Collectors of an exchange that end and begin again, one after the other and side by side: in virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection

from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.sources.binance import binance
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.http_get import Reply
from tokenwire_server.stream.brokers_clock import BrokersClock
from tokenwire_server.stream.collector import BusSink

from ..sources.conftest import agg_trade
from ..sources.world import HOST, PORT, T0, World
from .collector_bench import TOPICS, ids

TRADE_INTERVAL_S = 1.0  # of each symbol, from the beginning on, numbered from 1
QUIET_S = 0.8  # after a trade, in which it is told where the source stands


class Market:
    """A venue of which every trade can be had by its number, too."""

    def __init__(self) -> None:
        self.world = World()
        self.world.answer = self.page

    @property
    def newest(self) -> int:
        return int(self.world.now_s / TRADE_INTERVAL_S)

    def time_ms(self, number: int) -> int:
        return T0 + int(number * TRADE_INTERVAL_S * 1_000)

    def wall_ms(self) -> int:
        return T0 + int(self.world.now_s * 1_000)

    async def stream(self, socket: ServerConnection) -> None:
        request = json.loads(str(await socket.recv()))
        await socket.send(f'{{"result":null,"id":{request["id"]}}}')
        symbols = [stream.partition("@")[0].upper() for stream in request["params"]]
        told = self.newest
        while True:
            told += 1
            await asyncio.sleep(told * TRADE_INTERVAL_S - self.world.now_s)
            for symbol in symbols:
                await socket.send(agg_trade(told, symbol, time_ms=self.time_ms(told)))

    async def page(self, url: str) -> Reply:
        asked = parse_qs(urlsplit(url).query)
        first, most = int(asked["fromId"][0]), int(asked["limit"][0])
        rows = [
            {"a": number, "p": "1", "q": "1", "T": self.time_ms(number), "m": True}
            for number in range(first, min(first + most, self.newest + 1))
        ]
        return Reply(200, json.dumps(rows).encode())

    @asynccontextmanager
    async def collecting(self, bus: MemoryBus, name: str, *symbols: str) -> AsyncIterator[None]:
        """A collector at work."""
        rest = "http://rest.test"
        source = Exchange(
            binance(), symbols, f"ws://{HOST}:{PORT}", rest, clock=self.wall_ms, rng=Random(1), http=self.world.http
        )
        sink = BusSink(bus, TOPICS, name, clock=BrokersClock(self.wall_ms))
        positions = await sink.begin()
        if "binance" in positions:
            source.resume(positions["binance"])
        writing, running = asyncio.create_task(sink.run()), asyncio.create_task(source.run(sink))
        yield
        running.cancel()
        await asyncio.wait((running,))
        sink.close()
        await writing
        assert sink.gaps == {}
        assert sink.rejections == {}


async def written(bus: MemoryBus) -> dict[str, list[int]]:
    """The numbers of each symbol's trades, in order, each as often as it was written."""
    return {address.removeprefix("binance:"): list(map(int, told)) for address, told in (await ids(bus)).items()}


def test_who_comes_back_goes_on_where_another_one_ended() -> None:
    market = Market()

    async def test() -> None:
        bus = MemoryBus(market.wall_ms)
        for name in "aba":
            async with market.collecting(bus, name, "BTCUSDT"):
                await asyncio.sleep(100 + QUIET_S)
            newest = market.newest
            await asyncio.sleep(20 - QUIET_S)
        assert await written(bus) == {"BTCUSDT": list(range(1, newest + 1))}

    market.world.run(market.stream, test)


def test_side_by_side_each_goes_on_with_its_own_symbols() -> None:
    market = Market()

    async def test() -> None:
        bus = MemoryBus(market.wall_ms)
        async with market.collecting(bus, "a", "BTCUSDT", "XRPUSDT"):
            await asyncio.sleep(20 + QUIET_S)
        begun = market.newest
        async with market.collecting(bus, "b", "ETHUSDT"):
            await asyncio.sleep(60)
            async with market.collecting(bus, "a", "BTCUSDT", "XRPUSDT"):
                await asyncio.sleep(20)
            newest = market.newest
        everything = list(range(1, newest + 1))
        assert await written(bus) == {"BTCUSDT": everything, "XRPUSDT": everything, "ETHUSDT": everything[begun:]}

    market.world.run(market.stream, test)
