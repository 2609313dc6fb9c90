"""The binary messages of the ``zstd`` extension: a flag, then two Zstandard frames, the head and the body.

Sizes are read from the headers and judged before anything is decoded, so no message can take more memory than the
protocol allows.
"""

from dataclasses import dataclass
from typing import Final

import zstandard

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES

__all__ = ["DELTA", "FULL", "Parts", "ZstdError", "ZstdReader"]

FULL: Final = 0x00
DELTA: Final = 0x01

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 8 * 1_048_576
_HEAD_END: Final = b'"data":'
_BLOCK_HEADER_BYTES: Final = 3
_CHECKSUM_BYTES: Final = 4
_RLE: Final = 1
_RESERVED: Final = 3


class ZstdError(Exception):
    """A binary message is not laid out as it has to be; the text says where."""

    def __init__(self, message: str, *, of_delta: bool = False) -> None:
        super().__init__(message)
        self.of_delta: Final = of_delta
        """Whether the chain of bodies is broken rather than the layout."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One decoded binary message."""

    flag: int
    head: bytes
    body: bytes

    @property
    def text(self) -> bytes:
        """The message."""
        return self.head + self.body


class ZstdReader:
    """Reads the binary messages of one socket, in order."""

    def __init__(self) -> None:
        self._previous: bytes | None = None

    def read(self, payload: bytes) -> Parts:
        """Decode one message.

        Raises:
            ZstdError: It breaks the layout, exceeds a size, or is a delta to nothing.
        """
        if not payload:
            raise ZstdError("an empty binary message")
        flag = payload[0]
        if flag not in {FULL, DELTA}:
            raise ZstdError(f"the flag is 0x{flag:02x}, neither full (0x00) nor delta (0x01)")
        if flag == DELTA and self._previous is None:
            raise ZstdError("the first binary message of the socket is a delta", of_delta=True)
        head_bytes, head_end = _frame(payload, 1, "head")
        body_bytes, body_end = _frame(payload, head_end, "body")
        if body_end != len(payload):
            raise ZstdError(f"{len(payload) - body_end} bytes follow the second frame")
        if head_bytes + body_bytes > MAX_MESSAGE_BYTES:
            raise ZstdError(f"the content sizes add up to {head_bytes + body_bytes}, above {MAX_MESSAGE_BYTES}")
        head = _decode(payload[1:head_end], head_bytes, None, "head")
        dictionary = self._previous if flag == DELTA else None
        body = _decode(payload[head_end:body_end], body_bytes, dictionary, "body")
        if not head.endswith(_HEAD_END):
            raise ZstdError(f'the head ends with {head[-20:]!r}, not with "data":')
        if not body.startswith(b"{"):
            raise ZstdError(f"the body begins with {body[:20]!r}, not with the {{ of data", of_delta=flag == DELTA)
        self._previous = body
        return Parts(flag, head, body)


def _frame(payload: bytes, begin: int, name: str) -> tuple[int, int]:
    """Content size of the Zstandard frame at ``begin``, and where it ends."""
    frame = payload[begin:]
    if not frame.startswith(_MAGIC):
        raise ZstdError(f"the {name} is no Zstandard frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        at = zstandard.frame_header_size(frame)
    except zstandard.ZstdError as error:
        raise ZstdError(f"the header of the {name} cannot be read: {error}") from error
    if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise ZstdError(f"the {name} has no content size")
    if parameters.window_size > max(_MAX_WINDOW_BYTES, parameters.content_size):
        raise ZstdError(f"the window of the {name} has {parameters.window_size} bytes, above {_MAX_WINDOW_BYTES}")
    if parameters.dict_id:
        raise ZstdError(f"the {name} names a dictionary ({parameters.dict_id}); only raw content is used")
    last = False
    while not last:
        header = frame[at : at + _BLOCK_HEADER_BYTES]
        if len(header) < _BLOCK_HEADER_BYTES:
            raise ZstdError(f"the {name} is cut short")
        value = int.from_bytes(header, "little")
        last, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
        if kind == _RESERVED:
            raise ZstdError(f"the {name} has a block of the reserved type")
        at += _BLOCK_HEADER_BYTES + (1 if kind == _RLE else size)
    at += _CHECKSUM_BYTES if parameters.has_checksum else 0
    if at > len(frame):
        raise ZstdError(f"the {name} is cut short")
    return parameters.content_size, begin + at


def _decode(frame: bytes, size: int, dictionary: bytes | None, name: str) -> bytes:
    if not size:
        return b""
    # zstandard takes a dictionary of fewer than 8 bytes for none; a body is at least {} and a delta to it a full one.
    data = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    try:
        decompressor = zstandard.ZstdDecompressor(dict_data=data) if data else zstandard.ZstdDecompressor()
        content = decompressor.decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ZstdError(f"the {name} cannot be decoded: {error}", of_delta=dictionary is not None) from error
    if len(content) != size:
        raise ZstdError(f"the {name} has {len(content)} bytes and announces {size}")
    return content
