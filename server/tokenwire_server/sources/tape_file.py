"""The file format of a captured tape: ``<receive time, unix seconds>: <frame as received>`` a line, plain or
gzip. It knows nothing of what the frames say. Files are streamed; no line or file is ever held whole beyond
the bounds."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Final

import msgspec

from tokenwire_schemas.limits import MAX_MESSAGE_BYTES
from tokenwire_server.errors import UserError

__all__ = ["MAX_LINE_BYTES", "TapeError", "TapeLine", "read_tape"]

MAX_LINE_BYTES: Final = MAX_MESSAGE_BYTES + 64  # a frame and its time
MAX_BAD_LINES: Final = 1_000  # with nothing good before them: then the file is no tape

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINE: Final = re.compile(rb"([0-9]{1,11})(?:\.([0-9]{1,12}))?: ?(\S.*)", re.DOTALL)
_FORM: Final = "lines look like 1626992742.289739: {…}"


class TapeError(UserError):
    """The file cannot be replayed; the message is one line and says what to do."""


class TapeLine(msgspec.Struct, frozen=True):
    """One captured frame and when it was received (Unix ms)."""

    number: int
    time_ms: int
    frame: str


def read_tape(path: str, bad_line: Callable[[int, str], None] | None = None) -> Iterator[TapeLine]:
    """Stream the frames of a tape; ``bad_line(number, reason)`` hears of lines that are none.

    Raises:
        TapeError: the file cannot be read, is empty, or has no captured frame in its beginning.
    """
    good = 0
    number = 0
    try:
        with _open(path) as file:
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
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise TapeError(f"tape {path}: damaged gzip data after line {number}; capture or copy it again") from None
    except OSError as error:
        raise TapeError(f"tape {path}: {error.strerror or error}; check the path and its permissions") from None
    if not number:
        raise TapeError(f"tape {path}: the file is empty; {_FORM}")
    if not good:
        raise TapeError(f"tape {path}: this is not a captured tape; {_FORM}")


def _open(path: str) -> BufferedIOBase:
    with Path(path).open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC  # by content: names of captures are anything
    return gzip.open(path, "rb") if compressed else Path(path).open("rb")


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
