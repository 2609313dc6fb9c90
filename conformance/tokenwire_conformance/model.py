"""The nouns of the suite: clauses, cases, violations, verdicts. Pure data, and the one rule that turns the first into
the last."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

__all__ = [
    "PROFILES",
    "SPECIFICATION",
    "Authority",
    "CaseInfo",
    "Clause",
    "Level",
    "LogEntry",
    "NotTestableError",
    "Role",
    "Status",
    "Verdict",
    "Violation",
    "ViolationError",
    "WireLog",
    "clause_statuses",
    "judge",
    "worst",
]

SPECIFICATION: Final = "Token Data WebSocket Service v1.0"

EXTENSION_PROFILES: Final = (
    "ext.batch", "ext.resume", "ext.ack", "ext.heartbeat", "ext.details", "ext.zstd", "ext.channels",
)  # fmt: skip
PROFILES: Final = ("core", "timing", "limits", *EXTENSION_PROFILES, "rfc6455")
"""In the order in which they are reported. ``all`` on the command line means every one of them but ``rfc6455``, which
needs a further package."""


class Role(StrEnum):
    """Who is tested."""

    SERVER = "server"
    CLIENT = "client"


class Level(StrEnum):
    """How strongly a clause demands what it says."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Authority(StrEnum):
    """Where a clause comes from."""

    VERBATIM = "verbatim"
    """The specification says it."""
    IMPLIED = "implied"
    """The specification's own examples and requirements leave no other reading."""
    INTERPRETATION = "interpretation"
    """A reading of a silence: a numbered Interpretation of ``schemas/README.md``."""
    EXTENSION = "extension"
    """In force only where the peer granted the capability."""


class Status(StrEnum):
    """The verdict on a case."""

    OK = "OK"
    INFORMATIONAL = "INFORMATIONAL"
    """Something optional is done differently."""
    NON_STRICT = "NON-STRICT"
    """A reading of a silence, or a recommendation, is not kept; the specification is."""
    FAILED = "FAILED"
    """The specification, or something that the peer declared, is not kept."""
    SKIPPED = "SKIPPED"
    """Not tested; the verdict says why."""


_ORDER: Final = (Status.SKIPPED, Status.OK, Status.INFORMATIONAL, Status.NON_STRICT, Status.FAILED)


def worst(statuses: Iterable[Status]) -> Status:
    """The most serious of ``statuses``; SKIPPED when there is none."""
    return max(statuses, key=_ORDER.index, default=Status.SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One requirement of the specification, of an Interpretation, or of an extension."""

    id: str
    """Group and name, for example ``MB.sequence``."""
    level: Level
    authority: Authority
    roles: tuple[Role, ...]
    """Who has to keep it."""
    text: str
    """The requirement in one sentence."""
    quote: str
    """The words of the specification (verbatim, implied) or of the protocol page (interpretation, extension)."""
    source: str
    """Section of the specification, or the number of the Interpretation (``I-4``)."""
    capability: str | None = None
    """Of an extension: what must be granted."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A clause that was not kept, as seen on the wire."""

    clause: str
    message: str
    """What was expected and what came instead, in one sentence."""
    connection: int | None = None
    """Number of the connection within the case, to find it in the wire log."""


class ViolationError(Exception):
    """Ends a case: what follows cannot be judged any more."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.message)
        self.violation: Final = violation


class NotTestableError(Exception):
    """Ends a case without a verdict: what it needs is not there. The text says what would help."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a wire log."""

    at_ms: int
    """Since the connection was begun."""
    direction: str
    """``sent`` or ``received`` by the suite, or ``note``."""
    kind: str
    """``http``, ``text``, ``binary``, ``ping``, ``pong``, ``close``, ``continuation``, ``tcp``."""
    size: int
    """Bytes of the payload, inflated."""
    text: str
    """The payload, cut to a bounded length, secrets replaced."""
    compressed: bool = False


@dataclass(slots=True)
class WireLog:
    """What went over one connection."""

    number: int
    url: str
    entries: list[LogEntry] = field(default_factory=list)
    omitted: int = 0
    """Entries beyond the bound, which were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseInfo:
    """What is known of a case without running it."""

    id: str
    """``S-MS-03``: role, group of clauses, number. Never reused."""
    title: str
    role: Role
    profile: str
    clauses: tuple[str, ...]
    """Ids; the first is what the case is about."""
    sends: str
    expects: str
    why: str
    deadline_s: float
    """After which the case ends as a violation of its first clause."""
    alone: bool = False
    """Whether nothing else may use the peer meanwhile."""
    over_run: bool = False
    """Whether it also judges what every other case of the run received."""

    @property
    def group(self) -> str:
        """The group of clauses, for example ``MS``."""
        return self.id.split("-")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one case."""

    case: CaseInfo
    status: Status
    violations: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    """Why it was skipped."""
    duration_s: float = 0.0
    logs: tuple[WireLog, ...] = ()
    broken: bool = False
    """Whether the case itself is wrong. It is SKIPPED then, and the run is no proof of anything."""


def judge(violation: Violation, clauses: Mapping[str, Clause], declared: frozenset[str]) -> Status:
    """The status that ``violation`` earns.

    ``declared`` holds the numbers of the Interpretations (``I-18``) that the peer claims to follow. What the
    specification says or leaves no other reading of, and what a granted capability promises, FAILs; a reading of a
    silence FAILs only who declared it.

    Raises:
        KeyError: The clause is not in the registry.
    """
    clause = clauses[violation.clause]
    binding = clause.authority is not Authority.INTERPRETATION or clause.source in declared
    if clause.level is Level.MUST and binding:
        return Status.FAILED
    if clause.level is Level.MAY:
        return Status.INFORMATIONAL
    return Status.NON_STRICT


def clause_statuses(
    verdict: Verdict, clauses: Mapping[str, Clause], declared: frozenset[str]
) -> dict[str, Status | None]:
    """What ``verdict`` says of each clause of its case: ``None`` where the case ended before it was judged."""
    found: dict[str, Status | None] = {}
    for violation in verdict.violations:
        status = judge(violation, clauses, declared)
        before = found.get(violation.clause)
        found[violation.clause] = status if before is None else worst((before, status))
    rest: Status | None = None if verdict.violations else verdict.status
    return {clause: found.get(clause, rest) for clause in _unique((*verdict.case.clauses, *found))}


def _unique(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
