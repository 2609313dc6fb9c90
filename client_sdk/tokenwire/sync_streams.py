"""Streams for programs without asyncio: what :mod:`tokenwire.streams` has, as plain iterators."""

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from tokenwire.errors import ClientClosedError

__all__ = ["AsyncStream", "SyncStream"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_C_co = TypeVar("_C_co", covariant=True)


class AsyncStream(Protocol[_C_co]):
    """What is iterated over, in the client's thread."""

    async def __anext__(self) -> _C_co: ...
    async def aclose(self) -> None:
        """End the subscription."""


class Runner(Protocol):
    """Runs a coroutine in the client's thread, up to so many seconds (None: for ever)."""

    def __call__(self, make: Callable[[], Coroutine[Any, Any, _R]], seconds: float | None = None, /) -> _R: ...


class SyncStream(Generic[_T]):
    """An iterator over what comes of some tokens, until it or its client is closed. ``with`` (or :meth:`close`) ends
    the subscription. Iterating raises what the stream of the asyncio client raises."""

    def __init__(
        self,
        stream: AsyncStream[_T],
        run: Runner,
        limited: Callable[..., Coroutine[Any, Any, bool]],
        is_client_closed: Callable[[], bool],
    ) -> None:
        self._stream = stream
        self._run = run
        self._limited = limited
        self._is_client_closed = is_client_closed
        self._taken: deque[_T] = deque()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        return self.next()

    def next(self, timeout: float | None = None) -> _T:
        """The next one, waiting for it up to ``timeout`` seconds.

        Raises:
            TimeoutError: none came in time.
            StopIteration: the stream was closed.
        """

        async def take() -> bool:
            try:
                # Kept here and not in the future, whose result Ctrl-C or a time-out in the other thread could lose.
                self._taken.append(await self._stream.__anext__())
            except StopAsyncIteration:
                return False
            return True

        end_s = None if timeout is None else time.monotonic() + timeout
        while True:
            with suppress(IndexError):  # another thread may be quicker
                return self._taken.popleft()
            left_s = None if end_s is None else max(end_s - time.monotonic(), 0)
            try:
                has_more = self._run(partial(self._limited, take, left_s), left_s)
            except (ClientClosedError, CancelledError):
                if not self._is_client_closed():
                    raise
                has_more = False
            if not has_more and not self._taken:
                raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription; closing the client has done it already."""
        try:
            self._run(self._stream.aclose)
        except (ClientClosedError, CancelledError):
            if not self._is_client_closed():
                raise
