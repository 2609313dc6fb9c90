"""One run: start a server, connect the sink and the checker, count some ticks, stop everything."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loadtests.bench.oracle import Verdict, Window
from loadtests.bench.plan import Entry
from loadtests.bench.processes import Child, cores, cpu_ns, rss_bytes, tree
from loadtests.bench.subjects import Subject
from loadtests.bench.tools import BenchError, compiled
from loadtests.bench.workloads import Shape, Workload, subscribe_text

__all__ = ["Measurement", "Task", "idle_s", "measure", "warm_up_ticks"]

_START_S: Final = 20
_CONNECT_S: Final = 60
_WARM_S: Final = 0.6
"""Until a runtime has compiled what it starts with."""
_IDLE_S: Final = 1.0
_SETTLE_S: Final = 0.3
_SURELY_COMPRESSED_BYTES: Final = 2_048
"""Thresholds, ours among them, are up to 1 KiB."""
_IDLE_HOLD_S: Final = 2.0
_PATH: Final = "/api/v1/ws/token-data"
_SOCKETIO_PATH: Final = "/socket.io/?EIO=4&transport=websocket"


@dataclass(frozen=True)
class Task:
    """A workload, written down for servers and sinks."""

    shape: Shape
    workload: Workload
    entry: Entry
    file: Path
    folder: Path
    ticks: int

    @classmethod
    def write(cls, shape: Shape, workload: Workload, entry: Entry, folder: Path, ticks: int) -> "Task":
        """Put the file of the workload, and those of the subscriptions, into ``folder``."""
        file = folder / f"{shape.name}.json"
        file.write_text(workload.to_json(), encoding="utf-8")
        texts = [subscribe_text(workload, which) for which in range(len(workload.sets))]
        (folder / f"{shape.name}.websocket").write_text("".join(f"{t}\n" for t in texts), encoding="utf-8")
        lines = "".join(f'42["message",{t}]\n' for t in texts)
        (folder / f"{shape.name}.socketio").write_text(lines, encoding="utf-8")
        return cls(shape, workload, entry, file, folder, ticks)

    @property
    def checkers(self) -> int:
        """Connections of real clients: one in a hundred, at least ten."""
        if not self.entry.checked:
            return 0
        return min(max(10, self.shape.connections // 100), self.shape.connections // 2)


@dataclass
class Measurement:
    """What one run gave. Times in us unless named otherwise; ``us_per_message`` is server CPU without its idle rate,
    ``ms_per_tick`` is with it."""

    workload: str = ""
    label: str = ""
    round: int = 0
    connections: int = 0
    received: int = 0
    expected: int = 0
    messages: int = 0
    us_per_message: float = 0.0
    ms_per_tick: float = 0.0
    server_cpu: float = 0.0
    sink_cpu: float = 0.0
    late: int = 0
    closed: int = 0
    deflated: int = 0
    packed: int = 0
    """Messages that came compressed, by the deflate bit of their frame or as binary."""
    asked_deflate: bool = False
    asked_packed: bool = False
    """Every message should come compressed."""
    idle: float = 0.0
    """Share of a core that the server used without clients; taken off."""
    bytes_per_message: float = 0.0
    bytes_per_tick: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    connect_s: float = 0.0
    ready_s: float = 0.0
    rss: int = 0
    rss_start: int = 0
    rss_growth: int = 0
    verdict: Verdict | None = None
    histogram: Sequence[Sequence[int]] = field(default_factory=list)
    invalid: Sequence[str] = field(default_factory=list)

    @property
    def rss_per_connection(self) -> float:
        """Bytes that a connection adds to the server's memory."""
        return (self.rss - self.rss_start) / max(self.connections, 1)


def measure(task: Task, subject: Subject, port: int) -> Measurement:
    """Do one run.

    Raises:
        BenchError: something did not start, or did not answer.
    """
    with ExitStack() as children:
        return _Run(task, subject, port, children).run()


