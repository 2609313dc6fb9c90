"""What the console says, as lines of text with a style each. Pure: a line knows nothing of terminals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tokenwire_conformance.known import NO_KNOWN_FAILURES, KnownFailures
from tokenwire_conformance.model import Clause, Status, Verdict, judge
from tokenwire_conformance.outcome import (
    ExitStatus,
    RunResult,
    exit_status,
    is_failing,
    known_outcome,
    profile_counts,
    status_counts,
    verdict_line,
)
from tokenwire_conformance.reports.text import clip, one_line, printable

__all__ = ["Line", "Rules", "end_lines", "is_told", "progress_line", "verdict_lines"]

_TEXT_MAX_CHARS: Final = 500
"""Of a message, a note or a reason, in characters; the reports have more."""
_VIOLATIONS_MAX: Final = 5
"""Of a case."""
_NOTES_MAX: Final = 10
"""Of a case."""
_CASES_MAX: Final = 8
"""Ids in the line of a clause."""
_RUNNING_MAX: Final = 4
"""Ids in a line of progress."""

_STYLES: Final = {
    Status.OK: "green",
    Status.INFORMATIONAL: "cyan",
    Status.NON_STRICT: "yellow",
    Status.FAILED: "red",
    Status.SKIPPED: "dim",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end: printable, and in one of the styles "", "green", "cyan", "yellow", "red", "dim"."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What verdicts are told by."""

    clauses: Mapping[str, Clause]
    declared: frozenset[str] = frozenset()
    known: KnownFailures = NO_KNOWN_FAILURES
    strict: bool = False


def is_told(verdict: Verdict, rules: Rules, quiet: bool = False) -> bool:
    """Whether a verdict is told at once, without being asked to be verbose. ``quiet`` leaves out what fails nothing."""
    passes_though_listed = verdict.case.id in rules.known and verdict.status is not Status.SKIPPED
    if quiet and verdict.status is Status.NON_STRICT and not is_failing(verdict.status, rules.strict):
        return False
    return passes_though_listed or verdict.broken or verdict.status in {Status.FAILED, Status.NON_STRICT}


def verdict_lines(verdict: Verdict, rules: Rules, verbose: bool) -> Iterator[Line]:
    """A case that has ended: its verdict, and, where it is not OK, why."""
    case, status = verdict.case, verdict.status
    remark = ""
    if case.id in rules.known and status is not Status.SKIPPED:
        remark = ", known failure" if is_failing(status, rules.strict) else ", listed as a known failure, but passes"
    head = f"{status.value:<13} {case.id}  {one_line(case.title)}  ({case.profile}, {verdict.duration_s:.1f} s{remark})"
    yield Line(printable(head), _STYLES[status])
    if verdict.reason:
        yield _detail("because", _peer(verdict.reason))
    if verdict.violations:
        if verbose:
            yield _detail("sent", one_line(case.sends))
        yield _detail("expected", one_line(case.expects))
    for violation in verdict.violations[:_VIOLATIONS_MAX]:
        clause = rules.clauses[violation.clause]
        earned = judge(violation, rules.clauses, rules.declared)
        where = "" if violation.connection is None else f"  [connection {violation.connection}]"
        standing = f"{clause.level.value}, {clause.authority.value}, {clause.source}"
        yield _detail("came", _peer(violation.message) + where, _STYLES[earned])
        yield _detail("clause", printable(f"{clause.id} ({standing}): ") + f'"{one_line(clause.quote)}"')
    yield from _more(len(verdict.violations) - _VIOLATIONS_MAX, "violations")
    if verbose:
        for note in verdict.notes[:_NOTES_MAX]:
            yield _detail("note", _peer(note))
        yield from _more(len(verdict.notes) - _NOTES_MAX, "notes")


def progress_line(done: int, total: int, running: Mapping[str, float], elapsed_s: float) -> str:
    """How far the run is. ``running`` holds the seconds that each running case has taken so far."""
    slowest = sorted(running, key=lambda case: -running[case])
    names = [f"{printable(case)} {running[case]:.0f} s" for case in slowest[:_RUNNING_MAX]]
    if (more := len(slowest) - _RUNNING_MAX) > 0:
        names.append(f"{more} more")
    what = f", running: {', '.join(names)}" if names else ""
    return f"{done} of {total} cases done, {elapsed_s:.0f} s{what}"


