"""The way from socket to socket: connecting, time-outs, backing off, giving up. ``session`` says what it serves."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from tokenwire.actions import Action, Close, Connect
from tokenwire.backoff import Backoff, needs_floor
from tokenwire.clock import ClockEstimate
from tokenwire.config import ClientConfig
from tokenwire.cuts import cut
from tokenwire.delivery import Delivery
from tokenwire.endpoint import SESSION_HEADER, connect_url
from tokenwire.errors import ConnectionFailedError
from tokenwire.events import Reconnecting
from tokenwire.failures import (
    close_code_of,
    close_failure,
    handshake_failure,
    is_final_status,
    overflow_failure,
    retries_failure,
)
from tokenwire.metrics import ClientMetrics
from tokenwire.outbound import Outbound
from tokenwire.queue import EventQueue, Lineage
from tokenwire.reading import Unread, read
from tokenwire.states import ConnectionState, may_step
from tokenwire.stream import Message, Stream
from tokenwire.subscriptions import Subscriptions
from tokenwire.tokens import TokenTable
from tokenwire.zstd import ZstdDecoder, ZstdError
from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode, may_reconnect
from tokenwire_schemas.extension_messages import ExtendedConnection, ExtendedError

__all__ = ["OPEN", "Connection", "Phase"]

_CONNECT_SLACK_MS: Final = 1_000  # the shell's own time-out comes first
_MAX_REASON_CHARS: Final = 100  # a close frame holds 123 bytes


class Phase(Enum):
    """Where the socket stands."""

    IDLE = auto()
    WAITING = auto()
    DIALING = auto()
    GREETING = auto()
    """Open; the server's ``connection`` has not come yet."""
    LIVE = auto()
    OVER = auto()


OPEN: Final = frozenset({Phase.GREETING, Phase.LIVE})


