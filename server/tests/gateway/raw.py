"""A peer that writes whatever bytes a test wants, and reads frames as they are."""

import asyncio
import contextlib
import json
import ssl
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from tokenwire_server.gateway.handshake import ENDPOINT

TEXT, BINARY, CONT, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def frame(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, mask: bool = True, rsv1: bool = False, length: int = -1
) -> bytes:
    """A client frame, as broken as asked for; ``length`` overrides what the header claims."""
    first = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    size = len(payload) if length < 0 else length
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (bytes(4) if mask else b"") + payload  # a mask of zeros changes nothing


@dataclass
class Frame:
    """A server frame: opcode, whether RSV1 was set, payload as on the wire."""

    opcode: int
    rsv1: bool
    payload: bytes

    def json(self) -> Any:
        data = self.payload
        if self.rsv1:
            data = zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")
        return json.loads(data)


class RawPeer:
    """One TCP connection with a finished handshake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls, port: int, offer: str | None = None, tls: ssl.SSLContext | None = None, path: str = ENDPOINT
    ) -> "RawPeer":
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=2**21)
        extra = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n".encode()
        )
        peer = cls(reader, writer)
        peer.head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
        assert " 101 " in peer.head, peer.head
        return peer

    head = ""

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> Frame | None:
        """The next frame, or None at the end of the stream."""
        try:
            first, second = await asyncio.wait_for(self.reader.readexactly(2), 10)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return Frame(first & 0x0F, bool(first & 0x40), await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def message(self) -> Any:
        """The next text message, decoded."""
        while True:
            frame = await self.read()
            assert frame is not None, "the server closed the connection"
            if frame.opcode == TEXT:
                return frame.json()

    async def ending(self) -> tuple[list[Any], int | None]:
        """Messages up to the end, and the close code (None: no close frame)."""
        messages: list[Any] = []
        code = None
        while (frame := await self.read()) is not None:
            if frame.opcode == TEXT:
                messages.append(frame.json())
            elif frame.opcode == CLOSE:
                code = int.from_bytes(frame.payload[:2], "big")
                self.write(globals()["frame"](frame.payload[:2], CLOSE))
        return messages, code

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()
