"""The collector of Binance-format streams: one connection, kept alive, that subscribes and delivers trades.

Of the venue's rules it honours: at most 1024 streams a connection, at most 5 messages a second to the venue,
a connection's life of 24 hours (renewed before), ``serverShutdown`` (reconnect at once). Trade ids rise by one
per symbol: a hole, also one over a reconnect, is counted in ``gaps`` and ``missed`` and told through
``sink.gap``; the trades in it are not fetched again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final, NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tokenwire_schemas.limits import BACKOFF_BASE_MS, BACKOFF_CAP_MS, MAX_MESSAGE_BYTES
from tokenwire_server.market.trades import Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.source_spec import check_url
from tokenwire_server.sources.binance_format import (
    TRADE_KINDS,
    FormatError,
    Ignored,
    Reply,
    Shutdown,
    TradeFrame,
    TradeIds,
    parse_frame,
    token_info,
)
from tokenwire_server.validation.trades import MAX_FUTURE_MS

__all__ = ["DEFAULT_URL", "MAX_STREAMS", "Binance"]

DEFAULT_URL: Final = "wss://stream.binance.com:9443"
MAX_STREAMS: Final = 1_024  # of one connection
CADENCE_MS: Final = 20_000  # the venue pings every 20 s; our own pings come more often
STREAMS_PER_REQUEST: Final = 200
REQUEST_INTERVAL_S: Final = 0.25  # 4 messages a second, pings have room below the venue's 5
REPLY_TIMEOUT_S: Final = 10.0
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
PING_INTERVAL_S: Final = 15.0
SILENCE_S: Final = 60.0  # without a byte the connection is dead
CLOCK_INTERVAL_MS: Final = 1_000  # how often the sink is told the time
MAX_AGE_S: Final = 23.5 * 3_600  # the venue cuts at 24 h
STABLE_S: Final = 30.0  # a connection that lived this long resets the back-off
MAX_RETRY_AFTER_S: Final = 600.0


class _LostError(Exception):
    """The connection must be made anew; ``at_once`` without waiting."""

    def __init__(self, detail: str, *, at_once: bool = False) -> None:
        super().__init__(detail)
        self.at_once = at_once


class _Connection(ClientConnection):
    """Knows when the last byte came: pings and pongs are signs of life too."""

    last_byte_s: float

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.last_byte_s = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.last_byte_s = self.loop.time()
        super().data_received(data)


class Binance:
    """Trades of ``symbols`` (like BTCUSDT) at ``binance:SYMBOL``. ``stream`` is aggTrade or trade.

    Counters: ``frames``, ``ignored`` (events that are no trades), ``gaps``, ``missed`` (trades in the gaps),
    ``reconnects``. Raises ValueError for unusable symbols, stream or URL.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        url: str = DEFAULT_URL,
        *,
        stream: str = "aggTrade",
        name: str = "binance",
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._symbols = tuple(dict.fromkeys(symbol.upper() for symbol in symbols))
        if not 1 <= len(self._symbols) <= MAX_STREAMS:
            raise ValueError(f"binance takes 1 to {MAX_STREAMS} symbols, not {len(self._symbols)}")
        for symbol in self._symbols:
            if not (symbol.isascii() and symbol.replace("_", "").isalnum()):
                raise ValueError(f"{symbol!r} is not a Binance symbol; they look like BTCUSDT")
        if stream not in TRADE_KINDS:
            raise ValueError(f"stream must be one of {', '.join(TRADE_KINDS)}, not {stream!r}")
        check_url(url)
        self._url = url.rstrip("/")
        self._stream = stream
        self._name = name
        self._clock = clock
        self._rng = rng or Random()
        self._sleep = sleep
        self._wanted = frozenset(self._symbols)
        self._ids = TradeIds()
        self._clock_lead_ms: int | None = None  # of the venue's event time over ours, by its newest trade
        self._clock_told_ms = 0
        self._next_request = 1
        self._pending: dict[int, float] = {}  # request id -> loop time by which its reply is due
        self.frames = 0
        self.ignored = 0
        self.gaps = 0
        self.missed = 0
        self.reconnects = 0

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """A living connection has a sign of life this often, and the clock is told then."""
        return CADENCE_MS

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled; reconnects by itself, for ever."""
        sink.tokens(self._name, [token_info(symbol) for symbol in self._symbols])
        sink.state(self._name, SourceState.STARTING)
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            begun_s = loop.time()
            at_once, least_s = False, 0.0
            try:
                await self._converse(sink)
            except _LostError as lost:
                detail, at_once = str(lost), lost.at_once
            except InvalidStatus as refused:
                detail, least_s = f"HTTP {refused.response.status_code}", _retry_after_s(refused)
            except (OSError, TimeoutError, WebSocketException) as error:
                detail = f"{type(error).__name__}: {error}"
            if loop.time() - begun_s >= STABLE_S:
                attempt = 0
            self.reconnects += 1
            sink.state(self._name, SourceState.RECONNECTING, f"{self._url}: {ascii(detail[:200])[1:-1]}")
            # A venue that says goodbye again and again is not asked at once again and again.
            if not (at_once and attempt == 0):
                await self._sleep(max(self._backoff_s(attempt), least_s))
            attempt += 1

    def _backoff_s(self, attempt: int) -> float:
        ceiling_ms = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(attempt, 16))
        return self._rng.uniform(0, ceiling_ms / 1_000)

    async def _converse(self, sink: Sink) -> None:
        """One connection, from opening to loss. Always raises."""
        self._pending.clear()
        async with connect(
            f"{self._url}/stream",
            create_connection=_Connection,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=None,  # any byte counts as life, not the pong alone: see _tend
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            assert isinstance(socket, _Connection)
            tending = asyncio.create_task(self._tend(socket, sink))
            reason: BaseException | None = None
            try:
                async for frame in socket:
                    self._receive(frame, sink)
            except WebSocketException as error:
                reason = error
            finally:
                tending.cancel()
                await asyncio.wait((tending,))  # unlike awaiting it, this lets a cancellation of ours through
            verdict = None if tending.cancelled() else tending.exception()
            if verdict is not None and not isinstance(verdict, WebSocketException):
                raise verdict  # why the connection was cut is the better reason
            raise _LostError(f"closed: {reason or 'by the venue'}")

    def _requests(self) -> dict[int, str]:
        """The texts that subscribe to everything, by request id."""
        streams = [f"{symbol.lower()}@{self._stream}" for symbol in self._symbols]
        requests: dict[int, str] = {}
        for first in range(0, len(streams), STREAMS_PER_REQUEST):
            params = streams[first : first + STREAMS_PER_REQUEST]
            request = {"method": "SUBSCRIBE", "params": params, "id": self._next_request}
            requests[self._next_request] = json.dumps(request, separators=(",", ":"))
            self._next_request += 1
        return requests

    async def _tend(self, socket: _Connection, sink: Sink) -> None:
        """Subscribe, then watch; whatever ends this cuts the connection, so that the reader ends too."""
        try:
            await self._subscribe_and_watch(socket, sink)
        except Exception:
            socket.transport.abort()
            raise

    async def _subscribe_and_watch(self, socket: _Connection, sink: Sink) -> NoReturn:
        loop = asyncio.get_running_loop()
        opened_s = loop.time()
        requests = self._requests()
        # All are pending from the start: the source is live when the last of them is granted.
        self._pending = dict.fromkeys(requests, opened_s + len(requests) * REQUEST_INTERVAL_S + REPLY_TIMEOUT_S)
        for request in requests.values():
            await socket.send(request)
            await asyncio.sleep(REQUEST_INTERVAL_S)
        while True:
            now_s = loop.time()
            silent_s = now_s - socket.last_byte_s
            if silent_s >= SILENCE_S:
                lost = _LostError(f"no byte for {SILENCE_S:.0f} s")
            elif any(due_s <= now_s for due_s in self._pending.values()):
                lost = _LostError("no reply to SUBSCRIBE")
            elif now_s - opened_s >= MAX_AGE_S:
                lost = _LostError("renewed before the venue's 24 hours", at_once=True)
            else:
                if silent_s * 1_000 <= CADENCE_MS:
                    self._tell_clock(sink)
                await asyncio.sleep(CLOCK_INTERVAL_MS / 1_000)
                continue
            raise lost

    def _tell_clock(self, sink: Sink) -> None:
        """Windows follow the venue's event time, which goes on between trades; a venue that replays the past
        brings the past's. It is unknown before the first trade."""
        if self._clock_lead_ms is None:
            return
        now_ms = self._clock() + self._clock_lead_ms
        if abs(now_ms - self._clock_told_ms) >= CLOCK_INTERVAL_MS:
            self._clock_told_ms = now_ms
            sink.clock(self._name, now_ms)

    def _receive(self, text: str | bytes, sink: Sink) -> None:
        self.frames += 1
        try:
            frame = parse_frame(text)
        except FormatError as error:
            sink.rejected(self._name, error.reason, error.detail)
            return
        match frame:
            case TradeFrame():
                self._trade(frame, sink)
            case Ignored():
                self.ignored += 1
            case Reply():
                self._reply(frame, sink)
            case Shutdown():
                raise _LostError("the venue shuts down", at_once=True)

    def _trade(self, frame: TradeFrame, sink: Sink) -> None:
        if frame.kind != self._stream or frame.symbol not in self._wanted:
            sink.rejected(self._name, "not_subscribed", f"{frame.symbol}@{frame.kind}")
            return
        missed = self._ids.observe(frame.symbol, frame.number)
        if missed:
            self.gaps += 1
            self.missed += missed
            sink.gap(self._name, frame.trade.address, missed)
        lead_ms = frame.trade.time_ms - self._clock()
        if lead_ms <= MAX_FUTURE_MS and (self._clock_lead_ms is None or lead_ms > self._clock_lead_ms):
            self._clock_lead_ms = lead_ms
        # Told before the trade: it is judged against this clock, which may have stood still for hours.
        self._tell_clock(sink)
        trades: list[Trade] = [frame.trade]
        sink.trades(self._name, trades)

    def _reply(self, reply: Reply, sink: Sink) -> None:
        if reply.error is not None:
            sink.rejected(self._name, "subscribe_refused", reply.error)
            raise _LostError(f"SUBSCRIBE refused: {reply.error}")
        if reply.request_id not in self._pending:
            return
        del self._pending[reply.request_id]
        if not self._pending:
            sink.state(self._name, SourceState.LIVE)


def _retry_after_s(refused: InvalidStatus) -> float:
    """What the venue asks for with 429 or 418, bounded; dates are not used by this venue."""
    text = refused.response.headers.get("Retry-After", "")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0
