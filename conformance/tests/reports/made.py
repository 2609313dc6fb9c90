"""Hand-made clauses, cases and verdicts, and text as a hostile peer would send it."""

import re
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from tokenwire_conformance.known import KnownFailure, KnownFailures
from tokenwire_conformance.model import (
    Authority,
    CaseInfo,
    Clause,
    Level,
    LogEntry,
    Role,
    Status,
    Verdict,
    Violation,
    WireLog,
)
from tokenwire_conformance.outcome import RunResult

XSS = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;"
CONTROL = "\x1b[2Jgone\x00\x07\r\u202e\ud800"

HOSTILE = (
    *XSS.split(">"), "</td>", "]]>", "\x1b", "\x00", "\r", "\n", "\ud800", "\u202e", "\ufffe", "&lt;", "{}",
)  # fmt: skip
texts = st.text(max_size=60) | st.lists(st.sampled_from(HOSTILE)).map("".join)


def a_clause(
    name: str, level: Level = Level.MUST, authority: Authority = Authority.VERBATIM, source: str = "4.2", **more: Any
) -> Clause:
    roles = more.pop("roles", (Role.SERVER,))
    return Clause(
        id=name, level=level, authority=authority, roles=roles, text=f"text of {name}", quote=f'"{name}" <quoted>',
        source=source, **more,
    )  # fmt: skip


CLAUSES = {
    clause.id: clause
    for clause in (
        a_clause("MB.sequence"),
        a_clause("MS.only"),
        a_clause("MB.advice", Level.SHOULD),
        a_clause("MB.maybe", Level.MAY),
        a_clause("MS.silence", authority=Authority.INTERPRETATION, source="I-4"),
        a_clause("EP.zstd", authority=Authority.EXTENSION, source="zstd", capability="zstd"),
        a_clause("CR.backoff", roles=(Role.CLIENT,)),
    )
}


def a_case(name: str = "S-MB-01", clauses: Iterable[str] = ("MB.sequence",), profile: str = "core") -> CaseInfo:
    return CaseInfo(
        id=name, title=f"Title of {name}", role=Role.SERVER, profile=profile, clauses=tuple(clauses),
        sends="nothing", expects="numbers in order", why="gaps would go unseen", deadline_s=5.0,
    )  # fmt: skip


def a_verdict(
    name: str = "S-MB-01", status: Status = Status.OK, message: str = "3 came after 1", **more: Any
) -> Verdict:
    """A verdict with the violation, or the reason, that its status comes from."""
    clause = {Status.FAILED: "MB.sequence", Status.NON_STRICT: "MS.silence", Status.INFORMATIONAL: "MB.maybe"}.get(
        status
    )
    case = more.pop("case", None) or a_case(name, (clause or "MB.sequence",), more.pop("profile", "core"))
    more.setdefault("violations", (Violation(clause, message, 1),) if clause else ())
    more.setdefault("reason", message if status is Status.SKIPPED else "")
    return Verdict(case=case, status=status, duration_s=more.pop("duration_s", 1.25), **more)  # fmt: skip


def a_log(number: int = 1, entries: int = 2, text: str = '{"type": "connection"}', omitted: int = 0) -> WireLog:
    rows = [LogEntry(n, ("sent", "received")[n % 2], "text", len(text), text, n % 3 == 0) for n in range(entries)]
    return WireLog(number, "ws://example.test/api", rows, omitted)


def a_result(*verdicts: Verdict, known: Iterable[str] = (), **more: Any) -> RunResult:
    listed = {case: KnownFailure(case, line, "a reason") for line, case in enumerate(known, start=1)}
    facts: dict[str, Any] = {
        "role": Role.SERVER,
        "target": "ws://example.test/api",
        "profiles": ("core",),
        "declared": frozenset({"I-9"}),
        "started": "2026-01-02T03:04:05+00:00",
        "duration_s": 12.5,
        "clauses": CLAUSES,
        "peer": {"capabilities": "batch, resume"},
    }
    return RunResult(verdicts=verdicts, known=KnownFailures("known.txt" if listed else "", listed), **(facts | more))


def a_full_result(text: str = XSS, **more: Any) -> RunResult:
    """One case of each status, with ``text`` wherever a peer's text can get."""
    log = WireLog(1, text, [LogEntry(0, "sent", "text", 3, text, True), LogEntry(1, "note", "tcp", 0, text)], 7)
    verdicts = [
        a_verdict(f"S-MB-{number:02}", status, text, notes=(text,), logs=(log,))
        for number, status in enumerate(Status, start=1)
    ]
    facts: dict[str, Any] = {"target": text, "peer": {"capabilities": text}, "warnings": (text,)}
    return a_result(*verdicts, **(facts | more))


SURROGATES = re.compile("[\ud800-\udfff]")
