"""Streams over several connections, and names whose meaning changes."""

import asyncio
import logging
from typing import Any

import pytest

from tokenwire import TokenClient
from tokenwire.channels import Trade
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.market.trades import TokenInfo

from ..live import Peer, address_of, quick, real_server
from .market_peer import DOGE, client_of, nothing, numbered, scripted, take, wire


async def greet(peer: Peer, stream: str, **more: Any) -> None:
    await peer.welcome(capabilities=["details", "channels"], stream=stream, **more)


def of(trades: list[Trade], address: str) -> list[tuple[int | None, int | None]]:
    return [(trade.number, trade.missed) for trade in trades if trade.address == address]


async def test_names_that_one_connection_has_no_room_for_are_heard_from_others() -> None:
    names = ["DOGE", "PEPE", "SHIB"]
    async with real_server(hub=HubConfig(max_subscriptions=2)) as (server, source), client_of(server) as client:
        stream = client.trades(names)
        async with asyncio.timeout(10):
            while len(stream.addresses) < 3:
                await asyncio.sleep(0.01)
        for name in names:
            source.trade(name, "1")
        assert {trade.symbol for trade in await take(stream, 3)} == set(names)


async def test_each_connection_has_a_lineage_of_its_own() -> None:
    is_there, is_back = asyncio.Event(), asyncio.Event()
    addresses: dict[int, str] = {}

    async def script(peer: Peer, number: int) -> None:
        await greet(peer, "a" if number == 1 else "b")
        address = addresses[number] = address_of((await peer.accept())[0])
        if number == 1:
            await peer.say("transaction", wire(5_000, address))
            await is_there.wait()
            peer.socket.transport.abort()
        elif number == 2:
            await peer.say("transaction", wire(70, address))
            is_there.set()
            await is_back.wait()
            await peer.say("transaction", wire(71, address))
            await peer.stay()
        else:  # the first one comes back to the server of the second, which began to number later
            await peer.say("transaction", wire(1, address))
            await peer.say("transaction", wire(2, address))
            is_back.set()
            await peer.stay()

    async with scripted(numbered(script), nothing) as url, TokenClient(url, config=quick()) as client:
        trades = await take(client.trades([f"N{number}" for number in range(150)]), 5)
        assert of(trades, addresses[1]) == [(5_000, 0), (1, None), (2, 0)]
        assert addresses[3] == addresses[1]
        assert of(trades, addresses[2]) == [(70, 0), (71, 0)], "the break of the other one does not concern it"


async def test_a_token_that_moves_to_another_server_begins_anew() -> None:
    taken = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        if number == 1:
            await greet(peer, "a", maxSubscriptions=2)
            for name in await peer.accept():
                await peer.say("transaction", wire(10, address_of(name)))
            await taken.wait()
            peer.socket.transport.abort()
            return
        await greet(peer, "a" if number == 2 else "b", maxSubscriptions=1)
        held = address_of((await peer.accept(1))[0])
        await peer.say("transaction", wire(11 if number == 2 else 3, held))
        while True:
            asked = await peer.hear("subscription")
            answer = {name: asked[name] for name in ("action", "requestId", "tokens")}
            addresses = [address_of(token) for token in asked["tokens"]]
            if asked["action"] == "unsubscribe" or addresses == [held]:
                await peer.say("subscription", answer | {"tokens": addresses, "status": "success"})
                continue
            refusal = [{"token": token, "code": "SUBSCRIPTION_LIMIT"} for token in asked["tokens"]]
            await peer.say("subscription", answer | {"status": "error", "rejected": refusal})

    async with scripted(numbered(script), nothing) as url, TokenClient(url, config=quick()) as client:
        stream = client.trades(["DOGE", "PEPE"])
        trades = await take(stream, 2)
        taken.set()
        trades += await take(stream, 2)
        assert of(trades, DOGE) == [(10, 0), (11, 0)]
        assert of(trades, "PEPE-address") == [(10, 0), (3, None)]


async def test_a_name_that_is_known_only_later_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tokenwire")
    async with real_server(tokens=("DOGE",)) as (server, source), client_of(server) as client:
        stream = client.trades(["DOGE", "LATE"])
        while not stream.rejected:
            await asyncio.sleep(0.01)
        assert stream.rejected == {"LATE": "TOKEN_NOT_FOUND"}
        assert [record for record in caplog.records if "trades: TOKEN_NOT_FOUND" in record.message]
        assert source.sink is not None
        source.sink.tokens(source.name, [TokenInfo("LATE-address", "LATE")])
        for session in list(server.pipeline.hub.registry):
            server.pipeline.hub.destroy(session)
        client.drop_connections()
        hub = server.pipeline.hub
        while not any(topic.address == "LATE-address" for session in hub.registry for topic in session.topics.topics):
            await asyncio.sleep(0.01)
        source.trade("LATE", "1")
        (trade,) = await take(stream, 1)
        assert (trade.name, trade.address) == ("LATE", "LATE-address")
        assert stream.addresses == {"DOGE": DOGE, "LATE": "LATE-address"}
        assert stream.rejected == {}


async def test_a_symbol_that_gets_another_address_is_heard_under_that() -> None:
    async def script(peer: Peer, number: int) -> None:
        await greet(peer, "s")
        if number == 1:
            await peer.accept()
            await peer.say("transaction", wire(1))
            peer.socket.transport.abort()
            return
        while True:
            asked = await peer.hear("subscription")
            answer = {"action": "subscribe", "requestId": asked["requestId"]}
            if asked["tokens"] == [DOGE]:
                refusal = [{"token": DOGE, "code": "TOKEN_NOT_FOUND"}]
                await peer.say("subscription", answer | {"tokens": [DOGE], "status": "error", "rejected": refusal})
            else:
                await peer.say("subscription", answer | {"tokens": ["new"], "status": "success"})
                await peer.say("transaction", wire(7, "new"))

    async with scripted(numbered(script), nothing) as url, TokenClient(url, config=quick()) as client:
        stream = client.trades("DOGE")
        trades = await take(stream, 2)
        assert [(trade.address, trade.number, trade.missed) for trade in trades] == [(DOGE, 1, 0), ("new", 7, 0)]
        assert stream.addresses == {"DOGE": "new"}


async def test_wrong_names_open_no_connection() -> None:
    def sockets() -> int:
        return sum(task.get_name() == "tokenwire socket" for task in asyncio.all_tasks())

    async with real_server() as (server, _), client_of(server) as client:
        await client.wait_connected()
        for make in (client.trades, client.klines, client.book):
            with pytest.raises(ValueError, match="at least one"):
                make([])
        assert sockets() == 1


async def test_a_close_that_is_cancelled_leaves_nothing() -> None:
    done, deaf = asyncio.Event(), []

    async def script(peer: Peer) -> None:
        await peer.welcome(capabilities=["details", "channels"], stream="s")
        peer.socket.transport.pause_reading()  # it never answers the close
        deaf.append(peer)
        await done.wait()
        peer.socket.transport.abort()

    async with scripted(script, nothing) as url:
        client = TokenClient(url, config=quick())
        client.open()
        client.trades("DOGE")
        while len(deaf) < 2:
            await asyncio.sleep(0.01)
        await client.wait_connected()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("tokenwire")] == []
        finally:
            done.set()
