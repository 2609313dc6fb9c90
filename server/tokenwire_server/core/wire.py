"""Bytes on the wire: WebSocket frames around numbered envelopes, plain or compressed once for everybody.

A server frame is ``first byte | length (1, 3 or 9 bytes) | payload`` (RFC 6455 5.2, never masked), and its
payload an envelope, of which only the number differs between clients::

    81 7E 01 04  {"type":"token_update","sequence":  17  ,"timestamp":1700000000000,"data":  {…}  }
    \\__header__/ \\________ head, per tick _________/ \\n/ \\______ head, per tick _______/ \\__body, shared__/

A compressed message (RFC 7692, RSV1 set) is any series of DEFLATE blocks, so the head with its personal number
travels as a *stored* block in front of the body's blocks, which were compressed once and are shared::

    C1 7E ll ll  | 00 nn nn ~n ~n  head in clear | deflate(body + "}"), sync-flushed, without 00 00 FF FF |
                   \\_ stored block, no BFINAL __/ \\______________ the same bytes for every client _______/

The zstd form (I-64) is a binary message built the same way, its head in a raw Zstandard block::

    82 7E ll ll  | 00 | 28 B5 2F FD 20 nn  bb bb bb  head in clear | Zstandard frame of (body + "}") |
                  flag \\_ magic, sizes _/ \\_ block _/               \\_____ shared by all clients _____/

All forms are a template with one ``%d``; every number of the same digit count yields the same lengths, so a
template serves all clients of that digit count, and a row of templates is filled by one ``bytes % tuple``.
"""

import struct
from abc import ABC, abstractmethod
from typing import Final

import zstandard
from isal import isal_zlib

from tokenwire_schemas.limits import COMPRESSION_THRESHOLD_BYTES

__all__ = [
    "Deflater",
    "Encoder",
    "Zstd",
    "close_frame",
    "digits",
    "frame",
    "frame_template",
    "next_power",
    "ping_frame",
]

_TEXT: Final = 0x81
_TEXT_DEFLATED: Final = 0xC1
_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_PING: Final = 0x89

_DEFLATE_LEVEL: Final = 1  # of ISA-L: a sixth of the time of zlib's level 6 for 3 % more bytes
_ZSTD_LEVEL: Final = 1
_ZSTD_FULL: Final = b"\x00"
_ZSTD_SINGLE_SEGMENT: Final = b"\x28\xb5\x2f\xfd\x20"  # magic, then: one-byte content size, no window, no checksum
_CACHED_BODIES: Final = 64
_MAX_REASON_BYTES: Final = 123

_LENGTH_16 = struct.Struct("!BBH")
_LENGTH_64 = struct.Struct("!BBQ")
_STORED = struct.Struct("<BHH")


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _LENGTH_16.pack(first, 126, length)
    return _LENGTH_64.pack(first, 127, length)


def ping_frame() -> bytes:
    """A ping without payload (RFC 6455 5.5.2)."""
    return bytes((_PING, 0))


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 5.5.1); a reason over 123 bytes is cut at a character."""
    text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore").encode()
    return bytes((_CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text


def digits(number: int) -> int:
    """How many decimal digits ``number`` (>= 0) has."""
    return len(str(number))


def next_power(digit_count: int) -> int:
    """The first number with more than ``digit_count`` digits."""
    return int(10**digit_count)


class Encoder(ABC):
    """Compresses bodies, each distinct one once (the last 64 are remembered), and frames them."""

    __slots__ = ("_cache",)

    def __init__(self) -> None:
        self._cache: dict[bytes, bytes] = {}

    def compressed(self, body: bytes) -> bytes:
        """The shared, compressed form of ``body``, the end of a message from its ``data`` on."""
        cached = self._cache.get(body)
        if cached is None:
            cached = self._compress(body)
            if len(self._cache) >= _CACHED_BODIES:
                del self._cache[next(iter(self._cache))]
            self._cache[body] = cached
        return cached

    @abstractmethod
    def _compress(self, body: bytes) -> bytes: ...

    @abstractmethod
    def header(self, head_length: int, compressed_length: int) -> bytes:
        """What stands before a head of ``head_length`` bytes in clear."""


class Deflater(Encoder):
    """permessage-deflate: sync-flushed DEFLATE blocks without BFINAL and without the final empty block's bytes."""

    __slots__ = ()

    def _compress(self, body: bytes) -> bytes:
        deflate = isal_zlib.compressobj(_DEFLATE_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
        return (deflate.compress(body) + deflate.flush(isal_zlib.Z_SYNC_FLUSH))[:-4]

    def header(self, head_length: int, compressed_length: int) -> bytes:
        """Frame header and the head of a stored block."""
        stored = _STORED.pack(0, head_length, head_length ^ 0xFFFF)
        return _header(_TEXT_DEFLATED, len(stored) + head_length + compressed_length) + stored


class Zstd(Encoder):
    """The ``zstd`` capability, always in its full form: every message decodes on its own."""

    __slots__ = ("_compressor",)

    def __init__(self) -> None:
        super().__init__()
        self._compressor = zstandard.ZstdCompressor(_ZSTD_LEVEL, write_content_size=True)

    def _compress(self, body: bytes) -> bytes:
        return self._compressor.compress(body)

    def header(self, head_length: int, compressed_length: int) -> bytes:
        """Frame header, flag, and a Zstandard frame header with one raw block (heads are far below 256 bytes)."""
        block = (1 | head_length << 3).to_bytes(3, "little")  # the last block, raw
        before = b"".join((_ZSTD_FULL, _ZSTD_SINGLE_SEGMENT, bytes((head_length,)), block))
        return _header(_BINARY, len(before) + head_length + compressed_length) + before


def frame_template(kind: bytes, timestamp: int, data: bytes, digit_count: int, encoder: Encoder | None) -> bytes:
    """A data frame of type ``kind`` with ``%d`` where a number of ``digit_count`` digits belongs.

    ``data`` is the encoded payload object, ``timestamp`` Unix ms. With an ``encoder``, messages over 1 KB are
    compressed and smaller ones are not (Spec, Performance); without, none is. Fill it with ``template % n``.
    """
    before = b'{"type":"%b","sequence":' % kind
    after = b',"timestamp":%d,"data":' % timestamp
    head_length = len(before) + digit_count + len(after)
    length = head_length + len(data) + 1
    if encoder is None or length <= COMPRESSION_THRESHOLD_BYTES:
        return _escape(_header(_TEXT, length) + before) + b"%d" + _escape(after + data + b"}")
    body = encoder.compressed(data + b"}")
    return _escape(encoder.header(head_length, len(body)) + before) + b"%d" + _escape(after + body)


def frame(kind: bytes, number: int, timestamp: int, data: bytes, encoder: Encoder | None) -> bytes:
    """One finished data frame; arguments as in :func:`frame_template`."""
    return frame_template(kind, timestamp, data, digits(number), encoder) % number


def _escape(literal: bytes) -> bytes:
    return literal.replace(b"%", b"%%")
