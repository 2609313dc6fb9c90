"""The bound on trade numbers in a data directory.

It stands in a small file of its own, because it may have to be raised at once, from the event loop, while a transaction
runs; the file never grows, so that this works on a full disk as well.
"""

import asyncio
import os
import threading
import zlib
from pathlib import Path
from typing import Final

from tokenwire_server.history.port import HistoryError

__all__ = ["FILE_NAME", "FileReservation"]

FILE_NAME: Final = "numbers"
_COUNT_BYTES: Final = 8
_FILE_BYTES: Final = _COUNT_BYTES + 4  # with a checksum
_sync: Final = getattr(os, "fdatasync", os.fsync)  # absent on some systems


class FileReservation:
    """See :class:`~tokenwire_server.history.port.Reservation`: the bound in ``folder``."""

    ahead: Final = 10_000  # a crash skips what of them was not used

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the file can't be opened."""
        self._file = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        content = os.pread(self._file, _FILE_BYTES, 0)
        count = content[:_COUNT_BYTES]
        self.upto: int | None = int.from_bytes(count, "big") if content == _sealed(count) else None

    async def reserve(self, count: int) -> None:
        """As of :class:`Reservation`."""
        await asyncio.to_thread(self.reserve_now, count)

    def reserve_now(self, count: int) -> None:
        """As of :class:`Reservation`."""
        with self._lock:
            if self.upto is not None and count <= self.upto:
                return
            content = _sealed(count.to_bytes(_COUNT_BYTES, "big"))
            try:
                if os.pwrite(self._file, content, 0) != len(content):
                    raise HistoryError("the bound of trade numbers was written in part")
                _sync(self._file)
            except OSError as error:
                raise HistoryError(error.strerror or str(error)) from None
            self.upto = count

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _sealed(count: bytes) -> bytes:
    return count + zlib.crc32(count).to_bytes(4, "big")
