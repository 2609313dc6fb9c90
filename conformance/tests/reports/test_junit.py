"""JUnit XML."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings

from tokenwire_conformance.model import Status, Violation
from tokenwire_conformance.outcome import RunResult
from tokenwire_conformance.reports.junit import render_junit
from tokenwire_conformance.reports.text import printable

from .made import CONTROL, a_full_result, a_result, a_verdict, texts


def read(result: RunResult) -> ET.Element:
    return ET.fromstring(render_junit(result))


def outcomes(root: ET.Element) -> dict[str, str]:
    """The first word of each test's name, and which element says how it ended."""
    return {
        test.attrib["name"].split()[0]: next((e.tag for e in test if e.tag in {"failure", "skipped"}), "passed")
        for test in root.iter("testcase")
    }


def test_a_suite_for_each_profile_with_its_counts() -> None:
    root = read(
        a_result(
            a_verdict("S-MB-01", Status.FAILED, profile="limits"),
            a_verdict("S-MB-02", profile="core"),
            a_verdict("S-MB-03", Status.SKIPPED, "no zstd", profile="core"),
        )
    )
    suites = [(s.attrib["name"], s.attrib["tests"], s.attrib["failures"], s.attrib["skipped"]) for s in root]
    assert suites == [("core", "2", "0", "1"), ("limits", "1", "1", "0")]
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("3", "1", "0")
    assert root[0].attrib["time"] == "2.500"
    assert root[0].attrib["timestamp"] == "2026-01-02T03:04:05+00:00"
    test = root[1].find("testcase")
    assert test is not None
    assert test.attrib["classname"] == "tokenwire_conformance.server.limits"
    failure = test.find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "FAILED", "message": "3 came after 1"}
    assert failure.text is not None
    assert (
        'FAILED: MB.sequence: 3 came after 1 (connection 1)\n  MUST, verbatim, 4.2: "MB.sequence" <quoted>'
        in failure.text
    )
    skipped = root[0].find(".//skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "no zstd"


@pytest.mark.parametrize(
    ("status", "known", "strict", "outcome"),
    [
        (Status.OK, False, False, "passed"),
        (Status.INFORMATIONAL, False, True, "passed"),
        (Status.NON_STRICT, False, False, "passed"),
        (Status.NON_STRICT, False, True, "failure"),
        (Status.NON_STRICT, True, True, "skipped"),
        (Status.FAILED, False, False, "failure"),
        (Status.FAILED, True, False, "skipped"),
        (Status.SKIPPED, True, False, "skipped"),
        (Status.OK, True, False, "failure"),
        (Status.NON_STRICT, True, False, "failure"),
    ],
)
def test_how_a_case_ends(status: Status, known: bool, strict: bool, outcome: str) -> None:
    result = a_result(a_verdict("S-MB-01", status), known=["S-MB-01"] if known else [], strict=strict)
    assert outcomes(read(result)) == {"S-MB-01": outcome}


def test_a_known_failure_says_so_and_keeps_its_evidence() -> None:
    root = read(a_result(a_verdict("S-MB-01", Status.FAILED), known=["S-MB-01"]))
    skipped, output = root.find(".//skipped"), root.find(".//system-out")
    assert skipped is not None
    assert skipped.attrib["message"] == "known failure: a reason"
    assert output is not None
    assert "3 came after 1" in (output.text or "")


def test_what_passed_with_remarks_has_them_as_output() -> None:
    root = read(a_result(a_verdict("S-MB-01", Status.NON_STRICT, "late"), a_verdict("S-MB-02", notes=("fast",))))
    texts_found = [element.text or "" for element in root.iter("system-out")]
    assert len(texts_found) == 2
    assert "NON-STRICT: MS.silence: late" in texts_found[0]
    assert texts_found[1] == "note: fast"


def test_nothing_run_is_a_document_too() -> None:
    root = read(a_result())
    assert (root.tag, root.attrib["tests"], len(root)) == ("testsuites", "0", 0)


def test_what_no_case_tells_is_an_error_or_a_failure() -> None:
    root = read(a_result(not_tested="nobody there"))
    assert (root.attrib["tests"], root.attrib["errors"]) == ("1", "1")
    root = read(a_result(a_verdict(), gone="it went away"))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("2", "1")
    root = read(a_result(a_verdict("S-MB-01", Status.SKIPPED, "KeyError", broken=True)))
    assert (root.attrib["errors"], root.attrib["skipped"]) == ("1", "0")


@given(texts)
@settings(deadline=None, max_examples=100)
def test_any_text_is_well_formed_and_comes_back(text: str) -> None:
    root = read(a_full_result(text))
    shown = printable(text, keep="\n\t")
    failure = root.find(".//failure")
    assert failure is not None
    assert shown in (failure.text or "")
    assert failure.attrib["message"] == printable(text)
    assert root.find(".//property[@name='target']").attrib["value"] == shown  # type: ignore[union-attr]
    assert {element.tag for element in root.iter()} == {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure", "skipped", "system-out",
    }  # fmt: skip


def test_illegal_characters_are_shown_as_escapes() -> None:
    failure = read(a_full_result(CONTROL)).find(".//failure")
    assert failure is not None
    assert failure.attrib["message"] == r"\x1b[2Jgone\x00\x07\r\u202e\ud800"


def test_bounded() -> None:
    violations = (Violation("MB.sequence", "x" * 100_000),) * 10_000
    verdict = a_verdict("S-MB-01", Status.FAILED, violations=violations, notes=("n" * 100_000,) * 1_000)
    content = render_junit(a_result(verdict))
    assert len(content) < 300_000
    assert b"and 9950 further violations" in content
    assert b"and 950 further notes" in content
