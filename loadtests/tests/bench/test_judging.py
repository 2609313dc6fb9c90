"""Rules of validity, rows, targets and reports, on figures made by hand. Each rule is seen to fail."""

import dataclasses
import json
from pathlib import Path

import pytest

from loadtests import machine
from loadtests.bench.__main__ import main
from loadtests.bench.measure import Measurement
from loadtests.bench.oracle import Verdict
from loadtests.bench.page import growth_plots, page
from loadtests.bench.plots import standalone
from loadtests.bench.processes import cores
from loadtests.bench.report import document, table, target_lines
from loadtests.bench.stats import Row, Spread, rows_of
from loadtests.bench.subjects import OURS, Subject, floor_of
from loadtests.bench.targets import evaluate
from loadtests.bench.tools import BenchError
from loadtests.bench.validity import faults, floor_faults

GOOD = Measurement(
    workload="W1",
    label="tokenwire strict",
    connections=1000,
    received=49_990,
    expected=50_000,
    messages=50_500,
    us_per_message=5.5,
    ms_per_tick=5.5,
    sink_cpu=0.5,
    bytes_per_message=260,
    bytes_per_tick=260,
    p50=2000,
    p99=5000,
    p999=9000,
    max=9500,
    rss=62_000_000,
    rss_start=58_000_000,
    verdict=Verdict(10, 500, digest="3:abc"),
    histogram=[[1000, 10], [2000, 39_000], [9500, 10_980]],
)


def test_a_good_run_is_valid() -> None:
    assert faults(GOOD, "ticks") == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sink_cpu": 0.86}, "the sink used 86%"),
        ({"received": 49_900}, "only 99.8%"),
        ({"received": 0, "expected": 0}, "only 0.0%"),
        ({"late": 100}, "a whole interval late"),
        ({"closed": 1}, "closed 1 connections"),
        ({"asked_deflate": True, "deflated": 989}, "accepted for 989 of 990"),
        ({"asked_packed": True, "packed": 49_000}, "only 49000 of 49990 messages came compressed"),
        ({"us_per_message": -0.1}, "below its idle rate"),
        ({"verdict": Verdict(10, 500, mismatch="number 7 follows 5")}, "number 7 follows 5"),
        ({"verdict": Verdict(10, 500, missing=3)}, "missed 3 ticks"),
        ({"verdict": Verdict(10, 500, behind=3)}, "3 messages a whole interval late"),
        ({"verdict": Verdict(10, 0)}, "saw nothing"),
    ],
)
def test_each_rule_can_fail(change: dict[str, object], fault: str) -> None:
    found = faults(dataclasses.replace(GOOD, **change), "ticks")  # type: ignore[arg-type]
    assert len(found) == 1
    assert fault in found[0]


def test_dead_readers_may_be_closed() -> None:
    assert faults(dataclasses.replace(GOOD, closed=3), "ticks", dead=3) == []


def test_a_floor_sends_as_many_bytes_as_ours() -> None:
    assert floor_faults(dataclasses.replace(GOOD, label="floor", bytes_per_tick=255), [GOOD]) == []
    found = floor_faults(dataclasses.replace(GOOD, label="floor", bytes_per_tick=254), [GOOD])
    assert "2.3% apart" in found[0]


MINE = OURS["strict"]
FLOOR = floor_of(260, "strict")
BUN = Subject("bun", "peer", "none", peer="bun")
WS = Subject("ws", "peer", "none", peer="ws")
EASY = Subject("bun-publish", "peer", "none", easier=True)


def rows(mine: tuple[float, ...] = (5.0, 6.6, 7.0), floor: tuple[float, ...] = (5.0, 6.0, 5.0)) -> list[Row]:
    figures = {MINE: mine, FLOOR: floor, BUN: (6.0,) * 3, WS: (9.0,) * 3, EASY: (1.0,) * 3}
    runs = [
        dataclasses.replace(GOOD, label=subject.label, round=number, us_per_message=us)
        for subject, each in figures.items()
        for number, us in enumerate(each)
    ]
    subjects = {("W1", subject.label): subject for subject in figures}
    return rows_of(runs, subjects, {key: FLOOR.label for key in subjects if key[1] != FLOOR.label})


def test_ratios_are_of_the_same_round() -> None:
    row = rows()[0]
    assert row.us == Spread(6.6, 5.0, 7.0)
    assert row.ratio is not None
    assert [round(each, 3) for each in (row.ratio.median, row.ratio.low, row.ratio.high)] == [1.1, 1.0, 1.4]
    assert row.rss_per_connection == 4000
    assert (row.p99_ms, row.digest) == (5.0, "3:abc")


