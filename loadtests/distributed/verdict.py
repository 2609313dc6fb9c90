"""What came out of it: the shared invariants over the history, in counts and words. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from loadtests.faults.history import Entry
from loadtests.faults.invariants import Violation, judge

__all__ = ["Verdict", "judged"]

_LOST: Final = ("trades_complete", "bars_complete")
_WRONG: Final = ("trades_true", "bars_true", "holes_true")
_LINE: Final = (
    "trades", "bars", "clients", "kills", "stops", "replaced", "restarts", "aborted", "fenced", "redelivered",
    "takeovers", "rows", "ended", "wire", "wire_duplicates", "fetched", "seconds",
)  # fmt: skip
_NO_LIMIT: Final = 1_000_000


@dataclass
class Verdict:
    """``violations`` of the invariants, ``breaches`` besides; ``counts`` by name."""

    violations: list[Violation]
    breaches: list[str]
    counts: "Counter[str]" = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        """Nothing was lost, nothing came twice, nothing was wrong."""
        return not self.violations and not self.breaches

    def line(self) -> str:
        """The last line."""
        found: Counter[str] = Counter()
        for violation in self.violations:
            found[violation.invariant] += max(1, len(violation.numbers))
        first = {
            "lost": sum(found[rule] for rule in _LOST),
            "duplicated": found["trades_once"],
            "reordered": found["trades_rising"],
            "wrong": sum(found[rule] for rule in _WRONG),
        }
        figures = {**first, **{name: self.counts[name] for name in _LINE}}
        return " ".join(f"{name}={count}" for name, count in figures.items())


def judged(history: Iterable[Entry], breaches: Sequence[str] = ()) -> Verdict:
    """The verdict over a history that ends when everything has settled."""
    return Verdict(judge(history, exact=False, limit=_NO_LIMIT), list(breaches))
