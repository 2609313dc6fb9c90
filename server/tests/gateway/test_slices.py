"""A tick to many clients leaves others their turn, and nobody notices in what comes."""

import asyncio
import json

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tokenwire_server.gateway import endpoint as endpoint_module

from .conftest import Serve

CLIENTS = 150


async def subscribed(url: str) -> ClientConnection:
    socket = await connect(url)
    await socket.recv()
    data = {"action": "subscribe", "tokens": ["DOGE", "PEPE"]}
    await socket.send(json.dumps({"type": "subscription", "data": data}))
    for _ in range(3):
        await socket.recv()
    return socket


@pytest.mark.parametrize("held_bytes", [1 << 30, 2_000])
async def test_everybody_gets_everything_in_order_and_others_have_their_turn(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    monkeypatch.setattr(endpoint_module, "_SLICE_NS", 0)
    monkeypatch.setattr(endpoint_module, "_MAX_HELD_BYTES", held_bytes)
    async with serve(update_interval_s=3600) as (server, source):
        endpoint, loop = server.endpoint, asyncio.get_running_loop()
        sockets = [await subscribed(f"{server.url}?caps=details") for _ in range(CLIENTS)]
        turns: list[int] = []

        def count() -> None:
            turns.append(len(endpoint._held))
            if endpoint._held:
                loop.call_soon(count)

        for round_number in range(3):
            source.trade("DOGE", str(2 + round_number))
            source.trade("PEPE", str(2 + round_number))
            endpoint._tick(round_number + 1, loop.time())
            waiting = len(endpoint._held)
            assert (waiting > CLIENTS // 2) == (held_bytes > 2_000)
            loop.call_soon(count)
            if round_number == 1:  # an answer in the middle of it goes behind
                for socket in sockets[-10:]:
                    await socket.send('{"type":"ping","data":{"echo":"now"}}')
            for socket in sockets:
                async with asyncio.timeout(10):
                    messages = [json.loads(await socket.recv()) for _ in range(2)]
                    assert [m["data"]["price"] for m in messages] == [str(2 + round_number)] * 2
                    if round_number == 1 and socket in sockets[-10:]:
                        answer = json.loads(await socket.recv())
                        assert answer["sequence"] == messages[-1]["sequence"], "it tells of what was sent before"
        assert (len([left for left in turns if left]) > 3) == (held_bytes > 2_000)
        source.trade("DOGE", "9")
        endpoint._tick(4, loop.time())
        endpoint.stop()
        assert not endpoint._held, "what is held goes out before the end"
        for socket in sockets:
            async with asyncio.timeout(10):
                assert json.loads(await socket.recv())["data"]["price"] == "9"
            await socket.close()


async def test_slices_are_short_only_while_requests_come(serve: Serve) -> None:
    async with serve(update_interval_s=3600) as (server, _), aiohttp.ClientSession() as http:
        found = []
        for asks in (False, True, False):
            if asks:
                async with http.get(f"http://127.0.0.1:{server.port}/health") as answer:
                    assert answer.status == 200
            server.endpoint._tick(1, 0.0)
            found.append(server.endpoint._slice_ns)
        assert found[0] == found[2] > 10 * found[1] > 0
