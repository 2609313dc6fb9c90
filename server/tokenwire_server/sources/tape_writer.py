"""Writes tapes: lines with their time, compressed as they come, readable up to the last flush whatever happens.

``FILE`` appears when the tape is complete; until then it is ``FILE.part``, which is a tape as well: one that was cut
off. A name that ends in ``.zst`` is compressed with Zstandard, ``.gz`` with gzip, any other not at all.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import zstandard

from tokenwire_server.errors import UserError

__all__ = ["FLUSH_INTERVAL_S", "PART_SUFFIX", "TapeWriteError", "TapeWriter"]

PART_SUFFIX: Final = ".part"
FLUSH_INTERVAL_S: Final = 1.0
"""How often whoever writes should flush: so much is lost at most when the process is killed."""

MAX_BUFFER_BYTES: Final = 131_072  # of text, until it is compressed and written
_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6
_GZIP_WBITS: Final = 31  # with gzip's header and checksum


T = TypeVar("T")


class TapeWriteError(UserError):
    """The tape can't be written; the message is one line and says what to do."""


class _Packer(Protocol):
    def pack(self, data: bytes) -> bytes:
        """Some compressed bytes, perhaps of earlier data."""

    def flush(self) -> bytes:
        """What is needed to read everything so far."""

    def end(self) -> bytes:
        """The end of the file."""


class _Plain:
    def pack(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


class _Zstd:
    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()

    def pack(self, data: bytes) -> bytes:
        return self._packer.compress(data)

    def flush(self) -> bytes:
        return self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._packer.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


class _Gzip:
    def __init__(self) -> None:
        self._packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)

    def pack(self, data: bytes) -> bytes:
        return self._packer.compress(data)

    def flush(self) -> bytes:
        return self._packer.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._packer.flush(zlib.Z_FINISH)


_PACKERS: Final[dict[str, type[_Packer]]] = {".zst": _Zstd, ".gz": _Gzip}


class TapeWriter:
    """A new tape at ``path``. ``force``: an older tape, or what is left of one that was cut off, may be replaced.

    ``lines`` were written, and ``size_bytes`` of the file so far.

    Raises:
        TapeWriteError: the file is there already, or can't be made.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self.lines = 0
        self.size_bytes = 0
        self._force = force
        self._buffer = bytearray()
        self._packer: _Packer = _PACKERS.get(path.suffix.lower(), _Plain)()
        if not force:
            self._refuse_to_replace(path)
            if self.part.exists():
                raise TapeWriteError(
                    f"{self.part} is there: a recording that runs, or was cut off; rename it to keep it, or --force"
                )
        if path.is_dir():
            raise TapeWriteError(f"{path} is a directory; name a file in it")
        if force:
            self._try(lambda: self.part.unlink(missing_ok=True))
        # Exclusive: of two that begin at once, one has the name.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        self._file: int = self._try(lambda: os.open(self.part, flags, 0o644))

    def write(self, time_us: int, text: bytes) -> None:
        """Add a line; ``time_us`` is when (Unix us), ``text`` has no line end. Raises TapeWriteError."""
        seconds, fraction = divmod(time_us, 1_000_000)
        self._buffer += b"%d.%06d: " % (seconds, fraction)
        self._buffer += text
        self._buffer += b"\n"
        self.lines += 1
        if len(self._buffer) >= MAX_BUFFER_BYTES:
            self._pack()

    def flush(self) -> None:
        """Have every line so far outlive the end of the process. Raises TapeWriteError."""
        if self._buffer:
            self._pack()
            self._put(self._packer.flush())

    def finish(self) -> None:
        """End the tape and give it its name.

        Raises:
            TapeWriteError: that is not possible; what was written is in ``part``.
        """
        try:
            self._pack()
            self._put(self._packer.end())
            self._try(lambda: os.fsync(self._file))
        finally:
            os.close(self._file)
        if not self._force:
            self._refuse_to_replace(self.path)
        self._try(lambda: self.part.replace(self.path))

    def abandon(self) -> None:
        """Leave the file as it is, cut off."""
        os.close(self._file)

    def discard(self) -> None:
        """Leave no file."""
        os.close(self._file)
        self.part.unlink(missing_ok=True)

    def _pack(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        self._put(self._packer.pack(data))

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written: int = self._try(lambda: os.write(self._file, view))  # noqa: B023 - called at once
            view = view[written:]
            self.size_bytes += written

    def _refuse_to_replace(self, path: Path) -> None:
        if path.exists():
            raise TapeWriteError(f"{path} is there already; name another file, or replace it with --force")

    def _try(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as error:
            reason = error.strerror or str(error)
            left = f"; {self.lines} lines are in {self.part}" if self.lines else "; check the path and its permissions"
            raise TapeWriteError(f"cannot write {self.path}: {reason}{left}") from None
