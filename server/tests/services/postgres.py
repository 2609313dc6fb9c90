"""PostgreSQL: a cluster of its own, run by an unprivileged user, a password that nobody else knows."""

import os
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from .engine import END_S, START_S, Engine
from .errors import ServiceError
from .process import group_of

__all__ = ["Postgres"]

_DEBIAN: Final = Path("/usr/lib/postgresql")
_SUPERUSER: Final = "tokenwire"
_UNPRIVILEGED: Final = ("postgres", "nobody")
"""Whom it runs as when root starts it: it refuses root."""
_ASK_S: Final = 2
"""Seconds that a question to it may take."""
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "256MB",
    "max_worker_processes": "4",
    # Files in the data folder: nothing of a killed cluster is left elsewhere.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Engine):
    """A cluster; :meth:`url` is what clients take."""

    name = "postgres"
    polite = signal.SIGINT
    user = _SUPERUSER
    """Its superuser; ``password`` is the password."""

    @classmethod
    def lacking(cls) -> str:
        return "" if _programs() else "no initdb (apt-get install postgresql)"

    def answers(self) -> bool:
        asked = ["pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-t", str(_ASK_S), "-q"]
        return subprocess.run([_program(asked[0]), *asked[1:]], check=False).returncode == 0

    def url(self, database: str = "postgres") -> str:
        """With the password: not for logs."""
        return f"postgresql://{self.user}:{self.password}@{self.address}/{database}"

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run statements, each in a transaction of its own; the bare answer. :class:`ServiceError` when refused."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", database]
        done = subprocess.run(
            [_program("psql"), *where, "-w", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"],
            input=text,
            capture_output=True,
            text=True,
            timeout=START_S,
            env={**os.environ, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": str(_ASK_S)},
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"PostgreSQL refused: {done.stderr.strip()[:300]}")
        return done.stdout.strip()

    def destroy(self) -> None:
        if self.alive() and self._process is not None:
            self._process.cont()
            self._process.end(self.polite, END_S)
        self._forget_life()
        super().destroy()

    def start(self) -> None:
        assert not self.alive(), f"{self.name} runs already"
        self._forget_life()
        super().start()

    def _create(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.password = self.password or secrets.token_urlsafe(24)
        owner = self._user()
        secret = self.folder / "postgres.password"
        for path in (self.log, secret):
            path.touch(0o600)
        secret.write_text(self.password, "utf-8")
        self.data.mkdir(0o700)
        if owner:
            for path in (self.log, secret, self.data):
                shutil.chown(path, owner)
        made = [_program("initdb"), "-D", str(self.data), "-U", self.user, "--pwfile", str(secret)]
        try:
            done = subprocess.run(
                [*made, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"],
                capture_output=True,
                text=True,
                cwd=self.folder,
                timeout=START_S,
                check=False,
                user=owner or None,
                group=group_of(owner),
                extra_groups=[] if owner else None,
            )
        finally:
            secret.unlink()
        if done.returncode:
            raise ServiceError(f"PostgreSQL could not make its data: {done.stderr.strip()[:300]}")

    def _command(self) -> list[str]:
        settings = {**_SETTINGS, "port": str(self.port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [_program("postgres"), "-D", str(self.data), *words]

    def _find_version(self) -> str:
        said = subprocess.run([_program("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\d[\d.]*", said)
        return found[0] if found else "unknown"

    def _user(self) -> str:
        if os.geteuid() != 0:
            return ""
        import pwd

        known = {entry.pw_name for entry in pwd.getpwall()}
        for name in _UNPRIVILEGED:
            if name in known:
                return name
        raise ServiceError("PostgreSQL does not run as root, and there is no user postgres or nobody")

    def _forget_life(self) -> None:
        """Clear away what a killed cluster left: a little shared memory, and the file that says it runs, which its
        next start believes for as long as nobody waited for the dead process (in some containers, for ever)."""
        note = self.data / "postmaster.pid"
        try:
            words = note.read_text("ascii").splitlines()[6].split()
        except (OSError, IndexError):
            words = []
        if len(words) == 2:
            subprocess.run(["ipcrm", "-m", words[1]], capture_output=True, check=False)
        note.unlink(missing_ok=True)


def _programs() -> Path | None:
    """The folder of the newest version's programs."""
    versions = sorted(
        (entry for entry in _DEBIAN.glob("*/bin") if (entry / "initdb").exists() and (entry / "postgres").exists()),
        key=lambda entry: float(entry.parent.name),
    )
    if versions:
        return versions[-1]
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _program(name: str) -> str:
    folder = _programs()
    assert folder is not None, "lacking() said so"
    return str(folder / name)