class _Run:
    def __init__(self, task: Task, subject: Subject, port: int, children: ExitStack) -> None:
        self.task = task
        self.subject = subject
        self.port = port
        self.server_core, self.reader_core = cores()
        self.children = children
        self.result = Measurement(task.shape.name, subject.label, connections=task.shape.connections)
        self.grid_ns = 0

    def run(self) -> Measurement:
        shape, result = self.task.shape, self.result
        server = self._start_server()
        checker = self._start_checker() if self.task.checkers and self.subject.family != "floor" else None
        readers = shape.connections - (self.task.checkers if checker else 0)
        pids = tree(server.pid)
        idle = result.idle = self._idle_rate(pids)
        result.asked_deflate = self.subject.deflate
        result.asked_packed = self.subject.packs and _is_large(self.task.workload)
        result.rss_start = rss_bytes(pids)
        sink = self._start_sink(readers)
        ready = _until(sink, "ready", _CONNECT_S)
        result.connect_s, result.ready_s = ready["connected_s"], ready["ready_s"]
        result.deflated, result.closed = ready["deflated"], ready["closed"]
        if self.task.entry.phase == "storm":
            self._take(_until(sink, "result", 10))
            result.received = result.expected = result.messages = readers
        elif self.task.entry.phase == "idle":
            time.sleep(_IDLE_HOLD_S)
            result.received = result.expected = readers
        else:
            if checker is not None:
                checker.tell("connect")
                _expect(checker, "ready")
            time.sleep(_SETTLE_S)
            self._count(server, sink, checker, idle, readers)
        result.rss = rss_bytes(tree(server.pid))
        return result

    def _start_server(self) -> Child:
        shape, subject = self.task.shape, self.subject
        command, cwd = subject.command(self.port, self.task.file, shape.interval_ms, shape.frames_per_tick)
        server = self._child(subject.label, command, self.server_core, cwd)
        _expect(server, "listening")
        if subject.family != "ours":  # ours tells its grid at the first tick
            self._read_grid(server)
        return server

    def _start_checker(self) -> Child:
        shape, subject = self.task.shape, self.subject
        first = shape.connections - self.task.checkers
        numbers = ",".join(str(n) for n in range(first, shape.connections))
        command, cwd = Subject("", "ours", "").command(self.port, self.task.file, 0, 0)
        command[2] = "loadtests.bench.checker"
        command += ["--numbers", numbers, "--query", subject.query, "--dialect", subject.dialect]
        return self._child("the checker", command + ["--deflate"] * subject.deflate, self.reader_core, cwd)

    def _start_sink(self, readers: int) -> Child:
        shape, subject = self.task.shape, self.subject
        target = _SOCKETIO_PATH if subject.dialect == "socketio" else _PATH + subject.query
        storm = (1 if shape.kind == "batch" else shape.held) if self.task.entry.phase == "storm" else 0
        options: dict[str, Any] = {
            "--port": self.port,
            "--connections": readers,
            "--subscribe": self.task.folder / f"{shape.name}.{subject.dialect}",
            "--target": target,
            "--dialect": subject.dialect,
            "--deflate": int(subject.deflate),
            "--frames": shape.frames_per_tick,
            "--first": subject.first_messages,
            "--dead": shape.dead,
            "--storm": storm,
            "--limit": 180,
        }
        words = [str(word) for pair in options.items() for word in pair]
        return self._child("the sink", [str(compiled("sink")), *words], self.reader_core)

    def _child(self, name: str, command: Sequence[str], core: int, cwd: Path | None = None) -> Child:
        child = Child(name, command, core, cwd)
        self.children.callback(child.stop)
        return child

    def _read_grid(self, server: Child) -> None:
        words = server.line(_START_S).split()
        if len(words) != 2 or words[0] != "grid":
            raise BenchError(f"{self.subject.label} did not tell its grid, but: {' '.join(words)[:60]}")
        self.grid_ns = int(words[1])

    def _idle_rate(self, pids: Sequence[int]) -> float:
        """CPU ns per ns of a server without clients, over whole ticks once it has settled.

        0 where a tick takes longer than a second, or no CPU time is judged: waiting for that is not worth it.
        """
        length_s = idle_s(self.task.shape, self.subject) - _WARM_S
        if length_s <= 0 or self.task.entry.phase != "ticks":
            return 0.0
        time.sleep(_WARM_S)
        begin, cpu = time.monotonic_ns(), cpu_ns(pids)
        time.sleep(length_s)
        return (cpu_ns(pids) - cpu) / (time.monotonic_ns() - begin)

    def _count(self, server: Child, sink: Child, checker: Child | None, idle: float, readers: int) -> None:
        shape, result = self.task.shape, self.result
        if not self.grid_ns:
            self._read_grid(server)
        interval_ns = shape.interval_ms * 1_000_000
        first = (
            (time.monotonic_ns() + 100_000_000 - self.grid_ns) // interval_ns + 1 + warm_up_ticks(shape, self.subject)
        )
        window = Window(first, self.grid_ns + first * interval_ns, interval_ns, self.task.ticks)
        sink.tell(f"measure {window.first_ns} {interval_ns} {window.ticks}")
        if checker is not None:
            checker.tell(f"measure {first} {window.first_ns} {interval_ns} {window.ticks}")
        pids = tree(server.pid)
        _sleep_until(window.begin_ns)
        begin, cpu, rss = time.monotonic_ns(), cpu_ns(pids), rss_bytes(pids)
        _sleep_until(window.end_ns)
        spent, took = cpu_ns(pids) - cpu, time.monotonic_ns() - begin
        result.rss_growth = rss_bytes(pids) - rss
        if not cpu:
            raise BenchError(f"{self.subject.label} has ended. {server.complaint()}".rstrip())
        self._take(_until(sink, "result", 10))
        alive = readers - shape.dead + (self.task.checkers if checker else 0)
        result.messages = alive * window.ticks * shape.frames_per_tick
        busy = spent - idle * took
        result.us_per_message = busy / 1000 / result.messages
        result.ms_per_tick = spent / 1e6 / window.ticks
        result.server_cpu = spent / took
        if checker is not None:
            result.verdict = Verdict(**json.loads(checker.line(20)))

    def _take(self, told: dict[str, Any]) -> None:
        result = self.result
        result.received, result.expected = told["received"], told["expected"]
        result.late, result.closed, result.sink_cpu = told["late"], told["closed"], told["cpu"]
        result.packed = told["packed"]
        result.p50, result.p99, result.p999, result.max = (told[name] for name in ("p50", "p99", "p999", "max"))
        result.histogram = told["histogram"]
        result.bytes_per_message = told["bytes"] / max(told["received"], 1)
        result.bytes_per_tick = result.bytes_per_message * self.task.shape.frames_per_tick


