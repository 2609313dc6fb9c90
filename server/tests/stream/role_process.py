"""A role of ``tokenwire-server`` as a process, and what its tests have in common."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Outgoing
from tokenwire_server.stream.topics import Topics

from ..services.kafka import Kafka
from ..services.postgres import Postgres

__all__ = ["RoleProcess", "environment", "feed", "until"]

ROOT = Path(__file__).parents[3]
_PATIENCE_S = 90


class RoleProcess:
    """``tokenwire-server ROLE``, started with :meth:`start`, again and again if need be; ``url`` is its role port's."""

    def __init__(
        self, role: str, variables: Mapping[str, str], log: Path, arguments: Sequence[str] = (), *, role_port: int = 0
    ) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""
        self._words = ["-W", "error", "-m", "tokenwire_server", role, "--role-port", str(role_port), *arguments]
        self._variables = variables
        self._log = log
        log.write_bytes(b"")

    async def launch(self) -> asyncio.subprocess.Process:
        """Start it, and wait for nothing."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *self._words, cwd=ROOT, env={**os.environ, **self._variables}, stdout=log, stderr=log
            )
        return self.process

    async def start(self) -> Self:
        """Start it, and wait until it can be asked how it is, or has ended."""
        before = len(self.said())
        await self.launch()
        await until(lambda: self._place(before) or not self.alive)
        self.url = self._place(before)
        return self

    def _place(self, after: int) -> str:
        found = re.search(r"(http://[^/]+/)ready", self.said()[after:])
        return found[1] if found else ""

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def said(self) -> str:
        return self._log.read_text()

    async def ready(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as client, client.get(f"{self.url}ready") as reply:
            body: dict[str, Any] = json.loads(await reply.read())
            assert (reply.status == 200) is body["ready"]
            return body

    async def metric(self, name: str) -> float:
        async with aiohttp.ClientSession() as client, client.get(f"{self.url}metrics") as reply:
            text = (await reply.read()).decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> int | None:
        """Have it end, however; its exit code."""
        if self.process is None:
            return None
        if self.alive:
            self.send(signal.SIGCONT)
            self.send(number)
        return await asyncio.wait_for(self.process.wait(), _PATIENCE_S)

    async def ended(self) -> int | None:
        """Its exit code, when it has ended by itself; if it does not, it is killed."""
        try:
            await until(lambda: not self.alive)
        finally:
            await self.end()
        return self.process.returncode if self.process is not None else None


async def until(holds: Callable[[], Any], limit_s: float = _PATIENCE_S) -> None:
    """Wait for it; it may be a coroutine function."""
    until_s = time.monotonic() + limit_s
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < until_s, "that took too long"
        await asyncio.sleep(0.1)


def environment(kafka: Kafka, topics: Topics, postgres: Postgres | None = None, database: str = "") -> dict[str, str]:
    """What tells a role where its engines are."""
    names = ";".join(f"{key}={name}" for key, name in zip(Topics._fields[:-1], topics[:-1], strict=True))
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.address, "TOKENWIRE_KAFKA_TOPICS": names,
        "TOKENWIRE_KAFKA_PARTITIONS": str(topics.partitions),
    }  # fmt: skip
    if postgres is not None:
        variables |= {
            "TIMESCALE_HOST": "127.0.0.1", "TIMESCALE_PORT": str(postgres.port), "TIMESCALE_DB": database,
            "TIMESCALE_USER": postgres.user, "TIMESCALE_PASSWORD": postgres.password, "TIMESCALE_SSLMODE": "disable",
        }  # fmt: skip
    return variables


async def feed(
    bus: KafkaBus, topics: Topics, records: Sequence[Outgoing], seconds: float, enough: asyncio.Event | None = None
) -> None:
    """Write raw records in the course of some seconds, or until it is ``enough``."""
    writer = bus.writer(topics.raw)
    pieces = [records[at : at + 40] for at in range(0, len(records), 40)]
    for piece in pieces:
        if enough is not None and enough.is_set():
            break
        await writer.commit([each._replace(place=each.place._replace(topic=topics.raw)) for each in piece])
        await asyncio.sleep(seconds / len(pieces))
    await writer.close()
