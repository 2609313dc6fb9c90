"""What a whole run comes to: its exit status, its counts, and what it says of every clause."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from tokenwire_conformance.known import NO_KNOWN_FAILURES, KnownFailures
from tokenwire_conformance.model import (
    PROFILES,
    Clause,
    Role,
    Status,
    Verdict,
    Violation,
    clause_statuses,
    judge,
    worst,
)

__all__ = [
    "ClauseCell",
    "ClauseRow",
    "ExitStatus",
    "KnownOutcome",
    "RunResult",
    "clause_matrix",
    "exit_status",
    "is_failing",
    "judged_status",
    "known_outcome",
    "profile_counts",
    "status_counts",
    "verdict_line",
]


class ExitStatus(IntEnum):
    """What the command line returns."""

    OK = 0
    FAILED = 1
    """A case fails that is not listed as a known failure."""
    KNOWN_PASSES = 2
    """Nothing else fails, but a listed case passes: its line has to go."""
    NOT_TESTED = 3
    """No case was judged, for example because there was no connection."""
    USAGE = 4
    """The command line, or a file that it names, is wrong."""
    INTERNAL = 70
    """The suite itself broke; this says nothing of the peer."""
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run, complete."""

    role: Role
    target: str
    """Who was tested, for a person: the URL or the command, without secrets."""
    profiles: tuple[str, ...]
    """Those that were asked for."""
    declared: frozenset[str]
    """Numbers of the Interpretations that the peer claims to follow."""
    started: str
    """ISO 8601, with the offset from UTC."""
    duration_s: float
    verdicts: tuple[Verdict, ...]
    """In the order of the cases."""
    clauses: Mapping[str, Clause]
    known: KnownFailures = NO_KNOWN_FAILURES
    peer: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What else a reader has to know of the peer, for example the capabilities it granted and the tokens used."""
    warnings: tuple[str, ...] = ()
    strict: bool = False
    """Whether NON-STRICT counts as failing."""
    interrupted: bool = False
    """Whether the run was ended before every case had its verdict."""
    gone: str = ""
    """That the peer went away during the run, and when, in a few words. This fails the run."""
    not_tested: str = ""
    """Why no case could begin."""

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The cases that are wrong themselves."""
        return tuple(verdict for verdict in self.verdicts if verdict.broken)


@dataclass(frozen=True, slots=True)
class KnownOutcome:
    """Ids of cases, compared with the known failures; each in the order of the run or of the file."""

    expected: tuple[str, ...]
    """Listed, and fail."""
    unexpected: tuple[str, ...]
    """Fail, and are not listed."""
    fixed: tuple[str, ...]
    """Listed, and pass."""
    skipped: tuple[str, ...]
    """Listed, and could not be tested."""
    not_run: tuple[str, ...]
    """Listed, and not part of this run."""


@dataclass(frozen=True, slots=True)
class ClauseCell:
    """What one case says of a clause; ``None`` where it ended before it could tell."""

    case: str
    status: Status | None


@dataclass(frozen=True, slots=True)
class ClauseRow:
    """What a run says of a clause."""

    clause: Clause
    cells: tuple[ClauseCell, ...]
    """None of them where no case of the run is about the clause."""

    @property
    def status(self) -> Status | None:
        """The most serious of the cells; ``None`` where none of them can tell."""
        found = [cell.status for cell in self.cells if cell.status is not None]
        return worst(found) if found else None

    @property
    def group(self) -> str:
        """``MB`` of ``MB.sequence``."""
        return self.clause.id.partition(".")[0]


def is_failing(status: Status, strict: bool) -> bool:
    """Whether a verdict of ``status`` fails the run."""
    return status is Status.FAILED or (strict and status is Status.NON_STRICT)


def judged_status(violation: Violation, result: RunResult) -> Status:
    """The status that ``violation`` earned in this run."""
    return judge(violation, result.clauses, result.declared)


def known_outcome(result: RunResult, strict: bool | None = None) -> KnownOutcome:
    """The verdicts compared with the known failures. ``strict`` as for `exit_status`."""
    rule = result.strict if strict is None else strict
    listed = [verdict for verdict in result.verdicts if verdict.case.id in result.known]
    failing = [verdict.case.id for verdict in result.verdicts if is_failing(verdict.status, rule)]
    skipped = tuple(verdict.case.id for verdict in listed if verdict.status is Status.SKIPPED)
    run = {verdict.case.id for verdict in listed}
    return KnownOutcome(
        expected=tuple(case for case in failing if case in result.known),
        unexpected=tuple(case for case in failing if case not in result.known),
        fixed=tuple(v.case.id for v in listed if v.status is not Status.SKIPPED and not is_failing(v.status, rule)),
        skipped=skipped,
        # The file may list cases for the other role, too.
        not_run=tuple(
            case for case in result.known.entries if case not in run and case[0] == result.role.value[0].upper()
        ),
    )