def idle_s(shape: Shape, subject: Subject) -> float:
    """How long a server is watched without clients; 0: not at all."""
    interval_s = shape.interval_ms / 1000
    if interval_s > _IDLE_S or subject.family == "floor":
        return 0.0
    return _WARM_S + interval_s * max(round(_IDLE_S / interval_s), 2)


def _is_large(workload: Workload) -> bool:
    """Whether what a client gets at a tick is more than anybody sends uncompressed."""
    values = workload.expected(0, workload.held_by(0)).values()
    return workload.kind == "batch" and sum(map(len, values)) > _SURELY_COMPRESSED_BYTES


def warm_up_ticks(shape: Shape, subject: Subject) -> int:
    """Ticks that are sent and not counted: at the first one servers allocate, and windows of compressors fill.

    A window of zstd takes 13 seconds to fill; by 18 our heartbeat, which falls into nobody else's count, has passed.
    """
    if 100 < shape.interval_ms <= 500 and "zstd" in subject.query:
        return 18_000 // shape.interval_ms
    if subject.keeps_context and 100 < shape.interval_ms <= 500:
        return 6
    return 2 if shape.interval_ms <= 500 else 1 if shape.interval_ms <= 1500 else 0


def _sleep_until(instant_ns: int) -> None:
    time.sleep(max(instant_ns - time.monotonic_ns(), 0) / 1e9)


def _expect(child: Child, word: str) -> None:
    while True:
        line = child.line(_START_S).strip()
        if line == word:
            return
        if line != "loaded":
            raise BenchError(f"{child.name} said {line[:80]!r} instead of {word!r}")


def _until(sink: Child, event: str, timeout_s: float) -> dict[str, Any]:
    while True:
        told: dict[str, Any] = json.loads(sink.line(timeout_s))
        if told["event"] == event:
            return told
