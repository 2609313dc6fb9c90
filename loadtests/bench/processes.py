"""Child processes on one core each: their lines, their CPU time, their memory, and their end. Linux only."""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from loadtests.bench.tools import BenchError
from loadtests.machine import apart

__all__ = ["Child", "cores", "cpu_ns", "rss_bytes", "tree"]

_PR_SET_PDEATHSIG: Final = 1
_STOP_S: Final = 4
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process pinned to one core. It dies with us, whatever happens. ``name`` is what errors call it, and
    ``environment`` what it finds besides ours."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        core: int,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._buffer = b""

        def settle() -> None:
            os.sched_setaffinity(0, {core})
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                preexec_fn=settle,  # noqa: PLW1509 - we have no threads
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{name} does not start: {error.strerror}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} ended early: {self.complaint()}") from None

    def line(self, timeout_s: float) -> str:
        """Its next line of output.

        Raises:
            BenchError: it ended, or said nothing for ``timeout_s``.
        """
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        until = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([fd], [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise BenchError(f"{self.name} said nothing for {timeout_s:.0f} s. {self.complaint()}".rstrip())
            more = os.read(fd, 1 << 16)
            if not more:
                raise BenchError(f"{self.name} ended early: {self.complaint()}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def complaint(self) -> str:
        """The last line it wrote to its standard error."""
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def stop(self) -> None:
        """End it with everything it started: politely, then not."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()


def cores() -> tuple[int, int]:
    """One core for servers and one for those who read.

    Raises:
        BenchError: only one may be used.
    """
    server, readers = apart()
    if not readers:
        raise BenchError("the benchmark needs two cores: one for the server, one for those who read")
    return server, readers[0]


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for each, parent in _parents():
        parents.setdefault(parent, []).append(each)
    found = [pid]
    for known in found:
        found += parents.get(known, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rsplit(") ", 1)[1].split()
                yield int(entry.name), int(fields[1])


def cpu_ns(pids: Sequence[int]) -> int:
    """User and system time of these processes so far, in ns, by their CPU clocks (to the nanosecond, all threads)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total


def rss_bytes(pids: Sequence[int]) -> int:
    """Resident memory of these processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return total
