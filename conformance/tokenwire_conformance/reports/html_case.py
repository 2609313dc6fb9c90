"""A case on the HTML page, with its evidence."""

from collections.abc import Iterable
from typing import Final

from tokenwire_conformance.model import Clause, LogEntry, Status, Verdict, Violation
from tokenwire_conformance.outcome import KnownOutcome, RunResult, is_failing, judged_status
from tokenwire_conformance.reports.evidence import Evidence, ShownLog
from tokenwire_conformance.reports.markup import Html, element, join
from tokenwire_conformance.reports.text import clip

__all__ = [
    "NOT_JUDGED",
    "TEXT_MAX_CHARS",
    "badge",
    "case_html",
    "entry_html",
    "facts_html",
    "log_html",
    "note_html",
    "standing",
    "status_name",
    "violation_html",
]

TEXT_MAX_CHARS: Final = 2_000
"""Of a message, a note, a reason, or an entry of a log, in characters."""

NOT_JUDGED: Final = "NOT-JUDGED"
"""Stands where a case ended before it could tell."""

_ARROWS: Final = {"sent": "→", "received": "←", "note": "·"}


def case_html(verdict: Verdict, evidence: Evidence, known: KnownOutcome, result: RunResult) -> Html:
    """A case, open where it fails. ``known`` is what `known_outcome` found."""
    case = verdict.case
    remark = ""
    if case.id in known.expected:
        remark = " (known failure)"
    elif case.id in known.fixed:
        remark = " (listed as a known failure: remove the line)"
    facts = {
        "Sent": case.sends,
        "Expected": case.expects,
        "Why": case.why,
        "Clauses": ", ".join(case.clauses),
        "Profile": case.profile,
        "Duration": f"{verdict.duration_s:.2f} s of at most {case.deadline_s:g} s",
    }
    if verdict.reason:
        facts["Skipped because"] = clip(verdict.reason, TEXT_MAX_CHARS)
    left_out = {
        "violations": len(verdict.violations) - len(evidence.violations),
        "notes": len(verdict.notes) - len(evidence.notes),
        "wire logs": len(verdict.logs) - len(evidence.logs),
    }
    summary = element(
        "summary", badge(verdict.status.value), element("code", case.id), f" {case.title}{remark}",
    )  # fmt: skip
    details = element(
        "details",
        summary,
        facts_html(facts.items()),
        *(violation_html(violation, result) for violation in evidence.violations),
        *(note_html(note) for note in evidence.notes),
        *(log_html(log) for log in evidence.logs),
        *(
            element("p", f"{number} further {name}: this page has no room for them", class_="soft")
            for name, number in left_out.items()
            if number
        ),
        open=is_failing(verdict.status, result.strict),
    )
    return element("article", details, class_="case", id=case.id, data_status=verdict.status.value)


def violation_html(violation: Violation, result: RunResult) -> Html:
    """A violation with the words of its clause."""
    clause = result.clauses[violation.clause]
    where = "" if violation.connection is None else f" on connection {violation.connection}"
    return element(
        "div",
        badge(judged_status(violation, result).value),
        element("code", clause.id),
        element("span", f" {standing(clause)}{where}", class_="soft"),
        element("div", clip(violation.message, TEXT_MAX_CHARS), class_="message"),
        element("blockquote", clause.quote),
        class_="violation",
    )


def note_html(note: str) -> Html:
    """A remark of the case."""
    return element("p", "Note: ", element("span", clip(note, TEXT_MAX_CHARS), class_="message"))


def log_html(shown: ShownLog) -> Html:
    """A wire log, closed."""
    log = shown.log
    rows = [entry_html(entry) for entry in shown.first]
    if shown.cut:
        gap = f"{shown.cut} entries are not shown: this page has no room for them"
        rows.append(element("tr", element("td", gap, colspan="6", class_="soft")))
    rows += [entry_html(entry) for entry in shown.last]
    lost = f", {log.omitted} further ones were not recorded" if log.omitted else ""
    titles = ("ms", "", "Kind", "Bytes", "", "Payload")
    heading = f"Connection {log.number}: {clip(log.url, TEXT_MAX_CHARS)} ({len(log.entries)} entries{lost})"
    header = element("tr", *(element("th", title) for title in titles))
    return element("details", element("summary", heading), element("table", header, *rows, class_="log"))


def entry_html(entry: LogEntry) -> Html:
    """A row of a wire log."""
    return element(
        "tr",
        element("td", str(entry.at_ms), class_="number"),
        element("td", _ARROWS.get(entry.direction, "?"), title=entry.direction),
        element("td", entry.kind),
        element("td", str(entry.size), class_="number"),
        element("td", "compressed" if entry.compressed else ""),
        element("td", clip(entry.text, TEXT_MAX_CHARS), class_="payload"),
        class_="sent" if entry.direction == "sent" else "",
    )


def facts_html(facts: Iterable[tuple[str, str]]) -> Html:
    """Names with their values."""
    pairs = [join([element("dt", clip(k, TEXT_MAX_CHARS)), element("dd", clip(v, TEXT_MAX_CHARS))]) for k, v in facts]
    return element("dl", *pairs)


def standing(clause: Clause) -> str:
    """How binding a clause is, and where it is written."""
    granted = f", with {clause.capability}" if clause.capability else ""
    return f"{clause.level.value}, {clause.authority.value}, {clause.source}{granted}"


def badge(status: str) -> Html:
    """A status, in its colour."""
    return element("span", status, class_=f"badge s-{status}")


def status_name(status: Status | None) -> str:
    """A status, or that there is none."""
    return NOT_JUDGED if status is None else status.value
