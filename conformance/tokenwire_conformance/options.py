"""What a user asks for, as text, and what it means. The command line and the pytest plugin share it."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenwire_conformance.clauses import load_interpretations
from tokenwire_conformance.figures import UPDATE_INTERVAL_S
from tokenwire_conformance.known import NO_KNOWN_FAILURES, KnownFailures, KnownFailuresError, read_known
from tokenwire_conformance.model import Role
from tokenwire_conformance.registry import Case, SelectionError, Suite, select

__all__ = [
    "MAX_FILE_BYTES", "OptionError", "Selection", "all_cases", "declared_of", "headers_of", "parts_of", "seconds_of",
    "selection_of", "suite_of", "tokens_of",
]  # fmt: skip

MAX_FILE_BYTES: Final = 1_048_576
"""Size of the largest file of names or headers that is read, in bytes."""
_NAME_MAX_CHARS: Final = 256
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS: Final = ("upgrade", "connection", "content-length", "transfer-encoding")
_SECRET: Final = ("authorization", "proxy-authorization", "cookie", "x-api-key", "x-tokenwire-session")


class OptionError(Exception):
    """What was asked for cannot be done. The text is one line that says why and what would help."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cases run, and how their verdicts are read."""

    profiles: tuple[str, ...]
    """As they were asked for."""
    cases: tuple[Case[Any], ...]
    declared: frozenset[str]
    known: KnownFailures = NO_KNOWN_FAILURES
    strict: bool = False


def suite_of(role: Role) -> Suite[Any]:
    """Every case for ``role``."""
    if role is Role.SERVER:
        from tokenwire_conformance import rfc6455  # noqa: F401, PLC0415 - adds its cases
        from tokenwire_conformance.server.cases import SERVER  # noqa: PLC0415

        return SERVER
    from tokenwire_conformance.client.cases import CLIENT  # noqa: PLC0415

    return CLIENT


def all_cases() -> tuple[Case[Any], ...]:
    """Every case, those for servers first."""
    return tuple(case for role in Role for case in suite_of(role).cases)


def selection_of(
    role: Role, *, profiles: Sequence[str] = (), cases: Sequence[str] = (), declared: Sequence[str] = (),
    known_failures: str | None = None, strict: bool = False,
) -> Selection:  # fmt: skip
    """What to run for ``role``. Each text may hold several words, separated by commas; no profile means ``core``.

    Raises:
        OptionError: A profile, case or Interpretation does not exist, none of the cases is for ``role``, or the file
            of known failures cannot be used.
    """
    suite = suite_of(role)
    names = tuple(dict.fromkeys(parts_of(profiles)))
    ids = parts_of(cases)
    if not names and not ids:
        names = ("core",)
    for name in ids:
        _refuse_other_role(name, role)
    try:
        chosen = select(suite.cases, names, ids)
    except SelectionError as error:
        raise OptionError(str(error)) from error
    if ids and not chosen:
        raise OptionError(
            f"none of the cases {', '.join(ids)} is in the profile {', '.join(names)}; without --profile they run"
        )
    if ids:
        names = tuple(dict.fromkeys(case.info.profile for case in chosen))
    if not chosen:
        raise OptionError(f"there is no {role} case in the profile {', '.join(names)}; `list` shows all")
    known = NO_KNOWN_FAILURES
    if known_failures is not None:
        try:
            # One file may serve both a server and a client.
            known = read_known(known_failures, {case.info.id for case in all_cases()})
        except KnownFailuresError as error:
            raise OptionError(f"known failures: {error}") from error
    return Selection(names, chosen, declared_of(declared), known, strict)


def _refuse_other_role(name: str, role: Role) -> None:
    for other in Role:
        if other is role or not name.upper().startswith(f"{other.value[0].upper()}-"):
            continue
        known = {case.info.id for case in suite_of(other).cases}
        if any(case_id == name.upper() or case_id.startswith(f"{name.upper()}-") for case_id in known):
            raise OptionError(f"{name} is a case for {other}s: use `tokenwire-conformance {other}`")


def parts_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The words of ``texts``, which are separated by commas."""
    return tuple(word for text in texts for part in text.split(",") if (word := part.strip()))


def declared_of(texts: Iterable[str]) -> frozenset[str]:
    """Numbers of Interpretations, for example of ``I-18,I-36``; ``all`` is every one of them.

    Raises:
        OptionError: One does not exist.
    """
    known = load_interpretations()
    found: set[str] = set()
    for word in parts_of(texts):
        name = word.upper()
        if name == "ALL":
            found |= set(known)
        elif name in known:
            found.add(name)
        else:
            near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else f"; they are named {next(iter(known))} and so on, or all"
            raise OptionError(f"there is no Interpretation {word!r}{hint}")
    return frozenset(found)


def tokens_of(text: str) -> tuple[str, ...]:
    """The names in ``A,B,…``, or, one a line or separated by commas, in the file of ``@FILE``.

    Raises:
        OptionError: There is none, one cannot be a name, or the file cannot be read.
    """
    source = "--tokens"
    if text.startswith("@"):
        source = text[1:]
        text = _read(source)
    names = tuple(dict.fromkeys(parts_of(text.splitlines())))
    if not names:
        raise OptionError(f"{source} names no token; give names or addresses, for example --tokens DOGE,PEPE")
    for name in names:
        if not name.isprintable() or len(name) > _NAME_MAX_CHARS:
            raise OptionError(f"{source}: {name[:40]!r} is no token: 1 to {_NAME_MAX_CHARS} printable characters")
    return names


def headers_of(texts: Iterable[str], file: str | None) -> tuple[tuple[str, str], ...]:
    """The headers in ``texts`` (``Name: value``) and, one a line, in ``file``, which may hold credentials.

    Raises:
        OptionError: One is no header, belongs to the handshake itself, or is a credential outside the file; or the
            file cannot be read.
    """
    found = []
    for text in texts:
        name, value = _header(text, "--header")
        if name.lower() in _SECRET:
            raise OptionError(f"--header {name}: every user of the machine could read it; use --header-file")
        found.append((name, value))
    if file is not None:
        lines = [line for line in _read(file).splitlines() if line.strip()]
        if not lines:
            raise OptionError(f"{file} holds no header; a line looks like Authorization: Bearer …")
        found.extend(_header(line, f"{file}:{number}") for number, line in enumerate(lines, start=1))
    return tuple(found)


def seconds_of(text: str | None) -> float:
    """A positive number of seconds; without a text the specification's update interval.

    Raises:
        OptionError: It is none.
    """
    if text is None:
        return UPDATE_INTERVAL_S
    return _number(text, float, "a number of seconds above 0 and up to 3600")


def _number(text: str, kind: Callable[[str], float], what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not (math.isfinite(value) and 0 < value <= 3600):
        raise OptionError(f"{text!r} is not {what}")
    return value


def _header(text: str, where: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    value = value.strip()
    # The text itself may be a credential, so no complaint repeats its value.
    if not colon or not _HEADER_NAME.fullmatch(name):
        raise OptionError(f"{where}: that is no header; it looks like 'Name: value'")
    if not value.isprintable() or not value.isascii():
        raise OptionError(f"{where}: the value of {name} holds a character that a header may not")
    if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
        raise OptionError(f"{where}: {name} belongs to the handshake, which the suite does itself")
    return name, value


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise OptionError(f"{name}: larger than {MAX_FILE_BYTES} bytes")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(f"{name}: not UTF-8") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise OptionError(f"{name or 'a file without a name'}: cannot be read: {why}") from error
