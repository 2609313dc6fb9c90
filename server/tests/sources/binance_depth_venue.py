"""A venue with true order books, on a virtual network in virtual time, and a collector in front of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import async_solipsism
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tokenwire_server.market.book import OrderBook
from tokenwire_server.market.books import MarketBooks
from tokenwire_server.sources.binance_depth_feed import BinanceDepth
from tokenwire_server.sources.http_get import HttpGet, Reply

from .conftest import RecordingSink

HOST, PORT = "venue.test", 9443


class DepthVenue:
    """True books, told as the venue documents it. ``spoil`` may change or leave out a frame (None)."""

    def __init__(self, *symbols: str, interval_s: float = 0.1) -> None:
        self.random = Random(1)
        self.interval_s = interval_s
        self.books: dict[str, tuple[dict[int, int], dict[int, int]]] = {symbol: ({}, {}) for symbol in symbols}
        self.updates = dict.fromkeys(symbols, 1_000)
        self.spoil: Callable[[str], str | None] = lambda frame: frame
        self.answer: Callable[[str], Reply] = self.snapshot
        self.refuse = ""
        self.sockets: list[ServerConnection] = []
        self.heard: list[dict[str, Any]] = []
        self.asked: list[tuple[float, str]] = []
        for symbol in symbols:
            for _ in range(40):
                self._change(symbol)

    def _change(self, symbol: str) -> dict[str, Any]:
        first = self.updates[symbol] + 1
        sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for _ in range(self.random.randint(1, 5)):
            which = self.random.randrange(2)
            price, amount = self.random.randint(1, 90) + 100 * which, self.random.randint(0, 9)
            self.books[symbol][which].pop(price, None)
            if amount:
                self.books[symbol][which][price] = amount
            sides[which][price] = amount
            self.updates[symbol] += 1
        last = self.updates[symbol]
        return {"e": "depthUpdate", "E": 1_700_000_000_000 + last, "s": symbol, "U": first, "u": last} | {
            key: [[f"{price}.00000000", f"{amount}.00000000"] for price, amount in side.items()]
            for key, side in zip("ba", sides, strict=True)
        }

    def snapshot(self, path: str) -> Reply:
        assert path.startswith("/api/v3/depth?symbol=")
        symbol, _, limit = path.partition("symbol=")[2].partition("&limit=")
        assert limit == "1000"
        bids, asks = self.books[symbol]
        body = {
            "lastUpdateId": self.updates[symbol],
            "bids": [[str(price), str(amount)] for price, amount in sorted(bids.items(), reverse=True)],
            "asks": [[str(price), str(amount)] for price, amount in sorted(asks.items())],
        }
        return Reply(200, json.dumps(body).encode())

    def is_shown_by(self, book: OrderBook, symbol: str = "BTCUSDT") -> bool:
        top = book.top(100)
        return not top.is_stale and all(
            {int(price): int(amount) for price, amount in rows} == side
            for rows, side in zip((top.bids, top.asks), self.books[symbol], strict=True)
        )

    async def talk(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        assert socket.request.path == "/stream"
        self.sockets.append(socket)
        streams: set[str] = set()
        feeding = asyncio.create_task(self._feed(socket, streams))
        try:
            async for text in socket:
                request = json.loads(text)
                self.heard.append(request)
                if self.refuse:
                    await socket.send(self.refuse)
                    continue
                change = streams.update if request["method"] == "SUBSCRIBE" else streams.difference_update
                change(request["params"])
                await socket.send(json.dumps({"result": None, "id": request["id"]}))
        except ConnectionClosed:
            pass
        finally:
            feeding.cancel()

    async def _feed(self, socket: ServerConnection, streams: set[str]) -> None:
        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(self.interval_s)
                for stream in sorted(streams):
                    symbol = stream.removesuffix("@depth@100ms").upper()
                    frame = self.spoil(json.dumps({"stream": stream, "data": self._change(symbol)}))
                    if frame is not None:
                        await socket.send(frame)

    @asynccontextmanager
    async def http(self) -> AsyncIterator[HttpGet]:
        async def get(url: str) -> Reply:
            await asyncio.sleep(0.05)
            path = url.removeprefix("http://rest.test")
            self.asked.append((asyncio.get_running_loop().time(), path))
            return self.answer(path)

        yield get


class Desk:
    """The collector, its books and its sink."""

    def __init__(self, venue: DepthVenue, **arguments: Any) -> None:
        self.venue = venue
        self.books = MarketBooks()
        self.sink = RecordingSink()
        urls = f"ws://{HOST}:{PORT}", "http://rest.test"
        self.depth = BinanceDepth(list(venue.books), *urls, self.books, http=venue.http, rng=Random(1), **arguments)

    async def until(self, condition: Callable[[], bool], wait_s: float = 30.0) -> float:
        """Virtual seconds until it holds."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        async with asyncio.timeout(wait_s):
            while not condition():
                await asyncio.sleep(0.01)
        return loop.time() - begun_s

    async def right(self, book: OrderBook, symbol: str = "BTCUSDT", wait_s: float = 30.0) -> float:
        """Until it shows the venue's book: between two events there is time for that."""
        return await self.until(lambda: self.venue.is_shown_by(book, symbol), wait_s)


def play(venue: DepthVenue, test: Callable[[Desk], Coroutine[Any, Any, None]], **arguments: Any) -> None:
    async def main() -> None:
        async with serve(venue.talk, HOST, PORT, ping_interval=None, close_timeout=1):
            desk = Desk(venue, **arguments)
            running = asyncio.create_task(desk.depth.run(desk.sink))
            await asyncio.sleep(0.01)
            await test(desk)
            assert not running.done()
            running.cancel()
            await asyncio.wait((running,))
            assert all(book.is_stale for book in desk.books.wanted("binance:depth").values())

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(main())
