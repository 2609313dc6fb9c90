"""Where cases register themselves, and how a run selects among them."""

import difflib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from tokenwire_conformance.model import PROFILES, CaseInfo, Role

__all__ = ["Case", "SelectionError", "Suite", "select"]

B = TypeVar("B")
_ID: Final = re.compile(r"^[SC]-[A-Z]{2}-\d{2}$")


class SelectionError(Exception):
    """A case or profile that does not exist was asked for; the text names the nearest."""


@dataclass(frozen=True, slots=True)
class Case(Generic[B]):
    """A case and what runs it."""

    info: CaseInfo
    run: Callable[[B], Awaitable[None]]


class Suite(Generic[B]):
    """All cases for one role; ``case`` is the decorator that adds one."""

    def __init__(self, role: Role, deadline_s: float = 20.0) -> None:
        """``deadline_s`` is that of a case that names none."""
        self.role: Final = role
        self._deadline_s = deadline_s
        self._cases: dict[str, Case[B]] = {}

    def case(
        self, case_id: str, profile: str, *clauses: str, sends: str, expects: str, why: str,
        deadline_s: float | None = None, alone: bool = False, over_run: bool = False,
    ) -> Callable[[Callable[[B], Awaitable[None]]], Callable[[B], Awaitable[None]]]:  # fmt: skip
        """Register a function as the case ``case_id``; the first line of its docstring is its title."""
        if not _ID.match(case_id) or case_id[0] != self.role.value[0].upper() or case_id in self._cases:
            raise ValueError(f"{case_id} is no new id of a {self.role} case")
        if profile not in PROFILES or not clauses:
            raise ValueError(f"{case_id} needs a profile out of {PROFILES}, and a clause")

        def register(function: Callable[[B], Awaitable[None]]) -> Callable[[B], Awaitable[None]]:
            title = (function.__doc__ or "").strip().splitlines()[0].rstrip(".")
            info = CaseInfo(
                id=case_id, title=title, role=self.role, profile=profile, clauses=clauses, sends=sends,
                expects=expects, why=why, deadline_s=self._deadline_s if deadline_s is None else deadline_s,
                alone=alone, over_run=over_run,
            )  # fmt: skip
            self._cases[case_id] = Case(info, function)
            return function

        return register

    @property
    def cases(self) -> tuple[Case[B], ...]:
        """All, by profile and then by id."""
        return tuple(sorted(self._cases.values(), key=lambda c: (PROFILES.index(c.info.profile), c.info.id)))


def select(cases: Sequence[Case[Any]], profiles: Iterable[str], ids: Iterable[str] = ()) -> tuple[Case[Any], ...]:
    """The cases of these profiles (``all`` for every one but ``rfc6455``; none given means any) and, if ``ids`` are
    given, of these ids.

    A profile may end in ``.*``. Ids may be written in lower case, and a group such as ``S-MS`` stands for its cases.

    Raises:
        SelectionError: One of them does not exist.
    """
    wanted = {profile for name in profiles for profile in _profiles(name)} or set(PROFILES)
    chosen: set[str] = set()
    known = [case.info.id for case in cases]
    for name in ids:
        found = [case_id for case_id in known if case_id == name.upper() or case_id.startswith(f"{name.upper()}-")]
        if not found:
            raise SelectionError(f"there is no case {name!r}{_nearest(name.upper(), known)}; `list` shows all")
        chosen |= set(found)
    return tuple(case for case in cases if case.info.profile in wanted and (not chosen or case.info.id in chosen))


def _profiles(name: str) -> tuple[str, ...]:
    if name == "all":
        return tuple(profile for profile in PROFILES if profile != "rfc6455")
    if name.endswith(".*"):
        found = tuple(profile for profile in PROFILES if profile.startswith(name[:-1]))
    else:
        found = tuple(profile for profile in PROFILES if profile == name)
    if not found:
        raise SelectionError(f"there is no profile {name!r}{_nearest(name, PROFILES)}: {', '.join(PROFILES)} or all")
    return found


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""
