"""The adapter of ccxt: the real library against a venue on loopback, where it is installed."""

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import parse_source
from tokenwire_server.sources.ccxt_source import CcxtSource, read_trade
from tokenwire_server.sources.frames import FormatError

from .conftest import RecordingSink

HAS_CCXT = importlib.util.find_spec("ccxt") is not None
with_ccxt = pytest.mark.skipif(
    not HAS_CCXT, reason="ccxt is not installed: its pins need a virtualenv of their own (constraints-ccxt.txt)"
)

# As documented: https://www.bitstamp.net/websocket/v2/ and https://www.bitstamp.net/api/#tag/Market-info
PAIR = (
    '{"name":"BTC/USD","market_symbol":"btcusd","base_currency":"BTC","base_decimals":8,"counter_currency":"USD",'
    '"counter_decimals":0,"minimum_order_value":"10","trading":"Enabled","instant_order_counter_decimals":2,'
    '"instant_and_market_orders":"Enabled","description":"Bitcoin / U.S. dollar","market_type":"SPOT"}'
)
TRADE = (
    '{"data":{"buy_order_id":1207733769326592,"amount_str":"0.14406384","timestamp":"1583691851",'
    '"microtimestamp":"1583691851934000","id":106833903,"amount":0.14406384,"sell_order_id":1207733765476352,'
    '"price_str":"8302.92","type":0,"price":8302.92},"event":"trade","channel":"live_trades_btcusd"}'
)


class Bitstamp:
    """Answers as the exchange does; connection N is cut after ``lives[N]`` trades."""

    def __init__(self, *lives: int) -> None:
        self.lives = lives
        self.connections = 0
        self.asked: list[Any] = []
        self.url = self.rest_url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Bitstamp"]:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self.rest)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.rest_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with serve(self.talk, "127.0.0.1", 0) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield self
        await runner.cleanup()

    async def rest(self, request: web.Request) -> web.Response:
        texts = {"/v2/markets/": f"[{PAIR}]", "/v2/currencies/": "[]"}
        return web.Response(text=texts.get(request.path, "[]"), content_type="application/json")

    async def talk(self, socket: ServerConnection) -> None:
        life = self.lives[min(self.connections, len(self.lives) - 1)]
        self.connections += 1
        try:
            request = json.loads(await socket.recv())
            self.asked.append(request)
            await socket.send('{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}')
            for number in range(life):
                identifier = 106833903 + 1000 * self.connections + number
                await socket.send(
                    TRADE.replace("106833903", str(identifier)).replace('"type":0', f'"type":{number % 2}')
                )
                await asyncio.sleep(0.05)  # ccxt hands out what came since it was last asked
            if self.connections < len(self.lives):
                return
            await socket.wait_closed()
        except ConnectionClosed:
            pass

    def source(self, *symbols: str) -> CcxtSource:
        def configure(api: Any) -> None:
            api.urls["api"] = {"ws": self.url, "public": self.rest_url, "private": self.rest_url}

        async def no_wait(seconds: float) -> None:
            await asyncio.sleep(0)

        return CcxtSource("bitstamp", symbols, configure=configure, sleep=no_wait)


@asynccontextmanager
async def running(source: CcxtSource, sink: RecordingSink) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run(sink))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@with_ccxt
async def test_trades_of_the_long_tail_arrive(sink: RecordingSink) -> None:
    async with Bitstamp(3).serving() as venue:
        source = venue.source("btc/usd")
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 3, 30)
    assert venue.asked == [{"event": "bts:subscribe", "data": {"channel": "live_trades_btcusd"}}]
    assert [info.address for info in sink.infos] == ["bitstamp:BTC/USD"]
    assert sink.all[0] == Trade(
        "bitstamp:BTC/USD", "106834903", Decimal("8302.92"), Decimal("0.14406384"), Side.BUY, 1_583_691_851_934
    )
    assert [trade.side for trade in sink.all] == [Side.BUY, Side.SELL, Side.BUY]
    assert sink.kinds == [SourceState.STARTING, SourceState.LIVE]
    assert not sink.reasons
    assert source.name == "ccxt:bitstamp"


@with_ccxt
async def test_a_cut_is_told_and_mended(sink: RecordingSink) -> None:
    async with Bitstamp(2, 2).serving() as venue:
        source = venue.source("BTC/USD")
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 4, 30)
    assert [trade.trade_id for trade in sink.all] == ["106834903", "106834904", "106835903", "106835904"]
    assert SourceState.RECONNECTING in sink.kinds
    assert source.reconnects >= 1


@with_ccxt
async def test_an_unknown_market_is_refused_and_the_others_go_on(sink: RecordingSink) -> None:
    async with Bitstamp(1).serving() as venue:
        async with running(venue.source("BTC/USD", "NO/SUCH"), sink):
            await sink.until(lambda: len(sink.all) == 1, 30)
        assert sink.reasons == {"subscribe_refused": 1}
        async with running(venue.source("NO/SUCH"), sink):
            await sink.until(lambda: SourceState.RECONNECTING in sink.kinds, 30)
    assert "it has none of the symbols" in sink.states[-1][1]


@with_ccxt
def test_an_exchange_that_ccxt_cannot_watch_is_the_users_error() -> None:
    with pytest.raises(UserError, match="cannot watch an exchange 'nosuch'"):
        parse_source("ccxt:nosuch:BTC/USDT")


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    monkeypatch.delitem(sys.modules, "ccxt.pro", raising=False)
    with pytest.raises(UserError, match=r'pip install "tokenwire\[server,ccxt\]"'):
        parse_source("ccxt:kucoin:BTC/USDT")


GOOD = {"symbol": "A/B", "id": "7", "price": "1.50", "amount": "2", "side": "sell", "timestamp": 5}


def test_a_trade_as_ccxt_gives_it() -> None:
    trade = read_trade("kucoin", GOOD)
    assert trade == Trade("kucoin:A/B", "7", Decimal("1.50"), Decimal(2), Side.SELL, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"symbol": None}, "bad_symbol"),
        ({"id": None}, "bad_id"),
        ({"price": 1.5}, "bad_price"),
        ({"price": "nan"}, "bad_price"),
        ({"amount": None}, "bad_amount"),
        ({"side": None}, "bad_side"),
        ({"timestamp": None}, "bad_time"),
        ({"timestamp": 5.0}, "bad_time"),
    ],
)
def test_what_cannot_be_used_has_a_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_trade("kucoin", GOOD | changes)
    assert caught.value.reason == reason
