"""Binary messages of a socket with ``zstd`` granted (I-64); the layout is in ``schemas/README.md``, zstd."""

from typing import Any, Final, NamedTuple

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.limits import MAX_MESSAGE_BYTES

__all__ = ["ZstdDecoder", "ZstdError"]

_FULL: Final = 0
_DELTA: Final = 1
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_MAX_WINDOW_BYTES: Final = 8_388_608
_RLE_BLOCK: Final = 1
_RESERVED_BLOCK: Final = 3


class ZstdError(ValueError):
    """A binary message that breaks the layout; ``close_code`` is what the socket ends with."""

    def __init__(self, close_code: CloseCode, message: str) -> None:
        super().__init__(message)
        self.close_code = close_code


class _Frame(NamedTuple):
    start: int
    end: int
    content_bytes: int


def _broken(message: str) -> ZstdError:
    return ZstdError(CloseCode.PROTOCOL_ERROR, message)


def _too_big(message: str) -> ZstdError:
    return ZstdError(CloseCode.MESSAGE_TOO_BIG, message)


def _scan(data: bytes, start: int) -> _Frame:
    """Where the Zstandard frame at ``start`` ends and how much it decodes to, by its headers alone (RFC 8878, 3.1.1).

    Nothing is decoded, so a bomb is known before it costs anything.
    """
    try:
        if data[start : start + 4] != _MAGIC:
            raise _broken("no Zstandard frame where one must be")
        at = start + 4
        descriptor = data[at]
        at += 1
        single = bool(descriptor & 0x20)
        window = 0
        if not single:
            base = 1 << (10 + (data[at] >> 3))
            window = base + (base >> 3) * (data[at] & 7)
            at += 1
        at += (0, 1, 2, 4)[descriptor & 3]
        width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        if width == 0:
            raise _too_big("a Zstandard frame without content size")
        content = int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
        at += width
        if window > _MAX_WINDOW_BYTES:
            raise _too_big(f"a Zstandard window of {window} bytes")
        last = False
        while not last:
            header = int.from_bytes(data[at : at + 3], "little")
            if at + 3 > len(data):
                raise _broken("a Zstandard frame is cut off")
            last = bool(header & 1)
            kind, size = header >> 1 & 3, header >> 3
            if kind == _RESERVED_BLOCK:
                raise _broken("a Zstandard block of a reserved type")
            at += 3 + (1 if kind == _RLE_BLOCK else size)
        at += 4 if descriptor & 4 else 0
    except IndexError:
        raise _broken("a Zstandard frame is cut off") from None
    if at > len(data):
        raise _broken("a Zstandard frame is cut off")
    return _Frame(start, at, content)


class ZstdDecoder:
    """Decodes the binary messages of one socket, in order.

    Raises:
        ImportError: the package ``zstandard`` is not installed.
    """

    __slots__ = ("_body", "_plain", "_zstandard")

    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415 - an optional dependency

        self._zstandard: Any = zstandard
        self._plain: Any = zstandard.ZstdDecompressor()
        self._body: bytes | None = None

    def decode(self, data: bytes) -> bytes:
        """The text of a binary message, as bytes of UTF-8 that are not checked yet.

        Raises:
            ZstdError: with 1009 when the sizes break the rules, with 1002 for anything else.
        """
        if not data or data[0] not in {_FULL, _DELTA}:
            raise _broken("a binary message without a known flag")
        head = _scan(data, 1)
        body = _scan(data, head.end)
        if body.end != len(data):
            raise _broken("bytes after the second Zstandard frame")
        if head.content_bytes + body.content_bytes > MAX_MESSAGE_BYTES:
            raise _too_big(f"a message of {head.content_bytes + body.content_bytes} bytes")
        decompressor = self._plain
        if data[0] == _DELTA:
            if self._body is None:
                raise _broken("a delta without a message before it")
            dictionary = self._zstandard.ZstdCompressionDict(self._body, dict_type=self._zstandard.DICT_TYPE_RAWCONTENT)
            decompressor = self._zstandard.ZstdDecompressor(dict_data=dictionary)
        text = self._inflate(self._plain, data, head)
        decoded = self._inflate(decompressor, data, body)
        self._body = decoded
        return text + decoded

    def _inflate(self, decompressor: Any, data: bytes, frame: _Frame) -> bytes:
        if frame.content_bytes == 0:
            raise _broken("an empty half of a binary message")
        try:
            found: bytes = decompressor.decompress(data[frame.start : frame.end])
        except self._zstandard.ZstdError as error:
            if self._decodes_to_another_size(decompressor, data, frame):
                raise _too_big("a Zstandard frame decodes to another size than it says") from None
            raise _broken(f"Zstandard: {error}") from None
        if len(found) != frame.content_bytes:
            raise _too_big("a Zstandard frame decodes to another size than it says")
        return found

    def _decodes_to_another_size(self, decompressor: Any, data: bytes, frame: _Frame) -> bool:
        """Whether a frame that failed is sound but for its size, which the library tells from no other damage.

        Its header is written anew without a size, and with a window for any message that is allowed.
        """
        descriptor = data[frame.start + 4]
        blocks = frame.start + 5 + (0 if descriptor & 0x20 else 1)
        blocks += (0, 1, 2, 4)[descriptor & 3] + (1 if descriptor & 0x20 else 0, 2, 4, 8)[descriptor >> 6]
        window = (MAX_MESSAGE_BYTES.bit_length() - 11) << 3
        sizeless = _MAGIC + bytes([descriptor & 4, window]) + data[blocks : frame.end]
        try:
            with decompressor.stream_reader(sizeless) as reader:
                return len(reader.read(MAX_MESSAGE_BYTES + 1)) != frame.content_bytes
        except self._zstandard.ZstdError:
            return False