def exit_status(result: RunResult, strict: bool | None = None) -> ExitStatus:
    """How the command line ends.

    Args:
        result: The run.
        strict: Whether NON-STRICT counts as failing; ``None`` is as the run was asked for.
    """
    if result.interrupted:
        return ExitStatus.INTERRUPTED
    if result.broken:
        return ExitStatus.INTERNAL
    if result.gone:
        return ExitStatus.FAILED
    known = known_outcome(result, strict)
    if known.unexpected:
        return ExitStatus.FAILED
    if known.fixed:
        return ExitStatus.KNOWN_PASSES
    if all(verdict.status is Status.SKIPPED for verdict in result.verdicts):
        return ExitStatus.NOT_TESTED
    return ExitStatus.OK


def status_counts(result: RunResult) -> dict[Status, int]:
    """How many cases have each status; every status is a key."""
    return _count(result.verdicts)


def profile_counts(result: RunResult) -> dict[str, dict[Status, int]]:
    """The same for each profile that has a case, in the order in which profiles are reported."""
    profiles = sorted({verdict.case.profile for verdict in result.verdicts}, key=_place)
    return {name: _count(tuple(v for v in result.verdicts if v.case.profile == name)) for name in profiles}


def clause_matrix(result: RunResult) -> tuple[ClauseRow, ...]:
    """What the run says of every clause for the role, and of any other that a case names, in the registry's order.

    Raises:
        KeyError: A case names a clause that is not in the registry.
    """
    cells: dict[str, list[ClauseCell]] = {
        name: [] for name, clause in result.clauses.items() if result.role in clause.roles
    }
    for verdict in result.verdicts:
        for name, status in clause_statuses(verdict, result.clauses, result.declared).items():
            cells.setdefault(name, []).append(ClauseCell(verdict.case.id, status))
    unknown = cells.keys() - result.clauses.keys()
    if unknown:
        raise KeyError(min(unknown))
    return tuple(ClauseRow(clause, tuple(cells[name])) for name, clause in result.clauses.items() if name in cells)


def verdict_line(result: RunResult) -> str:
    """The whole run in one sentence, its verdict first."""
    counts, known, total = status_counts(result), known_outcome(result), len(result.verdicts)
    parts = [
        _some(len(known.expected), "known failure"),
        "" if result.strict else _some(counts[Status.NON_STRICT], "non-strict", "non-strict"),
        _some(counts[Status.SKIPPED], "skipped", "skipped"),
    ]
    failed = f"{len(known.unexpected)} of {total} cases failed"
    if result.strict and (soft := counts[Status.NON_STRICT]):
        parts.insert(0, f"{soft} non-strict, which --strict counts as failing")
    match exit_status(result):
        case ExitStatus.FAILED:
            head = f"FAILED: {result.gone}, {failed}" if result.gone else f"FAILED: {failed}"
            parts.append(_some(len(known.fixed), "known failure passes", "known failures pass"))
        case ExitStatus.KNOWN_PASSES:
            head = f"KNOWN FAILURE PASSES: remove {', '.join(known.fixed)} from {result.known.path}"
        case ExitStatus.NOT_TESTED:
            if result.not_tested:
                return f"NOT TESTED: {result.not_tested}"
            return (
                f"NOT TESTED: {total} of {total} cases were skipped"
                if total
                else "NOT TESTED: there was no case to run"
            )
        case ExitStatus.INTERRUPTED:
            head = f"INTERRUPTED: {failed} until then"
        case ExitStatus.INTERNAL:
            head = f"THE SUITE BROKE: {_some(len(result.broken), 'case')} could not judge, please report it, {failed}"
        case _:
            passed = counts[Status.OK] + counts[Status.INFORMATIONAL]
            head = f"OK: {passed} of {total} cases passed" if passed else f"OK: none of {total} cases failed"
    return ", ".join(part for part in (head, *parts) if part)


def _count(verdicts: tuple[Verdict, ...]) -> dict[Status, int]:
    return {status: sum(verdict.status is status for verdict in verdicts) for status in Status}


def _place(profile: str) -> tuple[int, str]:
    return (PROFILES.index(profile) if profile in PROFILES else len(PROFILES), profile)


def _some(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}" if number else ""
