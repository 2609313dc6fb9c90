"""Which of the evidence fits."""

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_conformance.model import LogEntry, Status, Verdict, Violation, WireLog
from tokenwire_conformance.reports.evidence import Bounds, Evidence, fit, select_evidence

from .made import a_log, a_verdict


class Tens:
    """Everything takes ten bytes."""

    def violation(self, violation: Violation) -> int:
        return 10

    def note(self, note: str) -> int:
        return 10

    def log(self, log: WireLog) -> int:
        return 10

    def entry(self, entry: LogEntry) -> int:
        return 10


def used(found: Evidence) -> int:
    entries = sum(log.head + log.tail for log in found.logs)
    return 10 * (len(found.violations) + len(found.notes) + len(found.logs) + entries)


@given(st.lists(st.integers(0, 30)), st.integers(0, 200))
def test_first_and_last_fit_and_do_not_meet(sizes: list[int], room: int) -> None:
    head, tail, left = fit(sizes, int, room)
    assert head + tail <= len(sizes)
    assert sum(sizes[:head]) + sum(sizes[len(sizes) - tail :]) + left == room
    if sum(sizes) <= room:
        assert head + tail == len(sizes)


def test_both_ends_of_a_log_are_kept() -> None:
    assert fit([10] * 10, int, 40) == (2, 2, 0)
    assert fit([10] * 10, int, 55) == (2, 3, 5)
    assert fit([10] * 10, int, 5) == (0, 0, 5)


def test_what_is_far_from_the_ends_is_not_measured() -> None:
    assert fit(["10", "10", *["far"] * 1_000, "10", "10"], int, 15) == (0, 1, 5)


statuses = st.lists(st.tuples(st.sampled_from(Status), st.integers(0, 6), st.integers(0, 4)), max_size=8)


@given(statuses, st.integers(-10, 600))
def test_never_more_than_the_room(plan: list[tuple[Status, int, int]], room: int) -> None:
    verdicts = [
        a_verdict(f"S-MB-{n:02}", status, notes=("note",) * notes, logs=tuple(a_log(i, 5) for i in range(logs)))
        for n, (status, notes, logs) in enumerate(plan)
    ]
    bounds = Bounds(violations=5, notes=5, log_bytes=dict.fromkeys(Status, 120))
    found = select_evidence(verdicts, bounds, Tens(), room)
    assert set(found) == {verdict.case.id for verdict in verdicts}
    assert sum(used(evidence) for evidence in found.values()) <= max(0, room)
    assert all(len(evidence.notes) <= 5 for evidence in found.values())
    for verdict in verdicts:
        assert list(found[verdict.case.id].notes) == list(verdict.notes[: len(found[verdict.case.id].notes)])


def test_failures_come_first() -> None:
    def made(name: str, status: Status) -> Verdict:
        return a_verdict(name, status, logs=(a_log(entries=50),))

    verdicts = [made("S-MB-01", Status.OK), made("S-MB-02", Status.FAILED), made("S-MB-03", Status.NON_STRICT)]
    found = select_evidence(verdicts, Bounds(5, 5, dict.fromkeys(Status, 1_000)), Tens(), 220)
    assert [used(found[verdict.case.id]) for verdict in verdicts] == [0, 210, 10]


def test_a_case_with_much_to_say_leaves_room_to_the_others() -> None:
    verdicts = [
        a_verdict("S-MB-01", Status.FAILED, violations=(Violation("MB.sequence", "late"),) * 5, logs=(a_log(),)),
        a_verdict("S-MB-02", notes=("note",) * 5),
        a_verdict("S-MB-03", Status.NON_STRICT),
    ]
    found = select_evidence(verdicts, Bounds(5, 5, dict.fromkeys(Status, 1_000)), Tens(), 120)
    assert [len(found[verdict.case.id].violations) for verdict in verdicts] == [2, 0, 1]
    assert len(found["S-MB-02"].notes) == 3
    assert used(found["S-MB-01"]) == 20 + 30


def test_logs_of_one_case_share_what_is_left() -> None:
    verdict = a_verdict(logs=(a_log(1, 2), a_log(2, 100), a_log(3, 100)))
    found = select_evidence([verdict], Bounds(5, 5, dict.fromkeys(Status, 1_050)), Tens(), 10_000)
    assert [log.head + log.tail for log in found["S-MB-01"].logs] == [2, 50, 50]
    assert found["S-MB-01"].logs[1].cut == 50
