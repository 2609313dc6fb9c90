"""What really crossed a wire: a byte stream of WebSocket frames, decoded into messages.

Knows RFC 6455 framing (masked or not, fragmented or not), permessage-deflate with and without context take-over
(RFC 7692), and the binary messages of the ``zstd`` extension (``schemas/README.md``). It judges nothing and trusts
nothing from the code under test: it shares no line with the server or the SDK.
"""

import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import zstandard

__all__ = ["CLOSE", "PING", "PONG", "TEXT", "HandshakeTap", "Tap", "TapError", "WireMessage", "ZstdDecoder"]

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_FIN: Final = 0x80
_RSV1: Final = 0x40
_MASKED: Final = 0x80
_TAIL: Final = b"\x00\x00\xff\xff"
_MAX_BYTES: Final = 1_048_576
_MAX_HEAD_BYTES: Final = 65_536
_LENGTH_16: Final = struct.Struct("!H")
_LENGTH_64: Final = struct.Struct("!Q")
_ZSTD_LAYOUT: Final = struct.Struct("!BHI")


class TapError(ValueError):
    """The bytes are no WebSocket stream of this protocol."""


class WireMessage(NamedTuple):
    """A whole message or control frame. ``end`` is the offset in the stream behind its last byte.

    ``content`` is the text in clear, whatever carried it; of a control frame its payload. ``binary`` is the payload
    of a binary message as it was.
    """

    opcode: int
    content: bytes
    end: int
    compressed: bool = False
    binary: bytes | None = None


class ZstdDecoder:
    """Binary messages of the ``zstd`` extension to their text; one for each socket, since they continue a stream."""

    def __init__(self) -> None:
        self._stream: zstandard.ZstdDecompressionObj | None = None

    def __call__(self, payload: bytes) -> bytes:
        """The text in ``payload``.

        Raises:
            TapError: the layout is not that of ``schemas/README.md``, or the text would exceed 1 MiB.
        """
        import zstandard

        if len(payload) < _ZSTD_LAYOUT.size or payload[0] > 1:
            raise TapError(f"zstd: {len(payload)} bytes, beginning with {payload[:1].hex() or 'none'}")
        flag, head_length, body_length = _ZSTD_LAYOUT.unpack_from(payload)
        if head_length + body_length > _MAX_BYTES:
            raise TapError("zstd: more than 1 MiB")
        body_start = _ZSTD_LAYOUT.size + head_length
        if flag == 0:
            self._stream = zstandard.ZstdDecompressor().decompressobj()
        if self._stream is None or self._stream.eof:
            raise TapError("zstd: nothing that could be continued")
        try:
            body = self._stream.decompress(payload[body_start:])
        except zstandard.ZstdError as error:
            raise TapError(f"zstd: {error}") from None
        if len(body) != body_length or self._stream.unused_data:
            raise TapError(f"zstd: a body of {len(body)} bytes instead of {body_length}")
        return payload[_ZSTD_LAYOUT.size : body_start] + body


