"""``services.json``: which engines ``make services`` started, for the fixtures and for whoever ends them."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .engine import FOLDER_PREFIX, Engine, Record
from .kafka import Kafka
from .postgres import Postgres
from .redis import Redis

__all__ = ["ENGINES", "PATH", "Board"]

_BUILD: Final = Path(__file__).parents[3] / "build"
PATH: Final = Path(os.environ.get("TOKENWIRE_SERVICES") or _BUILD / "services.json")
"""Where it is written what runs."""
ENGINES: Final[tuple[type[Engine], ...]] = (Kafka, Postgres, Redis)
"""All there are, the slowest to start first."""


@dataclass(frozen=True, slots=True)
class Board:
    """Engines that some process started, and the folder they live in."""

    folder: Path
    records: dict[str, Record]

    @classmethod
    def read(cls, path: Path) -> "Board | None":
        """What the file names; nothing when there is no file, or not one of ours."""
        try:
            data = json.loads(path.read_text("utf-8"))
            folder = Path(data["folder"])
            records = {name: Record.of(row) for name, row in data["engines"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        # A folder is removed with all that is in it: no other name is believed.
        return cls(folder, records) if folder.name.startswith(FOLDER_PREFIX) else None

    @classmethod
    def of(cls, folder: Path, engines: Iterable[Engine]) -> "Board":
        return cls(folder, {engine.name: engine.record() for engine in engines})

    def write(self, path: Path) -> None:
        """At once, and for its owner's eyes only: it holds passwords."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.touch(0o600)
        engines = {name: record.data() for name, record in self.records.items()}
        part.write_text(json.dumps({"folder": str(self.folder), "engines": engines}, indent=1) + "\n", "utf-8")
        part.replace(path)

    def engines(self) -> list[Engine]:
        """A handle for each, living or not."""
        return [kind.attach(self.records[kind.name]) for kind in ENGINES if kind.name in self.records]

    def clear(self, path: Path) -> None:
        """End all of them; remove their folder and the file."""
        for engine in self.engines():
            engine.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)
        path.unlink(missing_ok=True)
