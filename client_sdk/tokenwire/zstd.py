"""Binary messages of a socket with ``zstd`` granted (I-64); the layout is in ``schemas/README.md``, zstd."""

from typing import Any, Final

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.limits import MAX_MESSAGE_BYTES

__all__ = ["ZstdDecoder", "ZstdError"]

_BEGINS: Final = 0
_CONTINUES: Final = 1
_HEAD_AT: Final = 7  # behind the flag and the two lengths
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 8_388_608
_MAX_BLOCK_BYTES: Final = 131_072
_PIECE_BYTES: Final = 1_048_576
"""Blocks are decoded together as long as they cannot make more than this: one look at the length for each."""
_WRITE_BYTES: Final = 32_768
_COMPRESSED_BLOCK: Final = 2
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3


class ZstdError(ValueError):
    """A binary message that breaks the layout; ``close_code`` is what the socket ends with."""

    def __init__(self, close_code: CloseCode, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


def _broken(message: str) -> ZstdError:
    return ZstdError(CloseCode.PROTOCOL_ERROR, message)


def _too_big(message: str) -> ZstdError:
    return ZstdError(CloseCode.MESSAGE_TOO_BIG, message)


class ZstdDecoder:
    """Decodes the binary messages of one socket, in order. After an error it can only begin anew.

    Nothing makes it hold more than the window (8 MiB) and about twice the largest message: blocks are told apart by
    their headers (RFC 8878, 3.1.1), none makes more than 128 KiB, and decoding ends once it is beyond the length
    that the message states.

    Raises:
        ImportError: the package ``zstandard`` is not installed.
    """

    __slots__ = ("_decompressor", "_frame", "_has_checksum", "_zstandard")

    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415 - an optional dependency

        self._zstandard: Any = zstandard
        self._decompressor: Any = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: Any = None
        """The Zstandard frame that the next message may continue; None when there is none."""
        self._has_checksum = False

    def decode(self, data: bytes) -> bytes:
        """The text of a binary message, as bytes of UTF-8 that are not checked yet.

        Raises:
            ZstdError: with 1009 when the sizes break the rules, with 1002 for anything else.
        """
        if len(data) < _HEAD_AT or data[0] not in {_BEGINS, _CONTINUES}:
            raise _broken("a binary message without a known flag and two lengths")
        body_at = _HEAD_AT + (data[1] << 8 | data[2])
        length = int.from_bytes(data[3:_HEAD_AT], "big")
        if body_at - _HEAD_AT + length > MAX_MESSAGE_BYTES:
            raise _too_big(f"a message of {body_at - _HEAD_AT + length} bytes")
        if body_at >= len(data):
            raise _broken("a binary message that ends before its body")
        at = body_at
        frame, self._frame = self._frame, None  # back in its place once all is well
        if data[0] == _BEGINS:
            at = self._begin(data, body_at)
            frame = self._decompressor.decompressobj(write_size=_WRITE_BYTES)
        elif frame is None:
            raise _broken("a binary message continues what did not begin, or has ended")
        pieces, ended = self._pieces(data, at)
        body = self._inflate(frame, data, body_at, pieces, length)
        if not ended:
            self._frame = frame
        return data[_HEAD_AT:body_at] + body

    def _begin(self, data: bytes, start: int) -> int:
        """Looks at the header of the Zstandard frame at ``start``; where its first block is."""
        if data[start : start + 4] != _MAGIC:
            raise _broken("no Zstandard frame where one must begin")
        at = start + 4
        header = data[at : at + 14]
        descriptor = header[0] if header else 0
        single = descriptor >> 5 & 1
        if descriptor & 3:
            raise _broken("a Zstandard frame that names a dictionary")
        width = (single, 2, 4, 8)[descriptor >> 6]
        end = 2 - single + width
        if len(header) < end:
            raise _broken("a Zstandard frame is cut off")
        if single:
            window = int.from_bytes(header[1:end], "little") + (256 if width == 2 else 0)
        else:
            base = 1 << (10 + (header[1] >> 3))
            window = base + (base >> 3) * (header[1] & 7)
        if window > _MAX_WINDOW_BYTES:
            raise _too_big(f"a Zstandard window of {window} bytes")
        self._has_checksum = bool(descriptor & 4)
        return at + end

    def _pieces(self, data: bytes, at: int) -> tuple[list[int], bool]:
        """Where the pieces to decode end, of the blocks from ``at`` on, and whether the frame ends with them."""
        pieces: list[int] = []
        size, most, last = len(data), 0, 0
        while at < size:
            if last:
                raise _broken("bytes after the Zstandard frame")
            header = int.from_bytes(data[at : at + 3], "little")
            last, kind, count = header & 1, header >> 1 & 3, header >> 3
            if kind == _RESERVED_BLOCK:
                raise _broken("a Zstandard block of a reserved type")
            makes = _MAX_BLOCK_BYTES if kind == _COMPRESSED_BLOCK else count
            if most + makes > _PIECE_BYTES and most:
                pieces.append(at)
                most = 0
            most += makes
            at += 3 + (1 if kind == _RLE_BLOCK else count)
            if last and self._has_checksum:
                at += 4
        if at != size:
            raise _broken("a Zstandard block is cut off")
        pieces.append(at)
        return pieces, bool(last)

    def _inflate(self, frame: Any, data: bytes, start: int, ends: list[int], length: int) -> bytes:
        found: list[bytes] = []
        total = 0
        for end in ends:
            try:
                part: bytes = frame.decompress(data[start:end])
            except self._zstandard.ZstdError as error:
                raise _broken(f"Zstandard: {error}") from None
            found.append(part)
            total += len(part)
            start = end
            if total > length:
                break
        if total != length:
            raise _too_big("a message decodes to another length than it states")
        return found[0] if len(found) == 1 else b"".join(found)
