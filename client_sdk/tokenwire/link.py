"""One socket of a session, from the try to open it to its end.

It has two tasks, one that reads and one that writes, so that a peer who does not read cannot stop the reading.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from tokenwire.actions import Action, Close, Connect, Ping, Send
from tokenwire.errors import ConnectionFailedError
from tokenwire.session import ClientSession
from tokenwire.transport import Opener, RefusedError, Socket, SocketClosedError

__all__ = ["Link", "Owner"]

_MAX_UNSENT: Final = 1_024  # actions that wait for a peer who does not read; more of them end the socket


class Owner(Protocol):
    """What a link needs of the driver it belongs to."""

    session: ClientSession

    def now(self) -> int:
        """Monotonic milliseconds."""

    def wall(self) -> int:
        """Unix milliseconds."""

    def report(self, step: Callable[[], Any]) -> None:
        """Do one step with the session, and what it asks for."""

    def complain(self, trouble: str) -> None:
        """No connection came about."""

    def give_up(self, failure: ConnectionFailedError) -> None:
        """End for a reason that the session knows nothing of."""

    def is_current(self, link: "Link") -> bool:
        """Whether the session still counts on ``link``."""


class Link:
    """One socket from the try to open it to its end."""

    def __init__(self, driver: Owner, opener: Opener, action: Connect) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_closing = False
        """A close frame is on its way, or will be after what waits before it."""
        self._driver = driver
        self._opener = opener
        self._action = action
        self._loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._unsent: deque[Action] = deque()
        self._something_to_send = asyncio.Event()

    def put(self, action: Action) -> None:
        """Send, ping or close, in order."""
        if isinstance(action, Close) and (action.code is None or self._socket is None):
            self.abort()
            return
        if len(self._unsent) >= _MAX_UNSENT:
            self.abort()
            return
        self.is_closing = self.is_closing or isinstance(action, Close)
        self._unsent.append(action)
        self._something_to_send.set()

    def abort(self) -> None:
        """Cut it; the session is told."""
        if self._socket is not None:
            self._socket.abort()  # the reading task notices
        else:
            self.drop()
            session = self._driver.session
            self._loop.call_soon(
                self._report,
                lambda: session.closed(1006, "cut while opening", self._driver.now(), self._driver.wall()),
            )

    @property
    def is_opening(self) -> bool:
        """Whether there is no socket yet."""
        return self._socket is None

    def drop(self) -> None:
        """Cut it and be silent."""
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Open, read until the end, and report both."""
        try:
            await self._run()
        except Exception as error:
            defect = error
            self._report(lambda: _raise(defect))

    async def _run(self) -> None:
        driver, session = self._driver, self._driver.session
        try:
            self._socket = socket = await self._opener(self._action, self._heard)
        except RefusedError as refused:
            if refused.status is not None and 300 <= refused.status < 400:
                if driver.is_current(self):
                    driver.give_up(_redirected(refused))
                return
            if driver.is_current(self):
                driver.complain(refused.text)
            status, retry_after_ms, text = refused.status, refused.retry_after_ms, refused.text
            self._report(lambda: session.refused(status, retry_after_ms, text, driver.now(), driver.wall()))
            return
        writer = asyncio.create_task(self._write(socket), name="tokenwire writer")
        try:
            self._report(lambda: session.opened(driver.now()))
            await self._read(socket)
        finally:
            writer.cancel()
            socket.abort()
            await asyncio.wait([writer])
            await socket.wait_closed()

    async def _read(self, socket: Socket) -> None:
        driver, session = self._driver, self._driver.session
        message: str | bytes

        def received() -> None:
            session.received(message, driver.now(), driver.wall())

        try:
            while True:
                message = await socket.receive()
                self._report(received)
        except SocketClosedError as closed:
            code, reason = closed.code, closed.reason
            self._report(lambda: session.closed(code, reason, driver.now(), driver.wall()))

    async def _write(self, socket: Socket) -> None:
        try:
            while True:
                while self._unsent:
                    action = self._unsent.popleft()
                    if isinstance(action, Send):
                        await socket.send(action.text)
                    elif isinstance(action, Ping):
                        await socket.ping()
                    elif isinstance(action, Close) and action.code is not None:
                        await socket.close(action.code, action.reason)
                self._something_to_send.clear()
                await self._something_to_send.wait()
        except SocketClosedError:
            pass  # the reading task reports it
        except Exception as error:
            defect = error
            self._report(lambda: _raise(defect))

    def _report(self, step: Callable[[], object]) -> None:
        if self._driver.is_current(self):
            self._driver.report(step)

    def _heard(self) -> None:
        if self._driver.is_current(self):
            try:
                self._driver.session.alive(self._driver.now())
            except Exception as error:
                defect = error
                self._report(lambda: _raise(defect))


def _redirected(refused: RefusedError) -> ConnectionFailedError:
    """A redirect would be answered again, and following it would take the credentials elsewhere."""
    return ConnectionFailedError("REDIRECTED", refused.text, "Use the address that the server redirects to.")


def _raise(error: Exception) -> None:
    raise error
