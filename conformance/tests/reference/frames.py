"""The server's side of RFC 6455, written apart from the suite's, so that neither hides a mistake of the other."""

import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["BadFrameError", "InboundFrame", "Inflater", "Parser", "deflated", "frame"]

MAX_BYTES: Final = 1_048_576
_TAIL: Final = b"\x00\x00\xff\xff"


class BadFrameError(Exception):
    """The bytes break the framing; ``code`` is what to close with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


class InboundFrame(NamedTuple):
    """A whole frame, unmasked."""

    opcode: int
    fin: bool
    rsv1: bool
    payload: bytes


class Parser:
    """A client's bytes to frames."""

    def __init__(self, *, deflate: bool, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._deflate = deflate
        self._max_bytes = max_bytes
        self._skip = 0

    @property
    def is_inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[InboundFrame]:
        """The frames that ``data`` completes."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += data[skipped:]
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> InboundFrame | None:
        data = self._buffer
        if len(data) < 2:
            return None
        fin, rsv, opcode = bool(data[0] & 0x80), data[0] >> 4 & 7, data[0] & 0xF
        length, at = data[1] & 0x7F, 2
        if not data[1] & 0x80:
            raise BadFrameError(1002, "a frame that is not masked")
        if rsv & 3 or (rsv & 4 and (not self._deflate or opcode not in {1, 2})):
            raise BadFrameError(1002, "a reserved bit")
        if opcode not in {0, 1, 2, 8, 9, 10} or (opcode >= 8 and (length > 125 or not fin)):
            raise BadFrameError(1002, "a frame that RFC 6455 has not")
        if length > 125:
            at = 4 if length == 126 else 10
            if len(data) < at:
                return None
            length = int.from_bytes(data[2:at], "big")
        if length > self._max_bytes:
            # What the frame holds is passed over, so that the client's close frame behind it is seen.
            begun = bytes(data[at + 4 :])
            data.clear()
            self._skip = max(0, length - len(begun))
            data += begun[length:]
            raise BadFrameError(1009, f"a frame of {length} bytes")
        if len(data) < at + 4 + length:
            return None
        mask, payload = bytes(data[at : at + 4]), bytes(data[at + 4 : at + 4 + length])
        del data[: at + 4 + length]
        key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
        plain = (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
        return InboundFrame(opcode, fin, bool(rsv & 4), plain)


class Inflater:
    """permessage-deflate of the client, without takeover."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def inflate(self, payload: bytes) -> bytes:
        """One message; never more than one byte beyond the limit is made of it."""
        inflater = zlib.decompressobj(-15)
        try:
            out = inflater.decompress(payload + _TAIL, self._max_bytes + 1)
        except zlib.error as error:
            raise BadFrameError(1007, f"broken deflate data: {error}") from error
        if len(out) > self._max_bytes:
            raise BadFrameError(1009, "a message that inflates beyond 1 MB")
        return out


def deflated(payload: bytes, bits: int) -> bytes:
    """One permessage-deflate message that needs no window before it."""
    deflater = zlib.compressobj(level=1, wbits=-bits)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


def frame(opcode: int, payload: bytes, *, rsv1: bool = False) -> bytes:
    """One unmasked frame."""
    first = bytes([0x80 | (0x40 if rsv1 else 0) | opcode])
    size = len(payload)
    if size <= 125:
        return first + bytes([size]) + payload
    if size <= 0xFFFF:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload
