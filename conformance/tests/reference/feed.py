"""What the movements of the market bring to the sessions."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from conformance.tests.reference.events import TICK_MS
from conformance.tests.reference.market import CHANGE_MS
from conformance.tests.reference.session import Session

if TYPE_CHECKING:
    from conformance.tests.reference.server import ReferenceServer

__all__ = ["Feed"]


class Feed:
    """Queues values, single versions, and what happens."""

    def __init__(self, server: "ReferenceServer") -> None:
        self._server: Final = server
        self._loop = asyncio.get_running_loop()

    def works(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What is to run as long as the server."""
        return self._tick(), self._versions(), self._happen()

    async def _tick(self) -> None:
        faults = self._server.faults
        interval_s = self._server.settings.update_interval_s
        if "updates_too_often" in faults:
            interval_s = 0.4
        begun_s, count = self._loop.time(), 0
        while True:
            count += 1
            await asyncio.sleep(max(0.0, begun_s + count * interval_s + 0.002 - self._loop.time()))
            self._update()

    def _update(self) -> None:
        for session in self._server.sessions():
            connection, faults = session.connection, session.faults
            if session.every or "no_updates" in session.faults:
                continue
            if "updates_to_everyone" in faults and connection is not None:
                for other in self._server.connections:
                    connection.haunted.update(dict.fromkeys(other.session.held))
            self._server.follow(session)
            if "updates_for_all" in faults and session.held:
                session.want(self._server.market.names[-1])
            session.want_all()
            if connection is None:
                if "numbers_while_detached" in faults and session.held:
                    while session.next_text(self._server.wall_ms()) is not None:
                        pass
                continue
            if "first_value_missing" in faults:
                # Not even by the chance that a tick comes soon after the subscribe.
                for name, since_s in session.sent_at_s.items():
                    if self._loop.time() - since_s < 2:
                        session.pending.pop(name, None)
            for name in connection.haunted:
                session.want(name)
            connection.flush()

    async def _versions(self) -> None:
        """Every change of the market, for those who get single versions."""
        step_s = CHANGE_MS / 1000
        begun_s, count = self._loop.time(), 0
        while True:
            count += 1
            await asyncio.sleep(max(0.0, begun_s + count * step_s + 0.001 - self._loop.time()))
            for session in self._server.sessions():
                if session.every:
                    self._single(session)

    def _single(self, session: Session) -> None:
        details = "details" in session.caps
        for name, channels in session.held.items():
            if "token" in channels:
                value = self._server.market.value(name, self._server.wall_ms(), details=details, faults=session.faults)
                session.stream.append(("token_update", value))
        connection = session.connection
        if connection is not None and len(session.stream) > 1024 * (1000 if "batch" in session.caps else 1):
            connection.close(4003, "overflow")
        elif connection is not None:
            self._loop.call_soon(connection.flush)

    async def _happen(self) -> None:
        """Trades, bars, books and pushed values every 250 ms, for who has the channel."""
        faults = self._server.faults
        step_s = 0.05 if faults & {"bars_too_often", "book_too_often"} else TICK_MS / 1000
        begun_s, count = self._loop.time(), 0
        while True:
            count += 1
            await asyncio.sleep(max(0.0, begun_s + count * step_s + 0.001 - self._loop.time()))
            for session in self._server.sessions():
                if "channels" in session.caps:
                    self._server.happened(session)
