"""Which of the evidence fits into a report. The evidence is as large as a peer makes it; a report is bounded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from tokenwire_conformance.model import LogEntry, Status, Verdict, Violation, WireLog

__all__ = ["Bounds", "Evidence", "Measure", "ShownLog", "fit", "select_evidence"]

_T = TypeVar("_T")

_MOST_SERIOUS_FIRST: Final = (
    Status.FAILED, Status.NON_STRICT, Status.INFORMATIONAL, Status.OK, Status.SKIPPED,
)  # fmt: skip


class Measure(Protocol):
    """How many bytes something takes in a report."""

    def violation(self, violation: Violation) -> int: ...
    def note(self, note: str) -> int: ...
    def log(self, log: WireLog) -> int:
        """Without its entries."""
        ...

    def entry(self, entry: LogEntry) -> int: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of each case."""

    violations: int
    notes: int
    log_bytes: Mapping[Status, int]
    """Of the logs of a case, by its status."""


@dataclass(frozen=True, slots=True)
class ShownLog:
    """A log of which the middle may be missing."""

    log: WireLog
    head: int
    """How many of the first entries are shown."""
    tail: int
    """How many of the last."""

    @property
    def first(self) -> Sequence[LogEntry]:
        return self.log.entries[: self.head]

    @property
    def last(self) -> Sequence[LogEntry]:
        return self.log.entries[len(self.log.entries) - self.tail :]

    @property
    def cut(self) -> int:
        """How many entries in between are not shown."""
        return len(self.log.entries) - self.head - self.tail


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a report shows of a verdict, in the order of the verdict. What is not shown is left out at the end."""

    violations: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    logs: tuple[ShownLog, ...] = ()


def fit(items: Sequence[_T], cost: Callable[[_T], int], room: int) -> tuple[int, int, int]:
    """How many of the first and how many of the last items fit into ``room``, and what then is left of it.

    The first get half of it, the last what then is left: a connection begins with its handshake and ends with what
    went wrong. No more items are measured than about twice those that fit.
    """
    count, left = _taken(items, cost, room)
    if count == len(items):
        return count, 0, left
    head, left = _taken(items, cost, room // 2)
    tail, left = _taken(items[head:][::-1], cost, room - room // 2 + left)
    return head, tail, left


def select_evidence(
    verdicts: Sequence[Verdict], bounds: Bounds, measure: Measure, room_bytes: int
) -> dict[str, Evidence]:
    """What of every verdict fits into ``room_bytes`` altogether, by the id of the case.

    Violations come before notes and both before logs, the more serious verdicts before the others. No case gets more
    than its share while others wait, and violations and notes leave half of the room to the logs.
    """
    ranked = sorted(verdicts, key=lambda verdict: _MOST_SERIOUS_FIRST.index(verdict.status))
    room = max(0, room_bytes)
    violations, left = _shared([v.violations[: bounds.violations] for v in ranked], measure.violation, room // 2)
    notes, left = _shared([v.notes[: bounds.notes] for v in ranked], measure.note, left)
    left += room - room // 2
    found: dict[str, Evidence] = {}
    waiting = {status: sum(verdict.status is status for verdict in ranked) for status in Status}
    for place, verdict in enumerate(ranked):
        share = min(bounds.log_bytes[verdict.status], left // waiting[verdict.status])
        waiting[verdict.status] -= 1
        logs, used = _logs(verdict.logs, measure, share)
        left -= used
        found[verdict.case.id] = Evidence(verdict.violations[: violations[place]], verdict.notes[: notes[place]], logs)
    return found


def _logs(logs: Sequence[WireLog], measure: Measure, room: int) -> tuple[tuple[ShownLog, ...], int]:
    """The logs that fit, and the bytes that they take. What one of them does not need goes to those after it."""
    headings, left = _taken(logs, measure.log, room)
    shown: list[ShownLog] = []
    for place, log in enumerate(logs[:headings]):
        share = left // (headings - place)
        head, tail, rest = fit(log.entries, measure.entry, share)
        left -= share - rest
        shown.append(ShownLog(log, head, tail))
    return tuple(shown), room - left


def _shared(lists: Sequence[Sequence[_T]], cost: Callable[[_T], int], room: int) -> tuple[list[int], int]:
    """How many of the first items of each list fit into its share of ``room``, and what then is left of it."""
    counts: list[int] = []
    for place, items in enumerate(lists):
        share = room // (len(lists) - place)
        count, rest = _taken(items, cost, share)
        room -= share - rest
        counts.append(count)
    return counts, room


def _taken(items: Sequence[_T], cost: Callable[[_T], int], room: int) -> tuple[int, int]:
    """How many of the first items fit into ``room``, and what then is left of it."""
    for place, item in enumerate(items):
        size = cost(item)
        if size > room:
            return place, room
        room -= size
    return len(items), room
