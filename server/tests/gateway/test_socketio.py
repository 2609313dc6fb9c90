"""Socket.IO clients, real ones, against a running server."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import socketio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tokenwire_server.app import Running, running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings

from .conftest import ManualSource, Serve
from .test_clients import receive, subscribe
from .test_javascript import NODE_TESTS, run

Events = asyncio.Queue[tuple[str, Any]]


def url(server: Running) -> str:
    return f"http://127.0.0.1:{server.port}"


async def until(events: Events, wanted: str) -> Any:
    """The data of the next event with this name; others before it are dropped."""
    async with asyncio.timeout(10):
        while True:
            event, data = await events.get()
            if event == wanted:
                return data


async def price(events: Events, wanted: str) -> Any:
    """The next ``token_update`` with this price."""
    while (data := await until(events, "token_update"))["price"] != wanted:
        pass
    return data


@asynccontextmanager
async def client(server: Running, **options: Any) -> AsyncIterator[tuple[socketio.AsyncClient, Events]]:
    """python-socketio's own client, and the queue of all that it hears."""
    events: Events = asyncio.Queue()
    sio = socketio.AsyncClient(reconnection=False)
    for name in ("token_update", "tokens_update", "error", "disconnect"):
        sio.on(name, lambda *data, name=name: events.put_nowait((name, data[0] if data else None)))
    await sio.connect(url(server), transports=["websocket"], **options)
    try:
        yield sio, events
    finally:
        await sio.disconnect()


async def gone(server: Running) -> None:
    async with asyncio.timeout(10):
        while server.endpoint.hub.guests:
            await asyncio.sleep(0.01)


async def test_rooms_give_the_data_of_the_v1_wire_in_its_order(serve: Serve) -> None:
    async with serve(socketio=True) as (server, source), client(server) as (sio, events), connect(server.url) as raw:
        while not server.endpoint.hub.stats.ticks:  # what changed before is no news any more
            await asyncio.sleep(0.01)
        answer = await sio.call("join", ["DOGE", "PEPE"])
        assert answer == {"accepted": ["DOGE-address", "PEPE-address"], "rejected": []}
        first = [await until(events, "token_update") for _ in range(2)]
        await raw.send(subscribe("DOGE", "PEPE"))
        wire = [message["data"] for message in (await receive(raw, 4))[2:]]
        assert first == wire
        for number in range(2, 6):
            source.trade("DOGE", f"0.{number}")
            source.trade("SHIB", "9")
            (message,) = await receive(raw, 1)
            assert message["data"] == await until(events, "token_update")
            assert message["data"]["price"] == f"0.{number}"
        assert await sio.call("leave", {"tokens": "doge"}) == {"accepted": ["DOGE-address"], "rejected": []}
        source.trade("DOGE", "7")
        source.trade("PEPE", "8")
        assert (await until(events, "token_update"))["address"] == "PEPE-address"


async def test_the_answer_comes_before_the_values(serve: Serve) -> None:
    async with serve(socketio=True) as (server, source), socket(server) as peer:
        for _ in range(10):  # more would be a flood
            source.trade("DOGE", "2")
            await peer.send('427["join","DOGE"]')
            while not (text := await peer.recv()).startswith("43"):
                assert '"DOGE' not in text
            assert text.startswith('437[{"accepted":["DOGE-address"]')
            assert str(await peer.recv()).startswith('42["token_update"')
            await peer.send('428["leave","DOGE"]')
            while not (text := await peer.recv()).startswith("438"):
                pass


async def test_partial_failure_is_told_in_the_answer_and_as_error_events(serve: Serve) -> None:
    async with serve(HubConfig(max_subscriptions=1), socketio=True) as (server, _), client(server) as (sio, events):
        answer = await sio.call("subscribe", ["nope", "DOGE", 7, "PEPE"])
        assert answer["accepted"] == ["DOGE-address"]
        codes = [(each["token"], each["code"]) for each in answer["rejected"]]
        assert codes == [("nope", "TOKEN_NOT_FOUND"), ("null", "INVALID_TOKEN"), ("PEPE", "SUBSCRIPTION_LIMIT")]
        told = [await until(events, "error") for _ in range(3)]
        assert [each["code"] for each in told] == [code for _, code in codes]
        assert {each["level"] for each in told} == {"error"}
        assert (await until(events, "token_update"))["address"] == "DOGE-address"
        answer = await sio.call("join")
        assert answer["error"]["code"] == (await until(events, "error"))["code"] == "INVALID_MESSAGE"
        assert (await sio.call("unheard of"))["error"]["code"] == "UNKNOWN_TYPE"


