"""The measurement of the history's speed runs and stores what it feeds."""

import json

import pytest

from loadtests import history_speed


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rate", "2000", "--seconds", "0.5", "--trades", "3000", "--tokens", "7", "--json"]
    assert history_speed.main(arguments) in (0, 1)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["trades"] for row in rows] == [1_000, 1_000, 3_000, 3_000]
    assert [row["disk_mb"] > 0 for row in rows] == [True, False, True, False]
    assert all(row["commits"] >= 1 for row in rows[::2])


def test_what_it_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        history_speed.main(["--help"])
    assert caught.value.code == 0
    assert "--seconds" in capsys.readouterr().out
