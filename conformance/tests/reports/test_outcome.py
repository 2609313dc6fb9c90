"""What a run comes to."""

from typing import Any

import pytest

from tokenwire_conformance.model import Role, Status, Violation
from tokenwire_conformance.outcome import (
    ExitStatus,
    clause_matrix,
    exit_status,
    known_outcome,
    profile_counts,
    status_counts,
    verdict_line,
)

from .made import CLAUSES, a_case, a_result, a_verdict

OK, INFO, SOFT, FAIL, SKIP = (
    Status.OK, Status.INFORMATIONAL, Status.NON_STRICT, Status.FAILED, Status.SKIPPED,
)  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "known", "normal", "strict"),
    [
        ([], [], 3, 3),
        ([SKIP, SKIP], [], 3, 3),
        ([SKIP], [1], 3, 3),
        ([SKIP, OK], [], 0, 0),
        ([INFO], [], 0, 0),
        ([OK, SOFT], [], 0, 1),
        ([OK, FAIL], [], 1, 1),
        ([OK, FAIL], [2], 0, 0),
        ([FAIL], [1], 0, 0),
        ([FAIL, FAIL], [2], 1, 1),
        ([OK, OK], [2], 2, 2),
        ([INFO], [1], 2, 2),
        ([SOFT], [1], 2, 0),
        ([FAIL, OK], [2], 1, 1),
        ([SOFT, OK], [2], 2, 1),
        ([OK], [7], 0, 0),
    ],
)
def test_exit_status(statuses: list[Status], known: list[int], normal: int, strict: int) -> None:
    verdicts = [a_verdict(f"S-MB-{number:02}", status) for number, status in enumerate(statuses, start=1)]
    result = a_result(*verdicts, known=[f"S-MB-{number:02}" for number in known])
    assert (exit_status(result, strict=False), exit_status(result, strict=True)) == (normal, strict)
    assert exit_status(result) == normal
    assert exit_status(a_result(*verdicts, known=result.known.entries, strict=True)) == strict
    assert exit_status(a_result(*verdicts, interrupted=True)) is ExitStatus.INTERRUPTED


def test_a_broken_case_is_no_verdict_on_the_peer() -> None:
    result = a_result(a_verdict("S-MB-01", FAIL), a_verdict("S-MB-02", SKIP, "KeyError: 'x'", broken=True))
    assert exit_status(result) is ExitStatus.INTERNAL
    assert verdict_line(result) == (
        "THE SUITE BROKE: 1 case could not judge, please report it, 1 of 2 cases failed, 1 skipped"
    )
    assert exit_status(a_result(a_verdict("S-MB-01", OK), gone="it went away")) is ExitStatus.FAILED


def test_the_numbers_are_the_published_ones() -> None:
    assert {status.name: int(status) for status in ExitStatus} == {
        "OK": 0, "FAILED": 1, "KNOWN_PASSES": 2, "NOT_TESTED": 3, "USAGE": 4, "INTERNAL": 70, "INTERRUPTED": 130,
    }  # fmt: skip


def test_known_failures_are_compared_both_ways() -> None:
    verdicts = [a_verdict(f"S-MB-{n:02}", status) for n, status in enumerate([FAIL, FAIL, OK, SKIP, OK, SOFT], start=1)]
    result = a_result(*verdicts, known=["S-XX-99", "S-MB-04", "S-MB-03", "S-MB-01", "S-MB-06"])
    known = known_outcome(result)
    assert (known.expected, known.unexpected) == (("S-MB-01",), ("S-MB-02",))
    assert (known.fixed, known.skipped, known.not_run) == (("S-MB-03", "S-MB-06"), ("S-MB-04",), ("S-XX-99",))
    assert known_outcome(result, strict=True).expected == ("S-MB-01", "S-MB-06")


