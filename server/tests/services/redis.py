"""Redis: every write in its append-only file before it is answered, so a killed one keeps all it said yes to."""

import re
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from .engine import Engine

__all__ = ["Redis"]

_MEMORY: Final = "128mb"
_ASK_S: Final = 1.0
"""Seconds that a question to it may take."""
_LONGEST_REPLY: Final = 4096
_CONFIG: Final = """\
bind 127.0.0.1
port {port}
dir {data}
maxmemory {memory}
maxmemory-policy noeviction
appendonly yes
appendfsync always
save ""
requirepass {password}
"""


class Redis(Engine):
    """A server; :meth:`url` is what clients take."""

    name = "redis"

    @classmethod
    def lacking(cls) -> str:
        return "" if shutil.which("redis-server") else "no redis-server in PATH (apt-get install redis-server)"

    def answers(self) -> bool:
        try:
            return self.command("PING") == "+PONG"
        except OSError:
            return False

    def url(self, database: int = 0) -> str:
        """With the password: not for logs."""
        return f"redis://:{self.password}@{self.address}/{database}"

    def command(self, line: str) -> str:
        """Its reply to one command whose words have no spaces: a simple string, number or error; else its length."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_ASK_S) as connection:
            connection.sendall(f"AUTH {self.password}\r\n{line}\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as replies:
                replies.readline(_LONGEST_REPLY)
                return replies.readline(_LONGEST_REPLY).decode().rstrip()

    def _create(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir(0o700)
        self.password = self.password or secrets.token_urlsafe(24)
        self._config.touch(0o600)
        text = _CONFIG.format(port=self.port, data=self.data, memory=_MEMORY, password=self.password)
        self._config.write_text(text, "utf-8")

    def _command(self) -> list[str]:
        return ["redis-server", str(self._config)]

    def _find_version(self) -> str:
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"v=([\d.]+)", said)
        return found[1] if found else "unknown"

    @property
    def _config(self) -> Path:
        return self.data / "redis.conf"
