"""The verdict, and histograms that travel between processes."""

import json
import random

import pytest

from loadtests.load.gate import LEAST_TICKS, Status, Verdict
from loadtests.load.gate import judge as judge_users
from loadtests.load.report import progress, summary
from loadtests.load.tally import COUNTS, Tally

LIMIT_US = 100_000
USERS = 10


def good() -> Tally:
    tally = Tally()
    tally.count("subscribed", USERS)
    for _ in range(USERS):
        tally.came()
    for _ in range(1_000):
        tally.delivered(20_000)
        tally.canary(200)
    return tally


def judge(tally: Tally, limit_us: int, *, faults: tuple[str, ...] = ()) -> Verdict:
    return judge_users(tally, limit_us, users=USERS, faults=faults)


def test_a_good_run() -> None:
    verdict = judge(good(), LIMIT_US)
    assert verdict.status is Status.OK
    assert verdict.line(good()).startswith("OK: push latency p50 20.0 ms p99 20.0 ms")


@pytest.mark.parametrize(
    "name",
    ["lost", "gap", "duplicate", "repeated", "stray", "unreadable", "refused", "dropped", "errors", "resume failed"],
)
def test_each_of_these_fails_a_run_alone(name: str) -> None:
    tally = good()
    tally.count(name)
    verdict = judge(tally, LIMIT_US)
    assert verdict.status is Status.FAILED
    assert verdict.reasons == (f"{name} 1",)


@pytest.mark.parametrize("name", sorted({"unjudged", "warnings", "reconnect"} & set(COUNTS)))
def test_these_do_not(name: str) -> None:
    tally = good()
    tally.count(name, 5)
    assert judge(tally, LIMIT_US).status is Status.OK


def test_the_99th_percentile_counts_and_what_is_lost_is_in_it() -> None:
    tally = good()
    for _ in range(8):
        tally.delivered(5_000_000)
    assert judge(tally, LIMIT_US).status is Status.OK
    for _ in range(8):
        tally.lost(5_000_000)
    verdict = judge(tally, LIMIT_US)
    assert verdict.status is Status.FAILED
    assert [reason.split()[0] for reason in verdict.reasons] == ["lost", "p99"]


def test_the_limit_itself_is_too_slow() -> None:
    tally = good()
    for _ in range(1_000):
        tally.delivered(LIMIT_US)
    assert judge(tally, LIMIT_US).status is Status.FAILED


def test_nothing_received_is_a_failure_not_a_success() -> None:
    tally = Tally()
    tally.canary(100)
    assert judge(tally, LIMIT_US).reasons[0] == "nobody could subscribe"
    tally.count("subscribed")
    verdict = judge(tally, LIMIT_US)
    assert (verdict.status, verdict.reasons[0]) == (Status.FAILED, "no tick was delivered")


def test_a_load_smaller_than_was_asked_for_does_not_pass() -> None:
    verdict = judge_users(good(), LIMIT_US, users=USERS + 1)
    assert verdict.status is Status.INVALID
    assert verdict.reasons == ("only 10 of 11 users were subscribed at the peak",)


def test_a_server_that_fails_under_a_small_load_has_failed() -> None:
    tally = good()
    tally.count("refused")
    verdict = judge_users(tally, LIMIT_US, users=USERS + 1)
    assert verdict.status is Status.FAILED
    assert [reason.split()[0] for reason in verdict.reasons] == ["refused", "only"]


@pytest.mark.parametrize("latency_us", [20_000, LIMIT_US])
def test_a_percentile_takes_enough_ticks(latency_us: int) -> None:
    tally = Tally()
    tally.count("subscribed")
    tally.came()
    tally.canary(100)
    for _ in range(LEAST_TICKS - 1):
        tally.delivered(latency_us)
    verdict = judge_users(tally, LIMIT_US, users=1)
    assert (verdict.status, verdict.reasons) == (Status.INVALID, ("only 99 ticks were judged, which takes 100",))
    tally.delivered(latency_us)
    assert judge_users(tally, LIMIT_US, users=1).status is (Status.OK if latency_us < LIMIT_US else Status.FAILED)


def test_the_peak_counts_who_is_there_at_once() -> None:
    tally = Tally()
    for _ in range(3):  # a storm's users go, and others come
        tally.came()
        tally.came()
        tally.went()
        tally.went()
    assert tally.counts["users"] == 2


def test_a_generator_that_lags_makes_the_run_invalid_whatever_it_measured() -> None:
    tally = good()
    for _ in range(30):
        tally.canary(11_000)
    tally.count("lost")
    verdict = judge(tally, LIMIT_US)
    assert verdict.status is Status.INVALID
    assert "canary p99" in verdict.reasons[0]
    assert verdict.reasons[1] == "lost 1"


def test_one_long_stall_counts_as_all_the_sleeps_that_it_swallowed() -> None:
    tally = good()
    tally.canary(300_000)
    assert judge(tally, LIMIT_US).status is Status.INVALID


def test_other_reasons_for_a_worthless_run() -> None:
    for name in ("misfit", "crashed"):
        tally = good()
        tally.count(name)
        assert judge(tally, LIMIT_US).status is Status.INVALID
    tally = good()
    tally.cpu_warned = True
    assert judge(tally, LIMIT_US).status is Status.INVALID
    assert judge(good(), LIMIT_US, faults=("a worker died",)).reasons == ("a worker died",)
    silent = Tally()
    silent.count("subscribed")
    assert judge(silent, LIMIT_US).reasons[0] == "the canary never ran"


def test_exit_codes() -> None:
    assert [status.value for status in Status] == [0, 1, 3]


def test_tallies_of_workers_add_up_to_that_of_one_process() -> None:
    source = random.Random(5)
    one, parts = Tally(), [Tally(), Tally(), Tally()]
    for number in range(3_000):
        latency_us = round(source.lognormvariate(9, 1))
        for tally in (one, parts[number % 3]):
            (tally.lost if number % 500 == 0 else tally.delivered)(latency_us)
            tally.time("connect", latency_us // 2)
            tally.canary(latency_us // 9)
    parts[1].cpu_warned = True
    total = Tally()
    for part in parts:
        total.add(json.loads(json.dumps(part.snapshot())))
    assert total.counts == one.counts
    assert total.cpu_warned
    for name in one.times:
        assert total.summary(name) == one.summary(name)


def test_early_values_count_as_the_least() -> None:
    tally = Tally()
    tally.delivered(-400)
    tally.delivered(10**12)
    assert tally.summary("push latency")["count"] == 2
    assert tally.percentile_us("push latency", 50) == 1


def test_the_summary_is_json_and_says_it_all() -> None:
    tally = good()
    tally.count("lost")
    data = json.loads(json.dumps(summary(tally, judge(tally, LIMIT_US), {"users": 10})))
    assert (data["verdict"], data["exit_code"], data["reasons"]) == ("FAILED", 1, ["lost 1"])
    assert data["counts"]["lost"]["value"] == 1
    assert data["times"]["push latency"]["p99_us"] == tally.percentile_us("push latency", 99)
    assert data["settings"] == {"users": 10}
    assert "lost 1" in progress(12.0, 10, tally)
    assert "nothing lost" in progress(12.0, 10, good())
