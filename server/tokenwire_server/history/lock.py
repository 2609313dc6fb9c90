"""One server at a time holds a data directory."""

import os
from pathlib import Path
from typing import Final

from tokenwire_server.errors import UserError

try:
    import fcntl
except ImportError:  # pragma: no cover - no such locks on this system: whoever starts two servers is not stopped
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK_NAME", "DirectoryLock"]

LOCK_NAME: Final = "lock"


class DirectoryLock:
    """Held from its making until :meth:`release`, or the end of the process however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock of ``folder``, which is made if there is none.

        Raises:
            UserError: another process holds it (the message says which), or the directory can't be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
            raise UserError(
                f"the data directory {folder} can't be used: {reason}; choose another with --data DIR"
            ) from None
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise UserError(
                f"the data directory {folder} is in use by the process {holder}; stop it, or choose another "
                "with --data DIR"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another take it."""
        os.close(self._file)
