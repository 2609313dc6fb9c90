"""What the market's tasks start: their server and the reading ends, each on its core, and what these say."""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from loadtests.bench.processes import Child, cores
from loadtests.bench.tools import ROOT, BenchError, compiled

__all__ = ["Cast", "event", "said", "subscriptions", "told"]

_START_S: Final = 20.0


class Cast:
    """Processes of one run; all end with the block."""

    def __init__(self) -> None:
        self.server_core, self.reader_core = cores()
        self._stack = ExitStack()

    def __enter__(self) -> "Cast":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def python(
        self, name: str, words: Sequence[str], *, reads: bool = False, environment: Mapping[str, str] | None = None
    ) -> Child:
        """A program of ours on the server's core, or on that of the readers; it finds ``environment`` besides ours."""
        core = self.reader_core if reads else self.server_core
        return self._start(name, [sys.executable, *words], core, environment)

    def program(self, name: str, options: dict[str, Any], *, reads: bool = False) -> Child:
        """``sink`` or ``floor``."""
        words = [str(word) for pair in options.items() for word in pair]
        return self._start(name, [str(compiled(name)), *words], self.reader_core if reads else self.server_core)

    def _start(
        self, name: str, command: Sequence[str], core: int, environment: Mapping[str, str] | None = None
    ) -> Child:
        child = Child(name, command, core, ROOT, environment)
        self._stack.callback(child.stop)
        return child


def said(
    module: str, words: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """What a run of this module, on a core of its own, said as a line of JSON; or nothing, and why."""
    try:
        with Cast() as cast:
            run = cast.python(module, ["-m", f"loadtests.bench.{module}", *words], environment=environment)
            found: dict[str, Any] = json.loads(run.line(timeout_s))
            return found, ""
    except BenchError as error:
        return {}, str(error)


def told(child: Child, words: Collection[str], timeout_s: float = _START_S) -> dict[str, int]:
    """Read lines until all of these words were said; the number after each (0 without one).

    Raises:
        BenchError: it ended, or said something else for too long.
    """
    found: dict[str, int] = {}
    for _ in range(100):
        if found.keys() >= set(words):
            return found
        word, _, number = child.line(timeout_s).partition(" ")
        found[word] = int(number) if number.strip().isdigit() else 0
    raise BenchError(f"{child.name} did not say {', '.join(words)}")


def event(sink: Child, name: str, timeout_s: float) -> dict[str, Any]:
    """The sink's next event of this name."""
    while True:
        found: dict[str, Any] = json.loads(sink.line(timeout_s))
        if found["event"] == name:
            return found


def subscriptions(folder: Path, texts: Sequence[str]) -> Path:
    """A file of what each connection of a sink says first."""
    path = folder / f"subscriptions-{len(list(folder.iterdir()))}"
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path
