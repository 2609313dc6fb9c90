"""Compression for many readers: what all of them get is compressed once, although each message has its own number.

Two forms, for permessage-deflate (RFC 7692) and for the ``zstd`` capability (I-64) alike:

*Standing alone*: decodes with nothing before it. Compressed once per distinct body.

*In a window*: refers back to the bodies before, as far as the window reaches (32 KiB, zstd 128 KiB). One compressor
serves every reader whose decompressor was given the same bodies. The heads between the bodies differ from reader to
reader, but not in length: deflate's references are distances, so the compressor is fed as many bytes that occur in
no body, and what it makes of those is thrown away, since a head travels as it is. The first body of a window has
nothing before it, and so stands alone::

    reader's window   | head 17 | body A | head 18 | body B | head 19 | …      what a reader decoded
    other's window    | head 3  | body A | head 4  | body B | head 5  | …      the same distances
    compressor's      |         | body A | ....... | body B | ....... | …      dots: never matched

zstd's heads are outside of its stream, so that there is nothing to fill in.
"""

import struct
import zlib
from abc import ABC, abstractmethod
from typing import Final, NamedTuple, Protocol

import zstandard
from isal import isal_zlib

from tokenwire_schemas.limits import MAX_REMEMBERED_BODIES, MAX_REMEMBERED_BODY_BYTES

__all__ = ["BLOCK_END", "MANY_READERS", "Deflater", "Encoder", "Piece", "SharedWindow", "Zstd"]

MANY_READERS: Final = 100  # from so many on the smaller result of a slower compressor is worth its time

_FAST_LEVEL: Final = 1  # of ISA-L: a fifth of the time of zlib's level 6 for 6 to 13 % more bytes
_THOROUGH_LEVEL: Final = 6
BLOCK_END: Final = b"\x00\x00\xff\xff"  # of the empty block that a flush makes; left out at a message's end
_FULL_WINDOW_BITS: Final = 15
_FILLER: Final = b"\x00"  # occurs in no JSON text
_ZSTD_FAST_LEVEL: Final = 1
_ZSTD_THOROUGH_LEVEL: Final = 9  # with matches of 6 bytes and more: 16 % smaller than level 1, for four times the time
_ZSTD_THOROUGH_MATCH: Final = 6
_ZSTD_TABLE_LOG: Final = 15  # enough for such a window, in 360 KB instead of the level's 10 MB
_ZSTD_WINDOW_LOG: Final = 17
_BEGINS: Final = 0
_CONTINUES: Final = 1

_STORED = struct.Struct("<BHH")
_ZSTD_PREFIX = struct.Struct("!BHI")


class Piece(NamedTuple):
    """A compressed body. ``begins``: it stands alone. ``length``: of the body, in bytes, before compression (0 where
    it was joined of several, whose encoder does not ask)."""

    data: bytes
    length: int
    begins: bool


class SharedWindow(ABC):
    """One compressor and the bodies that it remembers, for readers who were given exactly these."""

    __slots__ = ("_is_empty",)

    def __init__(self) -> None:
        self._is_empty = True

    def compress(self, body: bytes, head_length: int) -> Piece:
        """The next body, which goes behind a head of ``head_length`` bytes. The first one stands alone."""
        begins = self._is_empty
        if not begins:
            self._skip(head_length)
        self._is_empty = False
        return Piece(self._next(body), len(body), begins)

    @abstractmethod
    def _skip(self, length: int) -> None:
        """Make room for bytes that the readers have and the compressor does not know."""

    @abstractmethod
    def _next(self, body: bytes) -> bytes: ...


class Encoder(ABC):
    """A way to compress. ``shares``: readers can be given references to what they got before; ``joins``: what stands
    alone may be joined with the like, ``BLOCK_END`` between them."""

    __slots__ = ("_cache", "joins", "shares")

    def __init__(self, *, shares: bool, joins: bool) -> None:
        self.shares = shares
        self.joins = joins
        self._cache: dict[bytes, Piece] = {}

    def alone(self, body: bytes) -> Piece:
        """``body``, the end of a message from its ``data`` on, compressed so that it decodes with nothing before it.

        Each distinct body is compressed once; the last 64 are remembered, but for large ones, which are seldom
        anybody else's.
        """
        piece = self._cache.get(body)
        if piece is None:
            piece = Piece(self.compress(body), len(body), True)
            if len(body) > MAX_REMEMBERED_BODY_BYTES:
                return piece
            if len(self._cache) >= MAX_REMEMBERED_BODIES:
                del self._cache[next(iter(self._cache))]
            self._cache[body] = piece
        return piece

    @abstractmethod
    def window(self, readers: int) -> SharedWindow:
        """A new, empty window for so many readers."""

    @abstractmethod
    def prefix(self, head_length: int, piece: Piece) -> bytes:
        """What stands in a message's payload before a head of ``head_length`` bytes, which ``piece`` follows."""

    @abstractmethod
    def compress(self, text: bytes) -> bytes:
        """``text`` so that it decodes with nothing before it; nothing is remembered."""


