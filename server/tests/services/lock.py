"""Locks between processes: held until released, or until the process that holds one ends, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Held", "locked"]


class Held:
    """A lock on a file, shared by many or held by one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = -1

    def share(self) -> None:
        """Hold it beside others; waits for one that holds it alone."""
        import fcntl  # not on Windows, where the tests without engines run all the same

        self._open()
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def take(self) -> None:
        """Hold it alone; waits for all others."""
        import fcntl

        self._open()
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def try_take(self) -> bool:
        """Hold it alone if nobody else holds it; whether that is so."""
        import fcntl

        self._open()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        self.release()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else is in a block of the same path meanwhile, in this process or another."""
    held = Held(path)
    held.take()
    try:
        yield
    finally:
        held.release()
