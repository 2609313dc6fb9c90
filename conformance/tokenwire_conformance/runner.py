"""Runs cases side by side, each with its deadline, and turns what happened into verdicts."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Final, Protocol

from tokenwire_conformance.model import (
    CaseInfo,
    Clause,
    NotTestableError,
    Status,
    Verdict,
    Violation,
    ViolationError,
    WireLog,
    judge,
    worst,
)
from tokenwire_conformance.registry import Case
from tokenwire_conformance.wire.log import redacted
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["CaseBench", "CaseBrokeError", "Lifeline", "Observer", "run_cases", "verdict_of"]

_CLOSING_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.5
_NAMED_MAX: Final = 30


class CaseBench(Protocol):
    """What the runner needs of the bench it hands to a case."""

    violations: list[Violation]
    notes: list[str]

    async def close(self) -> None:
        """Release everything the case took."""

    def logs(self) -> tuple[WireLog, ...]:
        """The wire logs of the case."""
        ...


class Observer(Protocol):
    """Is told how the run goes."""

    def started(self, case: CaseInfo) -> None:
        """A case begins."""

    def finished(self, verdict: Verdict) -> None:
        """A case has its verdict."""


class CaseBrokeError(Exception):
    """A run itself is wrong: something was raised, outside of a case, that no peer may be blamed for."""


class Lifeline:
    """Whether the peer is still there. Once it is gone, no case can judge it any more."""

    def __init__(self, alive: Callable[[], Awaitable[bool]], who: str = "server") -> None:
        """``alive`` asks the peer; ``who`` is what it is called."""
        self._alive = alive
        self._who = who
        self._lock = asyncio.Lock()
        self.gone: str | None = None
        """What happened, in one sentence that names the cases that ran then."""
        self.reason = ""
        """The same, in a few words."""

    async def holds(self, after_s: float, running: Sequence[str]) -> bool:
        """Ask, and ask again where the answer is no. ``after_s`` is how long the run has lasted."""
        async with self._lock:
            if self.gone is not None:
                return False
            if await self._alive():
                return True
            await asyncio.sleep(_ASK_AGAIN_S)
            if await self._alive():
                return True
            named = ", ".join(running[:_NAMED_MAX]) + (" and more" if len(running) > _NAMED_MAX else "")
            self.reason = f"the {self._who} no longer accepts connections, since {after_s:.1f} s after the start"
            self.gone = (
                f"the {self._who} stopped accepting connections after {after_s:.1f} s; running then: {named}; find out "
                "which one it was with --parallel 1"
            )
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    clauses: Mapping[str, Clause]
    declared: frozenset[str]
    bench: Callable[[CaseInfo], Any]
    observer: Observer
    connect_failures: tuple[type[Exception], ...]
    lifeline: Lifeline | None
    begun_s: float
    running: dict[str, None] = field(default_factory=dict)
    """Ids of the cases that run, in the order in which they were started."""


async def run_cases(
    cases: Sequence[Case[Any]], *, clauses: Mapping[str, Clause], declared: frozenset[str],
    bench: Callable[[CaseInfo], Any], observer: Observer, parallel: int,
    connect_failures: tuple[type[Exception], ...] = (), lifeline: Lifeline | None = None,
) -> list[Verdict]:  # fmt: skip
    """Run ``cases``, at most ``parallel`` at once, and return their verdicts in the order of ``cases``.

    ``bench`` makes what a case works with. Cases that are alone run one by one after the others, and last those that
    judge the whole run. ``connect_failures`` are exceptions that say no connection came about. With a ``lifeline``, a
    peer that goes away ends the judging: what runs then, or would run later, is skipped.

    A case that raises something unforeseen is `Verdict.broken`; the others go on.
    """
    run = _Run(
        clauses=clauses, declared=declared, bench=bench, observer=observer, connect_failures=connect_failures,
        lifeline=lifeline, begun_s=asyncio.get_running_loop().time(),
    )  # fmt: skip
    verdicts: dict[str, Verdict] = {}
    together = [case for case in cases if not case.info.alone and not case.info.over_run]
    # The longest first: they decide how long all of them take.
    together.sort(key=lambda case: -case.info.deadline_s)
    gate = asyncio.Semaphore(parallel)

    async def one(case: Case[Any]) -> None:
        async with gate:
            verdicts[case.info.id] = await _one(case, run)

    async with asyncio.TaskGroup() as group:
        for case in together:
            group.create_task(one(case))
    for case in (
        *(case for case in cases if case.info.alone and not case.info.over_run),
        *(case for case in cases if case.info.over_run),
    ):
        verdicts[case.info.id] = await _one(case, run)
    return [verdicts[case.info.id] for case in cases]


async def _one(case: Case[Any], run: _Run) -> Verdict:
    verdict = await _judged(case, run)
    run.observer.finished(verdict)
    return verdict


async def _judged(case: Case[Any], run: _Run) -> Verdict:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    info = case.info
    if run.lifeline is not None and run.lifeline.gone is not None:
        return Verdict(case=info, status=Status.SKIPPED, reason=run.lifeline.reason)
    run.observer.started(info)
    run.running[info.id] = None
    bench = run.bench(info)
    skipped, broken = "", ""
    ending: Violation | None = None
    try:
        async with asyncio.timeout(info.deadline_s):
            await case.run(bench)
    except ViolationError as error:
        ending = error.violation
    except NotTestableError as error:
        skipped = str(error)
    except TimeoutError:
        ending = Violation(info.clauses[0], f"the case was not through after {info.deadline_s:g} s")
    except (SilenceError, EndedError) as error:
        ending = Violation(info.clauses[0], str(error))
    except run.connect_failures as error:
        ending = Violation(info.clauses[0], str(error))
    except Exception as error:  # a case of ours is wrong; that says nothing of the others
        broken = f"the case itself broke: {_told(error)}"
    finally:
        broken = await _closed(bench) or broken
    violations = (*bench.violations, *([ending] if ending else []))
    notes = list(bench.notes)
    if not broken and (violations or skipped) and not await _there(run):
        # What a dying peer did not do says nothing of the clauses that these cases are about.
        notes += [f"seen before the peer was gone: {violation.message}" for violation in violations]
        violations, skipped = (), run.lifeline.reason if run.lifeline else ""
    if broken:
        notes += [f"seen before the case broke: {violation.message}" for violation in violations]
        violations, skipped = (), broken
    del run.running[info.id]
    status = verdict_of(violations, run.clauses, run.declared, skipped=bool(skipped))
    return Verdict(
        case=info, status=status, duration_s=loop.time() - begun_s, logs=bench.logs(), broken=bool(broken),
        violations=tuple(replace(violation, message=redacted(violation.message)) for violation in violations),
        notes=tuple(redacted(note) for note in notes), reason=redacted(skipped) if status is Status.SKIPPED else "",
    )  # fmt: skip


async def _there(run: _Run) -> bool:
    if run.lifeline is None:
        return True
    return await run.lifeline.holds(asyncio.get_running_loop().time() - run.begun_s, tuple(run.running))


async def _closed(bench: Any) -> str:
    """End what the case took; what went wrong with that, or an empty text."""
    try:
        async with asyncio.timeout(_CLOSING_S):
            await bench.close()
    except Exception as error:
        return f"the case could not be ended: {_told(error)}"
    return ""


def _told(error: BaseException) -> str:
    """An exception with the place that raised it: what somebody who reports it should repeat."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = "".join(f" ({PurePath(frame.filename).name}:{frame.lineno})" for frame in frames[-1:])
    return f"{type(error).__name__}: {error}{where}"


def verdict_of(
    violations: Sequence[Violation], clauses: Mapping[str, Clause], declared: frozenset[str], *, skipped: bool
) -> Status:
    """The worst of what the violations earn; without any, whether the case was skipped or is fine."""
    if violations:
        return worst(judge(violation, clauses, declared) for violation in violations)
    return Status.SKIPPED if skipped else Status.OK
