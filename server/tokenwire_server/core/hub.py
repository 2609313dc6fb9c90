"""The hub: admission, requests, ticks and time-outs of all connections. Pure: time and ids are arguments.

The shell calls a method, then writes what :meth:`Hub.pump` returns for each link of :meth:`Hub.take_ready`, until
it returns nothing. ``now`` is monotonic milliseconds, ``wall`` Unix milliseconds.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.codec import CodecError, decode_client_message, encode_data
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.messages import ConnectionData, ErrorData
from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.delivery import Delivery
from tokenwire_server.core.limiter import Limiter, Verdict
from tokenwire_server.core.session import Link, Session
from tokenwire_server.core.staleness import Staleness
from tokenwire_server.core.states import LinkState, check_step
from tokenwire_server.core.stats import HubStats
from tokenwire_server.core.subscribing import Directory, apply_request
from tokenwire_server.core.tokensets import TokenSets
from tokenwire_server.core.wheel import Wheel
from tokenwire_server.core.wire import Deflater, ping_frame
from tokenwire_server.validation.messages import RequestError, check_request

__all__ = ["Hub", "HubConfig"]

_Status = Literal["connected", "disconnected", "error"]

_CONNECTION: Final = b"connection"
_SUBSCRIPTION: Final = b"subscription"
_ERROR: Final = b"error"
_WHEEL_RESOLUTION_MS: Final = 250
_PING: Final = ping_frame()
_NAMED_STALE: Final = 10
_SOURCE_LOST_INTERVAL_MS: Final = 60_000


class HubConfig(msgspec.Struct, frozen=True):
    """What an operator may set; the specification's numbers by default."""

    max_connections: int = limits.MAX_CONNECTIONS
    max_subscriptions: int = limits.MAX_SUBSCRIPTIONS
    heartbeat_ms: int = limits.HEARTBEAT_INTERVAL_MS
    idle_timeout_ms: int = limits.IDLE_TIMEOUT_MS
    close_timeout_ms: int = limits.CLOSE_TIMEOUT_MS
    stall_warning_ms: int = limits.WRITE_STALL_WARNING_MS
    stall_close_ms: int = limits.WRITE_STALL_CLOSE_MS