class Tap:
    """Feed it the bytes of one direction of one socket; it returns the messages that are complete.

    ``deflate``: permessage-deflate was negotiated; ``takeover``: with a window that outlives messages.
    """

    __slots__ = ("_buffer", "_deflate", "_inflater", "_offset", "_parts", "_takeover", "_zstd")

    def __init__(self, *, deflate: bool = False, takeover: bool = True) -> None:
        self._buffer = b""
        self._offset = 0
        self._deflate = deflate
        self._takeover = takeover
        self._inflater: zlib._Decompress | None = None
        self._zstd: ZstdDecoder | None = None
        self._parts: tuple[int, list[bytes]] | None = None  # first byte and pieces of an unfinished message

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[WireMessage]:
        """Add ``data``; the messages that are complete now.

        Raises:
            TapError: the stream breaks the protocol.
        """
        buffer = self._buffer + data if self._buffer else data
        size = len(buffer)
        messages: list[WireMessage] = []
        position = 0
        while size - position >= 2:
            first = buffer[position]
            length = buffer[position + 1]
            start = position + 2
            mask = b""
            if length >= 126:
                wide = length & 0x7F
                if wide == 126:
                    if size - position < 4:
                        break
                    (wide,) = _LENGTH_16.unpack_from(buffer, start)
                    start += 2
                elif wide == 127:
                    if size - position < 10:
                        break
                    (wide,) = _LENGTH_64.unpack_from(buffer, start)
                    start += 8
                if length & _MASKED:
                    mask = buffer[start : start + 4]
                    start += 4
                length = wide
            end = start + length
            if end > size:
                break
            payload = buffer[start:end]
            position = end
            if mask:
                payload = _unmask(payload, mask)
            if first == _FIN | TEXT and self._parts is None:  # by far the most frequent one
                messages.append(WireMessage(TEXT, payload, self._offset + end))
            else:
                message = self._other(first, payload, self._offset + end)
                if message is not None:
                    messages.append(message)
        self._offset += position
        self._buffer = buffer[position:]
        return messages

    def _other(self, first: int, payload: bytes, end: int) -> WireMessage | None:
        opcode = first & 0x0F
        if first & 0x30 or (first & _RSV1 and not self._deflate):
            raise TapError(f"reserved bits in first byte {first:#04x}")
        if opcode >= CLOSE:
            if opcode > PONG or not first & _FIN or len(payload) > 125:
                raise TapError(f"control frame {first:#04x} of {len(payload)} bytes")
            return WireMessage(opcode, payload, end)
        if opcode == 0:
            if self._parts is None:
                raise TapError("a continuation of nothing")
            begun, pieces = self._parts
            pieces.append(payload)
        elif opcode in (TEXT, BINARY):
            if self._parts is not None:
                raise TapError("a message within a message")
            begun, pieces = first, [payload]
        else:
            raise TapError(f"opcode {opcode}")
        if not first & _FIN:
            self._parts = (begun, pieces)
            return None
        self._parts = None
        return self._finish(begun, b"".join(pieces), end)

    def _finish(self, first: int, content: bytes, end: int) -> WireMessage:
        compressed = bool(first & _RSV1)
        if compressed:
            content = self._inflate(content)
        if first & 0x0F == BINARY:
            if self._zstd is None:
                self._zstd = ZstdDecoder()
            return WireMessage(TEXT, self._zstd(content), end, True, content)
        return WireMessage(TEXT, content, end, compressed)

    def _inflate(self, content: bytes) -> bytes:
        inflater = self._inflater
        if inflater is None:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            text = inflater.decompress(content + _TAIL, _MAX_BYTES + 1)
        except zlib.error as error:
            raise TapError(f"deflate: {error}") from None
        if len(text) > _MAX_BYTES:
            raise TapError("deflate: over 1 MiB inflated")
        self._inflater = inflater if self._takeover and not inflater.eof else None
        return text


def _unmask(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return payload
    length = len(payload)
    key = (mask * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")


class HandshakeTap:
    """The server's direction of a socket from its first byte: the HTTP answer first, then frames.

    ``on_head`` gets the answer's head. What was negotiated is read from it.
    """

    def __init__(self, on_head: Callable[[str], None] | None = None) -> None:
        self.head: str | None = None
        self._on_head = on_head
        self._buffer = b""
        self._tap: Tap | None = None

    def feed(self, data: bytes) -> list[WireMessage]:
        """As :meth:`Tap.feed`; nothing comes of an answer other than 101."""
        if self._tap is None:
            if self.head is not None:
                return []
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise TapError("an endless HTTP head")
                return []
            self.head = self._buffer[:end].decode("latin-1")
            data = self._buffer[end + 4 :]
            self._buffer = b""
            if self._on_head is not None:
                self._on_head(self.head)
            if " 101 " not in self.head.partition("\r\n")[0]:
                return []
            extensions = " ".join(
                line.partition(":")[2].lower()
                for line in self.head.split("\r\n")
                if line.lower().startswith("sec-websocket-extensions:")
            )
            self._tap = Tap(
                deflate="permessage-deflate" in extensions,
                takeover="server_no_context_takeover" not in extensions,
            )
        return self._tap.feed(data)
