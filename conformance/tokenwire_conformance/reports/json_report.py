"""``results.json``: everything that is known of a run, for programs. Its schema is ``results.schema.json``."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from tokenwire_conformance.model import SPECIFICATION, LogEntry, Status, Verdict, Violation, WireLog
from tokenwire_conformance.outcome import (
    RunResult,
    clause_matrix,
    exit_status,
    judged_status,
    known_outcome,
    profile_counts,
    status_counts,
    verdict_line,
)
from tokenwire_conformance.reports.evidence import Bounds, Evidence, ShownLog, select_evidence
from tokenwire_conformance.reports.text import clip

__all__ = ["FORMAT", "JSON_MAX_BYTES", "document", "render_json"]

FORMAT: Final = 1
"""Raised when a reader of the former format would misread the new one."""

JSON_MAX_BYTES: Final = 32 * 1_048_576
"""Bound of the file, in bytes: evidence is left out, and counted, where it would not fit."""

_BOUNDS: Final = Bounds(violations=100, notes=100, log_bytes=dict.fromkeys(Status, 2 * 1_048_576))
_TEXT_MAX_CHARS: Final = 4_000
"""Of a message, a note, a reason, or an entry of a log, in characters."""
_HEAD_MAX_LINES: Final = 100
"""Of the warnings, and of what is noted of the peer."""
_DEPTH: Final = 8
"""How deep the deepest line is indented, in spaces."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def render_json(result: RunResult) -> bytes:
    """The whole file, in ASCII."""
    return (_dump(document(result)) + "\n").encode("ascii")


def document(result: RunResult) -> dict[str, Any]:
    """What the file holds. Text that is too long is cut, halves of surrogate pairs are replaced."""
    room = JSON_MAX_BYTES - len(_dump(_document(result, {})))
    return _document(result, select_evidence(result.verdicts, _BOUNDS, _Measure(result), room))


class _Measure:
    def __init__(self, result: RunResult) -> None:
        self._result = result

    def violation(self, violation: Violation) -> int:
        return _size(_violation(violation, self._result))

    def note(self, note: str) -> int:
        return _size(_text(note))

    def log(self, log: WireLog) -> int:
        return _size(_log(ShownLog(log, 0, 0)))

    def entry(self, entry: LogEntry) -> int:
        return _size(_entry(entry))


def _document(result: RunResult, evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    known, status = known_outcome(result), exit_status(result)
    return {
        "format": FORMAT,
        "specification": SPECIFICATION,
        "role": result.role.value,
        "target": _text(result.target),
        "profiles": list(result.profiles),
        "declared": sorted(result.declared),
        "strict": result.strict,
        "interrupted": result.interrupted,
        "started": _text(result.started),
        "duration_s": round(result.duration_s, 3),
        "peer": {_text(key): _text(value) for key, value in list(result.peer.items())[:_HEAD_MAX_LINES]},
        "warnings": [_text(warning) for warning in result.warnings[:_HEAD_MAX_LINES]],
        "exit_status": int(status),
        "outcome": status.name,
        "summary": {
            "text": _text(verdict_line(result)),
            "cases": len(result.verdicts),
            "statuses": _counts(status_counts(result)),
            "profiles": {name: _counts(counts) for name, counts in profile_counts(result).items()},
        },
        "known_failures": {
            "file": _text(result.known.path) or None,
            "expected": list(known.expected),
            "unexpected": list(known.unexpected),
            "fixed": list(known.fixed),
            "skipped": list(known.skipped),
            "not_run": list(known.not_run),
            "reasons": {case: _text(entry.reason) for case, entry in result.known.entries.items()},
        },
        "clauses": [
            {
                "id": row.clause.id,
                "level": row.clause.level.value,
                "authority": row.clause.authority.value,
                "roles": [role.value for role in row.clause.roles],
                "text": row.clause.text,
                "quote": row.clause.quote,
                "source": row.clause.source,
                "capability": row.clause.capability,
                "status": row.status and row.status.value,
                "cases": [{"case": cell.case, "status": cell.status and cell.status.value} for cell in row.cells],
            }
            for row in clause_matrix(result)
        ],
        "cases": [_case(verdict, evidence.get(verdict.case.id, Evidence()), result) for verdict in result.verdicts],
    }


def _case(verdict: Verdict, evidence: Evidence, result: RunResult) -> dict[str, Any]:
    case = verdict.case
    return {
        "id": case.id,
        "title": case.title,
        "role": case.role.value,
        "profile": case.profile,
        "group": case.group,
        "clauses": list(case.clauses),
        "sends": case.sends,
        "expects": case.expects,
        "why": case.why,
        "deadline_s": case.deadline_s,
        "alone": case.alone,
        "over_run": case.over_run,
        "status": verdict.status.value,
        "known_failure": case.id in result.known,
        "duration_s": round(verdict.duration_s, 3),
        "reason": _text(verdict.reason),
        "violations": [_violation(violation, result) for violation in evidence.violations],
        "violations_left_out": len(verdict.violations) - len(evidence.violations),
        "notes": [_text(note) for note in evidence.notes],
        "notes_left_out": len(verdict.notes) - len(evidence.notes),
        "logs": [_log(shown) for shown in evidence.logs],
        "logs_left_out": len(verdict.logs) - len(evidence.logs),
    }


def _violation(violation: Violation, result: RunResult) -> dict[str, Any]:
    clause = result.clauses[violation.clause]
    return {
        "clause": clause.id,
        "status": judged_status(violation, result).value,
        "level": clause.level.value,
        "authority": clause.authority.value,
        "source": clause.source,
        "quote": clause.quote,
        "message": _text(violation.message),
        "connection": violation.connection,
    }


def _log(shown: ShownLog) -> dict[str, Any]:
    return {
        "connection": shown.log.number,
        "url": _text(shown.log.url),
        "entries": [_entry(entry) for entry in (*shown.first, *shown.last)],
        "cut_after": shown.head if shown.cut else None,
        "cut": shown.cut,
        "not_recorded": shown.log.omitted,
    }


def _entry(entry: LogEntry) -> dict[str, Any]:
    return {
        "at_ms": entry.at_ms,
        "direction": entry.direction,
        "kind": entry.kind,
        "size": entry.size,
        "compressed": entry.compressed,
        "text": _text(entry.text),
    }


def _counts(counts: Mapping[Status, int]) -> dict[str, int]:
    return {status.value: number for status, number in counts.items()}


def _text(text: str) -> str:
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", clip(text, _TEXT_MAX_CHARS))


def _dump(value: object) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def _size(value: object) -> int:
    """Bytes of ``value`` at any depth of the file, with the comma and the line's end after it."""
    text = _dump(value)
    return len(text) + 2 + _DEPTH * (text.count("\n") + 1)
