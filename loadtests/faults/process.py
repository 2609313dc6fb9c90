"""The server of :mod:`loadtests.faults.served` as a process, to be stopped, killed and started again."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

from loadtests.machine import free_port

__all__ = ["ServedProcess"]

_START_S: Final = 20


class ServedProcess:
    """The server process; its lives share a port and a file of what was true."""

    def __init__(
        self, truth: Path, *, seed: int = 1, tokens: int = 20, pace: int = 1, max_connections: int = 1_000
    ) -> None:
        self.port = free_port()
        self._seed = seed
        self._options = {
            "port": self.port,
            "truth": truth,
            "tokens": tokens,
            "pace": pace,
            "max-connections": max_connections,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """A new life."""
        self._seed += 1
        options = {**self._options, "seed": self._seed}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = (sys.executable, "-m", "loadtests.faults.served", *words)
        root = Path(__file__).parents[2]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=root)
        assert self._process.stdout is not None
        if not await asyncio.wait_for(self._process.stdout.readline(), _START_S):
            raise RuntimeError("the server did not start")

    def send(self, number: signal.Signals) -> None:
        """A signal to the process that this object started."""
        if self._process is not None:
            self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        """The signal, and wait for its end."""
        if self._process is not None and self._process.returncode is None:
            self.send(number)
            await asyncio.wait_for(self._process.wait(), _START_S)

    async def connections(self) -> int:
        """How many the server counts itself."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await asyncio.wait_for(reader.read(), _START_S)).decode()
        writer.close()
        rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("tokenwire_connections{"))
        return int(sum(float(value) for _, _, value in rows))

    def resident_bytes(self) -> int:
        """Memory of the process."""
        if self._process is None:
            return 0
        pages = Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * 4096
