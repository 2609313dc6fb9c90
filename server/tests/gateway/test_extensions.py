"""Capabilities over real sockets: negotiation, resume, replay, zstd, single versions."""

import asyncio
import json
import socket
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
import pytest
from loadtests.faults.tap import ZstdDecoder
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tokenwire_schemas import limits
from tokenwire_server.core.grants import Offer
from tokenwire_server.gateway.handshake import parse_offer

from .conftest import Serve
from .test_clients import subscribe

CAPS = "caps=batch,resume,details"


readers: WeakKeyDictionary[ClientConnection, ZstdDecoder] = WeakKeyDictionary()


async def get(client: ClientConnection) -> dict[str, Any]:
    message = await asyncio.wait_for(client.recv(), 5)
    if isinstance(message, bytes):
        if client not in readers:
            readers[client] = ZstdDecoder()
        message = readers[client](message).decode()
        assert len(message) > 1024
    decoded: dict[str, Any] = json.loads(message)
    return decoded


async def until(client: ClientConnection, kind: str) -> dict[str, Any]:
    while (message := await get(client))["type"] != kind:
        pass
    return message


@pytest.mark.parametrize("place", ["header", "query"])
async def test_a_cut_session_goes_on_where_it_was(serve: Serve, place: str) -> None:
    async with serve() as (server, source):
        async with connect(f"{server.url}?{CAPS}") as client:
            hello = await get(client)
            await client.send(subscribe("DOGE", "PEPE"))
            reply, values = await get(client), await get(client)
            assert [reply["sequence"], values["sequence"]] == [2, 3]
            source.trade("DOGE", "2")
            update = await get(client)
            client.transport.abort()
        source.trade("PEPE", "3")
        secret = hello["data"]["session"]
        headers = {"X-Tokenwire-Session": secret} if place == "header" else {}
        query = f"&session={secret}" if place == "query" else ""
        async with connect(f"{server.url}?{CAPS}&seq=3&attempt=2{query}", additional_headers=headers) as client:
            again = await get(client)
            assert again["data"]["resumed"] is True
            assert again["data"]["replayFrom"] == 4
            assert again["sequence"] == 4
            assert await get(client) == update
            news = await get(client)
            assert news["sequence"] == 5
            assert [(item["address"], item["price"]) for item in news["data"]["updates"]] == [("PEPE-address", "3")]


async def test_taking_over_closes_the_old_socket(serve: Serve) -> None:
    async with serve() as (server, _), connect(f"{server.url}?{CAPS}") as old:
        secret = (await get(old))["data"]["session"]
        async with connect(
            f"{server.url}?{CAPS}&seq=1&attempt=1", additional_headers={"X-Tokenwire-Session": secret}
        ) as new:
            assert (await get(new))["data"]["resumed"] is True
            with pytest.raises(ConnectionClosed) as closed:
                await get(old)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4500


async def test_zstd_declines_deflate(serve: Serve) -> None:
    tokens = [f"TOKEN{n}" for n in range(100)]
    async with serve(tokens=tokens) as (server, source), connect(f"{server.url}?caps=zstd,batch") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert (await get(client))["data"]["capabilities"] == ["batch", "zstd"]
        await client.send(subscribe(*tokens))
        assert len((await get(client))["data"]["tokens"]) == 100
        assert len((await until(client, "token_batch"))["data"]["updates"]) == 100
        source.trade("TOKEN7", "5")
        prices: set[str] = set()
        while "5" not in prices:
            prices |= {item["price"] for item in (await until(client, "token_batch"))["data"]["updates"]}


async def test_every_version_is_sent_without_waiting_for_the_tick(serve: Serve) -> None:
    async with (
        serve(update_interval_s=60) as (server, source),
        connect(f"{server.url}?{CAPS}&delivery=every") as client,
    ):
        await get(client)
        await client.send(subscribe("DOGE"))
        await until(client, "token_batch")
        versions: list[int] = []
        for price in range(2, 40):
            source.trade("DOGE", str(price))
        while len(versions) < 38:
            batch = await until(client, "token_batch")
            versions += [item["version"] for item in batch["data"]["updates"]]
        assert versions == list(range(versions[0], versions[0] + 38))


async def test_what_cannot_be_read_of_the_wishes_counts_as_missing(serve: Serve) -> None:
    async with serve() as (server, _):
        for query in ("caps=&seq=x", "caps=nonsense", "caps=%ff%fe", "&".join(f"caps={n}" for n in range(99)), "seq=1"):
            async with connect(f"{server.url}?{query}") as client:
                assert "capabilities" not in (await get(client))["data"]
        for seq in ("-1", "1.5", "x", "9" * 5_000, "", "%31%30%30"):
            async with connect(f"{server.url}?{CAPS}", max_size=None) as client:
                secret = (await get(client))["data"]["session"]
            headers = {"X-Tokenwire-Session": secret}
            async with connect(f"{server.url}?{CAPS}&seq={seq}", additional_headers=headers) as client:
                assert (await get(client))["data"]["reason"] in ("position_ahead", "unknown_session")


