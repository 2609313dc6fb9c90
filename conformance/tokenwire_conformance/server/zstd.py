"""The binary messages of the ``zstd`` extension: a flag, two lengths, the head as it is, and a piece of a Zstandard
frame that may go on from message to message.

The stated lengths are judged before anything is decoded, and decoding stops beyond them, so no message can take more
memory than the protocol allows.
"""

from dataclasses import dataclass
from typing import Final

import zstandard

from tokenwire_conformance.figures import MAX_MESSAGE_BYTES

__all__ = ["BEGINS", "CONTINUES", "Parts", "ZstdError", "ZstdReader"]

BEGINS: Final = 0x00
CONTINUES: Final = 0x01

_PREFIX_BYTES: Final = 7
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 8 * 1_048_576
_HEAD_END: Final = b'"data":'
_BLOCK_HEADER_BYTES: Final = 3
_CHECKSUM_BYTES: Final = 4
_WRITE_BYTES: Final = 16_384
_RLE: Final = 1
_RESERVED: Final = 3


class ZstdError(Exception):
    """A binary message is not laid out as it has to be; the text says where."""

    def __init__(self, message: str, *, of_stream: bool = False) -> None:
        super().__init__(message)
        self.of_stream: Final = of_stream
        """Whether the stream from message to message is broken rather than the layout."""


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


class _FullError(Exception):
    """More was decoded than there is room for."""


class _Sink:
    """Takes what is decoded, up to ``room`` bytes."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.room = 0

    def write(self, data: bytes) -> int:
        """Keep ``data``.

        Raises:
            _FullError: There is no room for it.
        """
        if len(self.content) + len(data) > self.room:
            raise _FullError
        self.content += data
        return len(data)


class _Stream:
    """One Zstandard frame, as far as it has come."""

    def __init__(self, *, has_checksum: bool) -> None:
        self._has_checksum = has_checksum
        self._sink = _Sink()
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        # What the package says of its writer's argument is a file; it calls nothing but write().
        self._writer = decompressor.stream_writer(self._sink, write_size=_WRITE_BYTES)  # type: ignore[arg-type]
        self.ended = False

    def decode(self, data: bytes, blocks_at: int, length: int) -> bytes:
        """What the next piece decodes to. Its blocks begin at ``blocks_at``, behind the frame's header if any.

        Raises:
            ZstdError: It does not consist of whole blocks, or decodes to another length.
        """
        self._walk(data, blocks_at)
        self._sink.room = length
        try:
            self._writer.write(data)
        except _FullError:
            raise ZstdError(f"the body has more than the {length} bytes that it announces") from None
        except zstandard.ZstdError as error:
            raise ZstdError(f"the body cannot be decoded: {error}", of_stream=True) from error
        content = bytes(self._sink.content)
        self._sink.content.clear()
        if len(content) != length:
            raise ZstdError(f"the body has {len(content)} bytes and announces {length}")
        return content

    def _walk(self, data: bytes, at: int) -> None:
        """See that ``data`` ends with a block, or with the frame."""
        while at < len(data):
            if self.ended:
                raise ZstdError(f"{len(data) - at} bytes follow the end of the Zstandard frame")
            header = data[at : at + _BLOCK_HEADER_BYTES]
            if len(header) < _BLOCK_HEADER_BYTES:
                raise ZstdError("the body is cut short")
            value = int.from_bytes(header, "little")
            self.ended, kind, size = bool(value & 1), value >> 1 & 3, value >> 3
            if kind == _RESERVED:
                raise ZstdError("the body has a block of the reserved type")
            at += _BLOCK_HEADER_BYTES + (1 if kind == _RLE else size)
            at += _CHECKSUM_BYTES if self.ended and self._has_checksum else 0
        if at > len(data):
            raise ZstdError("the body is cut short")


class ZstdReader:
    """Reads the binary messages of one socket, in order. After an error it is of no more use."""

    def __init__(self) -> None:
        self._stream: _Stream | None = None

    def read(self, payload: bytes) -> Parts:
        """Decode one message.

        Raises:
            ZstdError: It breaks the layout, exceeds a size, or continues nothing.
        """
        if not payload:
            raise ZstdError("an empty binary message")
        flag = payload[0]
        if flag not in {BEGINS, CONTINUES}:
            raise ZstdError(f"the flag is 0x{flag:02x}, neither begin (0x00) nor continue (0x01)")
        if len(payload) < _PREFIX_BYTES:
            raise ZstdError("the two lengths are cut short")
        head_bytes = int.from_bytes(payload[1:3], "big")
        length = int.from_bytes(payload[3:7], "big")
        if head_bytes + length > MAX_MESSAGE_BYTES:
            raise ZstdError(f"the lengths add up to {head_bytes + length}, above {MAX_MESSAGE_BYTES}")
        head = payload[_PREFIX_BYTES : _PREFIX_BYTES + head_bytes]
        data = payload[_PREFIX_BYTES + head_bytes :]
        if not head.endswith(_HEAD_END):
            raise ZstdError(f'the head ends with {head[-20:]!r}, not with "data":')
        blocks_at = 0
        if flag == BEGINS:
            self._stream, blocks_at = _begin(data)
        elif self._stream is None:
            raise ZstdError("the first binary message of the socket continues (0x01)", of_stream=True)
        elif self._stream.ended:
            raise ZstdError("a message continues (0x01) a Zstandard frame that has ended", of_stream=True)
        body = self._stream.decode(data, blocks_at, length)
        if not body.startswith(b"{"):
            raise ZstdError(f"the body begins with {body[:20]!r}, not with the {{ of data", of_stream=flag == CONTINUES)
        return Parts(flag, head, body)


def _begin(data: bytes) -> tuple[_Stream, int]:
    """The stream that ``data`` begins, and where its first block is."""
    if not data.startswith(_MAGIC):
        raise ZstdError("the body of a message that begins (0x00) is no Zstandard frame", of_stream=True)
    try:
        parameters = zstandard.get_frame_parameters(data)
        at = zstandard.frame_header_size(data)
    except zstandard.ZstdError as error:
        raise ZstdError(f"the header of the Zstandard frame cannot be read: {error}") from error
    if parameters.window_size > _MAX_WINDOW_BYTES:
        raise ZstdError(f"the window has {parameters.window_size} bytes, above {_MAX_WINDOW_BYTES}")
    if parameters.dict_id:
        raise ZstdError(f"the Zstandard frame names a dictionary ({parameters.dict_id})")
    return _Stream(has_checksum=parameters.has_checksum), at
