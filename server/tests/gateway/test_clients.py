"""Real sockets and the clients that people use."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tokenwire_schemas.codec import decode_server_message
from tokenwire_server.core.hub import HubConfig

from .conftest import Serve


def subscribe(*tokens: object, action: str = "subscribe") -> str:
    return json.dumps({"type": "subscription", "data": {"action": action, "tokens": list(tokens)}})


async def receive(client: ClientConnection, count: int) -> list[dict[str, Any]]:
    messages = []
    for _ in range(count):
        text = await asyncio.wait_for(client.recv(), 5)
        assert isinstance(text, str)
        decode_server_message(text)
        messages.append(json.loads(text))
    return messages


async def last_words(client: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    messages = []
    try:
        while True:
            messages.append(json.loads(await asyncio.wait_for(client.recv(), 5)))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_websockets_subscribes_and_gets_updates(serve: Serve, compression: str | None) -> None:
    async with serve() as (server, source), connect(server.url, compression=compression) as client:
        (hello,) = await receive(client, 1)
        assert hello["type"] == "connection"
        await client.send(subscribe("DOGE"))
        reply, value = await receive(client, 2)
        assert reply["data"]["tokens"] == ["DOGE-address"]
        assert value["data"]["price"] == "1"
        source.trade("DOGE", "2.50")
        (update,) = await receive(client, 1)
        assert update["data"]["price"] == "2.5"
        assert update["sequence"] == 4


@pytest.mark.parametrize("compress", [0, 15])
async def test_aiohttp_gets_large_and_small_messages(serve: Serve, compress: int) -> None:
    tokens = [f"TOKEN{n}" for n in range(100)]
    async with (
        serve(tokens=tokens) as (server, _),
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url, compress=compress) as client,
    ):
        await client.send_str(subscribe(*tokens))
        messages = [json.loads((await client.receive(5)).data) for _ in range(102)]
        assert [message["sequence"] for message in messages] == list(range(1, 103))
        assert len(messages[1]["data"]["tokens"]) == 100


async def test_the_subprotocol_is_echoed_when_offered(serve: Serve) -> None:
    async with serve() as (server, _), connect(server.url, subprotocols=["other", "token-data.v1"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "token-data.v1"


async def test_other_paths_are_404_and_plain_get_is_426(serve: Serve) -> None:
    async with serve() as (server, _), aiohttp.ClientSession() as session:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url.replace("token-data", "nothing"))
        assert refused.value.response.status_code == 404
        page = server.url.replace("ws:", "http:", 1)
        async with session.get(page) as response:
            assert response.status == 426
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 22 + "=="}
        async with session.get(page, headers={**upgrade, "Sec-WebSocket-Version": "8"}) as response:
            assert response.status == 426
            assert response.headers["Sec-WebSocket-Version"] == "13"


async def test_an_unlisted_origin_is_refused(serve: Serve) -> None:
    async with serve(allowed_origins=("https://app.example.org",)) as (server, _):
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url, origin="https://evil.example.org")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connect(server.url, origin="https://app.example.org"):  # type: ignore[arg-type]
            pass


async def test_the_1001st_connection_is_told_and_closed(serve: Serve) -> None:
    async with serve(HubConfig(max_connections=3)) as (server, _):
        held = [await connect(server.url) for _ in range(3)]
        async with connect(server.url) as surplus:
            messages, code = await last_words(surplus)
        assert code == 1013
        assert [message["type"] for message in messages] == ["error", "connection"]
        assert messages[0]["data"]["code"] == "MAX_CONNECTIONS"
        await held.pop().close()
        async with connect(server.url) as client:
            assert (await receive(client, 1))[0]["data"]["status"] == "connected"
        for client in held:
            await client.close()


async def test_shutdown_tells_everybody_and_closes_1012(serve: Serve) -> None:
    async with serve() as (server, _):
        clients = [await connect(server.url) for _ in range(20)]
        endings = [asyncio.create_task(last_words(client)) for client in clients]
        await asyncio.sleep(0)
    for messages, code in await asyncio.gather(*endings):
        assert code == 1012
        assert messages[-2]["data"]["code"] == "SERVER_SHUTDOWN"
        assert messages[-1]["data"]["status"] == "disconnected"