def test_counts_by_status_and_profile() -> None:
    result = a_result(
        a_verdict("S-MB-01", OK, profile="rfc6455"),
        a_verdict("S-MB-02", FAIL, profile="core"),
        a_verdict("S-MB-03", OK, profile="elsewhere"),
        a_verdict("S-MB-04", OK, profile="core"),
    )
    assert status_counts(result) == {OK: 3, INFO: 0, SOFT: 0, FAIL: 1, SKIP: 0}
    counts = profile_counts(result)
    assert list(counts) == ["core", "rfc6455", "elsewhere"]
    assert counts["core"] == {OK: 1, INFO: 0, SOFT: 0, FAIL: 1, SKIP: 0}


def test_matrix_has_every_clause_of_the_role_and_what_each_case_says() -> None:
    first = a_verdict(
        case=a_case("S-MB-01", ("MB.sequence", "MS.only")), status=FAIL, violations=(Violation("MS.silence", "late"),)
    )  # fmt: skip
    result = a_result(first, a_verdict("S-MB-02", OK), a_verdict("S-MB-03", SKIP))
    rows = {row.clause.id: row for row in clause_matrix(result)}
    assert list(rows) == [name for name, clause in CLAUSES.items() if Role.SERVER in clause.roles]
    cells = [(cell.case, cell.status) for cell in rows["MB.sequence"].cells]
    assert cells == [("S-MB-01", None), ("S-MB-02", OK), ("S-MB-03", SKIP)]
    assert rows["MB.sequence"].status is OK
    assert rows["MS.only"].status is None
    assert [(cell.case, cell.status) for cell in rows["MS.silence"].cells] == [("S-MB-01", SOFT)]
    assert rows["EP.zstd"].cells == ()
    assert rows["EP.zstd"].group == "EP"


def test_matrix_judges_by_what_was_declared() -> None:
    result = a_result(a_verdict("S-MB-01", SOFT), declared=frozenset({"I-4"}))
    assert {row.clause.id: row.status for row in clause_matrix(result)}["MS.silence"] is FAIL


def test_matrix_has_a_clause_of_the_other_role_where_a_case_names_it() -> None:
    rows = clause_matrix(a_result(a_verdict(case=a_case(clauses=["CR.backoff"]))))
    assert [cell.status for row in rows if row.clause.id == "CR.backoff" for cell in row.cells] == [OK]


def test_an_unknown_clause_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"XX\.none"):
        clause_matrix(a_result(a_verdict(case=a_case(clauses=["XX.none"]))))


@pytest.mark.parametrize(
    ("statuses", "more", "line"),
    [
        ([OK, FAIL, FAIL, SOFT, SKIP], {}, "FAILED: 2 of 5 cases failed, 1 non-strict, 1 skipped"),
        ([OK, INFO, SOFT, FAIL], {"known": ["S-MB-04"]}, "OK: 2 of 4 cases passed, 1 known failure, 1 non-strict"),
        ([OK, OK], {"known": ["S-MB-02"]}, "KNOWN FAILURE PASSES: remove S-MB-02 from known.txt"),
        ([FAIL, OK], {"known": ["S-MB-02"]}, "FAILED: 1 of 2 cases failed, 1 known failure passes"),
        (
            [SOFT, OK],
            {"strict": True},
            "FAILED: 1 of 2 cases failed, 1 non-strict, which --strict counts as failing",
        ),
        ([SKIP], {}, "NOT TESTED: 1 of 1 cases were skipped"),
        ([], {}, "NOT TESTED: there was no case to run"),
        ([SOFT, SOFT], {}, "OK: none of 2 cases failed, 2 non-strict"),
        ([OK, SKIP], {"gone": "it went away"}, "FAILED: it went away, 0 of 2 cases failed, 1 skipped"),
        ([], {"not_tested": "nobody there"}, "NOT TESTED: nobody there"),
        ([FAIL], {"interrupted": True}, "INTERRUPTED: 1 of 1 cases failed until then"),
    ],
)
def test_one_sentence(statuses: list[Status], more: dict[str, Any], line: str) -> None:
    verdicts = [a_verdict(f"S-MB-{number:02}", status) for number, status in enumerate(statuses, start=1)]
    assert verdict_line(a_result(*verdicts, **more)) == line
