"""Every client case is able to fail: each mistake of the reference client fails exactly the cases that it should.

The expectation is written by hand (``kills_client``). Where it differs from what happens, either the case, the mistake
or the expectation is wrong, and somebody has to find out which.

As for the server there are two modes: that of every test run tries each mistake on the cases that are to find it, that
of ``make proof`` (``TOKENWIRE_PROOF=full``) on all cases, and shows that no others do.
"""

import csv
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import pytest

from tokenwire_conformance.client.cases import CLIENT
from tokenwire_conformance.model import Status

from .kills_client import KILLS
from .reference_client.faults import FAULTS
from .reference_client.trial import Outcome, run_trial

_CSV = Path(__file__).parents[1] / "kill-matrix-client.csv"
_LIMIT_S = 900
_FULL = os.environ.get("TOKENWIRE_PROOF") == "full"
pytestmark = pytest.mark.proof
_CASES = frozenset(case.info.id for case in CLIENT.cases)

Outcomes = dict[str, Outcome]


@pytest.fixture(scope="module")
def trials() -> Iterator[dict[str, Future[Outcomes]]]:
    """Every mistake, and none (""), tried in virtual time, on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        # Each test waits for its own only; what no test asked for is not tried.
        yield {fault: pool.submit(run_trial, frozenset({fault} - {""}), _tried(fault)) for fault in ("", *FAULTS)}
        pool.shutdown(cancel_futures=True)


def _tried(fault: str) -> list[str]:
    """The cases to try; none means all."""
    return [] if _FULL or not fault else sorted(KILLS[fault].cases)


def _told(outcomes: Outcomes, ids: frozenset[str]) -> str:
    return "".join(f"\n  {case}: {outcomes[case].status} {outcomes[case].text}" for case in sorted(ids))


def test_a_client_without_mistakes_passes_every_case(trials: dict[str, Future[Outcomes]]) -> None:
    outcomes = trials[""].result(_LIMIT_S)
    assert set(outcomes) == _CASES
    others = frozenset(case for case, outcome in outcomes.items() if outcome.status is not Status.OK)
    assert not others, _told(outcomes, others)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_fails_exactly_these_cases(fault: str, trials: dict[str, Future[Outcomes]]) -> None:
    outcomes = trials[fault].result(_LIMIT_S)
    failed = frozenset(case for case, outcome in outcomes.items() if outcome.status is not Status.OK)
    expected = KILLS[fault].cases
    assert failed == expected, (
        f"{fault} ({FAULTS[fault]})\nexpected to fail, but passed: {sorted(expected - failed)}"
        f"\nfailed, but expected to pass:{_told(outcomes, failed - expected)}"
    )


def test_every_mistake_is_expected_to_be_found() -> None:
    assert list(KILLS) == list(FAULTS)
    assert len(KILLS) >= 45
    assert [fault for fault, kill in KILLS.items() if not kill.cases or not kill.reason] == []


def test_every_case_is_killed() -> None:
    killed = frozenset().union(*(kill.cases for kill in KILLS.values()))
    assert killed == _CASES, f"never killed: {sorted(_CASES - killed)}; no such case: {sorted(killed - _CASES)}"


def test_the_published_matrix_is_the_one_that_is_tested() -> None:
    with _CSV.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    wanted = [[fault, case, kill.reason] for fault, kill in KILLS.items() for case in sorted(kill.cases)]
    assert rows == [["fault", "case", "reason"], *wanted]
