"""The plain paths' shell: what the market tells goes into rooms, and from there to sockets, each message framed once.

A room exists only while somebody listens. A trade of a token without one costs a look into a dictionary.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from typing import Final, Protocol

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_server.core.plain_hub import PlainConfig, PlainHub
from tokenwire_server.core.plain_room import Consumer, Deliveries, Room, RoomKey, StreamForm
from tokenwire_server.core.wire import text_frame
from tokenwire_server.gateway.endpoint import Endpoint, Hurry, spread
from tokenwire_server.gateway.plain_messages import kline_message, trade_message, transaction_message
from tokenwire_server.gateway.plain_paths import LiveMarket
from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.trades import Trade
from tokenwire_server.telemetry.logs import get_log

__all__ = ["PlainStreams"]

_log = get_log(__name__)

_TIMER_S: Final = 0.25
_DRAIN_STEP_S: Final = 0.05
_TOLD: Final = frozenset({BarEvent.CLOSED, BarEvent.REVISED})


class _Socket(Protocol):
    """What a connection hands over."""

    def write(self, data: bytes, /) -> None: ...

    def abort(self) -> None: ...


class _Bars:
    """A room of bars. ``newest`` is the message of the open bar as it was last sent to everybody."""

    __slots__ = ("interval", "newest", "room")

    def __init__(self, room: Room, interval: Interval) -> None:
        self.room = room
        self.interval = interval
        self.newest = b""


class _TokenRooms:
    """The rooms of one token."""

    __slots__ = ("bars", "token", "trades", "transactions")

    def __init__(self, token: TokenState) -> None:
        self.token = token
        self.transactions: Room | None = None
        self.trades: Room | None = None
        self.bars: dict[str, _Bars] = {}  # by interval


class PlainStreams:
    """Everything behind the plain paths. It runs in the endpoint's event loop, and takes places of its connections.

    :meth:`on_trade` and :meth:`on_bar` are to be called for every trade (before it is folded into its bars) and for
    every bar that closes or is corrected; they never raise.
    """

    def __init__(self, endpoint: Endpoint, market: LiveMarket, config: PlainConfig | None = None) -> None:
        self.endpoint = endpoint
        self.market = market
        self.hub = PlainHub(endpoint.now(), config, self._vacated)
        self._loop = asyncio.get_running_loop()
        self._tokens: dict[str, _TokenRooms] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._bars_handle: asyncio.Handle | None = None
        self._timer_handle: asyncio.TimerHandle | None = None

    # --- called by the market --------------------------------------------------------------------------------

    def on_trade(self, token: TokenState, number: int, trade: Trade) -> None:
        """A trade was applied."""
        rooms = self._tokens.get(token.address)
        if rooms is None:
            return
        try:
            if rooms.transactions is not None:
                self._publish(rooms.transactions, transaction_message(token, trade))
            if rooms.trades is not None:
                self._publish(rooms.trades, trade_message(token, trade))
            if rooms.bars:
                now = self.endpoint.now()
                changed = [self.hub.pace.touch(bars.room, now) for bars in rooms.bars.values()]
                if any(changed):
                    self._plan_bars()
        except Exception as error:  # which must not be the market's
            self.defect("streaming a trade failed", error)

    def on_bar(self, address: str, change: BarChange) -> None:
        """A bar closed or was corrected."""
        rooms = self._tokens.get(address)
        if rooms is None or change.event not in _TOLD:
            return
        bars = rooms.bars.get(change.interval.text)
        if bars is None:
            return
        try:
            self._publish(bars.room, kline_message(rooms.token, change.interval, change.bar, is_closed=True))
        except Exception as error:  # as above
            self.defect("streaming a bar failed", error)

    # --- called by connections -------------------------------------------------------------------------------

    def opened(self, socket: _Socket, key: RoomKey, peer: str) -> Consumer:
        """A handshake succeeded, and a place was taken."""
        now = self.endpoint.now()
        consumer = Consumer(socket.write, socket.abort, str(uuid.uuid4()), now)
        room = self.hub.join(consumer, key, now)
        rooms = self._rooms(key)
        if key.form is StreamForm.TRANSACTIONS:
            rooms.transactions = room
        elif key.form is StreamForm.TRADES:
            rooms.trades = room
        else:
            bars = rooms.bars.get(key.interval)
            if bars is None:
                plan = self.market.bar_plan
                bars = rooms.bars[key.interval] = _Bars(room, plan.intervals[plan.index[key.interval]])
            self._greet(consumer, rooms.token, bars)
        if self._timer_handle is None:
            self._timer_handle = self._loop.call_later(_TIMER_S, self._run_timers)
        _log.info("stream opened", id=consumer.consumer_id, peer=peer, **_described(key))
        return consumer

    def resumed(self, consumer: Consumer) -> None:
        """The socket takes bytes again."""
        for data in self.hub.resume(consumer):
            self._write(consumer, data)

    def close(self, consumer: Consumer, code: int, reason: str) -> None:
        """Part with a client."""
        frame = self.hub.close(consumer, code, reason, self.endpoint.now())
        if frame:
            self._write(consumer, frame)

    def lost(self, consumer: Consumer, error: Exception | None) -> None:
        """The socket is gone."""
        self.hub.disconnect(consumer)
        code, reason = consumer.close_with or (None, "")
        fields: dict[str, object] = {"code": code, "reason": reason, "error": error}
        named = {name: value for name, value in fields.items() if value}
        log = _log.warning if code == CloseCode.SLOW_CONSUMER else _log.info
        log("stream closed", id=consumer.consumer_id, **named)

    def defect(self, what: str, error: Exception) -> None:
        """Something raised that should not have."""
        self.endpoint.defects += 1
        _log.error(what, exc_info=error)

    # --- the end ---------------------------------------------------------------------------------------------

    async def drain(self, seconds: float, hurry: Hurry = lambda: False) -> None:
        """Send what is pending, then close everybody with 1001, spread over ``seconds``; wait for the farewells."""
        self._flush()
        there = [consumer for consumer in self.hub.consumers if consumer.close_with is None]
        await spread(there, seconds, hurry, lambda each: self.close(each, CloseCode.GOING_AWAY, "the server stops"))
        patience = self._loop.time() + self.hub.config.close_timeout_ms / 1000
        while self.hub.consumers and self._loop.time() < patience and not hurry():
            await asyncio.sleep(_DRAIN_STEP_S)
        for consumer in list(self.hub.consumers):
            consumer.abort()
        for handle in (self._flush_handle, self._bars_handle, self._timer_handle):
            if handle is not None:
                handle.cancel()

    # --- rooms -----------------------------------------------------------------------------------------------

    def _rooms(self, key: RoomKey) -> _TokenRooms:
        rooms = self._tokens.get(key.address)
        if rooms is None:
            token = self.market.value(key.address)
            if token is None:
                raise KeyError(key.address)  # the path was looked up before
            rooms = self._tokens[key.address] = _TokenRooms(token)
        return rooms

    def _vacated(self, room: Room) -> None:
        key = room.key
        rooms = self._tokens.get(key.address)
        if rooms is None:
            return
        if key.form is StreamForm.TRANSACTIONS:
            rooms.transactions = None
        elif key.form is StreamForm.TRADES:
            rooms.trades = None
        else:
            rooms.bars.pop(key.interval, None)
        if rooms.transactions is None and rooms.trades is None and not rooms.bars:
            del self._tokens[key.address]

    def _publish(self, room: Room, payload: bytes) -> None:
        if self.hub.publish(room, text_frame(payload)):
            self._flush()
        elif self._flush_handle is None:
            self._flush_handle = self._after((self.hub.flush_due_ms or 0) - self.endpoint.now(), self._flush)

    def _after(self, ms: int, call: Callable[[], None]) -> asyncio.Handle:
        """At the end of this turn at the earliest: what comes together goes out together."""
        return self._loop.call_later(ms / 1000, call) if ms > 0 else self._loop.call_soon(call)

    def _greet(self, consumer: Consumer, token: TokenState, bars: _Bars) -> None:
        """Who joins is told of the open bar at once."""
        try:
            message = self._open_bar(token, bars)
        except Exception as error:  # as for trades
            self.defect("streaming an open bar failed", error)
        else:
            if message:
                self._write(consumer, text_frame(message))

    def _open_bar(self, token: TokenState, bars: _Bars) -> bytes:
        bar = self.market.open_bar(token.address, bars.interval)
        return b"" if bar is None else kline_message(token, bars.interval, bar, is_closed=False)

    # --- time ------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        try:
            self._deliver(self.hub.flush(self.endpoint.now()))
        except Exception as error:
            self.defect("flushing streams failed", error)

    def _deliver(self, deliveries: Deliveries) -> None:
        for writes, data in deliveries:
            for write in writes:
                try:
                    write(data)
                except Exception as error:  # this client lacks something now, so it must not get more
                    self.defect("writing failed", error)
                    with contextlib.suppress(Exception):
                        write.__self__.abort()  # type: ignore[attr-defined]

    def _write(self, consumer: Consumer, data: bytes) -> None:
        self._deliver(iter((((consumer.write,), data),)))

    def _plan_bars(self) -> None:
        if self._bars_handle is not None:
            self._bars_handle.cancel()
            self._bars_handle = None
        due_ms = self.hub.pace.due_ms
        if due_ms is not None:
            self._bars_handle = self._after(due_ms - self.endpoint.now(), self._send_bars)

    def _send_bars(self) -> None:
        """Send the open bars that changed and are due."""
        self._bars_handle = None
        for room in self.hub.pace.take(self.endpoint.now()):
            rooms = self._tokens[room.key.address]  # the pace forgets a room together with its listeners
            bars = rooms.bars[room.key.interval]
            try:
                message = self._open_bar(rooms.token, bars)
                if message and message != bars.newest:
                    bars.newest = message
                    self._publish(room, message)
            except Exception as error:  # as for trades
                self.defect("streaming an open bar failed", error)
        self._plan_bars()

    def _run_timers(self) -> None:
        self._timer_handle = None
        try:
            frames, aborts = self.hub.timers(self.endpoint.now())
            for consumer, data in frames:
                self._write(consumer, data)
            for consumer in aborts:
                consumer.abort()
        except Exception as error:
            self.defect("timers of streams failed", error)
        if self.hub.consumers:
            self._timer_handle = self._loop.call_later(_TIMER_S, self._run_timers)


def _described(key: RoomKey) -> dict[str, str]:
    fields = {"stream": key.form.value, "address": key.address}
    return {**fields, "interval": key.interval} if key.interval else fields
