"""The simulation: thousands of schedules without a silent hole, and every rare path taken.

Ten thousand in ``make proof`` (``TOKENWIRE_PROOF=full``), which CI runs; a part of them in ``make test``.
"""

import json
import os
import sys
from pathlib import Path

import pytest

from loadtests.faults import campaign as campaign_module
from loadtests.faults.campaign import SOMETIMES, Campaign, replay_command, run_campaign, summary
from loadtests.faults.history import read_history
from loadtests.faults.simulate import main
from loadtests.faults.simulation import World, simulate

SCHEDULES = 10_000 if os.environ.get("TOKENWIRE_PROOF") == "full" else 1_500


@pytest.mark.proof
def test_thousands_of_schedules_without_a_silent_hole(capsys: pytest.CaptureFixture[str]) -> None:
    shown = 0

    def progress(campaign: Campaign) -> None:
        nonlocal shown
        if campaign.totals["schedules"] >= shown + 1000:
            shown += 1000
            with capsys.disabled():
                print(f"\n  {campaign.seconds:4.0f} s  {summary(campaign)}", end="", file=sys.stderr)

    campaign = run_campaign(0, SCHEDULES, progress=progress)
    assert not campaign.failures, "\n".join(campaign.failures.values())
    assert campaign.totals["schedules"] == SCHEDULES
    assert campaign.missing() == [], "a rare path that is never taken proves nothing"


def test_the_same_seed_is_the_same_story() -> None:
    for seed in (3, 11, 42):
        first, second = simulate(seed), simulate(seed)
        assert first.history == second.history
        assert first.totals == second.totals
    assert simulate(3).history != simulate(4).history


def test_an_endless_loop_is_a_finding() -> None:
    class Stuck(World):
        def run(self) -> None:
            while True:
                pass

    violations = simulate(1, world_type=Stuck, patience_s=0.05).violations
    assert [violation.invariant for violation in violations] == ["defect"]
    assert "no end after" in violations[0].text


def test_an_exception_is_a_finding_and_says_where() -> None:
    class Broken(World):
        def _quiet(self) -> None:
            raise RuntimeError("on purpose")

    outcome = simulate(1, world_type=Broken)
    assert outcome.violations[0].invariant == "defect"
    assert "on purpose" in str(outcome.violations[0])
    assert outcome.history, "what happened before is kept"


def test_a_seed_in_detail(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert main(["--seed", "5", "-v", "--tail", "3", "--save", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 5: ")
    assert json.loads(lines[-2])["kind"] == "sample"
    assert lines[-1] == f"seed 5: {len(list(read_history(path)))} entries, 0 violations"


def test_a_failing_seed_names_its_replay_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(World):
        def _converge(self) -> None:
            raise RuntimeError("on purpose")

    monkeypatch.setattr(campaign_module, "simulate", lambda seed: simulate(seed, world_type=Broken))
    part = campaign_module.run_block(7, 2)
    assert set(part.failures) == {7, 8}
    assert part.failures[7].endswith(replay_command(7))
    monkeypatch.setattr("loadtests.faults.simulate.simulate", lambda seed: simulate(seed, world_type=Broken))
    assert main(["--seed", "7"]) == 1
    assert capsys.readouterr().out.rstrip().endswith("python -m loadtests.faults.simulate --seed 7 -v")


def test_a_campaign_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedules", "30", "--start", "100", "--workers", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("schedules=30 frames=")
    assert " lost=0 " in printed[-1]


def test_what_never_happened_is_named() -> None:
    assert Campaign().missing() == list(SOMETIMES)
