"""How many trades may be numbered before they are stored.

Trades are told to clients before they are durable, and after a crash no number may mean another trade. So a bound on
how many were ever numbered is on disk before the trades are: whoever starts after a crash skips up to it. It stands in
a small file of its own, because it may have to be raised at once, from the event loop, while a transaction runs; the
file never grows, so that this works on a full disk as well.
"""

import os
import threading
import zlib
from pathlib import Path
from typing import Final

__all__ = ["FILE_NAME", "Reservation"]

FILE_NAME: Final = "numbers"
_COUNT_BYTES: Final = 8
_FILE_BYTES: Final = _COUNT_BYTES + 4  # with a checksum
_sync: Final = getattr(os, "fdatasync", os.fsync)  # absent on some systems


class Reservation:
    """The bound in ``folder``. ``upto`` is what is known to be on disk; None: no bound was found, or it is damaged."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the file can't be opened."""
        self._file = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        content = os.pread(self._file, _FILE_BYTES, 0)
        count = content[:_COUNT_BYTES]
        self.upto: int | None = int.from_bytes(count, "big") if content == _sealed(count) else None

    def raise_to(self, count: int) -> None:
        """Have ``count`` on disk before returning; a smaller one than before is left out.

        Raises OSError if that can't be.
        """
        with self._lock:
            if self.upto is not None and count <= self.upto:
                return
            content = _sealed(count.to_bytes(_COUNT_BYTES, "big"))
            if os.pwrite(self._file, content, 0) != len(content):
                raise OSError("the bound of trade numbers was written in part")
            _sync(self._file)
            self.upto = count

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _sealed(count: bytes) -> bytes:
    return count + zlib.crc32(count).to_bytes(4, "big")
