"""Processes that are known by id and start, and that take all they started with them."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .errors import ServiceError
from .process import POLL_S, Process, spawn

_LIMIT_S = 20

_PARENT = "sleep 300 & echo $!; exec sleep 301"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def family(log: Path) -> Iterator[tuple[Process, int]]:
    """A process and the id of its child."""
    parent = spawn(["sh", "-c", _PARENT], log)
    _wait(lambda: log.read_text().endswith("\n"))
    yield parent, int(log.read_text())
    parent.kill(_LIMIT_S)


def _wait(happened: object) -> None:
    assert callable(happened)
    deadline = time.monotonic() + _LIMIT_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_it_is_nobodys_child_and_lives(family: tuple[Process, int]) -> None:
    parent, _ = family
    assert parent.alive()
    with pytest.raises(ChildProcessError):
        os.waitpid(parent.pid, os.WNOHANG)


def test_another_start_is_another_process(family: tuple[Process, int]) -> None:
    parent, child = family
    other = Process(parent.pid, parent.started + 1)
    assert not other.alive()
    other.stop()
    other.end(signal.SIGTERM, _LIMIT_S)
    other.kill(_LIMIT_S)
    assert parent.alive()
    assert _state(child) in ("R", "S")  # it may not have begun to sleep yet


def test_stop_and_cont_reach_its_children(family: tuple[Process, int]) -> None:
    parent, child = family
    parent.stop()
    _wait(lambda: (_state(parent.pid), _state(child)) == ("T", "T"))
    assert parent.alive()
    parent.cont()
    _wait(lambda: (_state(parent.pid), _state(child)) == ("S", "S"))


def test_kill_leaves_no_child(family: tuple[Process, int]) -> None:
    parent, child = family
    parent.kill(_LIMIT_S)
    assert not parent.alive()
    assert _state(child) in ("gone", "Z")


def test_a_stopped_one_can_be_killed(family: tuple[Process, int]) -> None:
    parent, child = family
    parent.stop()
    parent.kill(_LIMIT_S)
    assert _state(child) in ("gone", "Z")


def test_what_does_not_heed_the_signal_is_killed(log: Path) -> None:
    deaf = spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], log)
    _wait(lambda: log.read_text() == "ready\n")
    deaf.end(signal.SIGTERM, 0.3)
    assert not deaf.alive()


def test_one_whose_first_thread_is_gone_is_still_there(log: Path) -> None:
    # A program whose main thread ends by itself, as a virtual machine's may.
    program = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(300,)).start(); "
    program += "print('ready', flush=True); ctypes.CDLL(None).pthread_exit(None)"
    headless = spawn([sys.executable, "-c", program], log)
    _wait(lambda: _state(headless.pid) == "Z")
    assert headless.alive()
    headless.kill(_LIMIT_S)
    assert not headless.alive()


def test_its_output_is_appended_to_the_log(log: Path) -> None:
    for word in ("one", "two"):
        ended = spawn(["sh", "-c", f"echo {word}; echo {word} >&2"], log)
        _wait(lambda ended=ended: not ended.alive())
    assert log.read_text() == "one\none\ntwo\ntwo\n"


def test_the_error_speaks_of_what_is_still_there(family: tuple[Process, int], monkeypatch: pytest.MonkeyPatch) -> None:
    parent, _ = family
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", lambda *_: None)
        with pytest.raises(ServiceError, match=f"process {parent.pid} was killed"):
            parent.kill(0.1)
