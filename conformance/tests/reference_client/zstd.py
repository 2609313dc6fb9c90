"""Binary messages of the extension zstd (I-64) to text."""

from typing import Final

import zstandard

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES

__all__ = ["DecodeError", "Decoder"]

_FULL: Final = 0
_DELTA: Final = 1


class DecodeError(Exception):
    """A binary message that cannot be read; ``code`` is what to close with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: Final = code


class Decoder:
    """The binary messages of one socket, in order."""

    def __init__(self, faults: frozenset[str]) -> None:
        self._faults = faults
        self._body: bytes | None = None

    def decode(self, data: bytes) -> bytes:
        """The text of a message.

        Raises:
            DecodeError: It is against the rules.
        """
        if not data or data[0] not in {_FULL, _DELTA}:
            raise DecodeError(1002, "a binary message without a known flag")
        delta = data[0] == _DELTA and "no-dictionary" not in self._faults
        if delta and self._body is None:
            raise DecodeError(1002, "a delta without a message before it")
        try:
            head_size = self._size(data[1:])
            self._check(head_size)
            plain = zstandard.ZstdDecompressor().decompressobj()
            head = plain.decompress(data[1:])
            rest = plain.unused_data
            body_size = self._size(rest)
            self._check(head_size + body_size)
        except zstandard.ZstdError as error:
            raise DecodeError(1002, f"no two Zstandard frames: {error}") from error
        body = self._decode_body(rest, self._body if delta else None)
        if data[0] == _FULL or "full-only-dictionary" not in self._faults:
            self._body = body
        return head + body

    def _decode_body(self, frame: bytes, before: bytes | None) -> bytes:
        dictionary = before and zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary or None).decompressobj()
        try:
            body = decoder.decompress(frame)
        except zstandard.ZstdError as error:
            # The library tells a wrong size and broken data alike.
            if "takes-wrong-sizes" in self._faults:
                return b""
            raise DecodeError(1009, f"a frame that does not decode to its size: {error}") from error
        if not decoder.eof or decoder.unused_data:
            raise DecodeError(1002, "no two whole frames")
        return body

    def _check(self, size: int) -> None:
        if size > MAX_MESSAGE_BYTES and "decodes-bombs" not in self._faults:
            raise DecodeError(1009, "a message of more than 1 MiB")

    def _size(self, frame: bytes) -> int:
        size = zstandard.get_frame_parameters(frame).content_size
        if size != zstandard.CONTENTSIZE_UNKNOWN:
            return size
        if "needs-no-size" in self._faults:
            return 0
        raise DecodeError(1009, "a frame without its content size")
