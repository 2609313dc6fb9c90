"""A process that outlives whoever started it: known by its id and the time of its start, signalled with all it started.

An id alone is used again by others after a while; with the time of its start it names one process only. Whoever reads
both from a file can end the process, and nothing else.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import ServiceError

__all__ = ["POLL_S", "Process", "group_of", "spawn"]

POLL_S: Final = 0.02
"""Seconds between two looks at something that is waited for."""
_PROC: Final = Path("/proc")
# The shell goes at once, so the engine is nobody's child: it ends no differently whoever started it, in any process.
_DETACHED: Final = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this machine."""

    pid: int
    started: int
    """Clock ticks from the start of the machine to its own, as the kernel counts them."""

    def alive(self) -> bool:
        """Whether it runs or is stopped; one that ended and was not waited for yet is not alive."""
        row = _row(self.pid)
        if row is None or row.started != self.started:
            return False
        # The first thread may be gone while others still hold ports and files.
        return row.state not in "ZX" or _threads(self.pid) > 1

    def stop(self) -> None:
        """Freeze it and all it started."""
        for process in self._tree(signal.SIGSTOP):
            process._send(signal.SIGSTOP)

    def cont(self) -> None:
        """Let it and all it started go on."""
        for process in self._tree(None):
            process._send(signal.SIGCONT)

    def kill(self, limit_s: float) -> None:
        """SIGKILL for it and all it started, and wait for their end; :class:`ServiceError` after ``limit_s``."""
        tree = self._tree(signal.SIGSTOP)
        for process in tree:
            process._send(signal.SIGKILL)
        if not _gone(tree, limit_s):
            raise ServiceError(f"process {self.pid} was killed and is still there after {limit_s:g} s")

    def end(self, number: signal.Signals, limit_s: float) -> None:
        """The signal for it alone, and SIGKILL for what is left of it and its children after ``limit_s``."""
        tree = self._tree(None)
        self._send(number)
        if not _gone(tree, limit_s):
            self.kill(limit_s)

    def _send(self, number: signal.Signals) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def _tree(self, first: signal.Signals | None) -> list["Process"]:
        """It and its descendants; ``first`` reaches each parent before its children are counted, so none is missed."""
        found = [self] if self.alive() else []
        for process in found:
            if first is not None:
                process._send(first)
            found.extend(_children(process.pid))
        return found


def spawn(command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, user: str = "") -> Process:
    """Start ``command`` in a session of its own, its output appended to ``log``, as ``user`` when one is named."""
    started = subprocess.run(
        ["/bin/sh", "-c", _DETACHED, "sh", str(log), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        cwd=log.parent,
        env={**os.environ, **(env or {})},
        check=True,
        user=user or None,
        group=group_of(user),
        extra_groups=[] if user else None,
    )
    pid = int(started.stdout)
    row = _row(pid)
    # It ended before it could be looked at: no process has this time, so it counts as ended.
    return Process(pid, row.started if row is not None else -1)


def group_of(user: str) -> int | None:
    """The group that belongs to a user, as :mod:`subprocess` wants it; none for an empty name."""
    import pwd  # not on Windows, where the tests without engines run all the same

    return pwd.getpwnam(user).pw_gid if user else None


@dataclass(frozen=True, slots=True)
class _Row:
    state: str
    parent: int
    started: int


def _row(pid: int) -> _Row | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name stands in brackets and may hold spaces and brackets itself.
    fields = text.rpartition(")")[2].split()
    return _Row(state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def _threads(pid: int) -> int:
    try:
        return sum(1 for _ in (_PROC / str(pid) / "task").iterdir())
    except OSError:
        return 0


def _children(pid: int) -> list[Process]:
    numbers = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    rows = ((number, _row(number)) for number in numbers)
    return [Process(number, row.started) for number, row in rows if row is not None and row.parent == pid]


def _gone(processes: Sequence[Process], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while any(process.alive() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
