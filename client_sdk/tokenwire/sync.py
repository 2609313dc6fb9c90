"""The client for programs without asyncio: the same names, blocking.

    with TokenClient("ws://127.0.0.1:8080") as client:
        client.subscribe(["DOGE"])
        for event in client:
            ...

The connection lives in a thread of its own, so it stays alive while the program does something else. Every method
may be called from any thread.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from tokenwire import aio
from tokenwire.aio import Subscribed
from tokenwire.errors import ClientClosedError, ConnectionFailedError
from tokenwire.events import Event, Quote
from tokenwire.metrics import ClientMetrics
from tokenwire.sharding import ClientCheckpoint
from tokenwire.states import ConnectionState

__all__ = ["TokenClient"]

_T = TypeVar("_T")


class TokenClient:
    """The blocking counterpart of :class:`tokenwire.TokenClient`, with the same arguments, errors and guarantees.

    Ctrl-C ends whatever waits; leaving the ``with`` block ends the connection and the thread. A program that ends
    without it does not hang: the thread is a daemon.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        self._client = aio.TokenClient(url, **settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Begin to connect; returns at once. ``with`` does it too."""
        with self._lock:
            if self._closed:
                raise _closed_error()
            if self._thread is None:
                ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._thread = threading.Thread(target=_serve, args=(ready,), name="tokenwire", daemon=True)
                self._thread.start()
                self._loop = ready.result()
        self._call(self._client.open)

    def close(self, *, keep_session: bool | None = None) -> None:
        """End the connection in good order, and the thread; as :meth:`tokenwire.TokenClient.close`."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        try:
            _wait(asyncio.run_coroutine_threadsafe(self._client.close(keep_session=keep_session), loop))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the client is CONNECTED.

        Raises:
            TimeoutError: it is not after ``timeout`` seconds.
            ConnectionFailedError: it is FAILED.
        """
        self._run(lambda: _limited(self._client.wait_connected, timeout))

    def subscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> Subscribed:
        """As :meth:`tokenwire.TokenClient.subscribe`."""
        return self._run(lambda: self._client.subscribe(names, wait=wait))

    def unsubscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> None:
        """As :meth:`tokenwire.TokenClient.unsubscribe`."""
        self._run(lambda: self._client.unsubscribe(names, wait=wait))

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next_event()) is not None:
            yield event

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting for it up to ``timeout`` seconds; None after :meth:`close`.

        Raises:
            TimeoutError: none came in time.
            ConnectionFailedError: the client is FAILED and all events before that were taken.
        """
        try:
            return self._run(lambda: _limited(self._client.next_event, timeout))
        except (ClientClosedError, concurrent.futures.CancelledError):
            if self._closed and self._thread is not None:
                return None
            raise

    @property
    def latest(self) -> Mapping[str, Quote]:
        """The newest value of each token, by name: a copy, taken now."""
        return self._read(lambda: dict(self._client.latest))

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._client.state

    @property
    def metrics(self) -> ClientMetrics:
        """Counters since the start."""
        return self._read(lambda: self._client.metrics)

    @property
    def failure(self) -> ConnectionFailedError | None:
        """Why the client is FAILED; None while it is not."""
        return self._client.failure

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        return self._client.connections

    def checkpoint(self) -> ClientCheckpoint:
        """As :meth:`tokenwire.TokenClient.checkpoint`."""
        return self._read(self._client.checkpoint)

    def drop_connections(self) -> None:
        """As :meth:`tokenwire.TokenClient.drop_connections`."""
        self._call(self._client.drop_connections)

    def _read(self, function: Callable[[], _T]) -> _T:
        """In the loop's thread while there is one, here when nothing can change any more."""
        try:
            return self._call(function)
        except ClientClosedError:
            return function()

    def _call(self, function: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return function()

        return self._run(call)

    def _run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        with self._lock:  # close() takes it too, so whatever gets in here is dealt with before the loop stops
            if self._loop is None:
                raise _closed_error()
            future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        return _wait(future)


def _wait(future: "concurrent.futures.Future[_T]") -> _T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Ctrl-C: what waits in the other thread must not go on waiting
        raise


async def _limited(make: Callable[[], Coroutine[Any, Any, _T]], seconds: float | None) -> _T:
    async with asyncio.timeout(seconds):
        return await make()


def _serve(ready: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
    """The thread: a loop that runs until it is stopped, and ends without leftovers."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.call_soon(ready.set_result, loop)
        loop.run_forever()


def _closed_error() -> ClientClosedError:
    return ClientClosedError(
        "CLIENT_CLOSED", "the client is not open", "Use it within `with`, and make a new one after close()"
    )
