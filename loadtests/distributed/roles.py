"""One role as a process that lives many lives: started, killed, stopped, replaced, and asked what it counted."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from server.tests.services.ports import free_port

__all__ = ["REPLACED", "RoleProcess"]

REPLACED: Final = 3  # the exit code of a process whose name another one has
END_S: Final = 30.0  # for an end in good order
ASK_S: Final = 1.0
READY_S: Final = 60.0
_READY: Final = re.compile(rb"HTTP/1\.\d 200 ")
_SAMPLE: Final = re.compile(r"^(tokenwire_\w+?)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_COUNTED: Final = {
    "tokenwire_collector_transactions_total": ("outcome",),
    "tokenwire_collector_records_total": (),
    "tokenwire_processor_transactions_total": ("outcome",),
    "tokenwire_processor_refolded_total": (),
    "tokenwire_processor_rebuilt_total": (),
    "tokenwire_processor_records_total": (),
    "tokenwire_processor_poisoned_total": (),
    "tokenwire_loader_rows_total": ("kind",),
    "tokenwire_loader_commit_failures_total": (),
    "tokenwire_loader_missing_records_total": (),
}
"""Counters that are summed over lives, and the labels that tell them apart."""


class RoleProcess:
    """A process that is started as ``python -m tokenwire_server <words>`` with these settings in its environment.

    ``ports``: those that it keeps over its lives, as gateways do; else each life answers on another role port.
    """

    def __init__(
        self,
        name: str,
        role: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        role_port: int | None = None,
    ) -> None:
        self.name = name
        self.role = role
        self.counts: Counter[str] = Counter()  # of lives that are over
        self.lives = 0
        self.is_expected = False  # its end was asked for
        self.is_stopped = False
        self.log = folder / f"{name}.log"
        self._words = [role, *words]
        self._environment = dict(environment)
        self._fixed_port = role_port
        self._port = 0
        self._now: Counter[str] = Counter()  # of this life
        self._process: asyncio.subprocess.Process | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs or is stopped."""
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """Of a life that is over; negative: the signal that ended it."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """A new life."""
        self._bury()
        self._port = self._fixed_port or free_port()
        self.lives += 1
        self.is_expected = self.is_stopped = False
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")},
            **self._environment,
            "TOKENWIRE_ROLE_PORT": str(self._port),
        }
        with self._opened() as out:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tokenwire_server", *self._words,
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )  # fmt: skip

    def _opened(self) -> IO[bytes]:
        out = self.log.open("ab")
        out.write(f"=== life {self.lives}\n".encode())
        out.flush()
        return out

    async def successor(self) -> "RoleProcess":
        """Another process of the same name, which counts on where this one is."""
        other = RoleProcess(
            self.name, self.role, self._words[1:], self._environment, self.log.parent, role_port=self._fixed_port
        )
        other.lives = self.lives
        await other.start()
        return other

    def inherit(self, other: "RoleProcess") -> None:
        """Count what one that was replaced had counted."""
        other._bury()
        self.counts.update(other.counts)

    def send(self, number: signal.Signals) -> None:
        """A signal, if it is alive."""
        if self._process is not None and self.alive:
            self.is_stopped = number is signal.SIGSTOP or (self.is_stopped and number is not signal.SIGCONT)
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.is_expected = True
        self.send(signal.SIGKILL)
        await self.wait()

    async def end(self) -> bool:
        """SIGTERM, and wait for its end; False if it had to be killed."""
        self.is_expected = True
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        if await self.wait(END_S):
            return True
        await self.kill()
        return False

    async def wait(self, limit_s: float | None = None) -> bool:
        """Until it has ended; False if it has not within ``limit_s``."""
        if self._process is None:
            return True
        try:
            async with asyncio.timeout(limit_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def ready(self, limit_s: float = READY_S) -> bool:
        """Until it says that it does its work; False if it ended, or has not said so within ``limit_s``."""
        until_s = time.monotonic() + limit_s
        while self.alive and time.monotonic() < until_s:
            if _READY.match(await self._ask("/ready")):
                return True
            await asyncio.sleep(0.1)
        return False

    async def count(self) -> None:
        """Ask for its counters; it may be busy, stopped, or not there yet."""
        text = (await self._ask("/metrics")).decode(errors="replace")
        now: Counter[str] = Counter()
        for name, labels, value in _SAMPLE.findall(text):
            if name in _COUNTED:
                told = dict(_LABEL.findall(labels))
                now[" ".join((name, *(told.get(label, "") for label in _COUNTED[name])))] += round(float(value))
        for key, value in now.items():
            self._now[key] = max(self._now[key], value)

    def totals(self) -> "Counter[str]":
        """Counters over all lives, as far as they were asked for."""
        return self.counts + self._now

    def last_words(self, lines: int = 12) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _bury(self) -> None:
        self.counts.update(self._now)
        self._now = Counter()

    async def _ask(self, path: str) -> bytes:
        if not self.alive or self.is_stopped:
            return b""
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""
