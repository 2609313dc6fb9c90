"""A whole run: workloads, rounds and subjects in their order, every run judged as soon as it is done."""

import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.bench.measure import Measurement, Task, idle_s, measure, warm_up_ticks
from loadtests.bench.plan import WORKLOADS, Entry, Plan, in_turn
from loadtests.bench.subjects import Subject, floor_of, ours, peer_subject
from loadtests.bench.tools import BenchError, compiled
from loadtests.bench.validity import FLOOR_BYTES_TOLERANCE, faults, floor_faults
from loadtests.bench.workloads import SHAPES, make
from loadtests.peers.manifest import BY_NAME

__all__ = ["Session", "estimate_s"]

FIRST_PORT: Final = 18_300
PORTS: Final = 200
_OVERHEAD_S: Final = 1.8
_MANY_S: Final = 5.0
"""More, for 15,000 connections."""
_IDLE_S: Final = 4.0


@dataclass
class Session:
    """Runs a plan. ``say`` is told what goes on, a line at a time."""

    plan: Plan
    say: Callable[[str], None]
    runs: list[Measurement] = field(default_factory=list)
    subjects: dict[tuple[str, str], Subject] = field(default_factory=dict)
    floors: dict[tuple[str, str], str] = field(default_factory=dict)
    """Which floor each row of a workload is compared with."""
    absent: dict[str, str] = field(default_factory=dict)
    """Peers that can't run here, and why."""
    _port: int = 0

    def run(self) -> None:
        """All of it; what was measured stays in ``runs`` even when it is interrupted."""
        compiled("sink"), compiled("floor")
        for name, peer in BY_NAME.items():
            if (self.plan.peers is None or name in self.plan.peers) and not peer.available():
                self.absent[name] = peer.why_not()
                self.say(f"{name}: not measured, {peer.why_not()}")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-bench-")))
            for name in self.plan.workloads:
                self._workload(WORKLOADS[name], folder)

    def _workload(self, entry: Entry, folder: Path) -> None:
        shape = SHAPES[entry.workload]
        self.say(f"\n{shape.name}: {shape.title}; {shape.connections} connections, {shape.ticks_per_s:g} ticks/s")
        task = Task.write(shape, make(shape), entry, folder, self.plan.ticks_of(entry))
        mine = [ours(mode) for mode in self.plan.modes_of(entry)]
        peers = [name for name in self.plan.peers_of(entry, list(BY_NAME)) if name not in self.absent]
        others = [peer_subject(BY_NAME[name], entry.compressed) for name in peers]
        floors: list[Subject] = []
        for number in range(self.plan.rounds_of(entry)):
            labels = [subject.label for subject in mine]
            if number == 0 or (entry.has_floor and not floors):  # the floor needs to know what ours sends
                for subject in mine:
                    self._one(task, subject, number)
                floors = self._floors_of(shape.name, mine, others) if entry.has_floor else []
                for subject in (*floors, *others):
                    self._one(task, subject, number)
            else:
                everybody = {s.label: s for s in (*mine, *floors, *others)}
                for label in in_turn(list(everybody), number):
                    self._one(task, everybody[label], number)
            self._judge_floors(shape.name, number, labels)

    def _floors_of(self, workload: str, mine: Sequence[Subject], others: Sequence[Subject]) -> list[Subject]:
        """One floor for each of our modes, but one for several that send as many bytes."""
        floors: list[Subject] = []
        for subject in mine:
            size = next(
                (r.bytes_per_tick for r in self.runs if (r.workload, r.label) == (workload, subject.label)), 0.0
            )
            if not size:
                continue
            near = (f for f in floors if abs(f.bytes_per_tick - size) <= FLOOR_BYTES_TOLERANCE / 2 * size)
            floor = next(near, None)
            if floor is None:
                floor = floor_of(round(size), subject.mode)
                floors.append(floor)
            self.floors[workload, subject.label] = floor.label
        first = self.floors.get((workload, mine[0].label))
        if first is not None:
            self.floors |= {(workload, subject.label): first for subject in others}
        return floors

    def _one(self, task: Task, subject: Subject, number: int) -> None:
        self.subjects[task.shape.name, subject.label] = subject
        try:
            run = measure(task, subject, self._free_port())
            run.invalid = faults(run, task.entry.phase, task.shape.dead)
        except BenchError as error:
            run = Measurement(task.shape.name, subject.label, invalid=[str(error)])
        run.round = number
        self.runs.append(run)
        self.say(f"  {number + 1} {subject.label:<30}{_figures(run, task.entry)}")

    def _free_port(self) -> int:
        """Below those that the system gives to clients, of whom 15,000 may be about."""
        for _ in range(PORTS):
            self._port = (self._port + 1) % PORTS
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with suppress(OSError):
                    listener.bind(("127.0.0.1", FIRST_PORT + self._port))
                    return FIRST_PORT + self._port
        raise BenchError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free")

    def _judge_floors(self, workload: str, number: int, labels: Sequence[str]) -> None:
        found = {run.label: run for run in self.runs if run.workload == workload and run.round == number}
        for label in set(self.floors.values()):
            floor = found.get(label)
            theirs = [found[each] for each in labels if self.floors.get((workload, each)) == label and each in found]
            if floor is not None and not floor.invalid:
                floor.invalid = floor_faults(floor, [run for run in theirs if not run.invalid])
                for fault in floor.invalid:
                    self.say(f"  {number + 1} {label:<30}INVALID: {fault}")


def _figures(run: Measurement, entry: Entry) -> str:
    if run.invalid:
        return f"INVALID: {'; '.join(run.invalid)}"
    if entry.phase == "storm":
        return f"everybody served after {run.ready_s:.2f} s"
    if entry.phase == "idle":
        return f"{run.rss / 1e6:6.1f} MB, {run.rss_per_connection / 1000:.2f} KB per connection"
    return (
        f"{run.us_per_message:8.2f} us/message  p50 {run.p50 / 1000:6.1f} ms  p99 {run.p99 / 1000:6.1f} ms"
        f"  {run.bytes_per_message:7.0f} B  {run.rss / 1e6:6.1f} MB"
    )


def estimate_s(plan: Plan, present: Mapping[str, str]) -> float:
    """About how long a plan takes; ``present`` are the peers that can run."""
    total = 0.0
    for name in plan.workloads:
        entry, shape = WORKLOADS[name], SHAPES[name]
        subjects = [ours(mode) for mode in plan.modes_of(entry)]
        if entry.has_floor:
            subjects += [floor_of(0, "")] * (len(subjects) if entry.compressed else 1)
        peers = [peer for peer in plan.peers_of(entry, list(BY_NAME)) if peer in present]
        subjects += [peer_subject(BY_NAME[peer], entry.compressed) for peer in peers]
        for subject in subjects:
            ticks = plan.ticks_of(entry) + warm_up_ticks(shape, subject) + 0.5
            each = _OVERHEAD_S + ticks * shape.interval_ms / 1000 if entry.phase == "ticks" else _IDLE_S
            each += idle_s(shape, subject) if entry.phase == "ticks" else 0
            each += _MANY_S if shape.connections > 10_000 else 0
            total += each * plan.rounds_of(entry)
    return total
