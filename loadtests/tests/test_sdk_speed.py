"""The measurement of the SDK's speed runs, and every client that it compares gets every update."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import sdk_speed


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


@pytest.mark.parametrize("name", ["nonexistent/x", "file/x", "."])
def test_a_file_that_cannot_be_written_is_found_before_measuring(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["sdk_speed", "--json", str(tmp_path / name)])
    monkeypatch.setattr(sdk_speed, "compare", lambda *_: pytest.fail("it measured"))
    with pytest.raises(SystemExit) as caught:
        sdk_speed.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("no file can be written there")
