"""Peers that mean no good, as handlers for ``asyncio.start_server``. None of them is a Token Data server."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import struct
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HOURS = 7200.0


@contextlib.asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve ``handler`` and give the port. Its tasks end with the block."""
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, host, port)
    try:
        yield port or server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- before or instead of the handshake --------------------------------------------------------------------------
async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and says nothing."""
    await asyncio.sleep(HOURS)


async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and closes."""


async def slow_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte of the answer a second."""
    await reader.readuntil(b"\r\n\r\n")
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 100:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def endless_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A header that never ends."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nX-Endless: ")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers that never end, ten of them a second."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        writer.write(b"X-More: x\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)


async def garbage_instead_of_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Random bytes in the place of HTTP."""
    writer.write(os.urandom(4096) + b"\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(HOURS)


def http(answer: str) -> Handler:
    """Answers every request with ``answer``."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()

    return handler


web_page = http("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\nhello")
redirect = http("HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
wrong_accept = http(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
)
no_upgrade = http("HTTP/1.1 101 Switching Protocols\r\n\r\n")


# --- behind the handshake ----------------------------------------------------------------------------------------
async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, deflate: bool = False) -> None:
    """A correct handshake."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    accept = base64.b64encode(hashlib.sha1((fields.get("sec-websocket-key", "") + _GUID).encode()).digest()).decode()
    extension = ""
    if deflate and "permessage-deflate" in fields.get("sec-websocket-extensions", ""):
        extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    writer.write(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{extension}\r\n".encode()
    )
    await writer.drain()


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as a server sends it."""
    first = bytes([fin << 7 | rsv1 << 6 | opcode])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return first + b"\x7e" + struct.pack("!H", len(payload)) + payload
    return first + b"\x7f" + struct.pack("!Q", len(payload)) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Opcode, payload and the first byte of a client's frame."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await reader.readexactly(8))
    key = await reader.readexactly(4) if second & 0x80 else bytes(4)
    masked = await reader.readexactly(length)
    return first & 0xF, bytes(byte ^ key[place % 4] for place, byte in enumerate(masked)), bytes([first])


async def silent_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A WebSocket that never says anything, not even to a close."""
    await upgrade(reader, writer)
    await asyncio.sleep(HOURS)


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """101, and the end."""
    await upgrade(reader, writer)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The example server of every WebSocket library: what comes goes back, pings are answered, closes too."""
    await upgrade(reader, writer)
    while True:
        opcode, payload, _ = await read_frame(reader)
        writer.write(frame(0xA if opcode == 9 else opcode, payload))
        await writer.drain()
        if opcode == 8:
            return


async def greeting_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An echo that begins with a correct connection message."""
    await upgrade(reader, writer)
    writer.write(frame(1, _connection()))
    while True:
        opcode, payload, _ = await read_frame(reader)
        writer.write(frame(0xA if opcode == 9 else opcode, payload))
        await writer.drain()
        if opcode == 8:
            return


async def greeting_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A correct connection message and nothing more, but for pongs and the answer to a close."""
    await upgrade(reader, writer)
    writer.write(frame(1, _connection()))
    while True:
        opcode, payload, _ = await read_frame(reader)
        if opcode in {8, 9}:
            writer.write(frame(0xA if opcode == 9 else 8, payload))
            await writer.drain()
        if opcode == 8:
            return


async def half_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Not hostile: greets, accepts what is subscribed to and sends values; knows nothing of unsubscribe and errors."""
    await upgrade(reader, writer)
    writer.write(frame(1, _connection()))
    sequence = 1
    while True:
        opcode, payload, _ = await read_frame(reader)
        if opcode in {8, 9}:
            writer.write(frame(0xA if opcode == 9 else 8, payload))
        elif b'"subscribe"' in payload:
            tokens = json.loads(payload)["data"]["tokens"]
            reply = {"action": "subscribe", "tokens": tokens, "status": "success"}
            writer.write(frame(1, _message("subscription", sequence + 1, reply)))
            for number, token in enumerate(tokens, start=sequence + 2):
                writer.write(frame(1, _update(number, token)))
            sequence += 1 + len(tokens)
        await writer.drain()
        if opcode == 8:
            return


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes that are no frames, ten times a second."""
    await upgrade(reader, writer)
    while True:
        writer.write(b"\x7f\xff\x00\x13garbage" * 10)
        await writer.drain()
        await asyncio.sleep(0.1)


async def garbage_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Text messages that are no JSON, ten a second."""
    await upgrade(reader, writer)
    while True:
        writer.write(frame(1, b"{[garbage"))
        await writer.drain()
        await asyncio.sleep(0.1)


def endless(payload: Callable[[int], bytes], pause_s: float, *, greeting: bool = False) -> Handler:
    """Bytes without end, behind the handshake; ``payload`` gets the number of the piece, from 0."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upgrade(reader, writer)
        if greeting:
            writer.write(frame(1, _connection()))
        number = 0
        while True:
            writer.write(payload(number))
            number += 1
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


def endless_fragments(pause_s: float) -> Handler:
    """A message that never ends."""
    return endless(lambda number: frame(0 if number else 1, b"x" * 64, fin=False), pause_s)


def endless_pings(pause_s: float) -> Handler:
    """Pings only."""
    return endless(lambda number: frame(9, b"ping"), pause_s)


def endless_messages(pause_s: float) -> Handler:
    """Valid messages without end, whatever is asked."""
    return endless(lambda number: frame(1, _update(number + 2)), pause_s, greeting=True)


async def huge_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Announces a frame of 2^62 bytes, and sends a few of them."""
    await upgrade(reader, writer)
    writer.write(b"\x81\x7f" + struct.pack("!Q", 2**62) + b"x" * 1000)
    await writer.drain()
    await asyncio.sleep(HOURS)


async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A small compressed message that inflates to 64 MiB."""
    await upgrade(reader, writer, deflate=True)
    writer.write(frame(1, _BOMB, rsv1=True))
    await writer.drain()
    await asyncio.sleep(HOURS)


def _deflated(payload: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


_BOMB = _deflated(b'"' + b"x" * (64 * 1_048_576) + b'"')


def _connection() -> bytes:
    return _message(
        "connection", 1, {"status": "connected", "connectionId": str(uuid.uuid4()), "maxSubscriptions": 100}
    )


def _update(sequence: int, token: str = "X") -> bytes:
    volume = {"h24": "1", "h1": "1", "m5": "1"}
    return _message("token_update", sequence, {"address": token, "price": "1", "marketCap": "1", "volume": volume})


def _message(kind: str, sequence: int, data: dict[str, Any]) -> bytes:
    timestamp = int(asyncio.get_running_loop().time() * 1000) + EPOCH_MS
    return json.dumps({"type": kind, "sequence": sequence, "timestamp": timestamp, "data": data}).encode()


EPOCH_MS = 1_764_547_200_000
"""What the wall clock of a virtual run begins with."""
