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
import logging
import os
import queue
import ssl as ssl_module
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from types import EllipsisType, TracebackType, UnionType
from typing import Any, Final, Literal, Self, TypeVar, overload

from tokenwire import aio
from tokenwire.aio import Subscribed
from tokenwire.channels import Bar, Book, Trade
from tokenwire.config import ClientConfig
from tokenwire.errors import ClientClosedError, ConnectionFailedError
from tokenwire.events import Event, Quote
from tokenwire.indicator_stream import Indicators
from tokenwire.metrics import ClientMetrics
from tokenwire.sharding import ClientCheckpoint
from tokenwire.states import ConnectionState
from tokenwire.sync_streams import AsyncStream, SyncStream
from tokenwire.transport import Opener

__all__ = ["TokenClient"]

_log = logging.getLogger("tokenwire")
_T = TypeVar("_T")
_E = TypeVar("_E", bound=Event)

_GRACE_S: Final = 0.1  # for the loop's thread to say itself that the time is over
_FINISH_S: Final = 5.0  # what a state callback may still take when the client ends


class TokenClient:
    """The blocking counterpart of :class:`tokenwire.TokenClient`, with the same arguments, errors and guarantees.

    Ctrl-C ends whatever waits; leaving the ``with`` block ends the connection and the thread. A program that ends
    without it does not hang: the thread is a daemon.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        capabilities: Iterable[str] | None = None,
        delivery: Literal["latest", "every"] | None = None,
        max_retries: int | EllipsisType | None = ...,
        max_connections: int = 10,
        queue_events: int | None = None,
        overflow: Literal["latest", "fail"] | None = None,
        ack: Literal["consumed", "checkpoint"] | None = None,
        checkpoint: ClientCheckpoint | str | bytes | None = None,
        proxy: str | Literal[True] | None = None,
        config: ClientConfig | None = None,
        connect: Opener | None = None,
    ) -> None:
        self._client = aio.TokenClient(
            url,
            token=token,
            headers=headers,
            ssl=ssl,
            capabilities=capabilities,
            delivery=delivery,
            max_retries=max_retries,
            max_connections=max_connections,
            queue_events=queue_events,
            overflow=overflow,
            ack=ack,
            checkpoint=checkpoint,
            proxy=proxy,
            config=config,
            connect=connect,
        )
        self._pid: int | None = None
        self._taken: deque[Event] = deque()
        self._callbacks: list[tuple[type | UnionType, Callable[[Any], object]]] = []
        self._states: _States | None = None
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
        self._check_process()
        with self._lock:
            if self._closed:
                raise _closed_error()
            if self._thread is None:
                self._pid = os.getpid()
                ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._thread = threading.Thread(target=_serve, args=(ready,), name="tokenwire", daemon=True)
                self._thread.start()
                self._loop = ready.result()
        self._call(self._client.open)

    def close(self, *, keep_session: bool | None = None) -> None:
        """End the connection in good order, and the thread; as :meth:`tokenwire.TokenClient.close`.

        After ``os.fork()`` it does nothing in the child: the connection is the parent's.
        """
        if self._is_forked():
            return
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
            if self._states is not None:
                self._states.finish()

    def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the client is CONNECTED.

        Raises:
            TimeoutError: it is not after ``timeout`` seconds.
            ConnectionFailedError: it is FAILED.
        """
        self._run(lambda: _limited(self._client.wait_connected, timeout), timeout)

    def subscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> Subscribed:
        """As :meth:`tokenwire.TokenClient.subscribe`."""
        return self._run(lambda: self._client.subscribe(names, wait=wait))

    def unsubscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> None:
        """As :meth:`tokenwire.TokenClient.unsubscribe`."""
        self._run(lambda: self._client.unsubscribe(names, wait=wait))

    def trades(self, names: Iterable[str] | str, *, after: int | None = None) -> SyncStream[Trade]:
        """As :meth:`tokenwire.TokenClient.trades`."""
        return self._stream(lambda: self._client.trades(names, after=after))

    def klines(self, names: Iterable[str] | str, interval: str = "1m", *, history: int = 0) -> SyncStream[Bar]:
        """As :meth:`tokenwire.TokenClient.klines`."""
        return self._stream(lambda: self._client.klines(names, interval, history=history))

    def book(self, names: Iterable[str] | str, depth: int = 10) -> SyncStream[Book]:
        """As :meth:`tokenwire.TokenClient.book`."""
        return self._stream(lambda: self._client.book(names, depth))

    def indicators(self, names: Iterable[str] | str, interval: str, *indicators: str) -> SyncStream[Indicators]:
        """As :meth:`tokenwire.TokenClient.indicators`."""
        return self._stream(lambda: self._client.indicators(names, interval, *indicators))

    def get(self, *path: str, **query: str | int | None) -> Any:
        """What the server's REST interface answers: ``client.get("tokens", sort="volume")``.

        Raises:
            RestError: not what was asked for.
        """
        return self._run(lambda: self._client.rest.get(*path, **query))

    def _stream(self, make: Callable[[], AsyncStream[_T]]) -> SyncStream[_T]:
        return SyncStream(self._call(make), self._run, _limited, lambda: self._closed)

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next_event()) is not None:
            yield event

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, waiting for it up to ``timeout`` seconds; None after :meth:`close`.

        Raises:
            TimeoutError: none came in time.
            ConnectionFailedError: the client is FAILED and all events before that were taken.
        """
        self._check_process()

        async def take() -> bool:
            event = await _limited(self._client.next_event, timeout)
            if event is not None:
                # Kept here and not in the future, whose result Ctrl-C or a time-out in the other thread could lose.
                self._taken.append(event)
            return event is not None

        try:
            if not self._taken and not self._run(take, timeout):
                return None
            return self._taken.popleft()
        except (ClientClosedError, concurrent.futures.CancelledError):
            if self._closed and self._thread is not None:
                return None
            raise

    @overload
    def on(self, kind: type[_E], callback: Callable[[_E], object]) -> None: ...
    @overload
    def on(self, kind: UnionType, callback: Callable[[Any], object]) -> None: ...
    def on(self, kind: type | UnionType, callback: Callable[[Any], object]) -> None:
        """As :meth:`tokenwire.TokenClient.on`, for functions; they are called in the thread that calls :meth:`run`."""
        self._check_process()
        self._callbacks.append((kind, callback))

    def on_state(self, callback: Callable[[ConnectionState], object]) -> None:
        """Call ``callback`` with every new state, in order, in a thread of its own, whether or not anybody iterates."""
        self._check_process()
        if self._states is None:
            self._states = _States()
            self._client.on_state(self._states.put)
        self._states.callbacks.append(callback)

    def run(self) -> None:
        """Take events and call back until :meth:`close`; the alternative to iterating.

        Raises:
            ConnectionFailedError: the client is FAILED; all callbacks were called before.
        """
        for event in self:
            for kind, callback in self._callbacks:
                if isinstance(event, kind):
                    _call_back(callback, event)

    @property
    def latest(self) -> Mapping[str, Quote]:
        """The newest value of each token, by name: a copy, taken now."""
        return self._read(lambda: dict(self._client.latest))

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        self._check_process()
        return self._client.state

    @property
    def metrics(self) -> ClientMetrics:
        """Counters since the start."""
        return self._read(lambda: self._client.metrics)

    @property
    def failure(self) -> ConnectionFailedError | None:
        """Why the client is FAILED; None while it is not."""
        self._check_process()
        return self._client.failure

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        self._check_process()
        return self._client.connections

    def checkpoint(self) -> ClientCheckpoint:
        """As :meth:`tokenwire.TokenClient.checkpoint`.

        An event that Ctrl-C kept :meth:`next_event` from returning counts as taken: the next call returns it.
        """
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

    def _run(self, make: Callable[[], Coroutine[Any, Any, _T]], seconds: float | None = None) -> _T:
        self._check_process()
        with self._lock:  # close() takes it too, so whatever gets in here is dealt with before the loop stops
            if self._loop is None:
                raise _closed_error()
            future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        return _wait(future, None if seconds is None else max(seconds, 0) + _GRACE_S)

    def _is_forked(self) -> bool:
        return self._pid is not None and self._pid != os.getpid()

    def _check_process(self) -> None:
        """Before any lock: a fork may have copied it while it was taken, and nobody would ever give it back."""
        if self._is_forked():
            raise ClientClosedError(
                "CLIENT_FORKED",
                "the client was opened in another process; its thread does not exist after a fork",
                "Open a client of its own in each process, after the fork",
            )


class _States:
    """Calls back with states in a thread of its own: the loop's must not wait for a callback that uses the client."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[ConnectionState], object]] = []
        self._queue: queue.SimpleQueue[ConnectionState | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, state: ConnectionState) -> None:
        """``state`` is a new one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="tokenwire states", daemon=True)
            self._thread.start()
        self._queue.put(state)

    def finish(self) -> None:
        """Let the callbacks that are due run, but not for ever."""
        self._queue.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_FINISH_S)

    def _serve(self) -> None:
        while (state := self._queue.get()) is not None:
            for callback in self.callbacks:
                _call_back(callback, state)


def _call_back(callback: Callable[[Any], object], argument: object) -> None:
    try:
        callback(argument)
    except Exception:
        _log.exception("the callback %r failed on %r; the client goes on", callback, argument)


def _wait(future: "concurrent.futures.Future[_T]", seconds: float | None = None) -> _T:
    try:
        return future.result(seconds)
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
