"""The collector of any exchange's trades: one connection, kept alive, that subscribes, delivers and mends.

What the venue's numbers show to be missing, also over a reconnection, is fetched over REST where that is possible;
live trades of that symbol wait for it a short while, so that they are delivered in order. What is not to be had is
told through ``sink.gap``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from random import Random
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tokenwire_schemas.limits import MAX_MESSAGE_BYTES
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.source_spec import check_rest_url, check_url, clean_symbols
from tokenwire_server.sources.continuity import Continuity, Hole
from tokenwire_server.sources.event_clock import EventClock
from tokenwire_server.sources.exchange_socket import Conversation, ExchangeSocket, LostError
from tokenwire_server.sources.frames import FormatError, Ignored, Reply, Shutdown, TradesFrame, VenueTrade
from tokenwire_server.sources.holds import Holds
from tokenwire_server.sources.http_get import HttpGet, http_client
from tokenwire_server.sources.positions import Position, Positions, furthest, read_positions
from tokenwire_server.sources.profile import Profile
from tokenwire_server.sources.reconnection import Reconnection
from tokenwire_server.sources.recording_tap import FrameTap
from tokenwire_server.sources.refill import Refill
from tokenwire_server.sources.retry_after import retry_after_s
from tokenwire_server.sources.steady import steady_ms
from tokenwire_server.telemetry.logs import get_log

__all__ = ["MAX_HELD_TRADES", "MAX_HOLD_S", "Exchange"]

_log = get_log(__name__)

CADENCE_MS: Final = 20_000  # venues or we ping at least every 20 s
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
PING_INTERVAL_S: Final = 15.0
MAX_HOLD_S: Final = 3.0  # that live trades wait for those before them
HOLD_CHECK_S: Final = 0.25
MAX_HELD_TRADES: Final = 10_000
MAX_QUEUED_HOLES: Final = 2_000  # one of every symbol of a connection, and room


class Exchange:
    """Trades of ``symbols`` at ``kind:SYMBOL``. ``url`` replaces the venue's own; nothing is then fetched over REST
    unless ``rest_url`` says where. ``http`` makes the client for that.

    Counters: ``frames``, ``ignored`` (events that are no trades), ``gaps`` (holes seen), ``missed`` (trades in them
    that never came), ``backfilled`` (trades in them that were fetched), ``reconnects``. Raises ValueError for unusable
    symbols or URLs.
    """

    def __init__(
        self,
        profile: Profile,
        symbols: Sequence[str],
        url: str | None = None,
        rest_url: str | None = None,
        *,
        name: str | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        rng: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        http: Callable[[], AbstractAsyncContextManager[HttpGet]] = http_client,
    ) -> None:
        if not 1 <= len(symbols) <= profile.max_symbols:
            raise ValueError(f"{profile.kind} takes 1 to {profile.max_symbols} symbols, not {len(symbols)}")
        self._symbols = clean_symbols(profile.kind, symbols, profile.max_symbols)
        self._url = (url or profile.default_url).rstrip("/")
        check_url(self._url)
        if rest_url is None and url in (None, profile.default_url) and profile.backfill is not None:
            rest_url = profile.backfill.default_url
        if rest_url is not None:
            check_rest_url(rest_url)
        self._rest_url = rest_url if profile.backfill is not None else None
        self._profile = profile
        self._name = name or profile.kind
        self._clock = clock
        self._rng = rng or Random()
        self._sleep = sleep
        self._http = http
        self._wanted = frozenset(self._symbols)
        self._continuity = Continuity()
        self._positions = Positions()
        self._holds = Holds(MAX_HOLD_S, MAX_HELD_TRADES)
        self._holes: asyncio.Queue[Hole] = asyncio.Queue(MAX_QUEUED_HOLES)
        self._filling: Hole | None = None
        self._reconnection = Reconnection(self._rng)
        self._event_clock = EventClock()
        self._next_request = 1
        self._talk: Conversation | None = None
        self._tap: FrameTap | None = None
        self.frames = 0
        self.ignored = 0
        self.gaps = 0
        self.missed = 0
        self.backfilled = 0
        self.reconnects = 0

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """A living connection has a sign of life this often, and the clock is told then."""
        return CADENCE_MS

    @property
    def frame_format(self) -> str:
        """Whose normaliser reads the frames."""
        return self._profile.kind

    def use_tap(self, tap: FrameTap) -> None:
        """Tell this of every frame, before it is read, and of fetched trades."""
        self._tap = tap

    def resume(self, positions: Sequence[str]) -> None:
        """Go on behind what earlier processes delivered: what came since is a hole, found with the next trade."""
        read: list[Mapping[str, Position]] = []
        for text in positions:
            try:
                read.append(read_positions(text))
            except ValueError as error:
                _log.warning("position left aside", source=self._name, reason=str(error))
        self._positions.resume(furthest(read, self._wanted), self._continuity)

    def tally(self) -> Iterator[tuple[str, str, int]]:
        """What happened, for the metrics."""
        yield self._name, "frame", self.frames
        yield self._name, "reconnect", self.reconnects
        yield self._name, "trade_backfilled", self.backfilled

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled; reconnects by itself, for ever."""
        kind = self._profile.kind
        sink.tokens(self._name, [TokenInfo(f"{kind}:{symbol}", symbol, symbol) for symbol in self._symbols])
        sink.state(self._name, SourceState.STARTING)
        async with AsyncExitStack() as stack:
            refill: Refill | None = None
            if self._rest_url is not None and self._profile.backfill is not None:
                get = await stack.enter_async_context(self._http())
                refill = Refill(self._profile.backfill, self._rest_url, get, self._clock, self._rng, self._sleep)
            try:
                async with asyncio.TaskGroup() as group:
                    if refill is not None:
                        group.create_task(self._mend(refill, sink))
                        group.create_task(self._end_holds(sink))
                    await self._connect_for_ever(sink)
            finally:
                self._give_up(sink)

    # --- Connections -----------------------------------------------------------------------------------------

    async def _connect_for_ever(self, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await sink.room()
            begun_s = loop.time()
            at_once, least_s = False, 0.0
            try:
                await self._converse(sink)
            except LostError as lost:
                detail, at_once = str(lost), lost.at_once
            except InvalidStatus as refused:
                detail = f"HTTP {refused.response.status_code}"
                least_s = retry_after_s(refused.response.headers.get("Retry-After"), self._clock())
            except (OSError, TimeoutError, WebSocketException) as error:
                detail = f"{type(error).__name__}: {error}"
            self.reconnects += 1
            self._continuity.reconnected()
            now_s = loop.time()
            wait_s = self._reconnection.lost(now_s, now_s - begun_s, least_s, at_once=at_once)
            told = (f"{self._url}: {ascii(detail[:200])[1:-1]}", self._reconnection.circuit(now_s))
            sink.state(self._name, SourceState.RECONNECTING, "; ".join(filter(None, told)))
            if wait_s:
                await self._sleep(wait_s)

    async def _converse(self, sink: Sink) -> None:
        """One connection, from opening to loss. Always raises."""
        async with connect(
            self._profile.endpoint(self._url),
            create_connection=ExchangeSocket,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=None,  # any byte counts as life, not the pong alone: see Conversation
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            assert isinstance(socket, ExchangeSocket)
            requests = self._profile.requests(self._symbols, self._next_request)
            self._next_request += len(requests)
            talk = Conversation(self._profile, socket, requests, lambda silent_ms: self._watch(silent_ms, sink))
            self._talk = talk
            tending = asyncio.create_task(talk.tend())
            reason: BaseException | None = None
            try:
                async for frame in socket:
                    talk.received()
                    self._receive(frame, sink)
                    talk.is_held = True
                    await sink.room()
                    talk.is_held = False
            except WebSocketException as error:
                reason = error
            finally:
                tending.cancel()
                await asyncio.wait((tending,))  # unlike awaiting it, this lets a cancellation of ours through
            verdict = None if tending.cancelled() else tending.exception()
            if verdict is not None and not isinstance(verdict, WebSocketException):
                raise verdict  # why the connection was cut is the better reason
            raise LostError(f"closed: {reason or 'by the venue'}")

    def _watch(self, silent_ms: float, sink: Sink) -> None:
        is_held = self._talk is not None and self._talk.is_held
        if silent_ms <= CADENCE_MS and not is_held:  # the clock stays behind what is still to be read
            self._tell_clock(sink)
        self._tell_position(sink)
        age_s = 0.0 if self._talk is None else asyncio.get_running_loop().time() - self._talk.begun_s
        if self._reconnection.lived(age_s):
            sink.state(self._name, SourceState.LIVE, "circuit closed")

    # --- Frames ----------------------------------------------------------------------------------------------

    def _receive(self, text: str | bytes, sink: Sink) -> None:
        self.frames += 1
        if self._tap is not None:
            self._tap.frame(text)
        try:
            frame = self._profile.parse(text)
        except FormatError as error:
            sink.rejected(self._name, error.reason, error.detail)
            return
        match frame:
            case TradesFrame():
                self._trades(frame, sink)
            case Ignored():
                self.ignored += 1
            case Reply():
                self._reply(frame, sink)
            case Shutdown():
                raise LostError("the venue shuts down", at_once=True)

    def _trades(self, frame: TradesFrame, sink: Sink) -> None:
        for error in frame.refused:
            sink.rejected(self._name, error.reason, error.detail)
        passed: list[VenueTrade] = []
        # A snapshot may come in any order; a trade without a number stays where it is.
        for item in sorted(frame.trades, key=lambda item: item.number or 0):
            if frame.channel != self._profile.channel or item.symbol not in self._wanted:
                sink.rejected(self._name, "not_subscribed", f"{ascii(item.symbol)[1:-1]}@{frame.channel}")
                continue
            hole = self._continuity.observe(item)
            if hole is not None:
                self._hole(hole, sink)
            self._event_clock.observe(item.trade.time_ms, self._clock(), steady_ms())
            passed += self._holds.offer(item)
        self._deliver(passed, sink)

    def _deliver(self, items: Iterable[VenueTrade], sink: Sink) -> None:
        delivered = list(items)
        trades: list[Trade] = [item.trade for item in delivered]
        if trades:
            # Told before the trades: they are judged against this clock, which may have stood still for hours.
            self._tell_clock(sink)
            sink.trades(self._name, trades)
            self._positions.delivered(delivered)
            self._tell_position(sink)

    def _tell_position(self, sink: Sink) -> None:
        position = self._positions.due(asyncio.get_running_loop().time())
        if position is not None:
            sink.offset(self._name, position)

    def _tell_clock(self, sink: Sink) -> None:
        event_ms = self._event_clock.due(steady_ms())
        if event_ms is not None:
            sink.clock(self._name, event_ms)

    def _reply(self, reply: Reply, sink: Sink) -> None:
        if reply.error is not None:
            sink.rejected(self._name, "subscribe_refused", reply.error)
        if self._talk is not None and self._talk.reply(reply):
            circuit = self._reconnection.circuit(asyncio.get_running_loop().time())
            sink.state(self._name, SourceState.LIVE, circuit)

    # --- Holes -----------------------------------------------------------------------------------------------

    def _hole(self, hole: Hole, sink: Sink) -> None:
        self.gaps += 1
        if self._rest_url is None or self._holes.full():
            self._lost(hole, hole.size, sink)
            return
        self._holds.open(hole, asyncio.get_running_loop().time())
        self._positions.opened(hole.symbol)
        self._holes.put_nowait(hole)

    def _lost(self, hole: Hole, missed: int, sink: Sink) -> None:
        self.missed += missed
        sink.gap(self._name, hole.address, missed)

    async def _mend(self, refill: Refill, sink: Sink) -> None:
        while True:
            hole = self._filling = await self._holes.get()
            await sink.room()
            filled = await refill.fill(hole)
            await sink.room()
            self._filling = None
            self.backfilled += len(filled.trades)
            if self._tap is not None and filled.trades:
                self._tap.fetched([item.trade for item in filled.trades])
            if filled.problem and not filled.complete:
                sink.rejected(self._name, "backfill_failed", ascii(filled.problem)[1:-1])
            if not filled.complete:
                self._lost(hole, filled.missed, sink)
            self._deliver(self._holds.settle(hole, filled.trades), sink)
            self._positions.settled(hole.symbol)
            self._tell_position(sink)

    async def _end_holds(self, sink: Sink) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(HOLD_CHECK_S)
            await sink.room()
            self._deliver(self._holds.overdue(loop.time()), sink)

    def _give_up(self, sink: Sink) -> None:
        """The source ends: what is kept back goes out, what is still to be fetched is lost."""
        waiting = [] if self._filling is None else [self._filling]
        while not self._holes.empty():
            waiting.append(self._holes.get_nowait())
        self._filling = None
        for hole in waiting:
            self._lost(hole, hole.size, sink)
        self._deliver(self._holds.flush(), sink)
