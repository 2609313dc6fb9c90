"""What commands that take long have in common: progress on standard error, an end on signals, sizes in words."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from rich.console import Console
from rich.status import Status
from rich.text import Text

from tokenwire_server.errors import UserError

__all__ = ["Progress", "counted", "parse_seconds", "peak_memory_bytes", "run", "size_text", "stopping"]

LINE_INTERVAL_S: Final = 5.0  # between lines where there is no terminal
REFRESH_INTERVAL_S: Final = 0.25
MAX_SECONDS: Final = 31_536_000.0  # a year

T = TypeVar("T")


class Progress:
    """One line that changes on a terminal, a line every few seconds elsewhere, nothing if ``quiet``.

    Within the block ``describe`` is asked for the line.
    """

    def __init__(
        self,
        describe: Callable[[], str],
        *,
        quiet: bool = False,
        console: Console | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._describe = describe
        self._quiet = quiet
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._monotonic = monotonic
        self._status: Status | None = None
        self._showing: asyncio.Task[None] | None = None
        self._told_s = monotonic()

    async def __aenter__(self) -> Self:
        if not self._quiet:
            if self._console.is_terminal:
                self._status = self._console.status(Text(self._describe()))
                self._status.start()
            self._showing = asyncio.create_task(self._show())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._showing is not None:
            self._showing.cancel()
            await asyncio.wait((self._showing,))
        if self._status is not None:
            self._status.stop()

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL_S)
            if self._status is not None:
                self._status.update(Text(self._describe()))
            elif self._monotonic() - self._told_s >= LINE_INTERVAL_S:
                self._told_s = self._monotonic()
                self._console.print(Text(self._describe()))


@contextlib.contextmanager
def stopping() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, for a clean end; within a running loop of the main thread."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not here, or not the main thread
            loop.add_signal_handler(number, stop.set)
            handled.append(number)
    try:
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine, on the fastest event loop there is."""
    try:
        import uvloop  # noqa: PLC0415 - absent where it has no build
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def parse_seconds(text: str | None, name: str) -> float | None:
    """A time in seconds, more than 0; None if none was given.

    Raises:
        UserError: in one line, naming the flag.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"{name} cannot be {text!r}: expected seconds, more than 0 and at most a year")
    return seconds


def peak_memory_bytes() -> int:
    """The most memory that this process ever had resident; 0 where nobody counts it."""
    # Linux's ru_maxrss begins with what the parent had; this does not.
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1_024
    try:
        import resource  # noqa: PLC0415 - exists on Unix only
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


def size_text(size_bytes: int) -> str:
    """A size for people: ``12 B``, ``3.4 kB``, ``5.6 MB``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1_000
    raise AssertionError


def counted(counts: Mapping[str, int]) -> str:
    """``3 (2 not_json, 1 bad_price)``, the most frequent first; ``0`` for none."""
    total = sum(counts.values())
    named = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{total:,} ({named})" if total else "0"
