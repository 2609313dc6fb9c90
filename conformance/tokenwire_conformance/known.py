"""The file of known failures: cases that may fail, and must."""

import difflib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["KNOWN_MAX_BYTES", "NO_KNOWN_FAILURES", "KnownFailure", "KnownFailures", "KnownFailuresError", "read_known"]

KNOWN_MAX_BYTES: Final = 65_536
"""Size of the largest file that is read, in bytes."""

_WORD_MAX_CHARS: Final = 40
"""How much of a wrong word an error repeats, in characters."""


class KnownFailuresError(ValueError):
    """The file cannot be used. The text is one line that names the file and, where there is one, the line."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """One line of the file."""

    case: str
    line: int
    """Counted from 1."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class KnownFailures:
    """What the file lists, by the id of the case. Without a file, nothing."""

    path: str = ""
    entries: Mapping[str, KnownFailure] = field(default_factory=dict)

    def __contains__(self, case: object) -> bool:
        return case in self.entries

    def where(self, case: str) -> str:
        """``file:line`` of a listed case."""
        return f"{self.path}:{self.entries[case].line}"


NO_KNOWN_FAILURES: Final = KnownFailures()


def read_known(path: str | os.PathLike[str], case_ids: Collection[str]) -> KnownFailures:
    """Read lines such as ``S-MS-04  # reason``. Blank lines and lines that begin with ``#`` say nothing.

    Args:
        path: The file, in UTF-8.
        case_ids: Every id that exists, whether or not it is run.

    Raises:
        KnownFailuresError: The file cannot be read, is larger than `KNOWN_MAX_BYTES`, is not UTF-8, or a line does
            not name one existing case that no line before it names.
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            content = file.read(KNOWN_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise KnownFailuresError(f"{_shown(name)}: cannot be read: {why}") from error
    return parse(_shown(name), content, case_ids)


def parse(name: str, content: bytes, case_ids: Collection[str]) -> KnownFailures:
    """What the ``content`` of the file ``name`` lists. Raises like `read_known`."""
    if len(content) > KNOWN_MAX_BYTES:
        raise KnownFailuresError(f"{name}: larger than {KNOWN_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise KnownFailuresError(f"{name}:{line}: not UTF-8") from error
    entries: dict[str, KnownFailure] = {}
    for number, line_text in enumerate(text.split("\n"), start=1):
        entry, _, reason = line_text.partition("#")
        words = entry.split()
        if not words:
            continue
        case = words[0]
        if case not in case_ids:
            raise KnownFailuresError(f"{name}:{number}: there is no case {_shown(case)}{_suggestion(case, case_ids)}")
        if len(words) > 1:
            raise KnownFailuresError(f"{name}:{number}: a reason follows {case} after a '#', one case per line")
        if case in entries:
            raise KnownFailuresError(f"{name}:{number}: {case} is listed already, on line {entries[case].line}")
        entries[case] = KnownFailure(case, number, reason.strip())
    return KnownFailures(name, entries)


def _suggestion(word: str, case_ids: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:_WORD_MAX_CHARS].upper(), sorted(case_ids), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _shown(word: str) -> str:
    """A name as it is where it prints in one line, or as Python writes it."""
    if word.isprintable():
        return word
    return ascii(word[:_WORD_MAX_CHARS])
