"""Waking those who wait for a change, and calling back those who asked for it."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tokenwire.states import ConnectionState

__all__ = ["Signal", "StateCallbacks", "call_back"]

_log = logging.getLogger("tokenwire")

_MAX_WAITING: Final = 100  # state changes that wait for slow callbacks; the oldest are left out
_FINISH_S: Final = 5.0  # what a state callback may still take when the client ends
_CANCEL_S: Final = 1.0  # what it may take to be cancelled

StateCallback = Callable[[ConnectionState], Awaitable[object] | object]


class Signal:
    """Wakes everybody who waits at that moment."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Wake them."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Until the next :meth:`set`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)


class StateCallbacks:
    """Tells of each new state, in order, in a task that lives only while there is something to tell."""

    def __init__(self) -> None:
        self._callbacks: list[StateCallback] = []
        self._waiting: deque[tuple[StateCallback, ConnectionState]] = deque(maxlen=_MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._last = ConnectionState.CONNECTING

    def add(self, callback: StateCallback) -> None:
        """Call ``callback`` from now on."""
        self._callbacks.append(callback)

    def observe(self, state: ConnectionState) -> None:
        """``state`` is that of now; callbacks run if it is a new one."""
        if state is self._last:
            return
        self._last = state
        self._waiting.extend((callback, state) for callback in self._callbacks)
        if self._waiting and self._task is None:
            self._task = asyncio.create_task(self._run(), name="tokenwire state callbacks")

    async def finish(self) -> None:
        """Let those that are due run to their end, at most 5 s; called from within one it does not wait for itself."""
        task = self._task
        if task is None or task is asyncio.current_task():
            return
        _, late = await asyncio.wait([task], timeout=_FINISH_S)
        if late:
            _log.error("a state callback did not return within %.0f s of the end; it is cancelled", _FINISH_S)
            self._waiting.clear()
            task.cancel()
            await asyncio.wait([task], timeout=_CANCEL_S)

    async def _run(self) -> None:
        try:
            while self._waiting:
                callback, state = self._waiting.popleft()
                await call_back(callback, state)
        finally:
            self._task = None


async def call_back(callback: Callable[[Any], object], argument: object) -> None:
    """Call ``callback``, awaiting it if it is a coroutine function, and survive what it raises: that is logged."""
    try:
        result = callback(argument)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log.exception("the callback %r failed on %r; the client goes on", callback, argument)