async def test_the_room_all_has_every_token_in_batches(serve: Serve) -> None:
    tokens = [f"TOKEN{number}" for number in range(600)]
    async with serve(socketio=True, tokens=tokens) as (server, source), client(server) as (sio, events):
        assert await sio.call("join", "all") == {"accepted": ["all"], "rejected": []}
        batches = [await until(events, "tokens_update") for _ in range(3)]
        assert [len(batch) for batch in batches] == [250, 250, 100]
        assert len({value["address"] for batch in batches for value in batch}) == 600
        source.trade("TOKEN7", "7")
        source.trade("TOKEN8", "8")
        changed = await until(events, "tokens_update")
        assert {value["address"]: value["price"] for value in changed} == {
            "TOKEN7-address": "7",
            "TOKEN8-address": "8",
        }


@pytest.mark.node
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(
    not (NODE_TESTS / "node_modules" / "socket.io-client").is_dir(), reason="run `npm ci` in server/tests/node first"
)
async def test_the_npm_client_joins_gets_updates_and_leaves(serve: Serve) -> None:
    async with serve(socketio=True) as (server, source):

        async def trade() -> None:
            for number in range(1000):
                source.trade("DOGE", f"0.5{number}")
                await asyncio.sleep(0.03)

        trading = asyncio.create_task(trade())
        lines, _ = await run("node", "socketio_client.mjs", url(server), "3", "DOGE", "nope")
        trading.cancel()
        events = [json.loads(line) for line in lines]
        assert [event for event, _ in events[:2]] == ["answer", "error"]
        assert events[0][1]["accepted"] == ["DOGE-address"]
        assert events[1][1]["code"] == "TOKEN_NOT_FOUND"
        values = [data for event, data in events if event == "token_update"]
        assert len({value["price"] for value in values[:3]}) == 3
        assert list(values[0]) == ["address", "price", "marketCap", "volume"]
        assert events[-1] == ["disconnect", "io client disconnect"]
        await gone(server)


async def test_these_sockets_take_places_of_all_connections(serve: Serve) -> None:
    async with serve(HubConfig(max_connections=2), socketio=True) as (server, _):
        async with client(server), connect(server.url) as raw:
            await receive(raw, 1)
            with pytest.raises(InvalidStatus) as caught:
                async with socket(server):
                    pass
            assert caught.value.response.headers["Retry-After"] == "5"
            assert server.endpoint.handshakes_refused == {503: 1}
            async with connect(server.url) as surplus:
                (error,) = await receive(surplus, 1)
                assert error["data"]["code"] == "MAX_CONNECTIONS"
        await gone(server)
        async with client(server) as (sio, _), client(server):
            assert (await sio.call("join", "DOGE"))["accepted"]


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("EIO=4&transport=websocket", {"Origin": "https://evil.example"}, 403),
        ("EIO=3&transport=websocket", {}, 400),
        ("transport=websocket", {}, 400),
        ("EIO=4&transport=polling", {}, 400),
        ("EIO=4&transport=websocket&sid=abc", {}, 400),
        ("&" * 100, {}, 400),
    ],
)
async def test_a_handshake_that_does_not_fit_is_refused_with_a_reason(
    serve: Serve, query: str, headers: dict[str, str], status: int
) -> None:
    async with (
        serve(socketio=True, allowed_origins=("https://app.example",)) as (server, _),
        aiohttp.ClientSession() as http,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(f"{url(server)}/socket.io/?{query}", headers=headers)
        assert caught.value.status == status
        assert server.endpoint.hub.guests == 0
        page = {"Origin": "https://app.example"}
        async with http.ws_connect(f"{url(server)}/socket.io/?EIO=4&transport=websocket", headers=page) as good:
            assert (await good.receive_str()).startswith('0{"sid"')


async def test_the_polling_transport_is_refused_with_a_reason_that_pages_can_read(serve: Serve) -> None:
    async with serve(socketio=True) as (server, _), aiohttp.ClientSession() as http:
        page = {"Origin": "https://app.example"}
        async with http.get(f"{url(server)}/socket.io/?EIO=4&transport=polling", headers=page) as response:
            assert response.status == 400
            assert response.headers["access-control-allow-origin"] == "*"
            assert 'transports: ["websocket"]' in (await response.json())["detail"]


async def test_without_the_setting_there_is_nothing(serve: Serve) -> None:
    async with serve() as (server, _), aiohttp.ClientSession() as http:
        async with http.get(f"{url(server)}/socket.io/?EIO=4&transport=polling") as response:
            assert response.status == 404
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(f"{url(server)}/socket.io/?EIO=4&transport=websocket")
        assert caught.value.status == 404


async def test_a_missing_extra_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socketio", None)
    monkeypatch.delitem(sys.modules, "tokenwire_server.gateway.socketio_face", raising=False)
    with pytest.raises(UserError, match=r"pip install 'tokenwire\[socketio\]'"):
        async with running(Settings(port=0, socketio=True), [ManualSource()]):
            pass


@asynccontextmanager
async def socket(server: Running, **options: Any) -> AsyncIterator[Any]:
    """A bare WebSocket that has entered the main namespace."""
    path = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
    async with connect(path, compression=None, ping_interval=None, **options) as peer:
        assert str(await peer.recv()).startswith("0{")
        await peer.send("40")
        assert str(await peer.recv()).startswith("40{")
        yield peer
