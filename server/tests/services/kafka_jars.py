"""The broker's jars: fetched once with Maven by ``pom.xml``, kept under ``build/kafka``."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from .errors import ServiceError
from .lock import locked

__all__ = ["jars", "version_of"]

_POM: Final = Path(__file__).parent / "pom.xml"
_CACHE: Final = Path(__file__).parents[3] / "build" / "kafka"
_LIMIT_S: Final = 540
"""Seconds that fetching may take (43 MB)."""


def jars() -> Path:
    """The folder that holds them; fetches them when they are not there yet, :class:`ServiceError` when it can't."""
    folder = _CACHE / hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    if folder.exists():
        return folder
    with locked(_CACHE / "lock"):
        if not folder.exists():
            _fetch(folder)
    return folder


def version_of(folder: Path) -> str:
    """Of the broker among these jars."""
    found = sorted(folder.glob("kafka-clients-*.jar"))
    return found[0].stem.removeprefix("kafka-clients-") if found else "unknown"


def _fetch(folder: Path) -> None:
    # Beside its place and then renamed, so that an interrupted download never looks like a complete one.
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        part = Path(scratch) / "jars"
        # Maven wants to write beside the file that it reads.
        pom = shutil.copy(_POM, scratch)
        options = ["-q", "-B", "-C", f"-DoutputDirectory={part}"]
        command = ["mvn", *options, "-f", str(pom), "dependency:copy-dependencies"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"Maven took more than {_LIMIT_S} s to fetch Kafka: try again") from None
        if done.returncode or not part.is_dir():
            # Its first error says what is wrong; colours stand before the mark, advice after that line.
            said = (done.stdout + done.stderr).partition("[ERROR] ")[2].partition("\n")[0] or "it said nothing"
            raise ServiceError(f"Maven could not fetch Kafka (`mvn dependency:copy-dependencies`): {said[:300]}")
        os.replace(part, folder)