class Connection(ABC):
    """The sockets of one client, one after the other, and what they have in common.

    :class:`tokenwire.session.ClientSession` adds what the session is, and what the application does with it.
    """

    def __init__(self, config: ClientConfig, random: Callable[[], float]) -> None:
        self.config = config
        self.failure: ConnectionFailedError | None = None
        self.is_closed = False
        self._metrics = metrics = ClientMetrics()
        self._table = table = TokenTable()
        self._actions: list[Action] = []
        self._backoff = Backoff(config.backoff_base_ms, config.backoff_cap_ms, config.max_retries, random)
        self._clock = clock = ClockEstimate()
        max_wait_ms = None if config.delivery == "every" else config.max_wait_ms
        self._queue = EventQueue(config.queue_events, fail=config.overflow == "fail", max_wait_ms=max_wait_ms)
        self._subscriptions = Subscriptions(table, config.reply_timeout_ms, has_channel=bool(config.channel))
        self._outbound = Outbound(config, self._subscriptions, clock, metrics, self._actions)
        self._delivery = Delivery(table, self._queue, metrics, Lineage(None, None))
        self._stream = Stream(config, metrics, table, self._delivery, self._subscriptions, self._outbound, clock)
        self._state = ConnectionState.CONNECTING
        self._phase = Phase.IDLE
        self._due = 0  # of the phase: next try, or time-out
        self._attempt = 0
        self._resumable = False
        self._asked_resume = False
        self._lost_ms = 0
        self._reset_socket(0)

    def _reset_socket(self, now: int) -> None:
        self._heard_ms = now
        self._live_since: int | None = None
        self._granted: frozenset[str] = frozenset()
        self._idle_ms = self.config.idle_timeout_ms
        self._zstd: ZstdDecoder | None = None

    # --- what the session adds --------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, message: ExtendedConnection, now: int, wall: int) -> None:
        """The server greeted."""

    @abstractmethod
    def _pump(self, now: int) -> None:
        """Sends what is queued, as far as the rate allows."""

    @abstractmethod
    def _acknowledge(self, now: int, *, final: bool = False) -> None:
        """Acknowledges what was consumed, if it is time to."""

    # --- the shell's reports ----------------------------------------------------------------------------------

    def opened(self, now: int) -> None:
        """The handshake is complete."""
        if self._phase is not Phase.DIALING:  # too late: nobody waits for it any more
            self._actions.append(Close(CloseCode.NORMAL if self.is_closed else None))
            return
        self._phase = Phase.GREETING
        self._due = now + self.config.connect_timeout_ms
        self._reset_socket(now)
        self._stream.new_socket()
        self._clock.new_socket()
        self._metrics.connects += 1

    def alive(self, now: int) -> None:
        """A pong, or any other sign of life that is no message, arrived."""
        self._heard_ms = max(self._heard_ms, now)

    def received(self, message: str | bytes, now: int, wall: int) -> None:
        """One whole message (bytes: a binary one). Never raises, whatever the server sends."""
        if self._phase not in OPEN:
            return
        try:
            self._receive(message, now, wall)
        except Exception as error:  # the last defence: no server may end its client
            self._give_up_session(error, now, wall)

    def _give_up_session(self, error: Exception, now: int, wall: int) -> None:
        """A message could not be handled: nobody knows what of it took effect, so begin anew."""
        cause = f"a message could not be handled: {type(error).__name__}"
        self._stream.invalid(cause, now, wall)
        self._resumable = False
        if self._phase in OPEN:
            self._end(CloseCode.PROTOCOL_ERROR, cause, now, wall)

    def _receive(self, message: str | bytes, now: int, wall: int) -> None:
        phase = self._phase
        self._heard_ms = now
        self._outbound.set_clock(now, wall)
        size = len(message)
        self._metrics.payload_size += size
        if size > limits.MAX_MESSAGE_BYTES:
            self._end(CloseCode.MESSAGE_TOO_BIG, f"the server sent a message of size {size}", now, wall)
            return
        text = self._inflate(message, now, wall) if isinstance(message, bytes) else message
        if text is not None:
            if phase is Phase.LIVE:
                self._stream.message(read(text), size, now, wall)
            else:
                self._greet(read(text), now, wall)
        self._after(now, wall)

    def _after(self, now: int, wall: int) -> None:
        """What a message, or the time, may have brought about."""
        stream, phase = self._stream, self._phase
        if self._subscriptions.refusals.has_untold:
            stream.tell_refusals(wall)
        if self._queue.overflowed and phase is not Phase.OVER:
            self._fail(overflow_failure(self._queue.limit), now, wall)
        elif phase in OPEN and (ending := stream.ending) is not None:
            if not ending.resumable:
                self._resumable = False
            self._end(ending.code, ending.cause, now, wall)
        elif phase is Phase.LIVE:
            if self._subscriptions.exchanges.queue or self._subscriptions.unsettled:
                self._pump(now)
            if stream.reader.last - self._outbound.acked >= self.config.ack_frames:
                self._acknowledge(now)

    def closed(self, code: int | None, reason: str, now: int, wall: int) -> None:
        """The socket ended; ``code`` None when there was no close frame."""
        if self._phase in OPEN:
            self._lost(CloseCode.ABNORMAL if code is None else code, reason, now, wall)

    def refused(self, status: int | None, retry_after_ms: int | None, error: str, now: int, wall: int) -> None:
        """A ``Connect`` failed; ``status`` is that of the HTTP answer, None when there was none.

        A ``Retry-After`` is honoured up to five minutes.
        """
        if self._phase is not Phase.DIALING:
            return
        if status is not None and is_final_status(status):
            self._fail(handshake_failure(status, error), now, wall)
            return
        floor = status in {429, 503}
        self._retry(error or "no connection", now, wall, status=status, floor=floor, retry_after_ms=retry_after_ms)

    def handle_timer(self, now: int, wall: int) -> None:
        """Does what is due at ``now``."""
        self._outbound.set_clock(now, wall)
        phase = self._phase
        if phase in {Phase.IDLE, Phase.OVER}:
            return
        self._stream.tell_faults(now, wall)
        if phase is Phase.LIVE:
            self._live_timer(now, wall)
            self._after(now, wall)
        elif now >= self._due:
            self._phase_timer(now, wall)

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` is to be called, in monotonic ms; None when nothing is due."""
        if self._phase in {Phase.IDLE, Phase.OVER}:
            return None
        stream = self._stream
        if self._phase is not Phase.LIVE:
            times = [self._due, stream.faults_due]
        else:
            times = [
                self._heard_ms + self._idle_ms,
                self._outbound.deadline(self._heard_ms, self._granted, stream.reader.last, can_ack=stream.can_replay),
                stream.holes.due(can_replay=stream.can_replay),
                stream.faults_due,
                None if stream.fatal is None else stream.fatal_ms + limits.CLOSE_TIMEOUT_MS,
            ]
        return min(time for time in times if time is not None)

    # --- connecting and giving up -----------------------------------------------------------------------------

    def _connect(self, now: int) -> None:
        self._attempt += 1
        secret = self._delivery.lineage.secret if self._resumable else None
        headers, position = self.config.headers, None
        if secret is not None:
            headers = (*headers, (SESSION_HEADER, secret))
            position = self._stream.reader.last
        self._asked_resume = secret is not None
        self._phase = Phase.DIALING
        self._due = now + self.config.connect_timeout_ms + _CONNECT_SLACK_MS
        url = connect_url(self.config, position, self._attempt)
        self._actions.append(Connect(url, headers, self.config.connect_timeout_ms, deflate=True))

    def _phase_timer(self, now: int, wall: int) -> None:
        if self._phase is Phase.WAITING:
            self._connect(now)
        elif self._phase is Phase.DIALING:
            self._actions.append(Close(None))
            self.refused(None, None, "no connection in time", now, wall)
        elif self._stream.fatal is not None:
            self._unclosed(self._stream.fatal, now, wall)
        else:
            self._end(CloseCode.PROTOCOL_ERROR, "the server did not greet in time", now, wall)

    def _unclosed(self, fatal: str, now: int, wall: int) -> None:
        """The server announced the end of the socket and leaves it open."""
        self._actions.append(Close(None))
        self._lost(close_code_of(fatal), "not closed after a fatal error", now, wall)

    def _end(self, code: CloseCode | None, cause: str, now: int, wall: int) -> None:
        """This side ends the socket because of the server (None: it is dead), and comes back."""
        self._actions.append(Close(code, "" if code is None else cause[:_MAX_REASON_CHARS]))
        self._retry(cause, now, wall, code=CloseCode.ABNORMAL if code is None else code, floor=code is not None)

    def _lost(self, code: int, reason: str, now: int, wall: int) -> None:
        """The server, or the network, ended the socket."""
        fatal = self._stream.fatal
        if code == CloseCode.SESSION_LOST:
            self._resumable = False
        if not may_reconnect(code) and code not in self.config.also_reconnect:
            self._fail(close_failure(code, reason, fatal), now, wall)
            return
        parts = (fatal, reason) if fatal is not None and not reason.startswith(fatal) else (reason,)
        cause = ": ".join(part for part in parts if part) or f"closed with {int(code)}"
        floor = needs_floor(code) or (fatal is not None and needs_floor(close_code_of(fatal)))
        self._retry(cause, now, wall, code=code, floor=floor)

    def _retry(
        self,
        cause: str,
        now: int,
        wall: int,
        *,
        code: int | None = None,
        status: int | None = None,
        floor: bool = False,
        retry_after_ms: int | None = None,
    ) -> None:
        if self._live_since is not None:
            self._lost_ms = now
            if now - self._live_since >= self.config.stable_ms:
                self._backoff.reset()
            self._live_since = None
        if not self._resumable:
            self._subscriptions.detach()
        delay = self._backoff.next_delay(floor=floor, retry_after_ms=retry_after_ms)
        if delay is None:
            self._fail(retries_failure(self._backoff.attempt, cause), now, wall)
            return
        self._phase = Phase.WAITING
        self._due = now + delay
        self._step(ConnectionState.RECONNECTING, now)
        self._metrics.reconnects += 1
        number = None if code is None else int(code)
        event = Reconnecting(self._backoff.attempt, delay, number, status, cut(cause), wall)
        self._delivery.tell(event, self._stream.reader.last)
        if self._queue.overflowed:
            self._fail(overflow_failure(self._queue.limit), now, wall)

    def _fail(self, failure: ConnectionFailedError, now: int, wall: int) -> None:
        if self._queue.overflowed and self._phase in OPEN:
            self._actions.append(Close(CloseCode.NORMAL))
        self._phase = Phase.OVER
        self.failure = failure
        self._stream.tell_faults(now, wall, at_once=True)
        self._step(ConnectionState.FAILED, now)
        self._subscriptions.fail_all(failure)

    def _step(self, state: ConnectionState, now: int) -> None:
        if state is not self._state:
            assert may_step(self._state, state)
            self._state = state
            self._metrics.step(state, now)

    # --- messages and time ------------------------------------------------------------------------------------

    def _inflate(self, message: bytes, now: int, wall: int) -> bytes | None:
        greeting = self._phase is Phase.GREETING  # the grant itself may come compressed
        if "zstd" not in (self.config.capabilities if greeting else self._granted):
            self._stream.invalid("a binary message although zstd is not granted", now, wall)
            return None
        try:
            if self._zstd is None:
                self._zstd = ZstdDecoder()
            return self._zstd.decode(message)
        except ImportError:
            self._stream.invalid("a binary message, but the package zstandard is not installed", now, wall)
        except ZstdError as error:
            self._stream.invalid(str(error), now, wall)
            self._end(error.close_code, str(error), now, wall)
        return None

    def _greet(self, message: Message, now: int, wall: int) -> None:
        """Before the connection message only an error may come, for example MAX_CONNECTIONS (I-35)."""
        if isinstance(message, ExtendedError):
            self._stream.error(message, None, now, wall)
        elif isinstance(message, Unread) and message.problem is not None:
            self._stream.invalid(message.problem, now, wall)
        elif not isinstance(message, ExtendedConnection):
            self._stream.invalid("a message before the connection message", now, wall)
        elif not 1 <= message.sequence <= limits.MAX_SEQUENCE:
            self._stream.invalid(f"connection with sequence {message.sequence}", now, wall)
        elif message.data.status == "connected":
            self._begin(message, now, wall)

    def _live_timer(self, now: int, wall: int) -> None:
        stream = self._stream
        if stream.fatal is not None and now >= stream.fatal_ms + limits.CLOSE_TIMEOUT_MS:
            self._unclosed(stream.fatal, now, wall)
        elif now >= self._heard_ms + self._idle_ms:
            self._end(None, f"nothing received for {self._idle_ms} ms", now, wall)
        else:
            stream.hole_timer(now, wall)
            self._subscriptions.handle_timer(now)
            self._outbound.ping(self._heard_ms, self._granted, now)
            self._acknowledge(now)
            self._pump(now)