class _Compress(Protocol):
    """What the standard library's compressor and ISA-L's have in common."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


def _flushed(deflate: _Compress, body: bytes) -> bytes:
    """Blocks without BFINAL that end at a byte, without the last bytes of an empty block (RFC 7692 7.2.1)."""
    return (deflate.compress(body) + deflate.flush(zlib.Z_SYNC_FLUSH))[: -len(BLOCK_END)]


class _DeflateWindow(SharedWindow):
    __slots__ = ("_deflate",)

    def __init__(self, deflate: _Compress) -> None:
        super().__init__()
        self._deflate = deflate

    def _skip(self, length: int) -> None:
        _flushed(self._deflate, _FILLER * length)

    def _next(self, body: bytes) -> bytes:
        return _flushed(self._deflate, body)


class Deflater(Encoder):
    """permessage-deflate for clients that keep a window of ``window_bits`` (9 to 15, RFC 7692 7.1.2)."""

    __slots__ = ("_window_bits",)

    def __init__(self, window_bits: int = _FULL_WINDOW_BITS, *, shares: bool = True) -> None:
        super().__init__(shares=shares, joins=True)
        self._window_bits = window_bits

    def _compressor(self, *, thorough: bool) -> _Compress:
        if thorough or self._window_bits < _FULL_WINDOW_BITS:
            return zlib.compressobj(_THOROUGH_LEVEL, zlib.DEFLATED, -self._window_bits)
        return isal_zlib.compressobj(_FAST_LEVEL, isal_zlib.DEFLATED, -_FULL_WINDOW_BITS)

    def compress(self, text: bytes) -> bytes:
        """As of :class:`Encoder`."""
        return _flushed(self._compressor(thorough=False), text)

    def window(self, readers: int) -> SharedWindow:
        """As of :class:`Encoder`."""
        return _DeflateWindow(self._compressor(thorough=readers >= MANY_READERS))

    def prefix(self, head_length: int, piece: Piece) -> bytes:
        """The beginning of a stored block, which is not the last one (RFC 1951 3.2.4)."""
        return _STORED.pack(0, head_length, head_length ^ 0xFFFF)


class _ZstdWindow(SharedWindow):
    __slots__ = ("_stream",)

    def __init__(self, *, thorough: bool) -> None:
        super().__init__()
        level = zstandard.ZstdCompressionParameters.from_level
        if thorough:
            parameters = level(
                _ZSTD_THOROUGH_LEVEL,
                window_log=_ZSTD_WINDOW_LOG,
                hash_log=_ZSTD_TABLE_LOG,
                chain_log=_ZSTD_TABLE_LOG,
                min_match=_ZSTD_THOROUGH_MATCH,
            )
        else:
            parameters = level(_ZSTD_FAST_LEVEL, window_log=_ZSTD_WINDOW_LOG)
        self._stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def _skip(self, length: int) -> None:
        """Heads are no part of the stream."""

    def _next(self, body: bytes) -> bytes:
        stream = self._stream
        return stream.compress(body) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


class Zstd(Encoder):
    """The ``zstd`` capability."""

    __slots__ = ("_compressor",)

    def __init__(self) -> None:
        super().__init__(shares=True, joins=False)
        self._compressor = zstandard.ZstdCompressor(_ZSTD_FAST_LEVEL)

    def compress(self, text: bytes) -> bytes:
        """As of :class:`Encoder`."""
        return self._compressor.compress(text)

    def window(self, readers: int) -> SharedWindow:
        """As of :class:`Encoder`."""
        return _ZstdWindow(thorough=readers >= MANY_READERS)

    def prefix(self, head_length: int, piece: Piece) -> bytes:
        """Flag, length of the head, length of the body (I-64)."""
        return _ZSTD_PREFIX.pack(_BEGINS if piece.begins else _CONTINUES, head_length, piece.length)
