"""Invariants of trades and bars, whoever reads them: a client, a table, a log. All against the truth of the history.

``numbers`` of a violation are all that it concerns, so that they can be counted.
"""

from collections.abc import Callable, Iterator
from typing import Final

from loadtests.faults.index import Index, Reading, Violation

__all__ = ["MARKET_RULES"]


def _in(rule: str, reading: Reading, numbers: list[int], text: str, t: int = 0) -> Violation:
    what = f"bars of {reading.interval_ms} ms" if reading.interval_ms else "trades"
    return Violation(rule, reading.client, "", tuple(numbers), f"{reading.address}, {what}: {text}", t)


def _trades(index: Index) -> Iterator[tuple[Reading, dict[int, str]]]:
    for reading in index.readings.values():
        if not reading.interval_ms:
            yield reading, index.traded.get(reading.address, {})


def _bars(index: Index) -> Iterator[tuple[Reading, dict[int, tuple[str, ...]]]]:
    for reading in index.readings.values():
        if reading.interval_ms:
            yield reading, index.folded.get((reading.address, reading.interval_ms), {})


def trades_true(index: Index) -> Iterator[Violation]:
    """A trade that is delivered has the number and the id that it truly has."""
    for reading, truth in _trades(index):
        wrong = [entry for entry in reading.trades if truth.get(entry.number) != entry.trade_id]
        if wrong:
            first = wrong[0]
            text = f"number {first.number} is {first.trade_id}, in truth {truth.get(first.number)}"
            yield _in("trades_true", reading, [entry.number for entry in wrong], text, first.t)


def trades_once(index: Index) -> Iterator[Violation]:
    """No trade is delivered twice, under one number or several."""
    for reading, _ in _trades(index):
        numbers: set[int] = set()
        ids: set[str] = set()
        again = []
        for entry in reading.trades:
            if entry.number in numbers or entry.trade_id in ids:
                again.append(entry.number)
            numbers.add(entry.number)
            ids.add(entry.trade_id)
        if again:
            yield _in("trades_once", reading, again, f"{again[0]} came again")


def trades_rising(index: Index) -> Iterator[Violation]:
    """Trades of a token are delivered in the order of their numbers."""
    for reading, _ in _trades(index):
        highest, back = 0, []
        for entry in reading.trades:
            if entry.number < highest:
                back.append(entry.number)
            highest = max(highest, entry.number)
        if back:
            yield _in("trades_rising", reading, back, f"{back[0]} came after a higher one")


def trades_complete(index: Index) -> Iterator[Violation]:
    """Between the first trade that a reader got, or the very first, and the last there is, none is missing."""
    for reading, truth in _trades(index):
        got = {entry.number for entry in reading.trades}
        first = min(got) if got and not reading.whole else 0
        last = max(truth, default=0) if index.quiet else max(got, default=0)
        lost = [number for number in sorted(truth) if first <= number <= last and number not in got]
        if lost:
            told = sum(entry.missed or 0 for entry in reading.trades)
            text = f"{len(lost)} from {lost[0]} to {lost[-1]} never came; it was told of {told}"
            yield _in("trades_complete", reading, lost, text)


def holes_true(index: Index) -> Iterator[Violation]:
    """A hole in front of a trade is told, with its size, and none is told that is not there."""
    for reading, _ in _trades(index):
        before: int | None = None
        wrong = []
        for entry in reading.trades:
            hole = 0 if before is None else max(0, entry.number - before - 1)
            if entry.missed is not None and entry.missed != hole:
                wrong.append(entry.number)
            before = entry.number
        if wrong:
            yield _in("holes_true", reading, wrong, f"what is told before {wrong[0]} is not the hole that is there")


def bars_true(index: Index) -> Iterator[Violation]:
    """The newest form of each closed bar that is delivered holds exactly what was traded."""
    for reading, truth in _bars(index):
        newest = {entry.open_ms: entry for entry in reading.bars}
        wrong = [entry for entry in newest.values() if truth.get(entry.open_ms) != entry.figures]
        if wrong:
            first = wrong[0]
            text = f"that of {first.open_ms} is {first.figures}, in truth {truth.get(first.open_ms)}"
            yield _in("bars_true", reading, [entry.open_ms for entry in wrong], text, first.t)


def bars_complete(index: Index) -> Iterator[Violation]:
    """Between the first bar that a reader got, or the very first, and the last that closed, none is missing."""
    for reading, truth in _bars(index):
        got = {entry.open_ms for entry in reading.bars}
        first = min(got) if got and not reading.whole else 0
        last = max(truth, default=0) if index.quiet else max(got, default=0)
        lost = [open_ms for open_ms in sorted(truth) if first <= open_ms <= last and open_ms not in got]
        if lost:
            told = sum(entry.missed for entry in reading.bars)
            text = f"{len(lost)} from {lost[0]} to {lost[-1]} never came; it was told of missing ones {told} times"
            yield _in("bars_complete", reading, lost, text)


MARKET_RULES: Final[dict[str, Callable[[Index], Iterator[Violation]]]] = {
    rule.__name__: rule
    for rule in (
        trades_true,
        trades_once,
        trades_rising,
        trades_complete,
        holes_true,
        bars_true,
        bars_complete,
    )
}