def test_invalid_rounds_are_left_out_and_named() -> None:
    runs = [
        dataclasses.replace(GOOD, round=0, us_per_message=5.0),
        dataclasses.replace(GOOD, round=1, us_per_message=99.0, invalid=["the sink used 99% of its core"]),
        dataclasses.replace(GOOD, round=0, label=FLOOR.label, us_per_message=4.0),
        dataclasses.replace(GOOD, round=1, label=FLOOR.label, us_per_message=4.0, invalid=["x"]),
    ]
    subjects = {("W1", MINE.label): MINE, ("W1", FLOOR.label): FLOOR}
    row = rows_of(runs, subjects, {("W1", MINE.label): FLOOR.label})[0]
    assert (row.valid, row.rounds) == (1, 2)
    assert row.reasons == ["round 2: the sink used 99% of its core"]
    assert row.ratio == Spread(1.25, 1.25, 1.25)


def test_a_row_without_a_valid_round_has_no_figures() -> None:
    row = rows_of([dataclasses.replace(GOOD, invalid=["broken"])], {("W1", MINE.label): MINE}, {})[0]
    assert row.valid == 0
    assert row.us is None
    assert "INVALID" in table([row])
    assert "broken" in table([row])


def found(some: list[Row], text: str) -> bool | None:
    (target,) = [target for target in evaluate(some) if target.workload == "W1" and text in target.text]
    return target.is_met


def test_targets_are_met_missed_or_not_measured() -> None:
    assert found(rows(), "1.3 x floor") is True
    assert found(rows(mine=(9.5, 9.5, 9.5)), "1.3 x floor") is False
    assert found(rows(), "with resume") is None
    assert found(rows(), "10 % of Bun") is True
    assert found(rows(mine=(7.0,) * 3), "10 % of Bun") is False
    assert found(rows(mine=(8.0,) * 3), "every other peer") is True  # the easier task does not count, nor Bun here
    assert found(rows(mine=(9.5,) * 3), "every other peer") is False


def sdk(rate: float) -> dict[str, object]:
    return {"rows": [{"client": "sdk", "per_s": rate, "us": 4.7, "ratio": 1.4}]}


def test_the_sdk_has_its_target() -> None:
    assert evaluate([], sdk(210_000))[-1].is_met is True
    assert evaluate([], sdk(190_000))[-1].is_met is False
    assert evaluate([])[-1].is_met is None


def test_reports_hold_every_row_and_load_nothing() -> None:
    some = rows()
    targets = evaluate(some)
    text = table(some)
    html = page("daily", {"CPU": "a <b>"}, some, targets, {"gorilla": "no go in PATH"}, sdk(210_000))
    content = json.loads(document("daily", {"CPU": "x"}, some, targets, [GOOD], {}, None))
    for row in some:
        assert row.label in text
        assert row.label in html
    assert "(easier task)" in text
    assert "met" in target_lines(targets)
    assert [row["label"] for row in content["rows"]] == [row.label for row in some]
    assert "a &lt;b&gt;" in html
    assert "<svg" in html
    assert "http" not in html.replace('xmlns="http', "")
    assert "src=" not in html


def test_growth_is_plotted_from_our_rows_of_its_workloads() -> None:
    each = [dataclasses.replace(GOOD, workload=name, ms_per_tick=ms) for name, ms in (("C100", 1.5), ("C300", 4.2))]
    each.append(dataclasses.replace(GOOD, workload="C1000", label=FLOOR.label, ms_per_tick=9.0))
    subjects = {("C100", MINE.label): MINE, ("C300", MINE.label): MINE, ("C1000", FLOOR.label): FLOOR}
    plots = growth_plots(rows_of(each, subjects, {}))
    assert list(plots) == ["connections"]
    assert ">4.2<" in plots["connections"]
    assert ">9.0<" not in plots["connections"]
    assert standalone(plots["connections"]).startswith('<svg xmlns="http')


def test_a_target_against_every_peer_needs_every_peer_that_took_part() -> None:
    some = rows()
    assert next(t for t in evaluate(some) if "other peer here (1)" in t.text).is_met is True
    broken = [dataclasses.replace(row, valid=1) if row.label == "ws" else row for row in some]
    target = next(t for t in evaluate(broken) if "every other peer" in t.text)
    assert (target.is_met, target.found) == (None, "no figures of ws")


def test_the_reader_is_on_a_core_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_siblings", lambda core: {0, 1})
    assert cores() == (0, 2)
    monkeypatch.setattr(machine, "_siblings", lambda core: {0, 1, 2, 3})
    assert cores() == (0, 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3})
    with pytest.raises(BenchError, match="two cores"):
        cores()


def test_a_run_that_was_changed_has_a_name_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []
    monkeypatch.setattr("loadtests.bench.__main__._run", lambda plan, out, sdk: plans.append(plan.name) or 0)
    out = ["--out", str(tmp_path / "results")]
    assert [main([*out, *words]) for words in ([], ["--full"], ["--workloads", "W1"], ["--rounds", "2"])] == [0] * 4
    assert plans == ["daily", "full", "custom", "custom"]
    sdk_file = tmp_path / "sdk.json"
    sdk_file.write_text('{"rows": [{"client": "sdk"}]}')
    for wrong in (["--workloads", ","], ["--rounds", "0"], ["--sdk", str(sdk_file)], ["--out", "/proc/nowhere"]):
        assert main([*out, *wrong]) == 2
        assert capsys.readouterr().err.startswith("bench: ")
