"""The client's socket: how it is opened, and the mistakes that show below the messages."""

import asyncio
import zlib
from typing import Any, Final

from tokenwire_conformance.figures import COMPRESSION_THRESHOLD_BYTES, CONNECTION_TIMEOUT_S
from tokenwire_conformance.wire.frames import Frame, Opcode, encode_frame
from tokenwire_conformance.wire.handshake import (
    DEFLATE_OFFER,
    HandshakeError,
    ResponseReader,
    check_upgrade,
    deflate_of,
    new_key,
    request_bytes,
)
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.messages import compress
from tokenwire_conformance.wire.target import parse_target
from tokenwire_conformance.wire.wire import Clock, Wire

__all__ = ["ClientWire", "OpenFailedError", "open_wire"]

_FOR_EVER_S: Final = 86_400.0


class OpenFailedError(Exception):
    """There is no connection."""

    def __init__(self, message: str, status: int | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status: Final = status
        """Of the HTTP answer, if there was one."""
        self.retry_after_s: Final = retry_after_s


class ClientWire(Wire):
    """A connection of the reference client."""

    faults: frozenset[str] = frozenset()
    last_message_s: float = 0.0

    async def request(self, text: str) -> None:
        """Send a message."""
        payload = text.encode()
        if "binary-requests" in self.faults:
            await self.send_frame(Opcode.BINARY, payload)
            return
        small = len(payload) <= COMPRESSION_THRESHOLD_BYTES
        if "compresses-small" in self.faults and self.deflate is not None:
            await self.send_raw(encode_frame(Opcode.TEXT, compress(payload), mask=True, rsv=4))
        else:
            await self.send_text(text, compressed=not small)

    async def _take(self, frame: Frame) -> None:
        if "no-inflate-context" in self.faults and self.deflate is not None and not frame.is_control:
            self._assembler._inflater = zlib.decompressobj(-15)
        await super()._take(frame)
        if not frame.is_control:
            self.last_message_s = self.last_byte_s
        if frame.opcode is Opcode.CLOSE and "no-close-answer" not in self.faults:
            # A peer that does not end its side of the socket is not waited for.
            self._loop.call_later(CONNECTION_TIMEOUT_S, self._writer.transport.abort)


async def open_wire(
    url: str, clock: Clock, faults: frozenset[str], query: str, headers: tuple[tuple[str, str], ...], opened: Any
) -> ClientWire:
    """Connect and shake hands; ``opened`` is told as soon as there is a TCP connection, with its writer.

    Raises:
        OpenFailedError: There is no connection within 5 s.
    """
    limit_s = _FOR_EVER_S if "no-connect-timeout" in faults else CONNECTION_TIMEOUT_S
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(limit_s):
            target = parse_target(url)
            reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls)
            opened(writer)
            key = new_key()
            if "wrong-path" in faults:
                target = target.at("/")
            request = request_bytes(target.request_target(query), target.authority, key, headers)
            writer.write(request)
            answer = ResponseReader()
            while (response := answer.feed(await reader.read(65_536))) is None:
                pass
        if response.status != 101:
            after = response.header("retry-after") or ""
            wait_s = float(after) if after.isdigit() else 0.0
            raise OpenFailedError(f"HTTP {response.status}", response.status, wait_s)
        if problem := check_upgrade(response, key):
            raise OpenFailedError(problem)
        deflate = deflate_of(response.header("sec-websocket-extensions"))
    except TimeoutError as error:
        if writer is not None and "leaves-opening-open" not in faults:
            writer.transport.abort()
        raise OpenFailedError("no answer in time") from error
    except (HandshakeError, OSError) as error:
        if writer is not None:
            writer.transport.abort()
        raise OpenFailedError(str(error)) from error
    except OpenFailedError:
        if writer is not None:
            writer.transport.abort()
        raise
    log = LogBuilder(1, url, asyncio.get_running_loop().time())
    wire = ClientWire(reader, writer, client=True, log=log, clock=clock, deflate=deflate, early=response.rest)
    wire.faults = faults
    wire.last_message_s = wire.opened_s
    wire.answers_pings = "no-pong" not in faults
    wire.answers_close = "no-close-answer" not in faults
    return wire


def offer() -> tuple[tuple[str, str], ...]:
    """The headers that offer compression."""
    return (("Sec-WebSocket-Extensions", DEFLATE_OFFER),)