def end_lines(result: RunResult, hint: str) -> Iterator[Line]:
    """The end of a run: what was skipped and why, what the known failures came to, a table, the verdict."""
    yield from _skips(result)
    yield from _known(result)
    yield from _by_clause(result)
    for verdict in result.broken:
        what = f"{verdict.case.id} is broken, which is the suite's own fault, please report it: {_peer(verdict.reason)}"
        yield Line(what, "red")
    for warning in result.warnings:
        yield Line(f"warning: {_peer(warning)}", "yellow")
    yield Line("")
    yield from _table(result)
    yield Line("")
    status = exit_status(result)
    remark = f" ({printable(hint)})" if hint and any(v.logs for v in result.verdicts) and status else ""
    style = {ExitStatus.OK: "green", ExitStatus.NOT_TESTED: "yellow"}.get(status, "red")
    yield Line(printable(verdict_line(result)) + remark, style)


def _skips(result: RunResult) -> Iterator[Line]:
    reasons: dict[str, list[str]] = {}
    for verdict in result.verdicts:
        if verdict.status is Status.SKIPPED and not verdict.broken:
            reasons.setdefault(verdict.reason, []).append(verdict.case.id)
    for reason, cases in reasons.items():
        yield Line(f"skipped {printable(', '.join(cases))}: {_peer(reason) or 'no reason given'}", "dim")


def _by_clause(result: RunResult) -> Iterator[Line]:
    """What was not kept: a line for each clause, the most serious first."""
    found: dict[str, dict[str, None]] = {}
    statuses: dict[str, Status] = {}
    for verdict in result.verdicts:
        for violation in verdict.violations:
            statuses[violation.clause] = judge(violation, result.clauses, result.declared)
            found.setdefault(violation.clause, {})[verdict.case.id] = None
    for wanted in (Status.FAILED, Status.NON_STRICT):
        for name, cases in found.items():
            if statuses[name] is not wanted:
                continue
            ids = [*list(cases)[:_CASES_MAX], *([f"{len(cases) - _CASES_MAX} more"] if len(cases) > _CASES_MAX else [])]
            text = f"{wanted.value:<10}  {name}  {one_line(result.clauses[name].text)}  [{', '.join(ids)}]"
            yield Line(printable(text), _STYLES[wanted])


def _known(result: RunResult) -> Iterator[Line]:
    known, listed = known_outcome(result), result.known
    for case in known.fixed:
        yield Line(printable(f"{case} passes and is listed as a known failure: remove {listed.where(case)}"), "red")
    for case in known.skipped:
        yield Line(printable(f"{case} is listed as a known failure and was skipped ({listed.where(case)})"), "dim")
    if known.not_run:
        yield Line(printable(f"listed as known failures and not run: {', '.join(known.not_run)}"), "dim")


def _table(result: RunResult) -> Iterator[Line]:
    rows: Sequence[tuple[str, dict[Status, int]]] = [*profile_counts(result).items(), ("all", status_counts(result))]
    width = max(len("profile"), *(len(name) for name, _ in rows))
    yield Line(f"{'profile':<{width}}" + "".join(f"  {status.value:>{_width(status)}}" for status in Status))
    for name, counts in rows:
        cells = "".join(f"  {counts[status]:>{_width(status)}}" for status in Status)
        yield Line(printable(f"{name:<{width}}{cells}"), "red" if counts[Status.FAILED] else "")


def _width(status: Status) -> int:
    return len(status.value)


def _detail(name: str, text: str, style: str = "") -> Line:
    return Line(f"    {name:<9} {text}", style)


def _more(number: int, what: str) -> Iterator[Line]:
    if number > 0:
        yield Line(f"    and {number} further {what}", "dim")


def _peer(text: str) -> str:
    return printable(clip(text, _TEXT_MAX_CHARS))
