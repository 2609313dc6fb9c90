"""A line of progress that stays at the bottom of a terminal. Needs rich."""

from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["LiveLine"]

_BAR_COLUMNS = 24


class LiveLine:
    """Draws when it is told to and has no thread of its own, so whatever the stream raises, the caller sees."""

    def __init__(self, stream: IO[str], colour: bool) -> None:
        self._console = Console(
            file=stream, force_terminal=True, no_color=not colour, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def show(self, text: str, done: int, total: int) -> None:
        """Replaces the line."""
        self._live.start()
        self._live.update(_line(text, done, total), refresh=True)

    def write(self, text: str, style: str) -> None:
        """A line above it, which stays."""
        self._console.print(Text(text, style), soft_wrap=True)

    def close(self) -> None:
        """Takes the line away."""
        self._live.stop()


def _line(text: str, done: int, total: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, total), completed=done, width=_BAR_COLUMNS)
    grid.add_row(bar, Text(text, no_wrap=True, overflow="ellipsis"))
    return grid
