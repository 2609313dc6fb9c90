"""The list of peers is well-formed, and every row of results can say what was measured."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.peers.install import install
from loadtests.peers.manifest import BY_NAME, HERE, PEERS, Peer

EVERY = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
MEASURED = pytest.mark.parametrize("peer", [peer for peer in PEERS if not peer.lacking], ids=lambda peer: peer.name)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(PEERS)


@EVERY
def test_a_row_says_what_was_measured(peer: Peer) -> None:
    assert len(peer.settings) > 20
    assert "\n" not in peer.settings
    assert peer.directory.is_dir()


@MEASURED
def test_it_can_be_installed_and_started(peer: Peer, tmp_path: Path) -> None:
    assert peer.install
    assert peer.built
    assert "none" in peer.modes
    argv = peer.argv(9000, tmp_path / "workload.json", peer.modes[-1])
    assert "9000" in argv
    assert str(tmp_path / "workload.json") in argv
    assert peer.modes[-1] in argv
    assert peer.easier == ("--broadcast" in argv)
    sources = [part for part in argv if part.endswith((".py", ".mjs"))]
    assert all((peer.directory / source).is_file() for source in sources)


@MEASURED
def test_a_mode_it_does_not_have_is_refused(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no compress mode 'most'"):
        peer.argv(9000, tmp_path, "most")  # type: ignore[arg-type]


def test_why_it_cannot_run_is_one_line() -> None:
    ws = BY_NAME["ws"]
    assert dataclasses.replace(ws, needs=("no-such-program", "nor-this")).why_not() == (
        "no no-such-program and no nor-this in PATH"
    )
    assert "loadtests.peers.install ws" in dataclasses.replace(ws, needs=(), built="nowhere").why_not()
    assert dataclasses.replace(ws, lacking="because").why_not() == "because"
    assert not dataclasses.replace(ws, lacking="because").available()
    assert dataclasses.replace(ws, needs=(), built="ws.mjs").available()


def test_an_install_that_fails_is_told_with_its_last_line() -> None:
    failing = ((sys.executable, "-c", "raise SystemExit('no network')"),)
    peer = dataclasses.replace(BY_NAME["ws"], needs=(), built="nowhere", install=failing)
    assert "no network" in install(peer)


def test_lock_files_name_no_registry() -> None:
    for path in HERE.glob("*/package-lock.json"):
        packages = json.loads(path.read_text())["packages"]
        assert packages
        assert not any("resolved" in package for package in packages.values()), path
    for path in (HERE / "python/requirements.txt", HERE / "go/go.sum"):
        assert "://" not in path.read_text(), path


@pytest.mark.parametrize("module", ["install", "check"])
def test_a_name_that_no_peer_has(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"loadtests.peers.{module}", "nonesuch"],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "no peer is called nonesuch" in done.stderr
    assert "Traceback" not in done.stderr
