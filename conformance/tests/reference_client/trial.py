"""One run of client cases against the reference client, in virtual time."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from conformance.tests.virtual import DECLARED, EPOCH_MS, run_virtual
from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.client.bench import ClientBench, ClientFacts
from tokenwire_conformance.client.cases import CLIENT
from tokenwire_conformance.client.run import run_client_cases
from tokenwire_conformance.model import CaseInfo, Status, Verdict
from tokenwire_conformance.registry import Case
from tokenwire_conformance.wire.wire import Clock

from .launcher import InProcessLauncher

__all__ = ["Outcome", "run_trial"]

_EVENTS: Final = frozenset({"state", "update", "gap", "error"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one case, in a shape that passes between processes."""

    status: Status
    text: str
    """The violations, or why it was skipped."""


class _Nobody:
    def started(self, case: CaseInfo) -> None:
        pass

    def finished(self, verdict: Verdict) -> None:
        pass


def run_trial(faults: frozenset[str] = frozenset(), ids: Sequence[str] = ()) -> dict[str, Outcome]:
    """Run every client case (or only ``ids``) against a client with these flags, everything declared.

    Raises:
        AssertionError: A case is wrong itself.
    """
    cases: list[Case[ClientBench]] = [case for case in CLIENT.cases if not ids or case.info.id in ids]

    async def run() -> list[Verdict]:
        loop = asyncio.get_running_loop()
        clock = Clock(lambda: EPOCH_MS + loop.time() * 1000)
        facts = ClientFacts(launcher=InProcessLauncher(clock, faults), events=_EVENTS, clock=clock)
        return await run_client_cases(
            facts, cases, clauses=CLAUSES, declared=DECLARED, observer=_Nobody(), parallel=len(cases)
        )

    # A trial's objects die together at its end; looking for them meanwhile is a good part of what a trial costs.
    gc.disable()
    try:
        return {verdict.case.id: _outcome(verdict) for verdict in run_virtual(run)}
    finally:
        gc.enable()
        gc.collect()


def _outcome(verdict: Verdict) -> Outcome:
    assert not verdict.broken, verdict.reason
    text = "; ".join(f"{violation.clause}: {violation.message}" for violation in verdict.violations)
    return Outcome(verdict.status, text or verdict.reason)
