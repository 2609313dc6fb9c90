"""One engine: a process with a port and a folder of data that it finds again after every start.

A handle can be written down (:class:`Record`) and taken up by another process. What it does to the engine it does to
every process of it, so that a stopped engine answers nobody and a killed one leaves nobody behind.
"""

import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from .errors import ServiceError
from .ports import free_port
from .process import POLL_S, Process, spawn

__all__ = ["END_S", "FOLDER_PREFIX", "START_S", "Engine", "Record", "new_folder"]

START_S: Final = 120
"""Seconds an engine may take until it answers, on a machine that is busy with others."""
END_S: Final = 20
"""Seconds it may take to end when it is told to."""
FOLDER_PREFIX: Final = "tokenwire-services-"
"""How every folder of engines is named; nothing else is ever removed."""
_PORTS_TRIED: Final = 3
_LOG_LINES: Final = 15
"""Lines of its log that an engine's failure shows."""


@dataclass(frozen=True, slots=True)
class Record:
    """What another process needs to use an engine, and to end it."""

    name: str
    folder: str
    port: int
    pid: int
    started: int
    version: str
    password: str = ""
    """Made for this engine alone and worth nothing after it; files that hold it are readable by their owner only."""

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        """From JSON; ``TypeError`` when it is another's."""
        return cls(**data)

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Engine(ABC):
    """The handle of one engine, running or not."""

    name: ClassVar[str]
    polite: ClassVar[signal.Signals] = signal.SIGTERM
    """The signal on which it ends in good order, without waiting for its clients."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        self.folder = folder
        self.port = 0
        self.password = password
        self.shared = False
        """Others use it at this moment: it can't be stopped, killed or restarted through this handle."""
        self._process: Process | None = None
        self._version = ""

    @classmethod
    @abstractmethod
    def lacking(cls) -> str:
        """What to install before it can run here, in one line; empty when nothing is missing."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves a client now; never takes longer than a second or two, also of a stopped one."""

    @classmethod  # noqa: B027 — most run from a package that is installed
    def prepare(cls) -> None:
        """Get what it runs from, once for all; may take a minute and need the network."""

    @abstractmethod
    def _create(self) -> None:
        """Make its data and configuration for ``port``; may be repeated with another port."""

    @abstractmethod
    def _command(self) -> list[str]:
        """How its process is started."""

    @abstractmethod
    def _find_version(self) -> str: ...

    def _user(self) -> str:
        """Whom it runs as; empty for the same user."""
        return ""

    @property
    def address(self) -> str:
        """``host:port``"""
        return f"127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        return self._version

    @property
    def log(self) -> Path:
        """What it said so far, over all its lives."""
        return self.folder / f"{self.name}.log"

    @property
    def data(self) -> Path:
        return self.folder / self.name

    @property
    def pid(self) -> int:
        """Its process; another one after each start."""
        return self._process.pid if self._process else 0

    def alive(self) -> bool:
        """Whether its process is there, stopped or not."""
        return self._process is not None and self._process.alive()

    def wait(self, limit_s: float) -> bool:
        """Until it answers; False when it ended, or has not answered within ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while self.alive():
            if self.answers():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return False

    def launch(self) -> None:
        """The first start: data and a port of its own; :class:`ServiceError` with the end of its log when it fails."""
        if lacking := self.lacking():
            raise ServiceError(f"{self.name}: {lacking}")
        self.prepare()
        self._version = self._find_version()
        for left in reversed(range(_PORTS_TRIED)):
            self.port = free_port()
            self._create()
            try:
                self.start()
            except ServiceError:
                # Another program may have taken the port in between, which looks like any other end.
                if not left:
                    raise
            else:
                return

    def start(self) -> None:
        """A new life after :meth:`kill`: same port, same data; returns when it answers."""
        assert not self.alive(), f"{self.name} runs already"
        self._process = spawn(self._command(), self.log, env=self._environment(), user=self._user())
        if self.wait(START_S):
            return
        self._abandon()
        raise ServiceError(f"{self.name} did not start; {self.log} ends with:\n{self._last_words()}")

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self._refuse_if_shared()
        if self._process is not None:
            self._process.kill(END_S)

    def stop(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody."""
        self._refuse_if_shared()
        if self._process is not None:
            self._process.stop()

    def cont(self) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        self._refuse_if_shared()
        if self._process is not None:
            self._process.cont()

    def end(self) -> None:
        """End it in good order, its data stay."""
        self._refuse_if_shared()
        if self._process is not None:
            self._process.cont()
            self._process.end(self.polite, END_S)

    def restart(self) -> None:
        """End it in good order and start it again: same port, same data; returns when it answers."""
        self.end()
        self.start()

    def destroy(self) -> None:
        """End it, whatever state it is in, and remove what it had; may be repeated."""
        self._abandon()
        shutil.rmtree(self.data, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def record(self) -> Record:
        """The handle written down."""
        assert self._process is not None
        process = self._process
        return Record(
            self.name, str(self.folder), self.port, process.pid, process.started, self._version, self.password
        )

    @classmethod
    def attach(cls, record: Record) -> Self:
        """The handle of an engine that another process started."""
        engine = cls(Path(record.folder), password=record.password)
        engine.port = record.port
        engine._process = Process(record.pid, record.started)
        engine._version = record.version
        return engine

    def _environment(self) -> dict[str, str]:
        return {}

    def _abandon(self) -> None:
        if self._process is not None:
            self._process.kill(END_S)

    def _refuse_if_shared(self) -> None:
        if self.shared:
            raise AssertionError(f"other tests use this {self.name} as well: ask for the fixture own_{self.name}")

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        return "\n".join(lines[-_LOG_LINES:]) or "nothing: it said nothing"


def new_folder() -> Path:
    """A temporary folder for engines, which an unprivileged user may pass through; remove it with what is in it."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    folder.chmod(0o711)
    return folder
