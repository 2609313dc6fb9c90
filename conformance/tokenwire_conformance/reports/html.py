"""One HTML file with everything in it: no other file, no network, and nothing of a peer that is not text."""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from itertools import groupby
from typing import Final

from tokenwire_conformance.model import SPECIFICATION, LogEntry, Status, Violation, WireLog
from tokenwire_conformance.outcome import (
    ClauseRow,
    ExitStatus,
    KnownOutcome,
    RunResult,
    clause_matrix,
    exit_status,
    known_outcome,
    profile_counts,
    status_counts,
    verdict_line,
)
from tokenwire_conformance.reports.evidence import Bounds, Evidence, ShownLog, select_evidence
from tokenwire_conformance.reports.html_case import (
    NOT_JUDGED,
    TEXT_MAX_CHARS,
    badge,
    case_html,
    entry_html,
    facts_html,
    log_html,
    note_html,
    standing,
    status_name,
    violation_html,
)
from tokenwire_conformance.reports.markup import Html, element, join
from tokenwire_conformance.reports.text import clip

__all__ = ["HTML_MAX_BYTES", "render_html"]

HTML_MAX_BYTES: Final = 10 * 1_048_576
"""Bound of the page, in bytes: evidence is left out, and counted, where it would not fit."""

_LOG_BYTES: Final = {
    Status.FAILED: 1_048_576,
    Status.NON_STRICT: 524_288,
    Status.INFORMATIONAL: 131_072,
    Status.OK: 65_536,
    Status.SKIPPED: 65_536,
}
"""Of the logs of a case. Those of a case that passed are cut harder."""
_BOUNDS: Final = Bounds(violations=50, notes=50, log_bytes=_LOG_BYTES)
_HEAD_MAX_LINES: Final = 100
"""Of the warnings, and of what is noted of the peer."""
_GROUPS: Final = {
    "EP": "Endpoint and WebSocket", "CS": "States of a client", "CR": "Connection requirements",
    "MB": "Messages in general", "MC": "Connection messages", "MU": "Updates", "MS": "Subscriptions",
    "ME": "Error messages", "CM": "Connection management", "DC": "Data consistency", "PF": "Performance",
    "EH": "Error handling", "MO": "Monitoring", "XB": "Extension batch", "XR": "Extension resume",
    "XA": "Extension resume with acknowledgements", "XH": "Extension heartbeat", "XD": "Extension details",
    "XZ": "Extension zstd", "XC": "Extension channels", "RF": "RFC 6455",
}  # fmt: skip
"""What the two letters of a case's or a clause's id stand for."""
_TONES: Final = {
    ExitStatus.OK: Status.OK,
    ExitStatus.NOT_TESTED: Status.SKIPPED,
    ExitStatus.INTERRUPTED: Status.SKIPPED,
}


def render_html(result: RunResult) -> bytes:
    """The page, in UTF-8.

    A policy in the page itself allows one style sheet and one script, by their digests, and nothing else.
    """
    room = HTML_MAX_BYTES - len(_page(result, {}))
    return _page(result, select_evidence(result.verdicts, _BOUNDS, _Measure(result), room))


class _Measure:
    def __init__(self, result: RunResult) -> None:
        self._result = result

    def violation(self, violation: Violation) -> int:
        return len(violation_html(violation, self._result).encode())

    def note(self, note: str) -> int:
        return len(note_html(note).encode())

    def log(self, log: WireLog) -> int:
        return len(log_html(ShownLog(log, 0, 0)).encode())

    def entry(self, entry: LogEntry) -> int:
        return len(entry_html(entry).encode())


