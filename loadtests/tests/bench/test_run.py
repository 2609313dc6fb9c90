"""The real thing, small: our server and the floor with 20 connections, two seconds."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from loadtests.bench.measure import Task, measure
from loadtests.bench.plan import WORKLOADS
from loadtests.bench.subjects import OURS, Subject, floor_of
from loadtests.bench.validity import faults
from loadtests.bench.workloads import SHAPES, make
from loadtests.machine import free_port

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("CI") and shutil.which("cc") is None, reason="no C compiler: the sink is written in C"
    ),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: server and sink need one each"),
]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    shape = dataclasses.replace(SHAPES["W2"], connections=20, interval_ms=200)
    return Task.write(shape, make(shape), WORKLOADS["W2"], tmp_path, 4)


@pytest.mark.parametrize("mode", ["deflate", "zstd"])
def test_ours_is_measured_and_checked(task: Task, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.bench.measure.warm_up_ticks", lambda shape, subject: 2)  # no figures are wanted
    run = measure(task, OURS[mode], free_port())
    assert run.verdict is not None
    assert run.verdict.mismatch == ""
    assert run.verdict.clients == 10
    assert (run.received, run.expected) == (40, 40)
    assert run.bytes_per_message < 3000  # of 7 KB


def test_the_floor_is_measured(task: Task) -> None:
    run = measure(task, floor_of(1500, "test"), free_port())
    assert (run.received, run.expected) == (80, 80)
    assert run.bytes_per_tick == 1500
    assert faults(run, "ticks") == []


def test_a_server_that_sends_something_else_is_noticed(task: Task, tmp_path: Path) -> None:
    other = dataclasses.replace(task.shape, seed=2)
    (tmp_path / "other").mkdir()
    wrong = Task.write(other, make(other), WORKLOADS["W2"], tmp_path / "other", 4)

    text = wrong.file.read_text(encoding="utf-8")
    for mine, theirs in zip(task.workload.tokens, wrong.workload.tokens, strict=True):
        text = text.replace(theirs, mine)
    wrong.file.write_text(text, encoding="utf-8")

    class Mistaken(Subject):
        """Plays another workload (of the same tokens) than the one that it is checked against."""

        def command(self, port: int, workload: Path, interval_ms: int, frames: int) -> tuple[list[str], Path | None]:
            return super().command(port, wrong.file, interval_ms, frames)

    run = measure(task, Mistaken("ours", "ours", "batch", "?caps=batch", first_messages=3), free_port())
    assert any("no tick" in fault for fault in faults(run, "ticks"))
