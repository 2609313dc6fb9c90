"""A run of server cases: what ties the bench, the runner and the cases together."""

from collections.abc import Mapping, Sequence
from typing import Final

from tokenwire_conformance.model import CaseInfo, Clause, Verdict
from tokenwire_conformance.registry import Case
from tokenwire_conformance.runner import Lifeline, Observer, run_cases
from tokenwire_conformance.server.bench import Bench, History, ServerFacts
from tokenwire_conformance.server.peer import ConnectFailedError

__all__ = ["PARALLEL", "run_server_cases"]

PARALLEL: Final = 24
"""Cases side by side: their waits overlap, and what they need of a server's capacity stays small."""


async def run_server_cases(
    facts: ServerFacts, cases: Sequence[Case[Bench]], *, clauses: Mapping[str, Clause], declared: frozenset[str],
    observer: Observer, parallel: int = PARALLEL, lifeline: Lifeline | None = None,
) -> list[Verdict]:  # fmt: skip
    """Run ``cases`` against the server of ``facts``; verdicts in the same order. With a ``lifeline`` the run stops
    judging a server that went away."""
    seen: list[History] = []

    def bench(info: CaseInfo) -> Bench:
        return Bench(facts, info.id, over_run=info.over_run, run_histories=seen)

    return await run_cases(
        cases, clauses=clauses, declared=declared, bench=bench, observer=observer, parallel=parallel,
        connect_failures=(ConnectFailedError,), lifeline=lifeline,
    )  # fmt: skip
