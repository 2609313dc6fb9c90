"""What ``list`` and ``explain`` print: cases and clauses in words, and as data. Pure."""

import difflib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tokenwire_conformance.model import Authority, CaseInfo, Clause

__all__ = ["UnknownNameError", "case_data", "case_lines", "clause_lines", "explain"]

_WIDTH: Final = 110
_MEANING: Final = {
    Authority.VERBATIM: "the specification says it: who breaks it FAILS",
    Authority.IMPLIED: "the specification's own examples and requirements leave no other reading: who breaks it FAILS",
    Authority.INTERPRETATION: "a reading of a silence: who breaks it is NON-STRICT, and FAILS only having declared it",
    Authority.EXTENSION: "in force only where the capability was granted: who granted and breaks it FAILS",
}


class UnknownNameError(Exception):
    """No case, group or clause has that name; the text names the nearest."""


def explain(name: str, cases: Sequence[CaseInfo], clauses: Mapping[str, Clause]) -> str:
    """A case or a clause in words.

    Raises:
        UnknownNameError: There is none of that name.
    """
    by_id = {case.id: case for case in cases}
    if case := by_id.get(name.upper()):
        return _case_text(case, clauses)
    by_name = {clause.id.lower(): clause for clause in clauses.values()}
    if clause := by_name.get(name.lower()):
        return _clause_text(clause, cases)
    if group := [case for case in cases if case.id.startswith(f"{name.upper()}-")]:
        return "\n".join(case_lines(group))
    if inside := [clause for clause in clauses.values() if clause.id.startswith(f"{name.upper()}.")]:
        return "\n".join(clause_lines(inside))
    if inside := [clause for clause in clauses.values() if clause.source == name.upper()]:
        return "\n".join(clause_lines(inside))
    near = difflib.get_close_matches(name.upper(), by_id, 1) or difflib.get_close_matches(name, clauses, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UnknownNameError(f"there is no case, clause or Interpretation with clauses named {name!r}{hint}")


def case_lines(cases: Iterable[CaseInfo]) -> list[str]:
    """One line a case: id, profile, title, clauses."""
    rows = [(case.id, case.profile, case.title, " ".join(case.clauses)) for case in cases]
    width = max((len(profile) for _, profile, _, _ in rows), default=0)
    return [f"{case_id}  {profile:<{width}}  {title}  [{names}]" for case_id, profile, title, names in rows]


def case_data(case: CaseInfo) -> dict[str, Any]:
    """A case for other programs."""
    return {
        "id": case.id, "title": case.title, "role": case.role.value, "profile": case.profile,
        "clauses": list(case.clauses), "sends": case.sends, "expects": case.expects, "why": case.why,
        "deadlineS": case.deadline_s, "alone": case.alone,
    }  # fmt: skip


def clause_lines(clauses: Iterable[Clause]) -> list[str]:
    """One line a clause: id, level, authority, roles, text, source."""
    rows = list(clauses)
    width = max((len(clause.id) for clause in rows), default=0)
    return [
        f"{clause.id:<{width}}  {clause.level.value:<6}  {clause.authority.value:<14}  "
        f"{'+'.join(role.value for role in clause.roles):<13}  {clause.text}  ({clause.source})"
        for clause in rows
    ]


def _case_text(case: CaseInfo, clauses: Mapping[str, Clause]) -> str:
    lines = [
        f"{case.id}  {case.title}",
        "",
        *_row("for", f"{case.role.value}s, profile {case.profile}, at most {case.deadline_s:g} s"
              + (", while nothing else uses the peer" if case.alone else "")
              + (", over all that the run received" if case.over_run else "")),
        *_row("sent", case.sends),
        *_row("expected", case.expects),
        *_row("why", case.why),
    ]  # fmt: skip
    for name in case.clauses:
        lines += ["", *_about(clauses[name])]
    return "\n".join(lines)


def _clause_text(clause: Clause, cases: Sequence[CaseInfo]) -> str:
    found = [case for case in cases if clause.id in case.clauses]
    lines = [*_about(clause), *_row("for", " and ".join(f"{role.value}s" for role in clause.roles)), ""]
    if found:
        lines += ["checked by", *(f"  {line}" for line in case_lines(found))]
    else:
        lines.append("no case is registered for this clause alone")
    return "\n".join(lines)


def _about(clause: Clause) -> list[str]:
    granted = f", capability {clause.capability}" if clause.capability else ""
    return [
        f"clause {clause.id}  {clause.text}",
        *_row("level", f"{clause.level.value}{granted}"),
        *_row("authority", f"{clause.authority.value}: {_MEANING[clause.authority]}"),
        *_row("quote", f'"{" ".join(clause.quote.split())}"'),
        *_row("source", clause.source),
    ]


def _row(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12, break_on_hyphens=False
    )
