"""Streams for programs without asyncio: what :mod:`tokenwire.streams` has, as plain iterators."""

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

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

    def __init__(self, stream: AsyncStream[_T], run: Runner, limited: Callable[..., Coroutine[Any, Any, bool]]) -> None:
        self._stream = stream
        self._run = run
        self._limited = limited
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

        if not self._taken and not self._run(lambda: self._limited(take, timeout), timeout):
            raise StopIteration
        return self._taken.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription."""
        self._run(self._stream.aclose)
