"""A PostgreSQL server for tests: a cluster in a temporary folder, on a loopback port, killed and started at will."""

import asyncio
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tokenwire_server.history.postgres_place import PostgresPlace

SUPERUSER, USER, PASSWORD = "admin", "tokenwire", "a secret: ' @/%"
START_S = 30.0


def binary(name: str) -> str | None:
    """Where a program of PostgreSQL is; Debian keeps most of them off the path."""
    versions = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)
    return versions[0] if versions else shutil.which(name)


class PostgresServer:
    """Stopped by :meth:`remove`. ``place(name)`` makes a database."""

    def __init__(self) -> None:
        # PostgreSQL does not run as root: the system's user for it does then.
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []}
        if os.geteuid() != 0:
            self._as = {}
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        if self._as:
            shutil.chown(self._folder, "postgres", "postgres")
        secret = self._folder / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        initdb = binary("initdb")
        assert initdb is not None
        self._data = self._folder / "data"
        self._run([initdb, "-D", str(self._data), "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", str(secret),
                   "-E", "UTF8", "--locale=C", "--no-sync"])  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._names = 0
        self.start()
        self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD.replace(chr(39), 2 * chr(39))}'")

    def start(self) -> None:
        """Return when it takes connections; after a crash it may have to recover before."""
        postgres = binary("postgres")
        assert postgres is not None
        # What is synchronised to a disk here matters to nobody: a killed process loses nothing of what it wrote.
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off",
                   "max_connections": 40, "shared_buffers": "32MB", "autovacuum": "off"}  # fmt: skip
        command = [postgres, "-D", str(self._data), *(f"--{name}={value}" for name, value in options.items())]
        until_s = time.monotonic() + START_S
        while True:
            if self._process is None or self._process.poll() is not None:  # its former children may not be gone yet
                with (self._folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._as)
            try:
                self.sql("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < until_s, (self._folder / "log").read_text()[-2_000:]
                time.sleep(0.05)
            else:
                return

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it without a word: SIGKILL, or SIGQUIT, on which its children end at once too; a crash to its data."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(START_S)

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        self.kill(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def place(self) -> PostgresPlace:
        """A new database that the user owns."""
        self._names += 1
        name = f"history{self._names}"
        self.sql(f"CREATE DATABASE {name} OWNER {USER}")
        return PostgresPlace(
            host="127.0.0.1", port=self.port, database=name, user=USER, password=PASSWORD, sslmode="disable"
        )

    def sql(self, statement: str, database: str = "postgres") -> list[Any]:
        """What the superuser is answered."""
        root = PostgresPlace(host="127.0.0.1", port=self.port, database=database, user=SUPERUSER, password=PASSWORD)
        return query(root, statement)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, check=False, **self._as)
        assert done.returncode == 0, done.stdout + done.stderr


def query(place: PostgresPlace, statement: str) -> list[Any]:
    """What this user is answered, in a connection of its own."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(
            host=place.host, port=place.port, database=place.database, user=place.user, password=place.password,
            ssl=False, timeout=5, server_settings={"search_path": place.schema},
        )  # fmt: skip
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    return in_thread(ask)


def environment_of(place: PostgresPlace) -> dict[str, str]:
    """The variables that name it to a server."""
    named = {"HOST": place.host, "PORT": str(place.port), "DB": place.database, "USER": place.user}
    return {f"TIMESCALE_{name}": value for name, value in {**named, "PASSWORD": PASSWORD}.items()}


def in_thread(work: Callable[[], Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    """A loop of its own, also where one runs already."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def need_postgres() -> None:
    """Skip, saying how to get it."""
    if binary("initdb") is None or binary("postgres") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")


def schema_of(place: PostgresPlace, name: str) -> PostgresPlace:
    """The same database, another history."""
    return replace(place, schema=name)
