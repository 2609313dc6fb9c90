"""Runs one :class:`ClientSession` on asyncio: clocks, timer and sockets around the pure state machine.

Everything happens on one event loop, so every call into the session is a plain call. After each of them the
driver performs the session's actions, sets its one timer anew and says that something may have changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from tokenwire.actions import Action, Close, Connect
from tokenwire.errors import ConnectionFailedError
from tokenwire.events import Event
from tokenwire.link import Link
from tokenwire.session import ClientSession
from tokenwire.states import ConnectionState
from tokenwire.transport import Opener
from tokenwire_schemas.close_codes import CloseCode

__all__ = ["Driver"]

_log = logging.getLogger("tokenwire")
_T = TypeVar("_T")

_CLOSE_GUARD_S: Final = 12.0  # the session and the socket have 5 s each of their own


class Driver:
    """Drives ``session`` until it is closed or FAILED.

    ``changed`` is called after everything that may have brought an event, another state or an answer.
    """

    def __init__(self, session: ClientSession, opener: Opener, changed: Callable[[], None]) -> None:
        self.session = session
        self.failure: ConnectionFailedError | None = None
        """Why it gave up: the session's failure, a redirect, or INTERNAL for a defect in this package (chained)."""
        self._opener = opener
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._trouble: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._keep_session = False

    @property
    def done(self) -> bool:
        """Whether nothing will happen any more."""
        return self.failure is not None or self.session.is_closed

    @property
    def was_connected(self) -> bool:
        """Whether a server has greeted since the start."""
        connected = ConnectionState.CONNECTED
        return self.session.state is connected or connected in self.session.metrics.time_in_state_ms

    def now(self) -> int:
        """The event loop's clock in milliseconds."""
        return int(self._loop.time() * 1_000)

    @staticmethod
    def wall() -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def call(self, step: Callable[[], _T]) -> _T:
        """Do one step with the session, then whatever it asks for.

        Raises:
            ConnectionFailedError: INTERNAL, when the step ran into a defect; the driver is in FAILED then.
        """
        try:
            result = step()
            for action in self.session.take_actions():
                self._perform(action)
            self._set_timer()
        except Exception as error:
            raise self._defect(error) from error
        if self.session.failure is not None and self.failure is None:
            self.failure = self.session.failure
            self._stop(graceful=True)
        self._changed()
        return result

    def report(self, step: Callable[[], object]) -> None:
        """As :meth:`call`, from a callback or task, where nobody could catch: a defect is kept in ``failure``."""
        if not self.done:
            try:
                self.call(step)
            except ConnectionFailedError:
                _log.error("the client stopped because of a defect in it", exc_info=self.failure)

    def complain(self, trouble: str) -> None:
        """Log why there is no connection, each reason once: who waits for an answer sees no events meanwhile."""
        if trouble != self._trouble:
            self._trouble = trouble
            _log.warning("no connection: %s; trying on", trouble)

    def give_up(self, failure: ConnectionFailedError) -> None:
        """End for a reason that the session knows nothing of."""
        self.failure = failure
        self._stop()
        self._changed()

    def take_event(self) -> Event | None:
        """The session's next event. What the session has to say is still there after its end."""
        try:
            return self.session.next_event()
        except Exception as error:
            raise self._defect(error) from error

    def start(self) -> None:
        """Begin to connect."""
        self.call(lambda: self.session.start(self.now()))

    async def close(self, *, keep_session: bool = False) -> None:
        """End in good order, at the latest after some seconds; afterwards there is no task and no socket left.

        ``keep_session``: say "going away", after which a server keeps the session to be resumed for a while.
        """
        self._keep_session = keep_session
        try:
            if not self.done:
                self.report(lambda: self.session.close(self.now()))
                if self._link is not None and self._link.is_opening:
                    self._drop_link()
                await self._ended()
        finally:
            self._stop()
            # Cancelled tasks still close their sockets; being cancelled here as well must not leave them behind.
            while self._tasks:
                await asyncio.wait(set(self._tasks))

    def abort(self) -> None:
        """Cut the socket as a broken network would; the session then reconnects (for tests and ``doctor``)."""
        if self._link is not None:
            self._link.abort()

    async def _ended(self) -> None:
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_GUARD_S)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Connect):
            self._drop_link()
            self._link = Link(self, self._opener, action)
            task = asyncio.create_task(self._link.run(), name="tokenwire socket")
            self._link.task = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif self._link is not None:
            if self._keep_session and isinstance(action, Close) and action.code == CloseCode.NORMAL:
                action = Close(CloseCode.GOING_AWAY, action.reason)
            self._link.put(action)

    def is_current(self, link: Link) -> bool:
        """Whether ``link`` is the socket that the session knows; what an older one sees no longer counts."""
        return self._link is link and not self.done

    def _drop_link(self, *, graceful: bool = False) -> None:
        """Let go of the socket; a ``graceful`` one may finish a close handshake that it has begun."""
        if self._link is not None:
            link, self._link = self._link, None
            if not (graceful and link.is_closing):
                link.drop()

    def _set_timer(self) -> None:
        deadline = None if self.session.is_closed else self.session.next_deadline()
        if self._timer is not None:
            if deadline is not None and deadline >= self._timer_ms:
                return  # it fires too early, finds nothing due, and is set again: cheaper than moving it each time
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer_ms = deadline
            # Half a millisecond late, so that the rounded clock has certainly reached the deadline.
            self._timer = self._loop.call_at((deadline + 0.5) / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.report(lambda: self.session.handle_timer(self.now(), self.wall()))

    def _stop(self, *, graceful: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_link(graceful=graceful)

    def _defect(self, error: Exception) -> ConnectionFailedError:
        failure = ConnectionFailedError(
            "INTERNAL",
            f"the client ran into a defect of its own: {error!r}",
            "Report it with the chained cause; a new client can be opened meanwhile",
        )
        failure.__cause__ = error
        self.give_up(failure)
        return failure
