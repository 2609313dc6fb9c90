"""Every server case can fail: each mistake of the reference server is found by the cases it is written down for, and
without a mistake all are OK (the full mode shows that).

There are two modes. The quick one, of every test run, tries each mistake on the cases that are to find it and shows
that every one of them does: no case is unable to fail. The full one, of ``make proof`` (``TOKENWIRE_PROOF=full``),
tries each mistake on all cases and shows that these find it and no others do: no case blames a server for what it is
not about. The published matrix is what the full mode proves.
"""

import csv
import gc
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context

import pytest

from conformance.tests.kills import SERVER_CSV, server_csv
from conformance.tests.kills_server import NEVER_JUDGED, SERVER_KILLS
from conformance.tests.reference.faults import EXTENDED_ONLY, FAULTS, STRICT_ONLY
from conformance.tests.virtual import judge_server
from tokenwire_conformance.model import Status
from tokenwire_conformance.registry import Case
from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.cases import SERVER

FULL = os.environ.get("TOKENWIRE_PROOF") == "full"
pytestmark = pytest.mark.proof
FEWEST = 150
NEEDS_OTHERS: dict[str, set[str] | None] = {
    "error_text_of_a_megabyte": None,
    "first_value_missing": None,
    "heartbeat_unasked": None,
    "last_words_unnumbered": {"MS", "MU", "CR", "DC"},
    "secret_short": None,
    "unknown_channel_passes": {"MS", "MU"},
    "updates_too_often": {"MS", "MU"},
    "version_falls": {"MS", "MU"},
}
"""Mistakes that some of their cases find only among others, those of these groups (None: all): they read what every
case received, or come late enough for a mistake that needs some seconds."""
ALSO_STRICT = {"S-XH-05"}
"""Cases of an extension that ask for no capability."""


def judged() -> list[Case[Bench]]:
    return [case for case in SERVER.cases if case.info.profile != "rfc6455" and case.info.id not in NEVER_JUDGED]


def concerned(fault: str) -> list[Case[Bench]]:
    """The cases to try. In full mode all that could see the fault: those that use capabilities, or those that use
    none, where it is made only for these."""
    if fault and (SERVER_KILLS[fault].alone or not FULL):
        others = set() if SERVER_KILLS[fault].alone else NEEDS_OTHERS.get(fault, set())
        if others is not None:
            found_by = SERVER_KILLS[fault].cases
            return [case for case in judged() if case.info.id in found_by or case.info.group in others]
    if fault in EXTENDED_ONLY:
        return [case for case in judged() if is_extended(case) or case.info.group == "EP"]
    if fault in STRICT_ONLY:
        return [case for case in judged() if not is_extended(case) or case.info.id in ALSO_STRICT]
    return judged()


def is_extended(case: Case[Bench]) -> bool:
    return case.info.profile.startswith("ext.")


def not_ok(fault: str) -> dict[str, str]:
    """Case to what it says, for every case that is not OK; in a process of its own."""
    gc.disable()  # what a run leaves behind is collected at its end, which is a quarter cheaper
    try:
        return _not_ok(fault)
    finally:
        gc.enable()
        gc.collect()


def _not_ok(fault: str) -> dict[str, str]:
    return {
        case_id: f"{verdict.status} {verdict.reason} {[(v.clause, v.message) for v in verdict.violations]}"
        for case_id, verdict in judge_server([fault] if fault else [], concerned(fault)).items()
        if verdict.status is not Status.OK
    }


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[dict[str, str]]]]:
    """Fault to what its run says; the empty name is the server without a fault."""
    names = ["", *SERVER_KILLS] if FULL else SERVER_KILLS
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield {name: pool.submit(not_ok, name) for name in names}
        pool.shutdown(cancel_futures=True)


@pytest.mark.proof(only=True)
def test_the_server_without_a_fault_keeps_every_clause(runs: dict[str, Future[dict[str, str]]]) -> None:
    assert not runs[""].result()


def test_a_thousand_connections_are_served_by_it_too() -> None:
    cases = [case for case in judged() if case.info.id == "S-CR-08"]
    assert judge_server([], cases, connections=1000)["S-CR-08"].status is Status.OK


@pytest.mark.parametrize("fault", SERVER_KILLS)
def test_a_fault_is_found_by_these_cases(fault: str, runs: dict[str, Future[dict[str, str]]]) -> None:
    found, expected = runs[fault].result(), SERVER_KILLS[fault].cases
    missing = sorted(expected - found.keys())
    surplus = {case_id: found[case_id] for case_id in sorted(found.keys() - expected)}
    assert not missing, f"{fault}: not found by {missing}; surplus {surplus}"
    assert not surplus, f"{fault}: also found by {surplus}"


def test_every_case_can_fail() -> None:
    killed = set(chain.from_iterable(kill.cases for kill in SERVER_KILLS.values()))
    assert {case.info.id for case in judged()} == killed


def test_the_expectation_is_about_faults_that_exist() -> None:
    assert SERVER_KILLS.keys() == FAULTS
    assert len(SERVER_KILLS) >= FEWEST
    assert all(kill.cases and kill.reason for kill in SERVER_KILLS.values())


def test_the_published_matrix_is_the_expectation() -> None:
    assert SERVER_CSV.read_text() == server_csv()
    rows = list(csv.DictReader(SERVER_CSV.read_text().splitlines()))
    assert {(row["fault"], row["case"]) for row in rows} == {
        (fault, case) for fault, kill in SERVER_KILLS.items() for case in kill.cases
    }
