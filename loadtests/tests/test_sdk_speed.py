"""The measurement of the SDK's speed runs, and every client that it compares gets every update."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes to cores")
def test_a_short_run(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    command = [sys.executable, "-m", "loadtests.sdk_speed", "--updates", "5000", "--rounds", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text("utf-8"))
    assert [row["client"] for row in found["rows"]] == ["frames", "bare", "sdk"]
    assert all(row["rounds"][0]["updates"] >= 4_000 for row in found["rows"])
    assert done.stdout.count("|\n") == 5
