"""What becomes of the verdicts of a run: the console, ``results.json``, JUnit XML and an HTML page."""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenwire_conformance.outcome import RunResult
from tokenwire_conformance.reports.console import Console
from tokenwire_conformance.reports.html import render_html
from tokenwire_conformance.reports.json_report import render_json
from tokenwire_conformance.reports.junit import render_junit
from tokenwire_conformance.reports.text import printable

__all__ = ["Console", "ReportError", "check_paths", "render_html", "render_json", "render_junit", "write_reports"]

_Path = str | os.PathLike[str] | None


class ReportError(Exception):
    """A report cannot be written. The text is one line that names the file."""


def check_paths(json_path: _Path = None, junit_path: _Path = None, html_path: _Path = None) -> None:
    """Find out before the run whether its reports could be written.

    Raises:
        ReportError: A path cannot be written to, or is given twice.
    """
    seen: set[str] = set()
    for name in (json_path, junit_path, html_path):
        if name is None:
            continue
        with _errors(name):
            path, place = Path(name), os.path.realpath(name)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            if _is_special(path):
                continue
            if place in seen:
                raise FileExistsError(errno.EEXIST, "another report goes there")
            seen.add(place)
            folder = Path(place).parent
            if not folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder does not exist")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "the folder cannot be written to")


def write_reports(
    result: RunResult, json_path: _Path = None, junit_path: _Path = None, html_path: _Path = None
) -> tuple[Path, ...]:
    """Write the reports that have a path, and say which.

    A file appears under its name when it is complete. A report that cannot be written does not
    keep the others from being written.

    Raises:
        ReportError: One could not be written. The first of them is named.
    """
    written: list[Path] = []
    errors: list[ReportError] = []
    reports: tuple[tuple[_Path, Callable[[RunResult], bytes]], ...] = (
        (json_path, render_json), (junit_path, render_junit), (html_path, render_html),
    )  # fmt: skip
    for name, render in reports:
        if name is None:
            continue
        try:
            _write(name, render(result))
        except ReportError as error:
            errors.append(error)
        else:
            written.append(Path(name))
    if errors:
        raise errors[0]
    return tuple(written)


def _write(name: str | os.PathLike[str], content: bytes) -> None:
    with _errors(name):
        path = Path(name)
        if _is_special(path):
            path.write_bytes(content)
            return
        place = Path(os.path.realpath(path))
        temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _is_special(path: Path) -> bool:
    """Whether it is neither a file nor a folder, like ``/dev/stdout``: such a thing is written to, never replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def _errors(name: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever the file system says of ``name``, as a `ReportError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ReportError(f"{_shown(name)}: cannot be written: {printable(why)}") from error


def _shown(name: str | os.PathLike[str]) -> str:
    return printable(os.fspath(name))
