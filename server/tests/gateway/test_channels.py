"""Channels over real sockets: trades, bars, books, push and sets, as the protocol says."""

import asyncio
import json
from typing import Any

from jsonschema import Draft202012Validator
from websockets.asyncio.client import ClientConnection, connect

from tokenwire_schemas.schema_files import SCHEMAS
from tokenwire_server.market.book import BookSnapshot
from tokenwire_server.market.decimals import parse_decimal

from .conftest import TIME_MS, Serve

CHECKS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
DOGE = "DOGE-address"


class Reader:
    """A client that judges every message by its schema, and the numbers by their order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.sequence = 0

    async def next(self, kind: str | None = None) -> Any:
        while True:
            async with asyncio.timeout(10):
                message = json.loads(await self.socket.recv())
            CHECKS[f"extended/server/{message['type']}"].validate(message)
            if message["type"] not in ("heartbeat", "gap"):
                assert message["sequence"] == self.sequence + 1
                self.sequence += 1
            if kind in (None, message["type"]):
                return message["data"]

    async def subscribe(self, *tokens: str, **more: Any) -> Any:
        data = {"action": "subscribe", "tokens": list(tokens)} | more
        await self.socket.send(json.dumps({"type": "subscription", "data": data}))
        return await self.next("subscription")


async def test_trades_and_bars_with_and_without_details(serve: Serve) -> None:
    async with serve() as (server, source):
        for details in (True, False):
            url = f"{server.url}?caps=channels{',details,batch' if details else ''}"
            async with connect(url) as socket:
                reader = Reader(socket)
                assert "channels" in (await reader.next())["capabilities"]
                answer = await reader.subscribe("DOGE", channels=["trades", "klines:60s"])
                assert answer["channels"] == ["trades", "klines:60s"]
                source.trade("DOGE", "2.50")
                bars, trades = [], []
                while not (trades and bars and bars[-1]["close"] == "2.5"):
                    message = await reader.next()
                    if "transactions" in message:
                        trades += message["transactions"]
                    elif "side" in message:
                        trades.append(message)
                    else:
                        bars.append(message)
                (trade,) = trades
                assert trade["price"] == "2.5"
                assert trade["side"] == "Buy"
                assert trade["timestamp"].startswith("2023-11-14T22:13:20.0")
                assert bars[-1]["interval"] == "1m"
                assert bars[-1]["closed"] is False
                assert ("version" in trade) == ("revision" in bars[-1]) == details
                if details:
                    assert trade["version"] == server.pipeline.market.get(DOGE).log.newest  # type: ignore[union-attr]
                    assert trade["id"] == str(source.trades)


async def test_a_closed_bar_is_sent_and_a_late_trade_revises_it(serve: Serve) -> None:
    async with serve() as (server, source), connect(f"{server.url}?caps=channels,details") as socket:
        reader = Reader(socket)
        await reader.next()
        await reader.subscribe("DOGE", channels=["klines:1s"])
        assert source.sink is not None
        first = await reader.next("kline")
        assert first["closed"] is False
        source.sink.clock(source.name, TIME_MS + 1_500)
        closed = await reader.next("kline")
        assert (closed["open_time"], closed["closed"]) == (first["open_time"], True)
        assert closed["version"] > first["version"]
        source.trade("DOGE", "9")  # its time is within the second that is over
        revised = await reader.next("kline")
        assert (revised["high"], revised["revision"], revised["closed"]) == ("9", 1, True)
        assert revised["version"] > closed["version"]


async def test_names_of_channels_that_there_are_not(serve: Serve) -> None:
    async with serve() as (server, _), connect(f"{server.url}?caps=channels,details") as socket:
        reader = Reader(socket)
        await reader.next()
        for wrong in (
            *("token:0250", "token:49", "token:60001", "token:", "book:0", "book:101", "book:10"),
            *("trades:", "x", "klines:", "klines:2h", "klines:1M"),
        ):
            answer = await reader.subscribe("DOGE", channels=["trades", wrong])
            assert answer["rejected"] == [{"token": "DOGE", "code": "UNKNOWN_CHANNEL"}], wrong
            message = (await reader.next("error"))["message"]
            assert wrong in message
            assert "there are token, token:MS (50 to 60000), trades, klines:1s, klines:1m" in message
        answer = await reader.subscribe("DOGE", action="unsubscribe", channels=["trades", "x"])
        assert answer["channels"] == ["trades"]


async def test_push_sends_a_value_when_it_changes(serve: Serve) -> None:
    async with serve(update_interval_s=60) as (server, source), connect(f"{server.url}?caps=channels") as socket:
        reader = Reader(socket)
        await reader.next()
        await reader.subscribe("DOGE", channels=["token:50"])
        assert (await reader.next("token_update"))["price"] == "1"
        source.trade("DOGE", "2")
        source.trade("DOGE", "3")
        assert (await reader.next("token_update"))["price"] == "3"


async def test_books_while_somebody_holds_them(serve: Serve) -> None:
    async with serve() as (server, _), connect(f"{server.url}?caps=channels,details") as socket:
        books = server.pipeline.books
        books.offer("manual", [DOGE])
        reader = Reader(socket)
        await reader.next()
        await reader.subscribe("DOGE", channels=["book:2", "book:1"])
        one, two = parse_decimal("1"), parse_decimal("2")
        books.apply("manual", DOGE, BookSnapshot([(one, two)], [(two, one)], TIME_MS))
        found = {data["depth"]: data for data in [await reader.next("book"), await reader.next("book")]}
        assert found[2]["bids"] == [["1", "2"]]
        assert found[2]["stale"] is False
        assert len(books) == 1
        await socket.close()
        while len(books):
            await asyncio.sleep(0.01)


async def test_a_set_follows_the_market(serve: Serve) -> None:
    async with serve() as (server, source), connect(f"{server.url}?caps=channels,details") as socket:
        reader = Reader(socket)
        await reader.next()
        await reader.subscribe("set:top:price:2")
        told = await reader.next("set")
        assert len(told["added"]) == 2
        source.trade("FLOKI", "100")
        source.trade("SHIB", "50")
        known = set(told["added"])
        while known != {"FLOKI-address", "SHIB-address"}:
            change = await reader.next("set")
            known = (known - set(change["removed"])) | set(change["added"])
        answer = await reader.subscribe("set:top:nope:2", "set:new:0", "set:top:volume:1001", "set:all")
        assert answer["tokens"] == ["set:all"]
        refused = await reader.next("subscription")
        assert refused["tokens"] == ["set:top:nope:2", "set:new:0", "set:top:volume:1001"]
