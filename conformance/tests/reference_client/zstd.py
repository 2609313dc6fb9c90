"""Binary messages of the extension zstd (I-64) to text."""

from typing import Any, Final

import zstandard

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES

__all__ = ["DecodeError", "Decoder"]

_BEGINS: Final = 0
_CONTINUES: Final = 1
_STEP_BYTES: Final = 32
"""So much is decoded between two looks at the length: with blocks of a few bytes it may make a mebibyte."""


class DecodeError(Exception):
    """A binary message that cannot be read; ``code`` is what to close with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


class Decoder:
    """The binary messages of one socket, in order."""

    def __init__(self, faults: frozenset[str]) -> None:
        self._faults = faults
        self._frame: Any = None
        self._first = b""

    def decode(self, data: bytes) -> bytes:
        """The text of a message.

        Raises:
            DecodeError: It is against the rules.
        """
        faults = self._faults
        flag = data[0] if data else -1
        if flag not in {_BEGINS, _CONTINUES} and "takes-unknown-flags" not in faults:
            raise DecodeError(1002, "a binary message without a known flag")
        body_at = 7 + int.from_bytes(data[1:3], "big")
        length = int.from_bytes(data[3:7], "big")
        if body_at - 7 + length > MAX_MESSAGE_BYTES and "decodes-bombs" not in faults:
            raise DecodeError(1009, "a message of more than 1 MiB")
        packed = data[body_at:]
        if flag != _CONTINUES:
            self._first = packed
        body = self._body(packed, length, begins=flag != _CONTINUES)
        if len(body) != length and "takes-wrong-sizes" not in faults:
            if len(body) < length or "cuts-at-length" not in faults:
                raise DecodeError(1009, "a message that decodes to another length than it states")
            body = body[:length]
        return data[7:body_at] + body

    def _body(self, packed: bytes, length: int, *, begins: bool) -> bytes:
        faults = self._faults
        if "whole-frames-only" in faults:
            self._frame = None
            begins = True
        if "first-window-only" in faults and not begins:
            self._begin()
            self._inflate(self._first, MAX_MESSAGE_BYTES)
        elif begins and not ("ignores-beginnings" in faults and self._frame):
            self._begin()
        elif self._frame is None:
            raise DecodeError(1002, "it continues nothing")
        body = self._inflate(packed, length)
        if self._frame.eof:
            if self._frame.unused_data:  # behind it in the last step
                raise DecodeError(1002, "bytes behind the frame")
            self._frame = None
            if "ends-only" in faults:
                raise DecodeError(1002, "a frame that ends")
        elif "whole-frames-only" in faults:
            raise DecodeError(1002, "a frame that does not end")
        return body

    def _begin(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=8 * 1_048_576).decompressobj()

    def _inflate(self, packed: bytes, length: int) -> bytes:
        body = bytearray()
        bounded = not self._faults & {"takes-wrong-sizes", "cuts-at-length", "decodes-bombs"}
        try:
            for at in range(0, len(packed), _STEP_BYTES):
                if self._frame.eof:
                    raise DecodeError(1002, "bytes behind the frame")
                body += self._frame.decompress(packed[at : at + _STEP_BYTES])
                if len(body) > length and bounded:
                    break
        except zstandard.ZstdError as error:
            raise DecodeError(1002, f"Zstandard: {error}") from error
        return bytes(body)
