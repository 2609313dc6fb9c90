"""What a person sees while the suite runs: live progress on a terminal, plain lines anywhere else."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

from tokenwire_conformance.known import NO_KNOWN_FAILURES, KnownFailures
from tokenwire_conformance.model import CaseInfo, Clause, Verdict
from tokenwire_conformance.outcome import RunResult
from tokenwire_conformance.reports.lines import Line, Rules, end_lines, is_told, progress_line, verdict_lines

if TYPE_CHECKING:
    from tokenwire_conformance.reports.live import LiveLine

__all__ = ["PROGRESS_INTERVAL_S", "Console"]

PROGRESS_INTERVAL_S: Final = 10.0
"""Between two lines of progress where there is no terminal, in seconds at least."""

_CODES: Final = {"green": "32", "cyan": "36", "yellow": "33", "red": "31", "dim": "2"}


class Console:
    """Tells of a run on ``stream``.

    Nothing is caught: a stream that is closed raises from any method. As a context manager it gives the terminal back
    however the run ends.

    Args:
        stream: Where it is written.
        colour: Whether to use colours; ``None`` where the stream is a terminal, unless ``NO_COLOR`` is set.
        verbose: Whether every case is told of, with its notes.
        quiet: Whether only what fails the run is told of before the end.
        clock: Seconds, rising.
    """

    def __init__(
        self, stream: IO[str], *, colour: bool | None, verbose: bool, quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._colour = (stream.isatty() and not os.environ.get("NO_COLOR")) if colour is None else colour
        self._verbose = verbose
        self._quiet = quiet
        self._clock = clock
        self._rules = Rules({})
        self._total = self._done = 0
        self._running: dict[str, float] = {}
        self._begun_s = self._told_s = 0.0
        self._live = _live_line(stream, self._colour)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(
        self,
        cases: Sequence[CaseInfo],
        *,
        clauses: Mapping[str, Clause],
        declared: frozenset[str] = frozenset(),
        known: KnownFailures = NO_KNOWN_FAILURES,
        strict: bool = False,
    ) -> None:
        """The run begins. The rest is what its verdicts will be told by, as in `RunResult`."""
        self._rules = Rules(clauses, declared, known, strict)
        self._total, self._done = len(cases), 0
        self._running.clear()
        self._begun_s = self._told_s = self._clock()
        self.tick()

    def started(self, case: CaseInfo) -> None:
        """``case`` runs from now on, perhaps beside others."""
        self._running[case.id] = self._clock()
        self.tick()

    def finished(self, verdict: Verdict) -> None:
        """A case has its verdict; it need not have been started."""
        self._running.pop(verdict.case.id, None)
        self._done += 1
        if self._verbose or is_told(verdict, self._rules, self._quiet):
            self._write(verdict_lines(verdict, self._rules, self._verbose))
        self.tick()

    def tick(self) -> None:
        """Shows how far the run is, where that is due. To be called a few times a second while cases run."""
        now = self._clock()
        running = {case: now - begun for case, begun in self._running.items()}
        text = progress_line(self._done, self._total, running, now - self._begun_s)
        if self._live is not None:
            self._live.show(text, self._done, self._total)
        elif now - self._told_s >= PROGRESS_INTERVAL_S and self._done < self._total:
            self._told_s = now
            self._write([Line(text, "dim")])

    def end(self, result: RunResult, *, hint: str = "run with --html for wire logs") -> None:
        """The run has ended. ``hint`` follows the verdict where something is wrong and there are wire logs."""
        self.close()
        self._write(end_lines(result, hint))

    def close(self) -> None:
        """Gives the terminal back. More than once does nothing."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            text = _encodable(line.text, self._stream)
            if self._live is not None:
                self._live.write(text, line.style)
                continue
            code = _CODES.get(line.style) if self._colour else None
            self._stream.write(f"\x1b[{code}m{text}\x1b[0m\n" if code else f"{text}\n")
        self._stream.flush()


def _live_line(stream: IO[str], colour: bool) -> "LiveLine | None":
    """Live progress where the stream can show it and rich is installed."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        from tokenwire_conformance.reports.live import LiveLine  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return LiveLine(stream, colour)


def _encodable(text: str, stream: IO[str]) -> str:
    """``text`` with escapes in the place of what the stream's encoding does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
