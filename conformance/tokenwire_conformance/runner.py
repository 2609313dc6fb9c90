"""Runs cases side by side, each with its deadline, and turns what happened into verdicts."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["CaseBench", "CaseBrokeError", "Observer", "run_cases", "verdict_of"]

_CLOSING_S: Final = 10.0


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
    """A case itself is wrong: it raised what no peer may be blamed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    clauses: Mapping[str, Clause]
    declared: frozenset[str]
    bench: Callable[[CaseInfo], Any]
    observer: Observer
    connect_failures: tuple[type[Exception], ...]


async def run_cases(
    cases: Sequence[Case[Any]], *, clauses: Mapping[str, Clause], declared: frozenset[str],
    bench: Callable[[CaseInfo], Any], observer: Observer, parallel: int,
    connect_failures: tuple[type[Exception], ...] = (),
) -> list[Verdict]:  # fmt: skip
    """Run ``cases``, at most ``parallel`` at once, and return their verdicts in the order of ``cases``.

    ``bench`` makes what a case works with. Cases that are alone run one by one after the others, and last those that
    judge the whole run. ``connect_failures`` are exceptions that say no connection came about.

    Raises:
        CaseBrokeError: A case raised something unforeseen; the other cases are stopped.
    """
    run = _Run(clauses=clauses, declared=declared, bench=bench, observer=observer, connect_failures=connect_failures)
    verdicts: dict[str, Verdict] = {}
    together = [case for case in cases if not case.info.alone and not case.info.over_run]
    # The longest first: they decide how long all of them take.
    together.sort(key=lambda case: -case.info.deadline_s)
    gate = asyncio.Semaphore(parallel)

    async def one(case: Case[Any]) -> None:
        async with gate:
            verdicts[case.info.id] = await _one(case, run)

    try:
        async with asyncio.TaskGroup() as group:
            for case in together:
                group.create_task(one(case))
    except* CaseBrokeError as errors:
        raise errors.exceptions[0] from None
    for case in (
        *(case for case in cases if case.info.alone and not case.info.over_run),
        *(case for case in cases if case.info.over_run),
    ):
        verdicts[case.info.id] = await _one(case, run)
    return [verdicts[case.info.id] for case in cases]


async def _one(case: Case[Any], run: _Run) -> Verdict:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    info = case.info
    run.observer.started(info)
    bench = run.bench(info)
    skipped = ""
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
    except Exception as error:
        raise CaseBrokeError(f"{info.id} broke: {type(error).__name__}: {error}") from error
    finally:
        await _close(bench, info)
    violations = (*bench.violations, *([ending] if ending else []))
    status = verdict_of(violations, run.clauses, run.declared, skipped=bool(skipped))
    verdict = Verdict(
        case=info, status=status, violations=violations, notes=tuple(bench.notes),
        reason=skipped if status is Status.SKIPPED else "", duration_s=loop.time() - begun_s, logs=bench.logs(),
    )  # fmt: skip
    run.observer.finished(verdict)
    return verdict


async def _close(bench: Any, info: CaseInfo) -> None:
    try:
        async with asyncio.timeout(_CLOSING_S):
            await bench.close()
    except Exception as error:
        raise CaseBrokeError(f"{info.id} could not be ended: {type(error).__name__}: {error}") from error


def verdict_of(
    violations: Sequence[Violation], clauses: Mapping[str, Clause], declared: frozenset[str], *, skipped: bool
) -> Status:
    """The worst of what the violations earn; without any, whether the case was skipped or is fine."""
    if violations:
        return worst(judge(violation, clauses, declared) for violation in violations)
    return Status.SKIPPED if skipped else Status.OK