class Hub:
    """Everything that is connected, and the board it is served from."""

    def __init__(self, directory: Directory, now: int, config: HubConfig | None = None) -> None:
        self.config = config or HubConfig()
        self.board = Board()
        self.sets = TokenSets()
        self.deflater = Deflater()
        self.stats = HubStats()
        self.staleness = Staleness()
        self.links: dict[Link, None] = {}
        self.rejected = 0
        self.held_bytes = 0  # of unfinished messages
        self.draining = False
        self._directory = directory
        self._wheel: Wheel[Link] = Wheel(now, _WHEEL_RESOLUTION_MS)
        self._ready: dict[Link, None] = {}
        self._halted: list[Link] = []
        self._ticking = False
        self._timestamp = 0
        self._source_lost: dict[str, int] = {}

    # --- life of a link --------------------------------------------------------------------------------------

    def may_upgrade(self) -> bool:
        """False when not even a refusal can be told over a WebSocket: draining, or 50 others are being told."""
        full = len(self.links) >= self.config.max_connections
        return not self.draining and not (full and self.rejected >= limits.MAX_REJECTED_SOCKETS)

    def connect(self, link: Link, now: int) -> bool:
        """A socket finished its handshake: greet it, or tell it that the instance is full (then False)."""
        self.stats.opened += 1
        link.ping_due_ms = now + self.config.heartbeat_ms
        self._touch_timer(link, now)
        if len(self.links) >= self.config.max_connections:
            self._step(link, LinkState.REJECTED)
            self.rejected += 1
            self.fail(link, ErrorCode.MAX_CONNECTIONS, now)
            return False
        self._step(link, LinkState.CONNECTED)
        self.links[link] = None
        self._enqueue(link, _CONNECTION, self._connection_data(link, "connected"))
        return True

    def disconnect(self, link: Link) -> None:
        """The socket is gone, for whatever reason; everything held for it is released."""
        if link.state is LinkState.CLOSED:
            return
        if link in self.links:
            del self.links[link]
        elif link.state is not LinkState.CONNECTING:
            self.rejected -= 1
        self._step(link, LinkState.CLOSED)
        self.held_bytes -= link.held_bytes
        self._end_session(link.session)
        self._ready.pop(link, None)
        self.stats.closed += 1
        link.let_go()

    def fail(
        self,
        link: Link,
        code: ErrorCode,
        now: int,
        message: str | None = None,
        close_code: int | None = None,
    ) -> None:
        """End a connection and say why: error (fatal), connection, close, in this order."""
        if link.close_with is not None or link.state in (LinkState.CLOSING, LinkState.CLOSED):
            return
        entry = CATALOGUE[code]
        session = link.session
        if not link.writable:
            session.outbox = None
            session.outbox_bytes = 0
        text = entry.meaning if message is None else message
        status: _Status = "disconnected" if code is ErrorCode.SERVER_SHUTDOWN else "error"
        session.enqueue(_ERROR, encode_data(ErrorData(code, text, "fatal")))
        session.enqueue(_CONNECTION, self._connection_data(link, status))
        self.stats.error(code)
        self.close(link, close_code or entry.close_code or CloseCode.INTERNAL_ERROR, code, now)

    def close(self, link: Link, code: int, reason: str, now: int) -> None:
        """Close without further words; the socket is aborted if that takes more than 5 s."""
        if link.close_with is not None or link.state in (LinkState.CLOSING, LinkState.CLOSED):
            return
        link.close_with = (code, reason)
        link.close_due_ms = now + self.config.close_timeout_ms
        self._end_session(link.session)
        self.stats.closes[code] = self.stats.closes.get(code, 0) + 1
        self._ready[link] = None
        self._touch_timer(link, now)

    def closing(self, link: Link, now: int) -> None:
        """A close frame was sent or answered by the shell's own protocol layer."""
        if link.state in (LinkState.CONNECTED, LinkState.REJECTED):
            if link.close_due_ms is None:
                link.close_due_ms = now + self.config.close_timeout_ms
            self._end_session(link.session)
            self._step(link, LinkState.CLOSING)
            self._touch_timer(link, now)

    # --- what a client sends ---------------------------------------------------------------------------------

    def admit(self, link: Link, now: int) -> bool:
        """A message is about to be read; whether it may be, by the client's rate."""
        if link.state is not LinkState.CONNECTED or link.close_with is not None:
            return False
        self.stats.messages_in += 1
        if link.limiter is None:
            link.limiter = Limiter(now)
        return self._admit(link, link.limiter.message(now), now)

    def receive(self, link: Link, text: str, now: int) -> None:
        """One text message that was admitted. A long one counts as several, so that size is no way round the rate."""
        limiter = link.limiter
        if link.state is not LinkState.CONNECTED or link.close_with is not None or limiter is None:
            return
        if link.session.is_full:
            self.stats.error(ErrorCode.SLOW_CONSUMER)
            self.close(link, CloseCode.SLOW_CONSUMER, ErrorCode.SLOW_CONSUMER, now)
            return
        limiter.charge(len(text) // limits.INBOUND_SHARE_BYTES)
        try:
            request = check_request(decode_client_message(text))
        except (CodecError, RequestError) as error:
            self._refuse(link, limiter, error.code, str(error), now)
            return
        session = link.session
        if request.sequence is not None:
            self._check_sequence(link, request.sequence)
        replies, errors = apply_request(
            request, session, self.board, self._directory, self.sets, self.config.max_subscriptions
        )
        for reply in replies:
            self._enqueue(link, _SUBSCRIPTION, encode_data(reply))
        for code, message in errors:
            self._error(link, code, message)
        if not session.tokens.indices & self.staleness.stale:
            session.stale_warned = False
        self._warn_if_stale(session)

    def receive_control(self, link: Link, now: int) -> bool:
        """One ping or pong; whether it may be answered."""
        if link.state is not LinkState.CONNECTED or link.close_with is not None:
            return False
        if link.limiter is None:
            link.limiter = Limiter(now)
        return self._admit(link, link.limiter.control(now), now) and link.writable

    def hold(self, link: Link, held_bytes: int, now: int) -> None:
        """How much of an unfinished message is kept for ``link``; bounded in time, and for all clients together."""
        self.held_bytes += held_bytes - link.held_bytes
        link.held_bytes = held_bytes
        if not held_bytes:
            link.message_due_ms = None
        elif link.message_due_ms is None:
            link.message_due_ms = now + limits.MESSAGE_TIMEOUT_MS
            self._touch_timer(link, now)
        if held_bytes and self.held_bytes > limits.MAX_UNFINISHED_BYTES:
            self.fail(link, ErrorCode.MESSAGE_TOO_LARGE, now, "the server holds too many unfinished messages")

    def _admit(self, link: Link, verdict: Verdict, now: int) -> bool:
        if verdict is Verdict.ACCEPT:
            return True
        limiter = link.limiter
        self.stats.dropped_in += 1
        if limiter is not None and verdict is Verdict.NOTIFY:
            text = (
                f"{limiter.dropped} messages dropped; at most {limits.INBOUND_RATE_PER_S} messages and "
                f"{limits.INBOUND_CONTROL_RATE_PER_S} pings or pongs a second are read"
            )
            limiter.dropped = 0
            self._error(link, ErrorCode.RATE_LIMITED, text)
        elif verdict is Verdict.CUT:
            self.fail(link, ErrorCode.RATE_LIMITED, now, "the flood went on for 10 s")
        return False

    def _refuse(self, link: Link, limiter: Limiter, code: ErrorCode, message: str, now: int) -> None:
        if limiter.protocol_error(now):
            self.fail(link, code, now, message, CloseCode.PROTOCOL_ERRORS)
        else:
            self._error(link, code, message)

    def _check_sequence(self, link: Link, sequence: int) -> None:
        expected = link.inbound_next
        if expected is not None and sequence > expected and not link.gap_warned:
            link.gap_warned = True
            text = f"expected sequence {expected}, got {sequence}; said once per connection"
            self._error(link, ErrorCode.SEQUENCE_GAP, text)
        link.inbound_next = sequence + 1

    # --- delivery --------------------------------------------------------------------------------------------

    def tick(self, now: int, wall: int) -> Iterator[tuple[Callable[[bytes], None], bytes]]:
        """Send what changed since the last tick: yields a write and its bytes for each client."""
        rows = self._sendable(self.board.commit())
        self.stats.ticks += 1
        if not rows:
            return
        delivery = Delivery(self.board, rows, self._stamp(wall), self.deflater)
        for row in rows:
            self.stats.latency.observe(now - row.changed_ms)
        self._ticking = True
        complete = False
        try:
            for tokens in self.sets.occupied():
                yield from delivery.to(tokens)
            complete = True
        finally:
            self._ticking = False
            if not complete:  # a defect, here or in a write: who was not reached yet gets these rows next time
                for row in rows:
                    self.board.changed(row, now)
            self.stats.frames += delivery.frames
            self.stats.updates += delivery.frames
            self.stats.conflated += delivery.conflated
            self.stats.bytes_out += delivery.octets
            halted, self._halted = self._halted, []
            for link in halted:
                link.session.fall_behind(self.board)

    def _sendable(self, changed: list[Row]) -> list[Row]:
        """Of the changed rows those that somebody holds; one whose value can't be encoded must not spoil the rest."""
        rows: list[Row] = []
        for row in changed:
            if not row.holders or not row.value.has_value:
                row.sent_version = row.value.version
                continue
            try:
                row.payload()
            except Exception:  # a defect of the token's writer
                self.stats.bad_rows += 1
            else:
                rows.append(row)
        return rows

    def take_ready(self) -> list[Link]:
        """The links for which :meth:`pump` may have something."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def pump(self, link: Link, wall: int) -> bytes:
        """Bytes to write to ``link`` now; call again after writing them until there are none."""
        self._ready.pop(link, None)
        data = link.drain(self.board, self._stamp(wall), self.stats)
        if data and link.close_with is not None:
            self._step(link, LinkState.CLOSING)
        self.stats.bytes_out += len(data)
        return data

    def pause(self, link: Link, now: int) -> None:
        """The socket's buffer is full. May be called while a tick's bytes are being written."""
        link.writable = False
        link.stalled_ms = now
        link.stall_bytes = link.socket.get_write_buffer_size()
        self.stats.pauses += 1
        if link.state is LinkState.CONNECTED and link.close_with is None:
            if self._ticking:
                self._halted.append(link)
            else:
                link.session.fall_behind(self.board)
            self._touch_timer(link, now)

    def resume(self, link: Link, now: int) -> None:
        """The socket takes bytes again."""
        link.writable = True
        link.stalled_ms = None
        if link.stall_warning:
            link.stall_warning = False
            self._error(link, ErrorCode.SLOW_CONSUMER, CATALOGUE[ErrorCode.SLOW_CONSUMER].meaning)
        self._ready[link] = None

    # --- time ------------------------------------------------------------------------------------------------

    def timers(self, now: int) -> tuple[list[Link], list[Link]]:
        """Handle what is due: links to ping and links to abort."""
        pings: list[Link] = []
        aborts: list[Link] = []
        for slot, link in self._wheel.advance(now):
            if link.state is LinkState.CLOSED or slot != link.slot:
                continue  # gone, or this entry was overtaken by an earlier one
            link.slot = -1
            if link.close_due_ms is not None:
                if now >= link.close_due_ms:
                    aborts.append(link)
                    link.close_due_ms = now + self.config.close_timeout_ms
            elif now - link.last_byte_ms >= self.config.idle_timeout_ms:
                self.close(link, CloseCode.HEARTBEAT_TIMEOUT, "heartbeat time-out", now)
            elif link.message_due_ms is not None and now >= link.message_due_ms:
                text = f"a message was not complete within {limits.MESSAGE_TIMEOUT_MS // 1000} s"
                self.fail(link, ErrorCode.INVALID_MESSAGE, now, text, CloseCode.POLICY_VIOLATION)
            elif link.stalled_ms is not None:
                self._check_stall(link, link.stalled_ms, now)
            if link.close_due_ms is None and now >= link.ping_due_ms:
                next_due = link.ping_due_ms + self.config.heartbeat_ms
                link.ping_due_ms = next_due if next_due > now else now + self.config.heartbeat_ms
                if link.writable:
                    pings.append(link)
            self._touch_timer(link, now)
        return pings, aborts

    @property
    def ping(self) -> bytes:
        """The frame to send to links that :meth:`timers` wants pinged."""
        return _PING

    def _check_stall(self, link: Link, since: int, now: int) -> None:
        waiting = link.socket.get_write_buffer_size()
        if waiting < link.stall_bytes:
            link.stall_bytes = waiting
            link.stalled_ms = now
        elif now - since >= self.config.stall_close_ms:
            self.stats.error(ErrorCode.SLOW_CONSUMER)
            self.close(link, CloseCode.SLOW_CONSUMER, ErrorCode.SLOW_CONSUMER, now)
        elif now - since >= self.config.stall_warning_ms and not link.stall_warning:
            link.stall_warning = True
            self.stats.stalls += 1

    def _touch_timer(self, link: Link, now: int) -> None:
        """Have the link looked at when its next deadline passes; an earlier entry wins, a later one is kept."""
        if link.close_due_ms is not None:
            due = link.close_due_ms
        else:
            due = min(link.ping_due_ms, link.last_byte_ms + self.config.idle_timeout_ms)
            if link.message_due_ms is not None:
                due = min(due, link.message_due_ms)
            if link.stalled_ms is not None:
                warned = link.stall_warning
                patience = self.config.stall_close_ms if warned else self.config.stall_warning_ms
                due = min(due, link.stalled_ms + patience)
        slot = self._wheel.slot(max(due, now))
        if link.slot == -1 or slot < link.slot:
            link.slot = slot
            self._wheel.add(slot, link)

    # --- upstream --------------------------------------------------------------------------------------------

    def check_staleness(self, now: int) -> None:
        """Warn of tokens older than their source promises: once for each connection and episode."""
        newly, recovered = self.staleness.check(self.board.rows, now)
        stale = self.staleness.stale
        if newly:
            indices = {row.index for row in newly}
            for tokens in self.sets.occupied():
                if tokens.indices & indices:
                    for session in tokens.members():
                        self._warn_if_stale(session)
        if recovered:
            for tokens in self.sets.occupied():
                if not tokens.indices & stale:
                    for session in tokens.members():
                        session.stale_warned = False

    def source_lost(self, source: str, now: int) -> None:
        """A source that delivered cannot be reached: warn who holds its tokens, at most once a minute."""
        last = self._source_lost.get(source)
        if last is not None and now - last < _SOURCE_LOST_INTERVAL_MS:
            return
        self._source_lost[source] = now
        text = f"the source {source} cannot be reached; its values stand still until it is"
        for tokens in self.sets.occupied():
            if any(row.value.source == source for row in tokens.rows):
                for session in tokens.members():
                    if session.link is not None:
                        self._error(session.link, ErrorCode.UPSTREAM_UNAVAILABLE, text)

    def _warn_if_stale(self, session: Session) -> None:
        shared = session.tokens.indices & self.staleness.stale
        link = session.link
        if shared and link is not None and not session.stale_warned:
            session.stale_warned = True
            names = [self.board.rows[index].value.address for index in sorted(shared)]
            more = f" and {len(names) - _NAMED_STALE} more" if len(names) > _NAMED_STALE else ""
            text = f"older than the source promises: {', '.join(names[:_NAMED_STALE])}{more}"
            self._error(link, ErrorCode.UPSTREAM_STALE, text)

    def _end_session(self, session: Session) -> None:
        """Nothing more is delivered: a strict session ends with its link."""
        self.sets.leave(session)
        session.pending = None

    # --- helpers ---------------------------------------------------------------------------------------------

    def _step(self, link: Link, state: LinkState) -> None:
        check_step(link.state, state)
        self.stats.step(link.state, state)
        link.state = state

    def _stamp(self, wall: int) -> int:
        self._timestamp = max(self._timestamp, wall)
        return self._timestamp

    def _connection_data(self, link: Link, status: _Status) -> bytes:
        return encode_data(ConnectionData(status, link.connection_id, self.config.max_subscriptions))

    def _error(self, link: Link, code: ErrorCode, message: str) -> None:
        level = CATALOGUE[code].level
        self.stats.error(code)
        self._enqueue(link, _ERROR, encode_data(ErrorData(code, message, level.value)))

    def _enqueue(self, link: Link, kind: bytes, data: bytes) -> None:
        link.session.enqueue(kind, data)
        self._ready[link] = None
