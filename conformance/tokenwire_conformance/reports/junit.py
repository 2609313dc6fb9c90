"""JUnit XML, as GitHub, GitLab and Jenkins read it: a suite for each profile, a test for each case."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Final

from tokenwire_conformance.model import Status, Verdict, Violation
from tokenwire_conformance.outcome import RunResult, is_failing, judged_status, profile_counts
from tokenwire_conformance.reports.text import clip, one_line, printable

__all__ = ["render_junit"]

_TEXT_MAX_CHARS: Final = 2_000
"""Of a message, a note or a reason, in characters."""
_LINES_MAX: Final = 50
"""Violations, or notes, of a case."""
_HEADLINE_MAX_CHARS: Final = 300
"""Of the message that a list of tests shows, in characters."""


def render_junit(result: RunResult) -> bytes:
    """The whole document, in UTF-8.

    A known failure is reported as skipped. A case that is listed as one and passes is reported as failed, because the
    run fails for it.
    """
    root = ET.Element("testsuites", name="tokenwire-conformance", time=_seconds(result.duration_s))
    for profile in profile_counts(result):
        verdicts = [verdict for verdict in result.verdicts if verdict.case.profile == profile]
        suite = ET.SubElement(root, "testsuite", name=_plain(profile))
        _count(suite, [_case(suite, verdict, result) for verdict in verdicts])
        suite.set("time", _seconds(sum(verdict.duration_s for verdict in verdicts)))
        suite.set("timestamp", _plain(result.started))
        suite.insert(0, _properties(result))
    if result.not_tested:
        # A CI that is given no test at all takes that for a success.
        suite = ET.SubElement(root, "testsuite", name="tokenwire-conformance", timestamp=_plain(result.started))
        suite.append(_properties(result))
        test = ET.SubElement(
            suite, "testcase", classname=f"tokenwire_conformance.{result.role.value}", name="the peer can be tested",
            time=_seconds(result.duration_s),
        )  # fmt: skip
        ET.SubElement(test, "error", type="NOT-TESTED", message=_headline(result.not_tested))
        _count(suite, [test])
        suite.set("time", _seconds(result.duration_s))
    if result.gone:
        suite = ET.SubElement(root, "testsuite", name="tokenwire-conformance", timestamp=_plain(result.started))
        test = ET.SubElement(
            suite, "testcase", classname=f"tokenwire_conformance.{result.role.value}", name="the peer stays reachable",
            time=_seconds(result.duration_s),
        )  # fmt: skip
        ET.SubElement(test, "failure", type="GONE", message=_headline(result.gone)).text = _plain(
            "\n".join(result.warnings[:_LINES_MAX])
        )
        _count(suite, [test])
        suite.set("time", _seconds(result.duration_s))
    _count(root, list(root.iter("testcase")))
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _properties(result: RunResult) -> ET.Element:
    properties = ET.Element("properties")
    facts = {
        "role": result.role.value,
        "target": result.target,
        "declared": " ".join(sorted(result.declared)),
        "strict": str(result.strict).lower(),
    }
    for name, value in [*facts.items(), *list(result.peer.items())[:_LINES_MAX]]:
        ET.SubElement(properties, "property", name=_plain(name), value=_plain(value))
    return properties


def _case(suite: ET.Element, verdict: Verdict, result: RunResult) -> ET.Element:
    case = verdict.case
    test = ET.SubElement(
        suite,
        "testcase",
        classname=_plain(f"tokenwire_conformance.{case.role.value}.{case.profile}"),
        name=_plain(f"{case.id} {case.title}"),
        time=_seconds(verdict.duration_s),
    )
    known = result.known.entries.get(case.id)
    if verdict.broken:
        ET.SubElement(test, "error", type="SUITE-BROKE", message=_headline(verdict.reason))
    elif verdict.status is Status.SKIPPED:
        ET.SubElement(test, "skipped", message=_headline(verdict.reason))
    elif is_failing(verdict.status, result.strict):
        if known is not None:
            ET.SubElement(test, "skipped", message=_headline(f"known failure: {known.reason}".rstrip(": ")))
        else:
            first = verdict.violations[0].message if verdict.violations else verdict.status.value
            failure = ET.SubElement(test, "failure", type=verdict.status.value, message=_headline(first))
            failure.text = _plain("\n".join(_evidence(verdict, result)))
            return test
    elif known is not None:
        remedy = f"a known failure passes: remove {case.id} from {result.known.where(case.id)}"
        ET.SubElement(test, "failure", type="KNOWN-PASSES", message=_headline(remedy)).text = _plain(remedy)
    if verdict.violations or verdict.notes:
        ET.SubElement(test, "system-out").text = _plain("\n".join(_evidence(verdict, result)))
    return test


def _evidence(verdict: Verdict, result: RunResult) -> Iterable[str]:
    case = verdict.case
    if verdict.violations:
        yield f"{verdict.status.value}: {case.title}"
        yield f"sends: {case.sends}"
        yield f"expects: {case.expects}"
        yield f"why: {case.why}"
    for violation in verdict.violations[:_LINES_MAX]:
        yield from _violation(violation, result)
    if more := verdict.violations[_LINES_MAX:]:
        yield f"and {len(more)} further violations"
    for note in verdict.notes[:_LINES_MAX]:
        yield f"note: {clip(note, _TEXT_MAX_CHARS)}"
    if more_notes := verdict.notes[_LINES_MAX:]:
        yield f"and {len(more_notes)} further notes"


def _violation(violation: Violation, result: RunResult) -> Iterable[str]:
    clause = result.clauses[violation.clause]
    where = "" if violation.connection is None else f" (connection {violation.connection})"
    status = judged_status(violation, result).value
    yield f"{status}: {clause.id}: {clip(violation.message, _TEXT_MAX_CHARS)}{where}"
    yield f"  {clause.level.value}, {clause.authority.value}, {clause.source}: {one_line(clause.quote)}"


def _count(element: ET.Element, tests: list[ET.Element]) -> None:
    element.set("tests", str(len(tests)))
    element.set("failures", str(sum(test.find("failure") is not None for test in tests)))
    element.set("errors", str(sum(test.find("error") is not None for test in tests)))
    element.set("skipped", str(sum(test.find("skipped") is not None for test in tests)))


def _headline(text: str) -> str:
    return printable(clip(text, _HEADLINE_MAX_CHARS))


def _plain(text: str) -> str:
    return printable(text, keep="\n\t")


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.3f}"
