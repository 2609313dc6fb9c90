"""The clause registry: what the suite tests, and where every sentence of the specification went.

The registry is data (``clauses.json``, in the shape of ``clauses.schema.json``), so that documents and other tools read
the same as the suite does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from tokenwire_conformance.model import Authority, Clause, Level, Role

__all__ = [
    "CLAUSES",
    "INTERPRETATIONS",
    "SENTENCES",
    "Interpretation",
    "Sentence",
    "load_clauses",
    "load_interpretations",
    "load_sentences",
]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A line of the specification. Either ``clauses`` or ``untestable`` is there."""

    section: str
    """The headings above it, joined by `` / ``, without the title."""
    text: str
    """The line as it stands there, without the space around it."""
    clauses: tuple[str, ...] = ()
    """Ids of the clauses that test it."""
    untestable: str | None = None
    """Why no clause can."""


@dataclass(frozen=True, slots=True)
class Interpretation:
    """A numbered Interpretation of ``schemas/README.md``. Either ``clauses`` or ``untestable`` is there."""

    id: str
    """For example ``I-4``."""
    clauses: tuple[str, ...] = ()
    """Ids of the clauses that test it."""
    untestable: str | None = None
    """Why no clause can."""


@cache
def load_clauses() -> Mapping[str, Clause]:
    """Every clause by its id, in the order of the groups.

    Raises:
        ValueError: Two clauses have the same id, or a value is none that the model knows.
    """
    clauses = [_clause(entry) for entry in _registry()["clauses"]]
    by_id = {clause.id: clause for clause in clauses}
    if len(by_id) != len(clauses):
        raise ValueError("clauses.json: an id occurs twice")
    return MappingProxyType(by_id)


@cache
def load_sentences() -> tuple[Sentence, ...]:
    """Every line of the specification, in its order."""
    return tuple(
        Sentence(entry["section"], entry["text"], tuple(entry.get("clauses", ())), entry.get("untestable"))
        for entry in _registry()["sentences"]
    )


@cache
def load_interpretations() -> Mapping[str, Interpretation]:
    """Every Interpretation by its number."""
    return MappingProxyType(
        {
            entry["id"]: Interpretation(entry["id"], tuple(entry.get("clauses", ())), entry.get("untestable"))
            for entry in _registry()["interpretations"]
        }
    )


def _clause(entry: Mapping[str, Any]) -> Clause:
    return Clause(
        id=entry["id"],
        level=Level(entry["level"]),
        authority=Authority(entry["authority"]),
        roles=tuple(Role(role) for role in entry["roles"]),
        text=entry["text"],
        quote=entry["quote"],
        source=entry["source"],
        capability=entry.get("capability"),
    )


@cache
def _registry() -> Mapping[str, Any]:
    registry: dict[str, Any] = json.loads(files("tokenwire_conformance").joinpath("clauses.json").read_bytes())
    return registry


CLAUSES: Final[Mapping[str, Clause]] = load_clauses()
"""Every clause by its id."""
SENTENCES: Final[tuple[Sentence, ...]] = load_sentences()
"""Every line of the specification, in its order."""
INTERPRETATIONS: Final[Mapping[str, Interpretation]] = load_interpretations()
"""Every Interpretation by its number."""