async def test_several_session_headers_are_refused(serve: Serve) -> None:
    async with serve() as (server, _), aiohttp.ClientSession() as session:
        headers = [
            ("X-Tokenwire-Session", "a"),
            ("X-Tokenwire-Session", "b"),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        async with session.get(server.url.replace("ws", "http", 1), headers=headers) as response:
            assert response.status == 400


async def test_secrets_are_long_and_fresh_and_never_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    secrets = set()
    async with serve() as (server, _):
        for _ in range(20):
            async with connect(f"{server.url}?{CAPS}") as client:
                secrets.add((await get(client))["data"]["session"])
                client.transport.abort()
        secret = secrets.pop()
        async with connect(f"{server.url}?{CAPS}&seq=1&session={secret}") as client:
            await get(client)
    assert len(secrets) == 19
    assert all(len(secret) >= 22 for secret in secrets)
    assert secret not in caplog.text


async def test_metrics_tell_of_sessions(serve: Serve) -> None:
    async with serve() as (server, _):
        async with connect(f"{server.url}?{CAPS}") as client:
            secret = (await get(client))["data"]["session"]
            await client.send(subscribe("DOGE"))
            await until(client, "token_batch")
            client.transport.abort()
        headers = {"X-Tokenwire-Session": secret}
        async with connect(f"{server.url}?{CAPS}&seq=1&attempt=1", additional_headers=headers) as client:
            await until(client, "token_batch")
            await client.send('{"type":"ack","data":{"sequence":2}}')
            await client.send('{"type":"replay","data":{"from":1,"to":3}}')
            assert (await until(client, "gap"))["data"]["to"] == 2
            text = server.metrics.exposition()[0].decode()
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert rows['tokenwire_sessions_resumable{state="attached"}'] == "1.0"
    assert rows['tokenwire_sessions_resumable{state="detached"}'] == "0.0"
    assert rows['tokenwire_resumes_total{outcome="resumed"}'] == "1.0"
    assert float(rows["tokenwire_replay_hits_total"]) >= 2
    assert rows["tokenwire_replay_misses_total"] == "2.0"
    assert rows["tokenwire_acks_received_total"] == "1.0"
    assert float(rows["tokenwire_replay_frames_held"]) >= 1
    assert float(rows["tokenwire_replay_held_bytes"]) > 0
    assert float(rows["tokenwire_ack_lag_frames"]) >= 1


async def test_metrics_tell_of_channels_and_books(serve: Serve) -> None:
    async with serve() as (server, source), connect(f"{server.url}?caps=channels") as client:
        await get(client)
        data = {"action": "subscribe", "tokens": ["DOGE"], "channels": ["trades", "klines:1m"]}
        await client.send(json.dumps({"type": "subscription", "data": data}))
        await until(client, "subscription")
        source.trade("DOGE", "2")
        await until(client, "transaction")
        text = server.metrics.exposition()[0].decode()
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert rows["tokenwire_channel_sets"] == "1.0"
    assert rows["tokenwire_channel_subscriptions"] == "2.0"
    assert float(rows["tokenwire_channel_events_total"]) >= 1
    assert rows["tokenwire_order_books"] == "0.0"
    assert rows["tokenwire_order_books_crossed_total"] == "0.0"


def test_wishes_are_read_from_the_query() -> None:
    from websockets.datastructures import Headers

    offer = parse_offer("/x?caps=batch,resume&caps=zstd&delivery=every&session=s&seq=5&attempt=3", Headers())
    assert offer == Offer(frozenset({"batch", "resume", "zstd"}), "every", "s", 5, 3)
    assert parse_offer("/x?session=s", Headers({"X-Tokenwire-Session": "h"})).session == "h", "the header wins"
    assert parse_offer("/x", Headers()) == Offer()
    assert parse_offer("/x?seq=%C2%B2", Headers()).position is None


async def test_a_slow_reader_that_resumes_is_not_written_its_whole_replay(serve: Serve) -> None:
    """The full buffer is told to the connection although the handshake is not over."""
    tokens = [f"TOKEN{number:03d}{'x' * 30}" for number in range(100)]
    async with serve(tokens=tokens) as (server, source):
        url = f"{server.url}?caps=batch,resume"
        async with connect(url, compression=None) as client:
            secret = (await get(client))["data"]["session"]
            await client.send(subscribe(*tokens))
            for price in range(2, 30):
                for token in tokens:
                    source.trade(token, str(price))
                await asyncio.sleep(0.05)
            client.transport.abort()
        hub = server.pipeline.hub
        while hub.links:
            await asyncio.sleep(0.01)
        (session,) = hub.registry
        assert session.ring is not None
        assert session.ring.octets > 300_000
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", server.port))
        path = url.split(str(server.port), 1)[1]
        reader.sendall(
            f"GET {path}&session={secret}&seq={session.ring.floor} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        while not hub.links:
            await asyncio.sleep(0.01)
        (link,) = hub.links
        assert not link.writable
        assert link.socket.get_write_buffer_size() < 3 * limits.WRITE_HIGH_WATER_BYTES
        reader.close()
