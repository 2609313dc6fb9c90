"""A cheap HTTP client for M2: prepared requests over a few kept connections, each at its planned instant.

``python -m loadtests.bench.market_client --port P --rate R --connections N`` reads targets from its standard input, one
a line, then an empty line. It prints ``ready``; on ``measure FIRST_NS SECONDS`` it asks for them in turn, R a second
from then on, and prints a JSON line. One thread, ``select()``, no HTTP library: a request is one ``send`` of ready
bytes, an answer is counted off by its Content-Length. A planned instant is drawn at random within its 1/R s, so that
requests don't beat in time with the server's ticks. A delay counts from the planned instant until the last byte, also
where the request had to wait for a connection: all are busy only when the server is late.
"""

import argparse
import json
import random
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Client", "plan_of"]

READ_BYTES: Final = 262_144
PATIENCE_S: Final = 10.0
KEPT_EVERY: Final = 50
"""Of so many answers one is kept, to be looked at afterwards."""


def plan_of(first_ns: int, seconds: float, rate: float, seed: int = 1) -> list[int]:
    """When each request is to be sent."""
    rng = random.Random(seed)
    return [first_ns + int((n + rng.random()) / rate * 1e9) for n in range(int(seconds * rate))]


@dataclass
class _Connection:
    sock: socket.socket
    buffer: bytearray = field(default_factory=bytearray)
    target: int = -1
    planned_ns: int = 0
    need: int = -1  # octets of the whole answer, once its head is complete


class Client:
    """Asks for ``targets`` in turn."""

    def __init__(self, port: int, targets: list[str], connections: int) -> None:
        self.targets = targets
        self.delays_us: list[list[int]] = [[] for _ in targets]
        self.octets = [0] * len(targets)
        self.kept: list[tuple[int, bytes]] = []
        self.fault = ""
        self.first_us = 0
        self._requests = [f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() for target in targets]
        self._idle: deque[_Connection] = deque()
        self._answers = 0
        self._sockets: list[socket.socket] = []
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            self._idle.append(_Connection(sock))

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets:
            sock.close()

    def run(self, plan: list[int], first: int = 0) -> None:
        """Send everything as planned, and wait for the answers; ``fault`` says what went wrong. The ``first`` target
        comes first."""
        busy: dict[int, _Connection] = {}
        at = 0
        until_ns = plan[-1] + int(PATIENCE_S * 1e9)
        while (at < len(plan) or busy) and not self.fault:
            now_ns = time.monotonic_ns()
            if now_ns > until_ns:
                self.fault = f"{len(busy) + len(plan) - at} requests were not answered"
                return
            while at < len(plan) and plan[at] <= now_ns and self._idle:
                connection = self._idle.popleft()
                self._send(connection, (first + at) % len(self.targets), plan[at])
                busy[connection.sock.fileno()] = connection
                at += 1
            wait_s = 0.05 if at >= len(plan) or not self._idle else max(plan[at] - time.monotonic_ns(), 0) / 1e9
            for fd in select.select(list(busy), (), (), min(wait_s, 0.05))[0]:
                if self._receive(busy[fd]):
                    self._idle.append(busy.pop(fd))
                if self.fault:
                    return

    def warm(self) -> None:
        """Ask for each target once, one after the other; ``first_us`` is what the slowest took."""
        for at in range(len(self.targets)):
            self.run([time.monotonic_ns()], at)
        self.first_us = max(delays[0] for delays in self.delays_us) if not self.fault else 0
        self.delays_us = [[] for _ in self.targets]
        self.octets = [0] * len(self.targets)
        self.kept.clear()

    def _send(self, connection: _Connection, target: int, planned_ns: int) -> None:
        connection.target, connection.planned_ns, connection.need = target, planned_ns, -1
        connection.buffer.clear()
        connection.sock.sendall(self._requests[target])

    def _receive(self, connection: _Connection) -> bool:
        """Whether the answer is complete."""
        data = connection.sock.recv(READ_BYTES)
        if not data:
            self.fault = "the server closed a connection"
            return False
        buffer = connection.buffer
        buffer += data
        if connection.need < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(buffer[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                status = head.partition(b"\r\n")[0].decode(errors="replace")
                self.fault = f"{self.targets[connection.target]}: {status}"
                return False
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            connection.need = end + 4 + int(length)
        if len(buffer) < connection.need:
            return False
        target = connection.target
        self.delays_us[target].append((time.monotonic_ns() - connection.planned_ns) // 1000)
        self.octets[target] += len(buffer)
        if self._answers % KEPT_EVERY == 0:
            self.kept.append((target, bytes(buffer).partition(b"\r\n\r\n")[2]))
        self._answers += 1
        return True


def main() -> None:
    """Obey the lines of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--connections", type=int, default=16)
    chosen = parser.parse_args()
    targets: list[str] = []
    while line := sys.stdin.readline().strip():
        targets.append(line)
    client = Client(chosen.port, targets, chosen.connections)
    client.warm()
    print("ready", flush=True)
    for line in sys.stdin:
        _, first_ns, seconds = line.split()
        plan = plan_of(int(first_ns), float(seconds), chosen.rate)
        time.sleep(max(plan[0] - time.monotonic_ns() - 2_000_000, 0) / 1e9)
        cpu_ns, wall_ns = time.process_time_ns(), time.monotonic_ns()
        client.run(plan)
        used_ns = time.process_time_ns() - cpu_ns
        answers = sum(map(len, client.delays_us))
        found: dict[str, Any] = {
            "fault": client.fault or _odd(client),
            "delays_us": client.delays_us,
            "octets": client.octets,
            "first_us": client.first_us,
            "cpu": used_ns / (time.monotonic_ns() - wall_ns),
            "us_per_request": used_ns / 1000 / max(answers, 1),
        }
        print(json.dumps(found), flush=True)


def _odd(client: Client) -> str:
    """What is wrong with the answers that were kept: each is to hold as many rows as its target's ``limit``."""
    for target, body in client.kept:
        limit = client.targets[target].partition("limit=")[2].partition("&")[0]
        rows = len(json.loads(body)["data"]) if limit else 0
        if limit and rows != int(limit):
            return f"{client.targets[target]} gave {rows} rows"
    return ""


if __name__ == "__main__":
    main()
