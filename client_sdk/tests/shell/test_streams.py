"""Trades, bars, books and indicators over a real server, and over one whose REST side follows a script."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from tokenwire import SubscriptionError, TokenClient, TokenwireError
from tokenwire.rest import Rest, RestError
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.market.trades import Side
from tokenwire_server.market.trades import Trade as MarketTrade

from ..live import TIME_MS, Peer, quick, real_server
from .market_peer import DOGE, client_of, numbers, row, scripted, take, trading, wire


async def test_trades_come_each_once_and_in_order_through_cut_sockets() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        stream = client.trades("DOGE")
        while not stream.addresses:
            await asyncio.sleep(0.01)
        for round_number in range(5):
            for _ in range(20):
                source.trade("DOGE", "1.5")
                source.trade("PEPE", "2")
            await asyncio.sleep(0.06)
            if round_number in (1, 3):
                client.drop_connections()
        trades = await take(stream, 100)
        assert numbers(trades) == list(range(2, 102)), "the first one was before"
        assert {trade.missed for trade in trades} == {0}
        assert trades[0].name == trades[0].symbol == "DOGE"
        assert (trades[0].address, trades[0].price, trades[0].side) == (DOGE, "1.5", "Buy")
        assert trades[0].trade_id is not None
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_what_was_missed_with_the_session_is_brought_back() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        stream = client.trades("DOGE")
        while not stream.addresses:
            await asyncio.sleep(0.01)
        source.trade("DOGE", "1")
        assert numbers(await take(stream, 1)) == [2]
        for count, missed in ((50, 0), (1_500, 500)):  # the second time more than the server keeps at hand
            hub = server.pipeline.hub
            for session in list(hub.registry):
                hub.destroy(session)
            client.drop_connections()
            for _ in range(count):
                source.trade("DOGE", "2")
            trades = await take(stream, count - missed)
            assert trades[-1].number == source.trades - 2
            assert [trade.missed for trade in trades] == [missed, *[0] * (count - missed - 1)]


async def test_streams_of_several_tokens_and_names_share_one_connection() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        both = client.trades(["DOGE", "PEPE"])
        again = client.trades(DOGE)
        while len(both.addresses) < 2 or not again.addresses:
            await asyncio.sleep(0.01)
        assert len(server.pipeline.hub.links) == 2, "values, and trades"
        source.trade("DOGE", "1")
        source.trade("PEPE", "1")
        assert {trade.name for trade in await take(both, 2)} == {"DOGE", "PEPE"}
        assert [trade.name for trade in await take(again, 1)] == [DOGE]
        await both.aclose()
        source.trade("DOGE", "1")
        assert numbers(await take(again, 1)) == [3]
        await again.aclose()
        while len(server.pipeline.hub.links) > 1:
            await asyncio.sleep(0.01)
        assert server.pipeline.hub.topics.subscriptions == 0


async def test_a_start_after_a_known_trade_fetches_what_came_since() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        for _ in range(9):
            source.trade("DOGE", "1")
        stream = client.trades("DOGE", after=4)
        trades = await take(stream, 6)
        assert numbers(trades) == [5, 6, 7, 8, 9, 10]
        assert all(trade.fetched for trade in trades)
        source.trade("DOGE", "1")
        assert numbers(await take(stream, 1)) == [11]


async def test_bars_with_history_and_what_closed_during_an_outage() -> None:
    async with real_server(hub=HubConfig(resume_window_ms=1)) as (server, source), client_of(server) as client:
        minute = TIME_MS // 60_000 * 60_000

        def trade(number: int, price: str) -> None:
            time_ms = minute + number * 60_000 + 1_000
            sink = source.sink
            assert sink is not None
            sink.clock(source.name, time_ms)
            sink.trades(source.name, [MarketTrade(DOGE, f"m{number}", Decimal(price), Decimal(2), Side.BUY, time_ms)])

        for number in range(1, 6):
            trade(number, str(number))
        stream = client.klines("DOGE", "1m", history=3)
        bars = await take(stream, 3)
        assert [(bar.close, bar.closed, bar.fetched) for bar in bars] == [
            ("3", True, True),
            ("4", True, True),
            ("5", False, True),
        ]
        assert bars[0].open_ms == minute + 180_000
        assert bars[0].close_ms == minute + 240_000
        assert (bars[0].turnover, bars[0].trades, bars[0].buy_volume) == ("6", 1, "2")
        trade(6, "6")
        closed, running = await take(stream, 2)
        assert (closed.close, closed.closed, closed.trades) == ("5", True, 1)
        assert (running.close, running.closed) == ("6", False)
        client.drop_connections()
        for number in range(7, 10):
            trade(number, str(number))
        seen: dict[int, Any] = {}
        while len([bar for bar in seen.values() if bar.closed]) < 3:
            for bar in await take(stream, 1):
                seen[bar.open_ms] = bar
        assert [bar.close for bar in seen.values() if bar.closed] == ["6", "7", "8"]


async def test_indicators_at_each_bar() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        stream = client.indicators("DOGE", "1s", "sma:2", "macd:3:6:2")
        while not stream.bars.addresses:
            await asyncio.sleep(0.01)
        for number in range(1, 5):
            sink = source.sink
            assert sink is not None
            time_ms = TIME_MS + number * 1_000
            sink.clock(source.name, time_ms)
            trade = MarketTrade(DOGE, f"i{number}", Decimal(number), Decimal(1), Side.BUY, time_ms)
            sink.trades(source.name, [trade])
        at: dict[int, Any] = {}
        while TIME_MS + 3_000 not in at:
            for row in await take(stream, 1):
                at[row.open_ms] = row
        row = at[TIME_MS + 3_000]
        assert (row.name, row.interval, row.closed) == ("DOGE", "1s", True)
        assert row.values == {"sma:2": 2.5, "macd:3:6:2": None}


@pytest.mark.parametrize(
    ("channel", "code"),
    [("klines:7x", "UNKNOWN_CHANNEL"), ("book:10", "UNKNOWN_CHANNEL"), ("trades", "TOKEN_NOT_FOUND")],
)
async def test_what_there_is_not_is_refused(channel: str, code: str) -> None:
    async with real_server() as (server, _), client_of(server) as client:
        stream: Any
        if channel == "trades":
            stream = client.trades("NOPE")
        elif channel.startswith("klines"):
            stream = client.klines("DOGE", "7x")
        else:
            stream = client.book("DOGE")
        with pytest.raises(SubscriptionError) as caught:
            await take(stream, 1)
        assert caught.value.code == code


def test_wrong_arguments() -> None:
    async def run() -> None:
        client = TokenClient("ws://127.0.0.1:9")
        with pytest.raises(TokenwireError, match="CLIENT_CLOSED"):
            client.trades("DOGE")
        async with client:
            with pytest.raises(ValueError, match="after"):
                client.trades(["DOGE", "PEPE"], after=1)
            with pytest.raises(ValueError, match="history"):
                client.klines("DOGE", history=1_001)
            with pytest.raises(ValueError, match="indicator"):
                client.indicators("DOGE", "1m")
            with pytest.raises(ValueError, match="token"):
                client.trades([])

    asyncio.run(run())


# --- a server that follows a script --------------------------------------------------------------------------------


async def test_a_hole_is_filled_over_http_and_what_is_gone_is_counted() -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, json.dumps({"data": [row(number) for number in (5, 6, 7, 8, 9)], "nextCursor": None}).encode()

    async with scripted(trading(1, 2, "cut", 8, 9), answer) as url, TokenClient(url, config=quick()) as client:
        trades = await take(client.trades("DOGE"), 7)
        assert numbers(trades) == [1, 2, 5, 6, 7, 8, 9]
        assert [trade.missed for trade in trades] == [0, 0, 2, 0, 0, 0, 0]
        assert [trade.fetched for trade in trades] == [False, False, *[True] * 5]
        assert asked == [f"/api/v1/trades/{DOGE}?after=2&limit=1000"]


@pytest.mark.parametrize(
    "answer",
    [(404, b"<html>"), (200, b"no json"), (200, b'{"data": 5}'), (200, b'{"data": [{"number": "x"}, 7]}'), (302, b"")],
)
async def test_a_hole_that_nobody_fills_is_owned_up_to(
    answer: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 0.001)
    async with scripted(trading(1, 4), lambda path: answer) as url, TokenClient(url, config=quick()) as client:
        trades = await take(client.trades("DOGE"), 2)
        assert [(trade.number, trade.missed) for trade in trades] == [(1, 0), (4, 2)]


async def test_a_server_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 0.001)
    answers = [(429, b""), (503, b'{"detail":"later"}'), (200, json.dumps({"data": [row(2), row(3)]}).encode())]
    async with (
        scripted(trading(1, 4), lambda path: answers.pop(0)) as url,
        TokenClient(url, config=quick()) as client,
    ):
        assert numbers(await take(client.trades("DOGE"), 4)) == [1, 2, 3, 4]


async def test_another_lineage_begins_anew() -> None:
    async def script(peer: Peer) -> None:
        if "channels" not in peer.request.path:
            await peer.welcome(capabilities=["details"])
            await peer.stay()
            return
        await peer.welcome(capabilities=["details", "channels"], stream=f"s-{peer.number}")
        await peer.accept()
        await peer.say("transaction", wire(100 // peer.number))
        await asyncio.sleep(0.05)
        peer.socket.transport.abort()

    async with scripted(script, lambda path: (404, b"")) as url, TokenClient(url, config=quick()) as client:
        first, second = await take(client.trades("DOGE"), 2)
        assert first.missed == 0
        assert second.missed is None
        assert second.number < first.number


async def test_a_server_without_channels_is_said_to_be_so() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async with scripted(script, lambda path: (404, b"")) as url, TokenClient(url, config=quick()) as client:
        with pytest.raises(TokenwireError, match="CHANNELS_NOT_GRANTED"):
            await take(client.trades("DOGE"), 1)


async def test_rest_says_what_is_wrong() -> None:
    async with scripted(trading(), lambda path: (422, b'{"detail":"from is later than to"}')) as url:
        with pytest.raises(RestError, match="from is later than to") as caught:
            await Rest(url + "/api/v1/ws/token-data", {}).get("klines", "DOGE")
        assert caught.value.status == 422
    with pytest.raises(RestError, match="no answer over HTTP"):
        await Rest("ws://127.0.0.1:1", {}).get("tokens")


async def test_rest_has_numbers_exactly() -> None:
    async with scripted(trading(), lambda path: (200, b'{"price":0.10000000000000000001}')) as url:
        assert await Rest(url, {}).get("tokens") == {"price": Decimal("0.10000000000000000001")}
