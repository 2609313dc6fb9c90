"""The units of systemd, read by systemd-analyze."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tokenwire_server.settings import Settings

from .names import DEPLOY, ROLES, SETTINGS

FOLDER = DEPLOY / "systemd"
PROGRAM = "/opt/tokenwire/bin/tokenwire-server"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
COMMON = (FOLDER / "tokenwire-.service.d/common.conf").read_text("utf-8")
_MAX_EXPOSURE = 15
"""Tenths: what ``systemd-analyze security`` may find at most, of 100."""


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze (apt-get install systemd)")
    # The colon keeps systemd's own units in reach.
    return subprocess.run(
        [program, "--no-pager", *arguments], env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a program that is there."""
    folder = tmp_path / "units"
    shutil.copytree(FOLDER, folder)
    for unit in folder.glob("*.service"):
        unit.write_text(unit.read_text("utf-8").replace(PROGRAM, "/bin/true"), "utf-8")
    return folder


def named(unit: str) -> str:
    return unit.replace("@.", "@8101.")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_to_say_about_it(installed: Path, unit: str) -> None:
    done = analyze(installed, "verify", "--man=no", named(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    with (installed / unit).open("a") as text:
        text.write("[Service]\nRestartSecs=1\n")
    assert "RestartSecs" in analyze(installed, "verify", "--man=no", named(unit)).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_it_may_do_only_what_it_needs(installed: Path, unit: str) -> None:
    options = ("security", "--offline=true", f"--threshold={_MAX_EXPOSURE}")
    assert analyze(installed, *options, named(unit)).returncode == 0
    shutil.rmtree(installed / "tokenwire-.service.d")
    assert analyze(installed, *options, named(unit)).returncode != 0


def test_there_is_a_unit_for_each_role() -> None:
    texts = [(FOLDER / unit).read_text("utf-8") for unit in UNITS]
    commands = {re.findall(rf"^ExecStart={PROGRAM} (\w+)$", text, re.MULTILINE)[0] for text in texts}
    assert commands == {"run", *ROLES}


@pytest.mark.parametrize("unit", UNITS)
def test_its_settings_are_ours(unit: str) -> None:
    text = (FOLDER / unit).read_text("utf-8") + COMMON
    lines = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    names = {word.partition("=")[0] for line in lines for word in line.split()}
    assert "TOKENWIRE_INSTANCE" in names
    assert names <= SETTINGS, names - SETTINGS


def test_it_has_the_time_to_drain_and_comes_back() -> None:
    (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)s$", COMMON, re.MULTILINE)
    assert int(stop_s) >= Settings.model_fields["drain_s"].default + 10
    assert "\nRestart=on-failure\n" in COMMON
    (wait_s,) = re.findall(r"^RestartSec=(\d+)s$", COMMON, re.MULTILINE)
    (minutes,) = re.findall(r"^StartLimitIntervalSec=(\d+)min$", COMMON, re.MULTILINE)
    (times,) = re.findall(r"^StartLimitBurst=(\d+)$", COMMON, re.MULTILINE)
    # It gives up only when each start fails almost at once, and not before an engine had five minutes to come.
    assert 300 <= int(times) * int(wait_s) < int(minutes) * 60
