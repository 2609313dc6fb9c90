"""The collector of Binance's order books: a connection of its own, for the books that somebody wants, and no others.

Books are far more frames than trades are; on a connection of their own neither can hold up the other. There is none
while no book is wanted. Of the venue's rules it honours the same as the trades' collector does, and for snapshots the
weight of requests (50 each, of 6,000 a minute for all of an address) and ``Retry-After``.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tokenwire_schemas.limits import BACKOFF_BASE_MS, BACKOFF_CAP_MS, MAX_MESSAGE_BYTES
from tokenwire_server.market.book import BookCondition, OrderBook
from tokenwire_server.ports import BookSink, Sink
from tokenwire_server.sources.binance_depth import DepthEvent, depth_stream, parse_depth, parse_snapshot, snapshot_path
from tokenwire_server.sources.binance_depth_splice import DepthSplice, Effects, Lost, SpliceState, SpliceTimes
from tokenwire_server.sources.binance_format import parse_frame
from tokenwire_server.sources.exchange_socket import ExchangeSocket, LostError
from tokenwire_server.sources.frames import FormatError, Reply, Shutdown
from tokenwire_server.sources.http_get import HttpError, HttpGet, http_client
from tokenwire_server.sources.retry_after import retry_after_s
from tokenwire_server.telemetry.logs import get_log

__all__ = ["BinanceDepth"]

_log = get_log(__name__)

TICK_S: Final = 0.05  # how often it is looked at which books are wanted, and which time is over
IDLE_TICK_S: Final = 0.1
CLOCK_STEP_S: Final = 0.001  # timers may fire a little early
REQUEST_INTERVAL_S: Final = 0.25  # 4 messages a second, pings have room below the venue's 5
STREAMS_PER_REQUEST: Final = 100
REPLY_TIMEOUT_S: Final = 10.0
SNAPSHOT_INTERVAL_S: Final = 1.0  # half of the weight that the venue allows
MAX_FETCHES: Final = 4  # at once
TOO_MANY: Final = frozenset({418, 429})
TOO_MANY_PAUSE_S: Final = 60.0  # where the venue does not say how long
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
PING_INTERVAL_S: Final = 15.0
SILENCE_S: Final = 60.0  # without a byte the connection is dead
MAX_AGE_S: Final = 23.5 * 3_600  # the venue cuts at 24 h
STABLE_S: Final = 30.0  # a connection that lived this long resets the back-off


class BinanceDepth:
    """Order books of ``symbols`` at ``binance:SYMBOL``, delivered to ``books``. ``name`` is the trades' source, under
    which what cannot be used is counted. ``clock`` is Unix time in ms."""

    def __init__(
        self,
        symbols: Sequence[str],
        url: str,
        rest_url: str,
        books: BookSink,
        *,
        name: str = "binance",
        times: SpliceTimes | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        http: Callable[[], AbstractAsyncContextManager[HttpGet]] = http_client,
    ) -> None:
        self.connections = 0
        self._symbols: Mapping[str, str] = {f"binance:{symbol}": symbol for symbol in symbols}
        self._url = f"{url.rstrip('/')}/stream"
        self._rest_url = rest_url.rstrip("/")
        self._books = books
        self._source = name
        self._books_name = f"{name}:depth"  # it lives and dies by itself
        self._times = times
        self._clock = clock
        self._rng = rng or Random()
        self._sleep = sleep
        self._http = http
        self._splices: dict[str, DepthSplice] = {}  # by symbol, those that are subscribed to
        self._pending: dict[str, tuple[float, list[DepthSplice]]] = {}  # request id -> when its reply is due, for whom
        self._next_id = 1
        self._request_at_s = 0.0
        self._fetch_at_s = 0.0
        self._fetches: set[asyncio.Task[None]] = set()
        books.offer(self._books_name, list(self._symbols))

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled; reconnects by itself, for ever. A defect ends the books, and nothing else."""
        try:
            await self._connect_for_ever(sink)
        except Exception as error:
            _log.error("order books failed", exc_info=error, source=self._source)

    async def _connect_for_ever(self, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        attempt = 0
        async with self._http() as get:
            while True:
                while not self._wanted():
                    await asyncio.sleep(IDLE_TICK_S)
                begun_s = loop.time()
                least_s = 0.0
                try:
                    await self._converse(get, sink)
                    continue  # nobody wants a book any more
                except LostError as lost:
                    detail = str(lost)
                except InvalidStatus as refused:
                    detail = f"HTTP {refused.response.status_code}"
                    least_s = retry_after_s(refused.response.headers.get("Retry-After"), self._clock())
                except (OSError, TimeoutError, WebSocketException) as error:
                    detail = f"{type(error).__name__}: {error}"
                if loop.time() - begun_s >= STABLE_S:
                    attempt = 0
                wait_s = self._rng.uniform(0, min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(attempt, 16)) / 1_000)
                attempt += 1
                _log.warning("order books unavailable", source=self._source, detail=ascii(detail[:200])[1:-1])
                await self._sleep(max(wait_s, least_s))

    def _wanted(self) -> Mapping[str, OrderBook]:
        return self._books.wanted(self._books_name)

    # --- The connection --------------------------------------------------------------------------------------

    async def _converse(self, get: HttpGet, sink: Sink) -> None:
        """One connection, from opening until no book is wanted. Raises when it is lost."""
        self.connections += 1
        try:
            async with connect(
                self._url,
                create_connection=ExchangeSocket,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=None,  # any byte counts as life, not the pong alone
                max_size=MAX_MESSAGE_BYTES,
            ) as socket:
                assert isinstance(socket, ExchangeSocket)
                try:
                    await self._receive_while_wanted(socket, get, sink)
                finally:  # before the connection takes its time to close
                    self._pending.clear()
                    for symbol in list(self._splices):
                        self._forget(symbol)
        finally:
            fetches = list(self._fetches)
            for task in fetches:
                task.cancel()
            await asyncio.gather(*fetches, return_exceptions=True)

    async def _receive_while_wanted(self, socket: ExchangeSocket, get: HttpGet, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        tick_s = begun_s
        while True:
            now_s = loop.time()
            if now_s >= tick_s - CLOCK_STEP_S:
                tick_s = now_s + TICK_S
                if now_s - socket.last_byte_s >= SILENCE_S:
                    raise LostError(f"no byte for {SILENCE_S:.0f} s")
                if any(due_s <= now_s for due_s, _ in self._pending.values()):
                    raise LostError("no reply to SUBSCRIBE")
                if now_s - begun_s >= MAX_AGE_S:
                    raise LostError("renewed before the venue cuts it")
                await self._subscribe(socket, now_s)
                if not (self._splices or self._pending or self._wanted()):
                    return
                self._tick(get, sink, now_s)
            try:
                async with asyncio.timeout_at(tick_s):
                    frame = await socket.recv()
            except TimeoutError:
                continue
            self._frame(frame, sink)

    async def _subscribe(self, socket: ExchangeSocket, now_s: float) -> None:
        """Ask for the books that are wanted, and for those no more that are not."""
        if now_s < self._request_at_s:
            return
        wanted = [symbol for address in self._wanted() if (symbol := self._symbols.get(address)) is not None]
        gone = list(self._splices.keys() - set(wanted))[:STREAMS_PER_REQUEST]
        new = [symbol for symbol in wanted if symbol not in self._splices][:STREAMS_PER_REQUEST]
        method, symbols = ("SUBSCRIBE", new) if new else ("UNSUBSCRIBE", gone)
        if not symbols:
            return
        number = self._next_id
        self._next_id += 1
        self._request_at_s = now_s + REQUEST_INTERVAL_S
        for symbol in gone if method == "UNSUBSCRIBE" else ():
            self._forget(symbol)
        begun = {symbol: DepthSplice(self._times) for symbol in new}
        self._splices |= begun
        self._pending[str(number)] = (now_s + REPLY_TIMEOUT_S, list(begun.values()))
        request = {"method": method, "params": [depth_stream(symbol) for symbol in symbols], "id": number}
        await socket.send(json.dumps(request, separators=(",", ":")))

    def _forget(self, symbol: str) -> None:
        self._apply(symbol, self._splices.pop(symbol).stopped())

    # --- Frames ----------------------------------------------------------------------------------------------

    def _frame(self, text: str | bytes, sink: Sink) -> None:
        try:
            event = parse_depth(text)
            frame = parse_frame(text) if event is None else None
        except FormatError as error:
            sink.rejected(self._source, error.reason, error.detail)
            return
        if event is not None:
            self._event(event, sink)
        elif isinstance(frame, Reply):
            self._reply(frame, sink)
        elif isinstance(frame, Shutdown):
            raise LostError("the venue shuts down")

    def _event(self, event: DepthEvent, sink: Sink) -> None:
        splice = self._splices.get(event.symbol)
        if splice is None:
            if event.symbol not in self._symbols.values():
                sink.rejected(self._source, "not_subscribed", ascii(event.symbol)[1:-1])
            return  # else it is the last of a subscription that was given up
        breaks = splice.breaks
        effects = splice.event(event, self._now_ms())
        if splice.breaks != breaks:
            sink.rejected(self._source, "book_hole", event.symbol)
        self._apply(event.symbol, effects, sink)

    def _reply(self, reply: Reply, sink: Sink) -> None:
        if reply.error is not None:
            sink.rejected(self._source, "subscribe_refused", reply.error)
            raise LostError(f"SUBSCRIBE refused: {reply.error}")
        for key in reply.keys:
            _, begun = self._pending.pop(key, (0.0, []))
            for splice in begun:
                splice.subscribed(self._now_ms())

    def _apply(self, symbol: str, effects: Effects, sink: Sink | None = None) -> None:
        address = f"binance:{symbol}"
        for effect in effects:
            if isinstance(effect, Lost):
                self._books.lose(self._books_name, address)
                continue
            condition = self._books.apply(self._books_name, address, effect)
            if condition is BookCondition.SHALLOW:
                self._splices[symbol].refresh(self._now_ms())
            elif condition is BookCondition.CROSSED and sink is not None:
                sink.rejected(self._source, "book_crossed", symbol)

    # --- Time and snapshots ----------------------------------------------------------------------------------

    def _tick(self, get: HttpGet, sink: Sink, now_s: float) -> None:
        wanted = self._wanted()
        now_ms = self._now_ms()
        for symbol, splice in self._splices.items():
            self._apply(symbol, splice.tick(now_ms), sink)
            book = wanted.get(f"binance:{symbol}")
            if book is not None and book.is_stale and splice.state is SpliceState.LIVE:
                splice.disbelieved(now_ms)  # it crossed, or was dropped and is wanted again
            if now_s >= self._fetch_at_s and len(self._fetches) < MAX_FETCHES and splice.wants_snapshot(now_ms):
                self._fetch_at_s = now_s + SNAPSHOT_INTERVAL_S
                task = asyncio.create_task(self._fetch(symbol, splice, splice.asked(now_ms), get, sink))
                self._fetches.add(task)
                task.add_done_callback(self._fetches.discard)

    async def _fetch(self, symbol: str, splice: DepthSplice, request: int, get: HttpGet, sink: Sink) -> None:
        """Fetch one snapshot; whatever comes of it, the splice is told."""
        wait_s = 0.0
        try:
            answer = await get(self._rest_url + snapshot_path(symbol))
            if answer.status == 200:
                snapshot = parse_snapshot(answer.body, self._clock())
                if self._splices.get(symbol) is splice:
                    self._apply(symbol, splice.snapshot(request, snapshot, self._now_ms()), sink)
                return
            wait_s = retry_after_s(answer.retry_after, self._clock())
            detail = f"HTTP {answer.status}"
            if answer.status in TOO_MANY:
                wait_s = wait_s or TOO_MANY_PAUSE_S
                self._fetch_at_s = max(self._fetch_at_s, asyncio.get_running_loop().time() + wait_s)
        except FormatError as error:
            detail = f"{error.reason}: {error.detail}"
        except HttpError as error:
            detail = str(error)
        sink.rejected(self._source, "depth_snapshot", ascii(f"{symbol}: {detail}")[1:-1])
        splice.failed(request, self._now_ms(), round(wait_s * 1_000))

    @staticmethod
    def _now_ms() -> int:
        return int(asyncio.get_running_loop().time() * 1_000)
