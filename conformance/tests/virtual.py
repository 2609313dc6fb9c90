"""Runs the suite against the reference server in virtual time: a minute of silence costs nothing."""

import asyncio
import logging
import selectors
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar
from unittest.mock import patch

import async_solipsism  # type: ignore[import-untyped]
from async_solipsism.selector import Selector  # type: ignore[import-untyped]

from conformance.tests.reference import ReferenceServer, Settings
from tokenwire_conformance.clauses import CLAUSES
from tokenwire_conformance.model import CaseInfo, Verdict
from tokenwire_conformance.registry import Case
from tokenwire_conformance.server.bench import Bench, ServerFacts
from tokenwire_conformance.server.cases import cr
from tokenwire_conformance.server.run import run_server_cases
from tokenwire_conformance.wire.target import Target
from tokenwire_conformance.wire.wire import Clock

__all__ = ["DECLARED", "EPOCH_MS", "judge_server", "run_virtual"]

T = TypeVar("T")
EPOCH_MS: Final = 1_764_547_245_000
"""Unix time at which a virtual run begins: 15 s before the end of a minute, so that a bar closes early."""
DECLARED: Final = frozenset(f"I-{number}" for number in range(1, 100))
"""Every Interpretation."""
CONNECTIONS: Final = 150
"""A limit that is quick to reach, in place of 1000; the clean server is judged with 1000 too."""
_HOST, _PORT = "127.0.0.1", 8080


_FOR_EVER_S: Final = 24 * 3600
"""What asyncio asks for at most; the loop then waits for no timer."""


class _Selector(Selector):  # type: ignore[misc]
    """The same without a look-up for each socket, which is most of what an idle connection costs."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = []
        for key in self._fd_to_key.values():
            events = 0
            socket = key.fd.socket
            if key.events & selectors.EVENT_READ and socket.read_ready():
                events |= selectors.EVENT_READ
            if key.events & selectors.EVENT_WRITE and socket.write_ready():
                events |= selectors.EVENT_WRITE
            if events:
                ready.append((key, events))
        if ready:
            return ready
        if timeout is None or timeout >= _FOR_EVER_S:
            raise async_solipsism.SleepForeverError("everything waits for something that will never come")
        if timeout > 0:
            self.clock.advance(timeout)
        return []


def run_virtual(factory: Callable[[], Awaitable[T]]) -> T:
    """Run what ``factory`` makes in a loop whose time passes only when nothing else can happen.

    Raises:
        async_solipsism.SleepForeverError: Everything waits for something that will never come.
    """
    loop = async_solipsism.EventLoop()
    loop._selector.__class__ = _Selector
    try:
        asyncio.set_event_loop(loop)
        done: T = loop.run_until_complete(_awaited(factory))
        return done
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _awaited(factory: Callable[[], Awaitable[T]]) -> T:
    return await factory()


class _Nobody:
    def started(self, case: CaseInfo) -> None:
        """Nobody watches."""

    def finished(self, verdict: Verdict) -> None:
        """Nobody watches."""


def judge_server(
    faults: Iterable[str], cases: Sequence[Case[Bench]], *, declared: frozenset[str] = DECLARED,
    accepts_any: bool = False, connections: int = CONNECTIONS,
) -> dict[str, Verdict]:  # fmt: skip
    """The verdict on each case of a reference server with these faults, in a loop of its own.

    ``connections`` is the most that the server serves, and the cases take it for the specification's 1000.
    """

    async def run() -> dict[str, Verdict]:
        loop = asyncio.get_running_loop()
        clock = Clock(lambda: EPOCH_MS + loop.time() * 1000)
        settings = Settings(
            faults=frozenset(faults), wall_ms=clock.wall_ms, accepts_any=accepts_any, max_connections=connections
        )
        server = ReferenceServer(settings)
        await server.start(_HOST, _PORT)
        try:
            names = server.market.names
            facts = ServerFacts(
                target=Target(host=_HOST, port=_PORT), tokens=names, live=names, given=True, accepts_any=accepts_any,
                granted=settings.capabilities, update_interval_s=settings.update_interval_s, clock=clock,
            )  # fmt: skip
            verdicts = await run_server_cases(
                facts, cases, clauses=CLAUSES, declared=declared, observer=_Nobody(), parallel=24
            )
            assert not [verdict.reason for verdict in verdicts if verdict.broken]
            return {verdict.case.id: verdict for verdict in verdicts}
        finally:
            await server.stop()

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with patch.object(cr, "MAX_CONNECTIONS", connections):
        return run_virtual(run)
