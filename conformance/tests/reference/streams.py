"""The Zstandard frames that binary messages are pieces of."""

from typing import Any, Final

import zstandard

__all__ = ["Streams"]

_STREAM_MESSAGES: Final = 3


class Streams:
    """Frame after frame, each over three messages, and ended with the third."""

    def __init__(self) -> None:
        self.left = 0
        """Messages until the frame ends; with 0 the next one has to begin one."""
        self._frame: Any = None

    def begin(self, compressor: zstandard.ZstdCompressor) -> None:
        """The next message begins a frame."""
        self._frame = compressor.compressobj()
        self.left = _STREAM_MESSAGES

    def pack(self, body: bytes, *, flushed: bool) -> bytes:
        """The next piece of the frame."""
        self.left -= 1
        packed: bytes = self._frame.compress(body)
        if self.left and not flushed:
            return packed
        how = zstandard.COMPRESSOBJ_FLUSH_BLOCK if self.left else zstandard.COMPRESSOBJ_FLUSH_FINISH
        return packed + bytes(self._frame.flush(how))
