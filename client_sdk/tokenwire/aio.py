"""The client for asyncio programs.

async with TokenClient("ws://127.0.0.1:8080") as client:
    await client.subscribe(["DOGE"])
    async for event in client:
        ...
"""

import asyncio
import importlib.util
import logging
import random
import ssl as ssl_module
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from types import EllipsisType, TracebackType, UnionType
from typing import Any, Final, Literal, Self, TypeVar, overload

import msgspec

from tokenwire.callbacks import Signal, StateCallbacks, call_back
from tokenwire.config import ClientConfig
from tokenwire.endings import all_ended
from tokenwire.errors import ClientClosedError, ConfigError, ConnectionFailedError, SubscriptionError, TokenwireError
from tokenwire.events import Event, Quote
from tokenwire.feeds import Feed, Feeds
from tokenwire.indicator_stream import IndicatorStream
from tokenwire.metrics import ClientMetrics
from tokenwire.rest import Rest
from tokenwire.session import ClientSession
from tokenwire.sharding import ClientCheckpoint, merged_metrics
from tokenwire.shards import LIMIT_CODE, Batch, Shards
from tokenwire.states import ConnectionState
from tokenwire.streams import BarStream, BookStream, Stream, TradeStream
from tokenwire.transport import Opener, opener
from tokenwire.url import endpoint_url, is_exposed

__all__ = ["Subscribed", "TokenClient", "default_capabilities", "user_agent"]

_log = logging.getLogger("tokenwire")
_E = TypeVar("_E", bound=Event)
_S = TypeVar("_S", bound=Stream[Any])
_MAX_HISTORY: Final = 1_000


class Subscribed(msgspec.Struct, frozen=True):
    """The answer to a subscribe: ``accepted`` maps names to addresses, ``rejected`` names to error codes."""

    accepted: dict[str, str]
    rejected: dict[str, str]


def default_capabilities() -> tuple[str, ...]:
    """What a client asks for unless told otherwise; with ``zstd`` where the package ``zstandard`` is installed."""
    plain = ClientConfig(url="ws://localhost").capabilities
    return (*plain, "zstd") if importlib.util.find_spec("zstandard") else plain


def user_agent() -> str:
    """How the client calls itself in the handshake."""
    from importlib.metadata import version  # noqa: PLC0415 - reading metadata is slow, so not on import

    return f"tokenwire/{version('tokenwire')}"


