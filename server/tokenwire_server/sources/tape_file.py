"""The file format of a captured tape: ``<receive time, unix seconds>: <frame as received>`` a line, plain, gzip or
Zstandard. It knows nothing of what the frames say. Files are streamed; no line or file is ever held whole beyond
the bounds."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec
import zstandard

from tokenwire_schemas.limits import MAX_MESSAGE_BYTES
from tokenwire_server.errors import UserError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["MAX_LINE_BYTES", "TapeError", "TapeLine", "read_tape"]

MAX_LINE_BYTES: Final = MAX_MESSAGE_BYTES + 64  # a frame and its time
MAX_BAD_LINES: Final = 1_000  # with nothing good before them: then the file is no tape

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_READ_BYTES: Final = 256  # at once: what these can unfold to is some 8 MiB at most
_ZSTD_MAX_WINDOW_BYTES: Final = 1 << 27
_LINE: Final = re.compile(rb"([0-9]{1,11})(?:\.([0-9]{1,12}))?: ?(\S.*)", re.DOTALL)
_FORM: Final = "lines look like 1626992742.289739: {…}"


class TapeError(UserError):
    """The file cannot be replayed; the message is one line and says what to do."""


class TapeLine(msgspec.Struct, frozen=True):
    """One captured frame and when it was received (Unix ms)."""

    number: int
    time_ms: int
    frame: str


def read_tape(
    path: str,
    bad_line: Callable[[int, str], None] | None = None,
    opened: Callable[[BinaryIO], None] = lambda _: None,
) -> Iterator[TapeLine]:
    """Stream the frames of a tape; ``bad_line(number, reason)`` hears of lines that are none, ``opened`` gets the file,
    whose position tells how much has been read.

    Raises:
        TapeError: the file cannot be read, is empty, or has no captured frame in its beginning; or it is damaged or cut
            off, after the lines before that.
    """
    good = 0
    number = 0
    try:
        with Path(path).open("rb") as stored, _unpacked(stored) as file:
            opened(stored)
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                line = _parse(number, raw) if len(raw) <= MAX_LINE_BYTES else "line_too_long"
                if len(raw) > MAX_LINE_BYTES:
                    _skip_line(file)
                if isinstance(line, TapeLine):
                    good += 1
                    yield line
                elif line:
                    if bad_line is not None:
                        bad_line(number, line)
                    if not good and number >= MAX_BAD_LINES:
                        break
    except EOFError as error:
        raise TapeError(
            f"tape {path}: damaged {error} data after line {number}: it was cut off (a recording that was killed?); "
            "the lines before are good"
        ) from None
    except (gzip.BadGzipFile, zlib.error):
        raise TapeError(f"tape {path}: damaged gzip data after line {number}; capture or copy it again") from None
    except zstandard.ZstdError:
        raise TapeError(f"tape {path}: damaged zstd data after line {number}; capture or copy it again") from None
    except OSError as error:
        raise TapeError(f"tape {path}: {error.strerror or error}; check the path and its permissions") from None
    if not number:
        raise TapeError(f"tape {path}: the file is empty; {_FORM}")
    if not good:
        raise TapeError(f"tape {path}: this is not a captured tape; {_FORM}")


def _unpacked(stored: BinaryIO) -> BufferedIOBase:
    """The text of a file. Reading raises EOFError with the name of the compression if the file was cut off."""
    magic = stored.read(len(_ZSTD_MAGIC))  # by content: names of captures are anything
    stored.seek(0)
    if magic.startswith(_GZIP_MAGIC):
        return BufferedReader(_Gzip(stored))
    if magic == _ZSTD_MAGIC:
        return BufferedReader(_Zstd(stored))
    assert isinstance(stored, BufferedReader)
    return stored


class _Gzip(RawIOBase):
    def __init__(self, stored: BinaryIO) -> None:
        self._text = gzip.GzipFile(fileobj=stored, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, target: "WriteableBuffer") -> int:
        try:
            return self._text.readinto1(target)
        except EOFError:
            raise EOFError("gzip") from None


class _Zstd(RawIOBase):
    """Frames of Zstandard, one after another."""

    def __init__(self, stored: BinaryIO) -> None:
        self._stored = stored
        self._unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
        self._frame = self._unpacker.decompressobj()
        self._begun = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: "WriteableBuffer") -> int:
        while not self._ready:
            packed = b""
            if self._frame.eof:
                packed = self._frame.unused_data
                self._frame, self._begun = self._unpacker.decompressobj(), False
            packed = packed or self._stored.read(_ZSTD_READ_BYTES)
            if not packed:
                if self._begun:
                    raise EOFError("zstd")
                return 0
            self._begun = True
            self._ready = memoryview(self._frame.decompress(packed))
        into = memoryview(target)
        count = min(len(into), len(self._ready))
        into[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _parse(number: int, raw: bytes) -> TapeLine | str:
    """A line's frame, the reason it has none, or an empty text for a blank line or a comment."""
    text = raw.strip()
    if not text or text.startswith(b"#"):
        return ""
    match = _LINE.fullmatch(text)
    if match is None:
        return "line_without_time"
    seconds, fraction, frame = match.groups()
    try:
        decoded = frame.decode()
    except UnicodeDecodeError:
        return "line_not_utf8"
    return TapeLine(number, int(seconds) * 1_000 + int(((fraction or b"") + b"000")[:3]), decoded)


def _skip_line(file: BufferedIOBase) -> None:
    while rest := file.readline(MAX_LINE_BYTES):
        if rest.endswith(b"\n"):
            return
