"""Whole runs in processes of their own: our server, and servers that misbehave.

How quick a shared machine is must not decide a test, so these look at what was counted and at the reasons, and not
at whether the load generator itself kept up.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).parents[3]
INTERVAL_S = 0.25
UNHURRIED = ("--update-interval", "0.5")
"""For our own server: a tick of a quarter of a second is left out where the machine is busy for longer than that."""
RUN_LIMIT_S = 90
LONG = pytest.mark.proof(only=True)


async def load(results: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run ``make load``'s program; its exit code, its summary, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtests.load.run", "--results", str(results)),
        *("--update-interval", str(INTERVAL_S), *words),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RUN_LIMIT_S)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    text = output.decode()
    assert (results / "summary.json").exists(), text
    summary = json.loads((results / "summary.json").read_text())
    assert process.returncode == summary["exit_code"], text
    return process.returncode, summary, text


def reasons(summary: dict[str, Any]) -> list[str]:
    """What the server is blamed for, by the first word."""
    machine = ("the load generator", "Locust used")
    return [reason.split()[0] for reason in summary["reasons"] if not reason.startswith(machine)]


def count(summary: dict[str, Any], name: str) -> int:
    value: int = summary["counts"][name]["value"]
    return value


@pytest.mark.parametrize(
    "words", [(), *(pytest.param(each, marks=LONG) for each in (("--processes", "2"), ("--strict", "--tokens", "3")))]
)
async def test_our_server_passes(words: tuple[str, ...], tmp_path: Path) -> None:
    options = ("--users", "20", "--duration", "6", "--rate", "20", "--gate-ms", "2000", "--shape", "soak")
    _, summary, text = await load(tmp_path, *options, *UNHURRIED, *words)
    assert reasons(summary) == [], text
    assert summary["verdict"] in text.splitlines()[-1]
    assert count(summary, "delivered") > 80
    assert summary["times"]["push latency"]["count"] == count(summary, "delivered")
    assert count(summary, "subscribed") >= count(summary, "users") == 20
    for name in ("report.html", "locust_stats.csv", "locust_failures.csv", "locust_stats_history.csv"):
        assert (tmp_path / name).stat().st_size
    stats = (tmp_path / "locust_stats.csv").read_text()
    for name in ("connect", "ready", "subscribe ack", "push latency"):
        assert f"WS,{name}," in stats


async def test_resuming_and_churning_is_measured(tmp_path: Path) -> None:
    options = ("--users", "10", "--duration", "6", "--rate", "10", "--gate-ms", "2000", "--shape", "churn")
    _, summary, text = await load(tmp_path, *options)
    assert reasons(summary) == [], text
    assert count(summary, "reconnect") > 0
    assert summary["times"]["resume"]["count"] > 0
    assert summary["times"]["unsubscribe ack"]["count"] > 0


@dataclass
class Misbehaving:
    """A server with a probe of two tokens. Every ``skip_every``-th tick is left out, every ``hole_every``-th message
    skips a number, every ``twice_every``-th tick is sent twice, and each goes out ``late_s`` after its planned
    instant."""

    skip_every: int = 0
    hole_every: int = 0
    twice_every: int = 0
    late_s: float = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with serve(self.talk, "127.0.0.1", 0, compression=None) as server:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def talk(self, connection: ServerConnection) -> None:
        self_sequence = 0

        async def send(kind: str, data: dict[str, Any]) -> None:
            nonlocal self_sequence
            self_sequence += 1
            if self.hole_every and self_sequence % self.hole_every == 0:
                self_sequence += 1
            message = {"type": kind, "sequence": self_sequence, "timestamp": 1, "data": data}
            await connection.send(json.dumps(message, separators=(",", ":")))

        try:
            await send("connection", {"status": "connected", "connectionId": "x", "maxSubscriptions": 100})
            tokens = json.loads(await connection.recv())["data"]["tokens"]
            await send("subscription", {"action": "subscribe", "tokens": tokens, "status": "success"})
            number = int(time.monotonic() / INTERVAL_S)
            while True:
                number += 1
                planned_s = number * INTERVAL_S
                await asyncio.sleep(planned_s + self.late_s - time.monotonic())
                if self.skip_every and number % self.skip_every == 0:
                    continue
                updates = [{"address": token, "price": f"{planned_s:.6f}"} for token in tokens]
                for _ in range(2 if self.twice_every and number % self.twice_every == 0 else 1):
                    await send("token_batch", {"updates": updates})
        except ConnectionClosed:
            pass


@pytest.mark.parametrize(
    ("server", "gate_ms", "blamed"),
    [
        (Misbehaving(), "2000", []),
        (Misbehaving(skip_every=5), "2000", ["lost"]),
        (Misbehaving(hole_every=7), "2000", ["gap"]),
        (Misbehaving(twice_every=6), "2000", ["repeated"]),
        (Misbehaving(late_s=0.2), "150", ["p99"]),
    ],
    ids=["none", "skipped ticks", "holes", "ticks sent twice", "late ticks"],
)
async def test_a_server_that_misbehaves_is_found_out(
    server: Misbehaving, gate_ms: str, blamed: list[str], tmp_path: Path
) -> None:
    async with server.serving() as url:
        options = ("--users", "12", "--rate", "12", "--duration", "5", "--tokens", "2", "--gate-ms", gate_ms)
        code, summary, text = await load(tmp_path, "--host", url, *options)
    found = reasons(summary)
    if server.late_s:  # the ticks under way at the end were over the limit as well
        found = [name for name in found if name != "lost"]
    assert found == blamed, text
    assert code != 0 or not blamed
    if server.late_s:
        assert summary["times"]["push latency"]["p50_us"] >= 200_000
    if server.skip_every:
        assert summary["times"]["push latency"]["count"] == count(summary, "delivered") + count(summary, "lost")
