"""Rows of the market's tasks: what was measured, by which command, and what it came to; on the console and the page.
Pure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Final

from loadtests.bench.plots import lines

__all__ = ["Figure", "MarketRow", "beside", "market_section", "market_table", "median_row"]


PLOT_POINTS: Final = 6


@dataclass(frozen=True)
class Figure:
    """One number. ``low`` and ``high`` are those of its rounds, where there were several."""

    name: str
    value: float
    unit: str = ""
    places: int = 0
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        around = ""
        if self.low is not None and self.high is not None:
            around = f" ({self.low:,.{self.places}f}-{self.high:,.{self.places}f})"
        return f"{self.value:,.{self.places}f}{f' {self.unit}' if self.unit else ''}{around}"


@dataclass(frozen=True)
class MarketRow:
    """One measurement of a task; ``measures`` says of exactly what. ``family`` is ours, floor or peer. ``series`` are
    values over time, by what they are. ``invalid`` says why its figures don't count; empty, if they do."""

    task: str
    label: str
    family: str
    measures: str
    figures: Sequence[Figure] = ()
    series: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    invalid: str = ""
    rounds: int = 1

    @property
    def brief(self) -> str:
        """What it came to, in a line."""
        if self.invalid:
            return f"INVALID: {self.invalid}"
        return "  ".join(f"{figure.name} {figure}" for figure in self.figures[:3])

    def value(self, name: str) -> float | None:
        """The figure of this name; None, if there is none or it does not count."""
        if self.invalid:
            return None
        return next((figure.value for figure in self.figures if figure.name == name), None)


def median_row(rows: Sequence[MarketRow]) -> MarketRow:
    """Rounds of one row as one: medians, the lowest and the highest; without the invalid ones, unless all are."""
    valid = [row for row in rows if not row.invalid]
    if not valid:
        return replace(rows[0], rounds=len(rows), invalid=rows[0].invalid)
    figures: list[Figure] = []
    for figure in valid[0].figures:
        values = [value for row in valid if (value := row.value(figure.name)) is not None]
        several = len(values) > 1
        low, high = (min(values), max(values)) if several else (None, None)
        figures.append(replace(figure, value=statistics.median(values), low=low, high=high))
    return replace(valid[-1], figures=figures, rounds=len(rows))


def beside(row: MarketRow, other: MarketRow, name: str, ratio: str) -> MarketRow:
    """``row`` with one figure more, the second: its figure ``name`` over that of ``other``, called ``ratio``."""
    mine, theirs = row.value(name), other.value(name)
    if not mine or not theirs:
        return row
    first, *others = row.figures
    return replace(row, figures=[first, Figure(ratio, mine / theirs, "", 2), *others])


def market_table(rows: Sequence[MarketRow], titles: Mapping[str, str], commands: Mapping[str, str]) -> str:
    """All rows for the console, task by task."""
    text: list[str] = []
    task = ""
    for row in rows:
        if row.task != task:
            task = row.task
            text += ["", f"{task}: {titles[task]}", f"  {commands[task]}"]
        text.append(f"  {row.label}")
        if row.invalid:
            text.append(f"    INVALID: {row.invalid}")
        text += [f"    {figure.name:<44}{figure}" for figure in row.figures if not row.invalid]
    text += ["", "what these rows measure"]
    text += [f"  {row.task} {row.label}: {row.measures}" for row in rows]
    return "\n".join(text)


def market_section(rows: Sequence[MarketRow], titles: Mapping[str, str], commands: Mapping[str, str]) -> str:
    """All rows as a part of the page."""
    parts: list[str] = []
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        names = dict.fromkeys(figure.name for row in mine for figure in row.figures)
        head = "".join(f"<th>{escape(row.label)}" for row in mine)
        body = "".join(f"<tr><td>{escape(name)}{''.join(_cell(row, name) for row in mine)}" for name in names)
        notes = "".join(
            f"<li><b>{escape(row.label)}</b>: {escape(row.measures)}"
            f"{f' <span class=bad>INVALID: {escape(row.invalid)}</span>' if row.invalid else ''}"
            for row in mine
        )
        plots = "".join(
            lines(_thinned(points), f"{task} {row.label}: {name}", f"{row.label}: {name}")
            for row in mine
            for name, points in row.series.items()
        )
        parts.append(
            f"<h2>{escape(task)}: {escape(titles[task])}</h2><p><code>{escape(commands[task])}</code></p>"
            f"<table><tr><th>{head}{body}</table><ul>{notes}</ul>{plots}"
        )
    return "\n".join(parts)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Few enough to be labelled: of neighbours the highest value, where the last of them is."""
    each = math.ceil(len(points) / PLOT_POINTS) or 1
    groups = [points[at : at + each] for at in range(0, len(points), each)]
    return [(group[-1][0], max(value for _, value in group)) for group in groups]


def _cell(row: MarketRow, name: str) -> str:
    found = [figure for figure in row.figures if figure.name == name and not row.invalid]
    kind = " class=ours" if row.family == "ours" else ""
    return f"<td{kind}>{escape(str(found[0])) if found else '-'}"