class TokenClient:
    """A connection to a token data server that keeps itself alive.

    It reconnects with back-off, resumes where it left off if the server can, subscribes anew if not, and tells of all
    of it in the same stream of events as the data. More tokens than a connection may hold are spread over several.

    Args:
        url: ``ws://…`` or ``wss://…``; the specification's path is added if there is none.
        token: sent as ``Authorization: Bearer …``; never logged.
        headers: further headers of the handshake.
        ssl: how to verify a ``wss`` server; the system's certificates by default.
        capabilities: extensions to ask for; :func:`default_capabilities` unless given, ``()`` for strict v1.0.
        delivery: ``latest`` conflates to the newest value; ``every`` sends each version (if the server grants it).
        max_retries: tries after a lost connection until FAILED, 10 by default; None for ever.
        max_connections: how many connections the tokens may be spread over.
        queue_events: how many events wait for the application, of each connection; see ``overflow``.
        overflow: ``latest`` keeps of each token only the newest waiting value; ``fail`` goes to FAILED instead.
        ack: ``consumed`` or ``checkpoint``, see :class:`ClientConfig`.
        checkpoint: what :meth:`checkpoint` returned in an earlier life (or its JSON), to go on from there.
        proxy: the URL of a proxy (``http://…``; ``socks5://…`` needs the package ``python-socks``), or True for the
            system's setting; by default the server is dialled directly, whatever the environment says.
        config: all other settings; the arguments above have precedence over it, and its ``url`` is not used.
        connect: opens the sockets, for tests.

    Raises:
        ConfigError: a setting cannot work (:class:`InvalidUrlError`: the URL).
        CheckpointError: ``checkpoint`` is none.
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
        self.url = endpoint_url(url)
        if max_connections < 1:
            raise ValueError("max_connections must be at least 1")
        all_headers = dict(config.headers if config is not None else ()) | dict(headers or {})
        if token is not None:
            all_headers["Authorization"] = f"Bearer {token}"
            if is_exposed(self.url):
                _log.warning("the token travels unencrypted; use wss:// instead of ws://")
        chosen: dict[str, Any] = {"delivery": delivery, "queue_events": queue_events, "overflow": overflow, "ack": ack}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if max_retries is not ...:
            chosen["max_retries"] = max_retries
        if capabilities is not None or config is None:
            if isinstance(capabilities, str):  # its letters would be taken for capabilities
                raise ConfigError(
                    "INVALID_CONFIG", f"capabilities is the text {capabilities!r}", "Give a tuple of names."
                )
            chosen["capabilities"] = default_capabilities() if capabilities is None else tuple(capabilities)
        given = msgspec.structs.asdict(config) if config is not None else {}
        self._config = ClientConfig(**given | chosen | {"url": self.url, "headers": tuple(all_headers.items())})
        self._restored = ClientCheckpoint.parse(checkpoint) if checkpoint is not None else ClientCheckpoint()
        self._max_connections = max_connections
        self._connect = connect or opener(ssl, user_agent(), proxy)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shards: Shards | None = None
        self._closed = False
        self._rest = Rest(self.url, dict(self._config.headers), ssl, proxy)
        self._feeds = Feeds(self._config, self._connect, max_connections)
        self._streams: set[Stream[Any]] = set()
        self._signal = Signal()
        self._reading = False
        self._callbacks: list[tuple[type | UnionType, Callable[[Any], object]]] = []
        self._state_callbacks = StateCallbacks()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Begin to connect, in the running event loop; returns at once. ``async with`` does it too."""
        if self._closed:
            raise _closed_error()
        self._check_loop()
        if self._shards is None:
            self._loop = asyncio.get_running_loop()
            self._shards = Shards(
                lambda checkpoint: ClientSession(self._config, random.random, checkpoint),
                self._connect,
                self._on_change,
                self._max_connections,
                self._restored.shards,
            )
            self._shards.start()

    async def close(self, *, keep_session: bool | None = None) -> None:
        """End the connections in good order. Iterating ends too; everything else raises from now on.

        ``keep_session`` leaves the sessions with the server, to be resumed from a checkpoint within its window; by
        default that is so with ``ack="checkpoint"``.
        """
        if self._closed and self._shards is None:
            return
        self._check_loop()
        self._closed = True
        self._signal.set()
        try:
            endings: list[Coroutine[Any, Any, None]] = [stream.aclose() for stream in list(self._streams)]
            endings.append(self._feeds.close())
            if self._shards is not None:
                keep = self._config.ack == "checkpoint" if keep_session is None else keep_session
                endings.append(self._shards.close(keep_session=keep))
            tasks = [asyncio.create_task(ending, name="tokenwire close") for ending in endings]
            await all_ended(tasks)
            for task in tasks:
                task.result()
        finally:
            self._signal.set()
            await self._state_callbacks.finish()

    async def wait_connected(self) -> None:
        """Return once the client is CONNECTED.

        Raises:
            ConnectionFailedError: it is FAILED.
            ClientClosedError: it is closed, or is being closed.
        """
        while True:
            shards = self._open_shards()
            if shards.state is ConnectionState.CONNECTED:
                return
            await self._signal.wait()

    async def subscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> Subscribed:
        """Subscribe to tokens, by symbol or address; the subscription outlives reconnects.

        With ``wait`` (default) it returns once the server has answered for every name; without, at once, and what
        is rejected comes as an :class:`Error` event. A name that nobody knows yet (TOKEN_NOT_FOUND) stays wanted: it
        is asked for again with the next session, until it is unsubscribed.

        Raises:
            SubscriptionError: none of the names was accepted; ``rejected`` says why.
            RequestError: the server did not answer.
            ConnectionFailedError: the client is FAILED.
            ClientClosedError: it is not open.
        """
        wanted = _names(names)
        if wait:
            while not self._open_shards().was_connected:
                await self._signal.wait()  # for the first connection, to know how many tokens go to each
        batch = self._open_shards().subscribe(wanted)
        if wait:
            await self._answered(batch)
        return _outcome(wanted, batch, final=wait)

    async def unsubscribe(self, names: Iterable[str] | str, *, wait: bool = True) -> None:
        """End subscriptions; unknown names are no error. With ``wait`` it returns once the server has confirmed.

        Raises:
            ConnectionFailedError: the client is FAILED.
            ClientClosedError: it is not open.
        """
        batch = self._open_shards().unsubscribe(_names(names))
        if wait:
            await self._answered(batch)

    # --- channels ------------------------------------------------------------------------------------------------

    def trades(self, names: Iterable[str] | str, *, after: int | None = None) -> TradeStream:
        """The trades of tokens, each once and in order; what is missed on the way is fetched over HTTP.

        ``after``: the number of the last trade that is known (of a single token); what came since comes first. If
        the server has begun to number anew, and is not that far yet, ``missed`` of the first trade is None. All streams
        of trades share connections of their own, besides that of the values.

        Raises:
            ClientClosedError: the client is not open.
        """
        wanted = tuple(_names(names))
        if after is not None and (len(wanted) != 1 or after < 0):
            raise ValueError("after is the number of a trade of one token")
        return self._streamed(TradeStream(self._feed("trades"), self._rest, wanted, after))

    def klines(self, names: Iterable[str] | str, interval: str = "1m", *, history: int = 0) -> BarStream:
        """The bars of tokens: each that closes, the open one as it changes (at most every 250 ms), and revisions.

        ``history``: so many bars (at most 1000) are fetched first. Bars that closed while there was no connection are
        fetched over HTTP, which is tried until it works; if the server refuses them, or has begun anew meanwhile,
        ``missed`` of the next bar says so.

        Raises:
            ClientClosedError: the client is not open.
        """
        if not 0 <= history <= _MAX_HISTORY:
            raise ValueError(f"history is 0 to {_MAX_HISTORY} bars")
        wanted = tuple(_names(names))
        return self._streamed(BarStream(self._feed(f"klines:{interval}"), self._rest, wanted, interval, history))

    def book(self, names: Iterable[str] | str, depth: int = 10) -> BookStream:
        """The order books of tokens, the best ``depth`` levels of each side (1 to 100), at most every 250 ms.

        Raises:
            ClientClosedError: the client is not open.
        """
        wanted = tuple(_names(names))
        return self._streamed(BookStream(self._feed(f"book:{depth}"), self._rest, wanted))

    def indicators(self, names: Iterable[str] | str, interval: str, *indicators: str) -> IndicatorStream:
        """Indicators such as ``ema:20`` or ``macd:12:26:9`` at every bar of tokens; at an open one at most once a
        second. Iterating raises :class:`RestError` when the server has not what was asked for.

        Raises:
            ClientClosedError: the client is not open.
        """
        if not indicators:
            raise ValueError("name at least one indicator, such as ema:20")
        return IndicatorStream(self.klines(names, interval), interval, indicators)

    @property
    def rest(self) -> Rest:
        """The server's REST interface: ``await client.rest.get("tokens", sort="volume")``."""
        return self._rest

    def _feed(self, channel: str) -> Feed:
        if self._closed or self._shards is None:
            raise _closed_error()
        self._check_loop()
        return self._feeds.of(channel)

    def _streamed(self, stream: _S) -> _S:
        self._streams.add(stream)
        stream.on_closed = self._streams.discard
        return stream

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        # What waits already is taken at once; a second coroutine for each event would be a fifth of its cost.
        if not (self._reading or self._closed) and self._shards is not None:
            self._check_loop()
            taken = self._shards.take_event()
            if taken is not None:
                return taken
        event = await self.next_event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next_event(self) -> Event | None:
        """The next event, waiting for it; None after :meth:`close`. Being cancelled loses none.

        Raises:
            ConnectionFailedError: the client is FAILED and all events before that were taken.
            ClientClosedError: it was never opened.
            TokenwireError: ALREADY_ITERATING, another task waits for an event; WRONG_EVENT_LOOP, the client was
                opened in another event loop (any other method that waits raises that too).
        """
        self._check_loop()
        if self._reading:
            raise TokenwireError(
                "ALREADY_ITERATING",
                "another task waits for this client's next event",
                "Use one `async for` (or run()) for a client, and hand events on from there",
            )
        self._reading = True
        try:
            while not self._closed:
                if self._shards is None:
                    raise _closed_error()
                event = self._shards.take_event()
                if event is not None:
                    return event
                if self._shards.failure is not None:
                    raise self._shards.failure
                await self._signal.wait()
            return None
        finally:
            self._reading = False

    @overload
    def on(self, kind: type[_E], callback: Callable[[_E], Awaitable[object] | object]) -> None: ...
    @overload
    def on(self, kind: UnionType, callback: Callable[[Any], Awaitable[object] | object]) -> None: ...
    def on(self, kind: type | UnionType, callback: Callable[[Any], Awaitable[object] | object]) -> None:
        """Call ``callback`` (a function or a coroutine function) with every event of ``kind`` while :meth:`run` runs.

        ``kind`` is one kind of event or several (``Snapshot | Update``).

        Callbacks run one after the other in the order of events and of registration. An exception in one is logged
        with its event (logger ``tokenwire``); the others, and the client, go on.
        """
        self._callbacks.append((kind, callback))

    def on_state(self, callback: Callable[[ConnectionState], Awaitable[object] | object]) -> None:
        """Call ``callback`` with every new state, in order, whether or not anybody iterates."""
        self._state_callbacks.add(callback)

    async def run(self) -> None:
        """Take events and call back until :meth:`close`; the alternative to iterating.

        Raises:
            ConnectionFailedError: the client is FAILED; all callbacks were called before.
        """
        async for event in self:
            for kind, callback in self._callbacks:
                if isinstance(event, kind):
                    await call_back(callback, event)

    @property
    def latest(self) -> Mapping[str, Quote]:
        """The newest value of each token, by the name it was subscribed with; a live view."""
        return self._shards.latest if self._shards is not None else {}

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands; of several connections the worst."""
        return self._shards.state if self._shards is not None else ConnectionState.CONNECTING

    @property
    def metrics(self) -> ClientMetrics:
        """Counters since the start, over all connections."""
        return (
            merged_metrics(driver.session.metrics for driver in self._shards.drivers)
            if self._shards
            else ClientMetrics()
        )

    @property
    def failure(self) -> ConnectionFailedError | None:
        """Why the client is FAILED; None while it is not."""
        return self._shards.failure if self._shards is not None else None

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        return len(self._shards.drivers) if self._shards is not None else 0

    def checkpoint(self) -> ClientCheckpoint:
        """Where the application stands: all events taken so far count as dealt with.

        Save its ``to_json()`` where other processes cannot read it: it holds the sessions' secrets.
        """
        return ClientCheckpoint(self._shards.checkpoints()) if self._shards is not None else self._restored

    def drop_connections(self) -> None:
        """Cut all sockets as a broken network would, to see how an application bears it."""
        if self._shards is not None:
            self._shards.abort()
        self._feeds.abort()

    async def _answered(self, batch: Batch) -> None:
        while not batch.done:
            self._open_shards()
            await self._signal.wait()

    def _open_shards(self) -> Shards:
        """The connections of an open, healthy client."""
        self._check_loop()
        if self._shards is None or self._closed:
            raise _closed_error()
        if self._shards.failure is not None:
            raise self._shards.failure
        return self._shards

    def _check_loop(self) -> None:
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise TokenwireError(
                "WRONG_EVENT_LOOP",
                "the client was opened in another event loop",
                "Open and use a client within one asyncio.run(); tokenwire.sync is for programs with threads",
            )

    def _on_change(self) -> None:
        self._state_callbacks.observe(self.state)
        self._signal.set()


def _names(names: Iterable[str] | str) -> list[str]:
    """As a list without repetitions; one name may be given as it is."""
    wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not wanted:
        raise ValueError("name at least one token")
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"a name is a string, not {type(name).__name__}")
    return wanted


def _outcome(wanted: list[str], batch: Batch, *, final: bool) -> Subscribed:
    if batch.errors:
        raise batch.errors[0]
    if batch.rejected and not batch.accepted and (final or len(batch.rejected) == len(wanted)):
        codes = sorted(set(batch.rejected.values()))
        remedy = "Check the names; `rejected` has the code for each"
        if LIMIT_CODE in codes:
            remedy = "Unsubscribe others, or allow more connections (max_connections)"
        shown = ", ".join(list(batch.rejected)[:10])
        raise SubscriptionError(
            codes[0], f"none of the names was accepted ({', '.join(codes)}): {shown}", remedy, dict(batch.rejected)
        )
    return Subscribed(dict(batch.accepted), dict(batch.rejected))


def _closed_error() -> ClientClosedError:
    return ClientClosedError(
        "CLIENT_CLOSED", "the client is not open", "Use it within `async with`, and make a new one after close()"
    )