def _page(result: RunResult, evidence: Mapping[str, Evidence]) -> bytes:
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    known = known_outcome(result)
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", _line(f"{_name(result)}: {clip(result.target, TEXT_MAX_CHARS)}")),
        element("style", style),
        element("script", script),
    ]
    first = {verdict.case.id for verdict in result.verdicts if verdict.broken} | {*known.unexpected, *known.fixed}
    cases = {
        verdict.case.id: case_html(verdict, evidence.get(verdict.case.id, Evidence()), known, result)
        for verdict in result.verdicts
    }
    body = [
        _heading(result),
        _totals(result),
        _known_section(result, known),
        _filter(result),
        join([element("h2", "What fails the run"), *(page for name, page in cases.items() if name in first)])
        if first
        else "",
        element("h2", "Clauses"),
        *(_group(name, list(rows)) for name, rows in groupby(_by_group(result), key=lambda row: row.group)),
        element("h2", "Further cases" if first else "Cases"),
        *(page for name, page in cases.items() if name not in first),
    ]
    page = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def _heading(result: RunResult) -> Html:
    facts = {
        "Target": result.target,
        "Tested": f"{result.role.value}, profiles {', '.join(result.profiles) or 'none'}",
        "Declared": ", ".join(sorted(result.declared)) or "no Interpretation",
        "Strict": "yes, NON-STRICT fails" if result.strict else "no",
        "Started": result.started,
        "Duration": f"{result.duration_s:.1f} s",
    }
    tone = _TONES.get(exit_status(result), Status.FAILED)
    warnings = [element("li", clip(text, TEXT_MAX_CHARS)) for text in result.warnings[:_HEAD_MAX_LINES]]
    return join(
        [
            element("h1", _name(result)),
            element("p", verdict_line(result), class_=f"verdict s-{tone.value}"),
            facts_html([*facts.items(), *list(result.peer.items())[:_HEAD_MAX_LINES]]),
            join([element("h2", "Warnings"), element("ul", *warnings)]) if warnings else "",
        ]
    )


def _totals(result: RunResult) -> Html:
    rows = {**profile_counts(result), "all": status_counts(result)}
    header = element("tr", element("th", "Profile"), *(element("th", s.value, class_=f"s-{s.value}") for s in Status))
    lines = [
        element("tr", element("th", name), *(element("td", str(counts[s]), class_="number") for s in Status))
        for name, counts in rows.items()
    ]
    return join([element("h2", "Totals"), element("table", header, *lines)])


def _known_section(result: RunResult, known: KnownOutcome) -> Html:
    if not result.known.entries:
        return Html("")
    groups = {
        "Fail as listed": known.expected,
        "Pass, remove the line": known.fixed,
        "Listed and skipped": known.skipped,
        "Listed and not run": known.not_run,
    }
    facts = {
        name: "\n".join(f"{case}  {result.known.entries[case].reason}".rstrip() for case in cases)
        for name, cases in groups.items()
        if cases
    }
    return join([element("h2", f"Known failures ({result.known.path})"), facts_html(facts.items())])


def _filter(result: RunResult) -> Html:
    counts = {status.value: f" {number}" for status, number in status_counts(result).items()} | {NOT_JUDGED: ""}
    boxes = [
        element("label", Html(f'<input type="checkbox" checked value="{name}"> '), f"{name}{count}", class_=f"s-{name}")
        for name, count in counts.items()
    ]
    return element("div", "Show:", *boxes, class_="filter")


def _by_group(result: RunResult) -> list[ClauseRow]:
    rows = clause_matrix(result)
    order = {row.group: place for place, row in reversed(list(enumerate(rows)))}
    return sorted(rows, key=lambda row: order[row.group])


def _group(name: str, rows: list[ClauseRow]) -> Html:
    header = element("tr", *(element("th", title) for title in ("Clause", "Requirement", "Verdict", "Cases")))
    table = element("table", header, *(_row(row) for row in rows), class_="matrix")
    heading = f"{name}: {_GROUPS[name]}" if name in _GROUPS else name
    return element("section", element("h3", heading), table)


def _row(row: ClauseRow) -> Html:
    status = status_name(row.status)
    cells = [
        element(
            "a",
            f"{cell.case} {status_name(cell.status)}",
            href=f"#{cell.case}",
            class_=f"badge s-{status_name(cell.status)}",
        )
        for cell in row.cells
    ]
    return element(
        "tr",
        element("td", element("code", row.clause.id), element("div", standing(row.clause), class_="soft")),
        element("td", row.clause.text, element("blockquote", row.clause.quote)),
        element("td", badge(status)),
        element("td", *(cells or [element("span", "no case in this run", class_="soft")])),
        data_status=status,
    )


def _name(result: RunResult) -> str:
    return f"{SPECIFICATION}: conformance of a {result.role.value}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _asset(name: str) -> Html:
    return Html(files("tokenwire_conformance.reports").joinpath(name).read_text(encoding="utf-8"))


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
