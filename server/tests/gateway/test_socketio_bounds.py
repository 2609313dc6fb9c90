"""Socket.IO clients that mean harm or read slowly, and what they leave behind: nothing."""

import asyncio
import gc
import json
import logging
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tokenwire_schemas.limits import WRITE_HIGH_WATER_BYTES
from tokenwire_server.app import Running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.gateway import socketio_face
from tokenwire_server.gateway.socketio_protocol import SocketIOProtocol

from .conftest import ManualSource, Serve
from .test_socketio import client, gone, price, socket, until

TOKENS = [f"TOKEN{number}" for number in range(1000)]


async def ending(peer: Any) -> tuple[list[str], int]:
    """Everything up to the close, and its code."""
    texts = []
    try:
        async with asyncio.timeout(10):
            while True:
                texts.append(await peer.recv())
    except ConnectionClosed as closed:
        return texts, closed.rcvd.code if closed.rcvd else 1006


@asynccontextmanager
async def sleeper(server: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client in the room of everything that reads nothing any more, behind a socket into which little fits."""
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 8_192)
    narrow.connect(("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    try:
        writer.write(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        for text in (b"40", b'42["join","all"]'):
            writer.write(Frame(Opcode.TEXT, text).serialize(mask=True))
        await reader.readuntil(b'42["tokens_update"')
        writer.transport.pause_reading()
        yield reader, writer
    finally:
        writer.transport.abort()


def trade_all(source: ManualSource, price: str) -> None:
    for symbol in source.symbols:
        source.trade(symbol, price)


async def test_who_reads_slowly_gets_the_newest_value_and_holds_no_more_than_a_buffer(serve: Serve) -> None:
    async with (
        serve(socketio=True, tokens=TOKENS) as (server, source),
        client(server) as (sio, events),
        sleeper(server) as (reader, writer),
    ):
        noise = Frame(Opcode.PING, b"x" * 100).serialize(mask=True) * 1000
        noise += Frame(Opcode.TEXT, b'421["join","DOGE"]').serialize(mask=True) * 20
        await sio.emit("join", "TOKEN7")
        face = server.socketio
        assert face is not None
        slow = list(face.sockets)[1]
        for number in range(2, 40):
            trade_all(source, str(number))
            await price(events, str(number))
            if number == 30:
                full = slow.transport.get_write_buffer_size()
                writer.write(noise)  # it asks, and does not read the answers
            assert slow.transport.get_write_buffer_size() < 4 * WRITE_HIGH_WATER_BYTES
            assert slow.backlog is not None
            assert slow.backlog.qsize() == 0
        assert not slow.writable.is_set()
        assert slow.transport.get_write_buffer_size() <= full
        writer.transport.resume_reading()
        received = bytearray()
        async with asyncio.timeout(10):
            while received.count(b'"price":"39"') < len(TOKENS):
                more = await reader.read(65_536)
                assert more, "it was closed"
                received += more
        assert received.count(b"tokens_update") < 38 * 4


async def test_who_does_not_read_at_all_is_cut_and_nobody_else_notices(serve: Serve) -> None:
    async with serve(socketio=True, tokens=TOKENS) as (server, source), client(server) as (sio, events):
        face = server.socketio
        assert face is not None
        face.stall_ms = 300
        await sio.emit("join", "TOKEN7")
        number = 1
        async with sleeper(server), asyncio.timeout(10):
            while server.endpoint.hub.guests == 2:
                number += 1
                trade_all(source, str(number))
                await price(events, str(number))
        assert number > 2
        assert face.cut == 1
        metrics = server.metrics.exposition()[0].decode()
        assert "tokenwire_socketio_clients 1.0" in metrics
        assert "tokenwire_socketio_clients_cut_total 1.0" in metrics


async def test_garbage_is_answered_and_ends_after_the_tenth_without_a_traceback(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = ["", "x", "4", "2", "42", "42[", "42/admin,[1]", "451-[0]", "44{}", '42{"a":1}', b"\x00\xff"]
    async with serve(socketio=True) as (server, _):
        for first in garbage:
            async with socket(server) as peer:
                await peer.send(first)
                texts = [await peer.recv()]
                assert json.loads(texts[0][2:])[0] == "error"
                for _ in range(9):
                    await peer.send("nonsense")
                assert (await ending(peer))[1] == 4502
        await gone(server)
        assert server.endpoint.defects == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_client_that_begins_with_garbage_or_says_nothing_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketio_face, "NAMESPACE_TIMEOUT_MS", 200)
    async with serve(socketio=True) as (server, _):
        path = f"ws://127.0.0.1:{server.port}/socket.io/?EIO=4&transport=websocket"
        for begin, code in (("nonsense", 4502), (None, 1008), ("40/admin,", 1008), ("3", 1008), ("1", 1000)):
            async with connect(path, compression=None) as peer:
                if begin is not None:
                    await peer.send(begin)
                assert (await ending(peer))[1] == code
        async with socket(server) as peer:
            await peer.send("41")  # it left the namespace, and does not come back
            assert (await ending(peer))[1] == 1008
        await gone(server)


async def test_who_answers_pings_stays_and_who_does_not_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketio_face, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(socketio_face, "PING_TIMEOUT_S", 0.3)
    async with serve(socketio=True) as (server, _), socket(server) as peer:
        for _ in range(6):
            assert await asyncio.wait_for(peer.recv(), 5) == "2"
            await peer.send("3")
        assert await asyncio.wait_for(ending(peer), 5) == (["2"], 1000)
        await gone(server)


async def test_a_flood_is_dropped_and_told(serve: Serve) -> None:
    async with serve(socketio=True) as (server, _), socket(server) as peer:
        for _ in range(200):
            await peer.send('42["join","nope"]')
        codes = []
        async with asyncio.timeout(10):
            while "RATE_LIMITED" not in codes:
                codes.append(json.loads(str(await peer.recv())[2:])[1]["code"])
        assert codes.count("TOKEN_NOT_FOUND") < 60


async def test_a_message_that_is_too_large_ends_the_connection(serve: Serve) -> None:
    async with serve(socketio=True) as (server, _), socket(server) as peer:
        await peer.send('42["join","' + "x" * 140_000 + '"]')
        assert (await ending(peer))[1] == 1009
        await gone(server)


async def test_too_many_empty_fragments_end_the_connection(serve: Serve) -> None:
    async with serve(socketio=True) as (server, _), sleeper(server) as (_, writer):
        face = server.socketio
        assert face is not None
        writer.write(Frame(Opcode.TEXT, b"4", fin=False).serialize(mask=True))
        writer.write(Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 5_000)
        await gone(server)
        assert face.cut == 1


async def test_a_shutdown_tells_everybody_and_closes_so_that_clients_come_back(serve: Serve) -> None:
    async with (
        serve(socketio=True, drain_s=0.5) as (server, _),
        client(server) as (sio, events),
        socket(server) as peer,
    ):
        await sio.call("join", "DOGE")
        started = asyncio.get_running_loop().time()
        server.server.should_exit = True
        texts, code = await ending(peer)
        assert code == 1012
        assert json.loads(texts[-1][2:])[1]["code"] == "SERVER_SHUTDOWN"
        assert (await until(events, "error"))["code"] == "SERVER_SHUTDOWN"
        assert await until(events, "disconnect") in ("transport close", "transport error")
        await server.serving
        assert asyncio.get_running_loop().time() - started < 3


async def test_a_shutdown_does_not_wait_for_who_does_not_read(serve: Serve) -> None:
    hub_config = HubConfig(close_timeout_ms=200)
    async with serve(hub_config, socketio=True, tokens=TOKENS, drain_s=0) as (server, source), sleeper(server):
        face = server.socketio
        assert face is not None
        (slow,) = face.sockets
        while slow.writable.is_set():
            trade_all(source, str(source.trades))
            await asyncio.sleep(0.06)
        started = asyncio.get_running_loop().time()
        server.server.should_exit = True
        await server.serving
        assert asyncio.get_running_loop().time() - started < 2
        assert server.endpoint.hub.guests == 0


async def test_three_hundred_clients_come_and_go_and_leave_nothing(serve: Serve) -> None:
    async with serve(socketio=True) as (server, _):
        face = server.socketio
        assert face is not None
        before = len(asyncio.all_tasks())

        async def visit(number: int) -> None:
            async with socket(server) as peer:
                await peer.send('421["join","DOGE","all"]')
                await peer.recv()
                if number % 2:
                    peer.transport.abort()

        for _ in range(3):
            await asyncio.gather(*(visit(number) for number in range(100)))
        await gone(server)
        async with asyncio.timeout(5):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0.01)
        assert not face.sockets
        library = face._server
        kept = (library.manager.rooms, library.eio.sockets, library.environ, face._peers, face._owners, face._ready)
        assert [len(each) for each in kept] == [0] * len(kept)
        assert len(face._rooms) == 0
        gc.collect()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, SocketIOProtocol)]
