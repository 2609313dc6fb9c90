"""The plain paths: every message as it is documented, for whatever client just connects."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tokenwire_server.app import Running
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.validation.trades import MAX_ID_CHARS

from .conftest import TIME_MS, ManualSource, Serve

BEGIN_MS = TIME_MS // 3_600_000 * 3_600_000 + 3_600_000  # 2023-11-14T23:00:00Z
KLINE_FIELDS = ["symbol", "interval", "open_time", "close_time", "open", "high", "low", "close", "volume"]


def url(server: Running, path: str) -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def trade(source: ManualSource, ms: int, price: str, amount: str = "2", side: Side = Side.BUY, name: str = "") -> None:
    """A trade of DOGE so many ms after the hour; the source's clock moves there first."""
    assert source.sink is not None
    source.trades += 1
    source.sink.clock(source.name, BEGIN_MS + ms)
    source.sink.trades(
        source.name,
        [Trade("DOGE-address", name or str(source.trades), Decimal(price), Decimal(amount), side, BEGIN_MS + ms)],
    )


async def receive(client: ClientConnection, count: int) -> list[Any]:
    return [json.loads(await asyncio.wait_for(client.recv(), 5), parse_float=Decimal) for _ in range(count)]


async def receive_until(client: ClientConnection, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The bars up to the first that has the wanted fields."""
    bars: list[dict[str, Any]] = []
    while not bars or not wanted.items() <= bars[-1].items():
        (message,) = await receive(client, 1)
        assert message["type"] == "kline"
        bars.append(message["data"])
    return bars


async def test_a_transaction_has_exactly_the_documented_fields(serve: Serve) -> None:
    async with serve() as (server, source), connect(url(server, "/ws/transactions/DOGE")) as client:
        trade(source, 0, "0.1230", "100.0")
        trade(source, 1_007, "0.0000000000000000000012345", "123456789012345678901234567890.5", Side.SELL)
        texts = [str(await asyncio.wait_for(client.recv(), 5)) for _ in range(2)]
    assert texts[0] == (
        '{"type":"transaction","data":{"symbol":"DOGE","price":"0.123","volume":"100","side":"Buy",'
        '"timestamp":"2023-11-14T23:00:00Z"}}'
    )
    assert json.loads(texts[1]) == {
        "type": "transaction",
        "data": {
            "symbol": "DOGE",
            "price": "0.0000000000000000000012345",
            "volume": "123456789012345678901234567890.5",
            "side": "Sell",
            "timestamp": "2023-11-14T23:00:01.007Z",
        },
    }


async def test_a_trade_has_exactly_the_documented_fields_and_exact_numbers(serve: Serve) -> None:
    async with serve() as (server, source), connect(url(server, "/ws/DOGE")) as client:
        trade(source, 0, "0.000001234", "1000000.0", name="some-uuid")
        trade(source, 0, "0.0000000000000000000012345", "123456789012345678901234567890.5", Side.SELL, 'a "quote"')
        texts = [str(await asyncio.wait_for(client.recv(), 5)) for _ in range(2)]
    assert texts[0] == (
        '{"id":"some-uuid","symbol":"DOGE","price":0.000001234,"amount":1000000,"side":"Buy",'
        '"timestamp":"2023-11-14T23:00:00Z"}'
    )
    assert json.loads(texts[1], parse_float=Decimal) == {
        "id": 'a "quote"',
        "symbol": "DOGE",
        "price": Decimal("0.0000000000000000000012345"),
        "amount": Decimal("123456789012345678901234567890.5"),
        "side": "Sell",
        "timestamp": "2023-11-14T23:00:00Z",
    }


async def test_every_trade_is_a_message_of_its_own_also_of_many_at_once(serve: Serve) -> None:
    async with serve() as (server, source):
        clients = [await connect(url(server, path)) for path in ("/ws/DOGE", "/ws/doge", "/ws/transactions/DOGE")]
        for number in range(900):
            trade(source, number, str(number + 1))
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        for client in clients:
            messages = await receive(client, 900)
            prices = [Decimal(message.get("price") or message["data"]["price"]) for message in messages]
            assert prices == list(range(1, 901))
            await client.close()
        assert server.streams.hub.stats.published == 1800, "made once for each form"


async def test_a_kline_has_the_documented_fields_first_and_those_of_rest(serve: Serve) -> None:
    async with serve() as (server, source), aiohttp.ClientSession() as session:
        trade(source, 0, "0.1230", "100")
        async with connect(url(server, "/ws/klines/DOGE/1m")) as client:
            (first,) = await receive(client, 1)
            assert list(first) == ["type", "data"]
            assert first["type"] == "kline"
            assert list(first["data"])[:9] == KLINE_FIELDS
            trade(source, 59_000, "0.122", "900")
            trade(source, 60_500, "0.5", "1")
            bars = await receive_until(client, {"open_time": "2023-11-14T23:01:00Z"})
        (closed,) = [bar for bar in bars if bar["closed"]]
        assert {name: closed[name] for name in KLINE_FIELDS} == {
            "symbol": "DOGE",
            "interval": "1m",
            "open_time": "2023-11-14T23:00:00Z",
            "close_time": "2023-11-14T23:01:00Z",
            "open": "0.123",
            "high": "0.123",
            "low": "0.122",
            "close": "0.122",
            "volume": "1000",
        }
        async with session.get(f"http://127.0.0.1:{server.port}/api/v1/klines/DOGE?interval=1m&limit=2") as response:
            rows = (await response.json())["data"]
        assert rows == [closed, bars[-1]]
        assert [list(row) for row in rows] == [list(closed)] * 2


async def test_the_open_bar_comes_at_once_and_is_conflated(serve: Serve) -> None:
    async with serve() as (server, source):
        loop = asyncio.get_running_loop()
        trade(source, 0, "1")
        async with connect(url(server, "/ws/klines/DOGE/1h")) as client:
            (first,) = await receive(client, 1)
            assert (first["data"]["close"], first["data"]["closed"]) == ("1", False)
            begin = loop.time()
            for number in range(100):
                trade(source, number, str(number + 2))
                await asyncio.sleep(0.01)
            bars = await receive_until(client, {"close": "101"})
            taken = loop.time() - begin
        assert 2 <= len(bars) <= taken / 0.25 + 2
        assert [int(bar["close"]) for bar in bars] == sorted({int(bar["close"]) for bar in bars})


async def test_a_bar_that_was_quiet_does_not_wait_for_one_that_is_busy(serve: Serve) -> None:
    async with (
        serve() as (server, source),
        connect(url(server, "/ws/klines/DOGE/1h")) as busy,
        connect(url(server, "/ws/klines/PEPE/1h")) as quiet,
    ):
        for client in (busy, quiet):
            await receive(client, 1)
        came: list[str] = []

        async def note(client: ClientConnection) -> None:
            while True:
                (message,) = await receive(client, 1)
                came.append(message["data"]["close"])

        noting = [asyncio.create_task(note(client)) for client in (busy, quiet)]
        source.trade("DOGE", "11")
        while came != ["11"]:
            await asyncio.sleep(0.005)
        source.trade("DOGE", "12")  # is due 250 ms after the first
        await asyncio.sleep(0.01)
        source.trade("PEPE", "21")
        while len(came) < 3:
            await asyncio.sleep(0.005)
        assert came == ["11", "21", "12"]
        for task in noting:
            task.cancel()
        await asyncio.gather(*noting, return_exceptions=True)


async def test_closed_bars_come_once_each_in_order_and_again_when_they_are_revised(serve: Serve) -> None:
    async with serve() as (server, source), connect(url(server, "/ws/klines/DOGE/1s")) as client:
        for second in range(30):
            trade(source, second * 1000, "2")
            if second % 7 == 0:
                await asyncio.sleep(0.02)
        trade(source, 25_500, "9")  # late, within the grace period
        trade(source, 1_500, "7")  # beyond it
        trade(source, 30_000, "3")
        trade(source, 31_000, "4")
        seen = await receive_until(client, {"close": "4"})
    bars = [bar for bar in seen if bar["closed"] and bar["open_time"] >= "2023-11-14T23"]  # not of before
    times = [bar["open_time"][-4:-1].lstrip(":") for bar in bars]
    assert times == [f"{second:02}" for second in (*range(29), 25, 29, 30)]
    assert [bar["revision"] for bar in bars] == [0] * 29 + [1, 0, 0]
    assert bars[29]["high"] == "9"


async def test_before_the_first_trade_a_stream_of_bars_is_silent(serve: Serve) -> None:
    async with serve() as (server, source):
        assert source.sink is not None
        source.sink.tokens(source.name, [TokenInfo("NEW-address", "NEW")])
        async with connect(url(server, "/ws/klines/NEW/1m")) as client:
            source.sink.trades(
                source.name, [Trade("NEW-address", "1", Decimal(5), Decimal(1), Side.BUY, TIME_MS + 100)]
            )
            (bar,) = await receive(client, 1)
            assert (bar["data"]["symbol"], bar["data"]["trades"]) == ("NEW", 1)


async def test_a_token_is_found_by_what_names_it(serve: Serve) -> None:
    names = ["DOGE", "doge", "DOGE-address", "%44OGE", "venue:A%2FB", "venue:A/B", "X%20Y%C3%A9", "transactions"]
    async with serve() as (server, source):
        assert source.sink is not None
        source.sink.tokens(
            source.name,
            [TokenInfo("venue:A/B", "A/B"), TokenInfo("X", "X Yé"), TokenInfo("T", "transactions")],
        )
        for form in ("/ws/transactions/{}", "/ws/klines/{}/60s", "/ws/{}"):
            for name in names:
                target = url(server, form.format(name)) + "?anything=goes&caps=batch"
                async with connect(target, subprotocols=["mine"]) as client:  # type: ignore[list-item]
                    assert client.subprotocol is None
                    assert client.protocol.extensions == [], "compression is not offered"
        assert server.endpoint.handshakes_refused == {}


REFUSED = {
    "/ws/nope": (404, "no token has this address or symbol: nope"),
    "/ws/transactions/nope": (404, "no token has this address or symbol: nope"),
    "/ws/klines/nope/1m": (404, "no token has this address or symbol: nope"),
    "/ws/transactions/TWICE": (404, "several tokens are called TWICE: T1, T2; ask for an address"),
    "/ws/klines/DOGE/7m": (422, "interval: one of 1s, 1m, 5m, 15m, 1h, not 7m"),
    "/ws/klines/DOGE/m": (422, "interval: one of 1s, 1m, 5m, 15m, 1h, not m"),
    "/ws/klines/DOGE/" + "9" * 200: (422, "interval: one of 1s, 1m, 5m, 15m, 1h, not " + "9" * 60 + "…"),
    "/ws/klines/DOGE": (404, "a stream of bars has an interval"),
    "/ws/klines/DOGE/": (404, "the path names no token"),
    "/ws/klines//1m": (404, "the path names no token"),
    "/ws/transactions/": (404, "the path names no token"),
    "/ws/": (404, "the path names no token"),
    "/ws/%ff": (404, "the path is not percent-encoded UTF-8"),
    "/ws/%00%0a": (404, "no token has this address or symbol"),
    "/ws/" + "x" * (MAX_ID_CHARS + 1): (404, "no name has more than 256 characters"),
    "/ws/" + "%C3%A9" * 1_000: (404, "no name has more than 256 characters"),
}


async def test_a_path_that_means_nothing_is_refused_with_what_there_is(serve: Serve) -> None:
    async with serve() as (server, source):
        assert source.sink is not None
        source.sink.tokens(source.name, [TokenInfo("T1", "TWICE"), TokenInfo("T2", "TWICE")])
        for path, (status, detail) in REFUSED.items():
            with pytest.raises(InvalidStatus) as refused:
                await connect(url(server, path))
            response = refused.value.response
            assert response.status_code == status, path
            assert response.headers.get_all("Content-Type") == ["application/problem+json"]
            body = json.loads(response.body or b"")
            assert body["status"] == status
            assert body["detail"].startswith(detail)
            assert len(body["instance"]) <= 300
        assert server.endpoint.handshakes_refused == {404: 13, 422: 3}
        assert server.endpoint.hub.guests == 0
        assert server.streams.hub.rooms == {}


async def test_origins_and_versions_are_judged_as_on_the_endpoint(serve: Serve) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 22 + "=="}
    async with serve(allowed_origins=("https://app.example.org",)) as (server, _), aiohttp.ClientSession() as session:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, "/ws/DOGE"), origin="https://evil.example.org")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connect(url(server, "/ws/DOGE"), origin="https://app.example.org"):  # type: ignore[arg-type]
            pass
        page = url(server, "/ws/DOGE").replace("ws:", "http:", 1)
        async with session.get(page, headers={**upgrade, "Sec-WebSocket-Version": "8"}) as response:
            assert response.status == 426


async def test_aiohttp_reads_along(serve: Serve) -> None:
    async with (
        serve() as (server, source),
        aiohttp.ClientSession() as session,
        session.ws_connect(url(server, "/ws/transactions/DOGE"), compress=15) as client,
    ):
        trade(source, 0, "1.50")
        assert (await client.receive_json(timeout=5))["data"]["price"] == "1.5"


async def test_streams_of_one_token_and_of_several_do_not_mix(serve: Serve) -> None:
    async with (
        serve() as (server, source),
        connect(url(server, "/ws/DOGE")) as doge,
        connect(url(server, "/ws/PEPE")) as pepe,
    ):
        for price in range(1, 51):
            source.trade("DOGE", str(price))
            source.trade("PEPE", str(price + 100))
            source.trade("SHIB", str(price + 200))
        assert [message["price"] for message in await receive(doge, 50)] == list(range(1, 51))
        assert [message["price"] for message in await receive(pepe, 50)] == list(range(101, 151))
