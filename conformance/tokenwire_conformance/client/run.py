"""A run of client cases, and the look at the client before it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from tokenwire_conformance.client.bench import ClientBench, ClientFacts
from tokenwire_conformance.client.launch import LaunchError
from tokenwire_conformance.model import CaseInfo, Clause, Verdict
from tokenwire_conformance.registry import Case
from tokenwire_conformance.runner import Observer, run_cases
from tokenwire_conformance.wire.wire import EndedError, SilenceError

__all__ = ["PARALLEL", "NoClientError", "look_at_client", "run_client_cases"]

PARALLEL: Final = 16
"""Cases side by side, each with a client of its own."""
_LOOK_S: Final = 3.0


class NoClientError(Exception):
    """The client never connected; nothing can be tested."""


async def look_at_client(facts: ClientFacts) -> ClientFacts:
    """Start the client once, to see that it comes and which events it prints.

    Raises:
        NoClientError: It does not connect.
        LaunchError: It does not start.
    """
    bench = ClientBench(facts, "discovery")
    try:
        await bench.start()
        try:
            link = await bench.link()
            if await link.first_request():
                await asyncio.sleep(0.2)
                for name in tuple(link.held):
                    await link.update(name)
        except SilenceError as error:
            raise NoClientError(str(error)) from error
        except EndedError:
            pass  # it is there; the cases will tell what is wrong
        await asyncio.sleep(_LOOK_S)
        return replace(facts, events=frozenset(event.kind for event in bench.events))
    finally:
        await bench.close()


async def run_client_cases(
    facts: ClientFacts, cases: Sequence[Case[ClientBench]], *, clauses: Mapping[str, Clause],
    declared: frozenset[str], observer: Observer, parallel: int = PARALLEL,
) -> list[Verdict]:  # fmt: skip
    """Run ``cases``, each against a client of its own; verdicts in the same order.

    Raises:
        CaseBrokeError: A case is wrong itself.
    """

    def bench(info: CaseInfo) -> ClientBench:
        return ClientBench(facts, info.id)

    return await run_cases(
        cases, clauses=clauses, declared=declared, bench=bench, observer=observer, parallel=parallel,
        connect_failures=(LaunchError,),
    )  # fmt: skip
