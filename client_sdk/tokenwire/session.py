"""The client's session: connecting, reading, resuming, giving up. Pure: time, randomness and sockets are outside.

A shell carries out :meth:`ClientSession.take_actions`, reports what happens to the socket, calls
:meth:`ClientSession.handle_timer` when :meth:`ClientSession.next_deadline` has passed, and hands out
:meth:`ClientSession.next_event`. ``now`` is monotonic milliseconds, ``wall`` Unix milliseconds; the wall clock may
jump and is never used for a time-out. After a ``Close`` the session does not wait for the socket's end: what is
reported of it later, up to the next ``opened``, is ignored.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Final

from msgspec import UNSET

from tokenwire.actions import Action, Close, Connect
from tokenwire.backoff import Backoff, needs_floor
from tokenwire.checkpoint import Checkpoint
from tokenwire.clock import ClockEstimate
from tokenwire.config import ClientConfig
from tokenwire.delivery import Delivery
from tokenwire.endpoint import SESSION_HEADER, connect_url, is_secret
from tokenwire.errors import ClientClosedError, ConnectionFailedError, TokenwireError
from tokenwire.events import Connected, Event, Gap, Quote, Reconnecting, Resumed
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
from tokenwire.requests import Request
from tokenwire.states import ConnectionState, may_step
from tokenwire.stream import Message, Stream
from tokenwire.subscriptions import Subscriptions
from tokenwire.tokens import LatestValues, TokenTable
from tokenwire.zstd import ZstdDecoder, ZstdError
from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode, may_reconnect
from tokenwire_schemas.extension_messages import ExtendedConnection, ExtendedConnectionData, ExtendedError

__all__ = ["ClientSession"]

_CONNECT_SLACK_MS: Final = 1_000  # the shell's own time-out comes first
_ATTEMPT_STRIDE: Final = 1_000  # tries made after a checkpoint are not in it
_MIN_IDLE_MS: Final = 1_000
_MAX_IDLE_MS: Final = 600_000
_MAX_REASON_CHARS: Final = 100  # a close frame holds 123 bytes


class _Phase(Enum):
    """Where the socket stands."""

    IDLE = auto()
    WAITING = auto()
    DIALING = auto()
    GREETING = auto()
    """Open; the server's ``connection`` has not come yet."""
    LIVE = auto()
    OVER = auto()


_OPEN: Final = frozenset({_Phase.GREETING, _Phase.LIVE})


class ClientSession:
    """One client's connection over all its sockets. See the module for how a shell drives it.

    ``latest`` maps every name used, and every address, to the newest value applied. ``failure`` is set in state
    FAILED. ``max_subscriptions`` is what the server allows on this connection, None before it said so.
    """

    def __init__(self, config: ClientConfig, random: Callable[[], float], checkpoint: Checkpoint | None = None) -> None:
        self.config = config
        self._metrics = metrics = ClientMetrics()
        self.failure: ConnectionFailedError | None = None
        self.is_closed = False
        self.max_subscriptions: int | None = None
        self._table = table = TokenTable()
        self.latest: Mapping[str, Quote] = LatestValues(table)
        self._actions: list[Action] = []
        self._backoff = Backoff(config.backoff_base_ms, config.backoff_cap_ms, config.max_retries, random)
        self._clock = clock = ClockEstimate()
        self._queue = EventQueue(config.queue_events, fail=config.overflow == "fail")
        self._subscriptions = Subscriptions(table, config.reply_timeout_ms)
        self._outbound = Outbound(config, self._subscriptions, clock, metrics, self._actions)
        self._delivery = Delivery(table, self._queue, metrics, Lineage(None, None))
        self._stream = Stream(config, metrics, table, self._delivery, self._subscriptions, self._outbound, clock)
        self._state = ConnectionState.CONNECTING
        self._phase = _Phase.IDLE
        self._due = 0  # of the phase: next try, or time-out
        self._attempt = 0
        self._had_session = False
        self._resumable = False
        self._asked_resume = False
        self._lost_ms = 0
        self._restored = False
        self._unconfirmed: Checkpoint | None = None
        self._confirmed: tuple[str | None, int] = (None, 0)
        self._reset_socket(0)
        if checkpoint is not None:
            self._restore(checkpoint)
            self._subscriptions.prefix = f"r{self._attempt:x}-{int(random() * 2**32):x}-"

    def _restore(self, checkpoint: Checkpoint) -> None:
        secret = checkpoint.session
        if secret is not None and not ("resume" in self.config.capabilities and is_secret(secret)):
            secret = None
        self._attempt = checkpoint.attempt + _ATTEMPT_STRIDE
        self._resumable = self._had_session = self._subscriptions.attached = secret is not None
        self._restored = True
        self._delivery.restore(checkpoint, Lineage(secret, checkpoint.stream))
        if secret is not None:
            self._stream.reader.restart(checkpoint.position)
            self._confirmed = (secret, checkpoint.position)

    def _reset_socket(self, now: int) -> None:
        self._heard_ms = now
        self._live_since: int | None = None
        self._granted: frozenset[str] = frozenset()
        self._idle_ms = self.config.idle_timeout_ms
        self._max_size = limits.MAX_MESSAGE_BYTES
        self._zstd: ZstdDecoder | None = None

    # --- the application --------------------------------------------------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands. After :meth:`close` it stays what it was; see ``is_closed``."""
        return self._state

    @property
    def metrics(self) -> ClientMetrics:
        """The counters; the same object each time, to be read only."""
        self._metrics.conflated_in_client = self._queue.conflated
        return self._metrics

    @property
    def queued(self) -> int:
        """How many events wait for the application."""
        return len(self._queue)

    @property
    def desired(self) -> tuple[str, ...]:
        """The names that are to be subscribed, as the application wrote them."""
        return tuple(self._table.wanted)

    def start(self, now: int) -> None:
        """Begins connecting; nothing happens when it was begun before."""
        if self._phase is _Phase.IDLE and not self.is_closed:
            self._metrics.state_since_ms = self._lost_ms = now
            self._connect(now)

    def subscribe(self, names: Iterable[str], now: int) -> Request:
        """Wants ``names`` (addresses or symbols) from now on; asked for as soon as there is a connection.

        A request made after the end fails at once.

        Raises:
            TypeError: ``names`` is one string, or holds something else than strings.
        """
        return self._requested(self._subscriptions.subscribe(names), now)

    def unsubscribe(self, names: Iterable[str], now: int) -> Request:
        """Wants ``names`` no more. A token with another wanted name stays.

        Raises:
            TypeError: ``names`` is one string, or holds something else than strings.
        """
        return self._requested(self._subscriptions.unsubscribe(names), now)

    def _requested(self, request: Request, now: int) -> Request:
        error: TokenwireError | None = self.failure
        if error is None and self.is_closed:
            error = _closed_error()
        if error is not None:
            request.fail(error)
            self._subscriptions.fail_all(error)
        else:
            self._subscriptions.prune()
            self._pump(now)
        return request

    def close(self, now: int) -> None:
        """The deliberate end: close 1000, no reconnecting. What was received before can still be read."""
        if self.is_closed:
            return
        if self._phase is _Phase.LIVE:
            self._acknowledge(now, final=True)
        if self._phase in _OPEN:
            self._actions.append(Close(CloseCode.NORMAL))
        elif self._phase is _Phase.DIALING:
            self._actions.append(Close(None))
        self.is_closed = True
        self._phase = _Phase.OVER
        self._subscriptions.fail_all(_closed_error())

    def next_event(self) -> Event | None:
        """Takes the oldest event: the application consumed it. None when there is none now."""
        return self._delivery.take()

    def checkpoint(self) -> Checkpoint:
        """Everything a new process needs to go on after the last event taken.

        Taking the next checkpoint counts as word that the one before was saved; :meth:`confirm` says so at once.
        """
        if self._unconfirmed is not None:
            self.confirm(self._unconfirmed)
        self._unconfirmed = self._delivery.checkpoint(self._stream.reader.last, self._attempt)
        return self._unconfirmed

    def confirm(self, checkpoint: Checkpoint) -> None:
        """``checkpoint`` was saved: with ``ack='checkpoint'`` the server may let go of what it covers."""
        self._confirmed = (checkpoint.session, checkpoint.position)

    def take_actions(self) -> list[Action]:
        """What the shell has to do now, in order."""
        taken = self._actions[:]
        self._actions.clear()
        return taken

    # --- the shell's reports ----------------------------------------------------------------------------------

    def opened(self, now: int) -> None:
        """The handshake is complete."""
        if self._phase is not _Phase.DIALING:  # too late: nobody waits for it any more
            self._actions.append(Close(CloseCode.NORMAL if self.is_closed else None))
            return
        self._phase = _Phase.GREETING
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
        phase = self._phase
        if phase not in _OPEN:
            return
        self._heard_ms = now
        self._outbound.set_clock(now, wall)
        size = len(message)
        self._metrics.payload_size += size
        if size > self._max_size:
            self._end(CloseCode.MESSAGE_TOO_BIG, f"the server sent a message of size {size}", now, wall)
            return
        text = self._inflate(message, now, wall) if isinstance(message, bytes) else message
        if text is not None:
            if phase is _Phase.LIVE:
                self._stream.message(read(text), size, now, wall)
            else:
                self._greet(read(text), now, wall)
        self._after(now, wall)

    def _after(self, now: int, wall: int) -> None:
        """What a message, or the time, may have brought about."""
        stream, phase = self._stream, self._phase
        if self._queue.overflowed and phase is not _Phase.OVER:
            self._fail(overflow_failure(self._queue.limit), now, wall)
        elif phase in _OPEN and (ending := stream.ending) is not None:
            if not ending.resumable:
                self._resumable = False
            self._end(ending.code, ending.cause, now, wall)
        elif phase is _Phase.LIVE:
            if self._subscriptions.queue or self._subscriptions.unsettled:
                self._pump(now)
            if stream.reader.last - self._outbound.acked >= self.config.ack_frames:
                self._acknowledge(now)

    def closed(self, code: int | None, reason: str, now: int, wall: int) -> None:
        """The socket ended; ``code`` None when there was no close frame."""
        if self._phase in _OPEN:
            self._lost(CloseCode.ABNORMAL if code is None else code, reason, now, wall)

    def refused(self, status: int | None, retry_after_ms: int | None, error: str, now: int, wall: int) -> None:
        """A ``Connect`` failed; ``status`` is that of the HTTP answer, None when there was none.

        A ``Retry-After`` is honoured up to five minutes.
        """
        if self._phase is not _Phase.DIALING:
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
        if phase in {_Phase.IDLE, _Phase.OVER}:
            return
        self._stream.tell_faults(now, wall)
        if phase is _Phase.LIVE:
            self._live_timer(now, wall)
            self._after(now, wall)
        elif now >= self._due:
            self._phase_timer(now, wall)

    def next_deadline(self) -> int | None:
        """When :meth:`handle_timer` is to be called, in monotonic ms; None when nothing is due."""
        if self._phase in {_Phase.IDLE, _Phase.OVER}:
            return None
        stream = self._stream
        if self._phase is not _Phase.LIVE:
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
        self._phase = _Phase.DIALING
        self._due = now + self.config.connect_timeout_ms + _CONNECT_SLACK_MS
        url = connect_url(self.config, position, self._attempt)
        deflate = "zstd" not in self.config.capabilities
        self._actions.append(Connect(url, headers, self.config.connect_timeout_ms, deflate))

    def _phase_timer(self, now: int, wall: int) -> None:
        if self._phase is _Phase.WAITING:
            self._connect(now)
        elif self._phase is _Phase.DIALING:
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
        cause = ": ".join(part for part in (fatal, reason) if part) or f"closed with {int(code)}"
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
        self._phase = _Phase.WAITING
        self._due = now + delay
        self._step(ConnectionState.RECONNECTING, now)
        self._metrics.reconnects += 1
        number = None if code is None else int(code)
        event = Reconnecting(self._backoff.attempt, delay, number, status, cause, wall)
        self._delivery.tell(event, self._stream.reader.last)
        if self._queue.overflowed:
            self._fail(overflow_failure(self._queue.limit), now, wall)

    def _fail(self, failure: ConnectionFailedError, now: int, wall: int) -> None:
        if self._queue.overflowed and self._phase in _OPEN:
            self._actions.append(Close(CloseCode.NORMAL))
        self._phase = _Phase.OVER
        self.failure = failure
        self._stream.tell_faults(now, wall, at_once=True)
        self._step(ConnectionState.FAILED, now)
        self._subscriptions.fail_all(failure)

    def _step(self, state: ConnectionState, now: int) -> None:
        if state is not self._state:
            assert may_step(self._state, state)
            self._state = state
            self._metrics.step(state, now)

    # --- the beginning of a socket ----------------------------------------------------------------------------

    def _inflate(self, message: bytes, now: int, wall: int) -> bytes | None:
        greeting = self._phase is _Phase.GREETING  # the grant itself may come compressed
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

    def _begin(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data = message.data
        asked = frozenset(self.config.capabilities)
        self._granted = frozenset() if data.capabilities is UNSET else asked.intersection(data.capabilities)
        resumed = data.resumed is True and self._asked_resume and "resume" in self._granted
        if resumed and message.sequence < self._stream.reader.last:
            self._resumable = False
            self._metrics.outcome("refuted")
            self._end(CloseCode.PROTOCOL_ERROR, "the server resumed a session it has not sent so far", now, wall)
            return
        self._live_since = now
        self._phase = _Phase.LIVE
        self._set_limits(data)
        self._delivery.versioned = self._subscriptions.details = "details" in self._granted
        self._step(ConnectionState.CONNECTED, now)
        if resumed:
            self._resume(message, now, wall)
        else:
            self._fresh(message, now, wall)
        self._pump(now)

    def _set_limits(self, data: ExtendedConnectionData) -> None:
        """The server's figures, within reason (I-51)."""
        self.max_subscriptions = max(data.max_subscriptions, 0)
        if data.idle_timeout_ms is not UNSET:
            self._idle_ms = min(max(data.idle_timeout_ms, _MIN_IDLE_MS), _MAX_IDLE_MS)
        batch = limits.MAX_BATCH if data.max_batch is UNSET else data.max_batch
        self._subscriptions.max_batch = min(max(batch, 1), limits.MAX_BATCH)

    def _resume(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data, high_water = message.data, message.sequence
        last = self._stream.reader.last
        self._stream.resume(high_water, now)
        if data.session is not UNSET and is_secret(data.session):
            self._delivery.lineage.secret = data.session
        self._subscriptions.resume(None if data.subscriptions is UNSET else [one.token for one in data.subscriptions])
        # Without ids, answers to an earlier process look like ours: let them come first.
        wait = self._restored and not self._subscriptions.details
        hold_until = now + self.config.hold_ms if last < high_water or wait else now
        self._outbound.begin(now, last, hold_until=hold_until, idle_ms=self._idle_ms)
        self._outbound.waits = wait
        self._restored = False
        first = last + 1 if data.replay_from is UNSET else data.replay_from
        self._metrics.outcome("resumed")
        outage = max(now - self._lost_ms, 0)
        self._delivery.tell(Resumed(data.connection_id, first, max(high_water, first - 1), outage, wall), last)

    def _fresh(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data, delivery, stream = message.data, self._delivery, self._stream
        reason = None if data.reason is UNSET else data.reason
        had_session, had_tokens = self._had_session, bool(self._table.tokens)
        last = stream.reader.last
        lost_from = None if delivery.lineage.secret is None else last + 1
        secret = None
        if "resume" in self._granted and data.session is not UNSET:
            if is_secret(data.session):
                secret = data.session
            else:
                stream.invalid("a session secret that cannot be sent back", now, wall)
        versions = data.stream if data.stream is not UNSET and "details" in self._granted else None
        if versions is None or versions != delivery.lineage.stream:
            self._table.forget_versions()
        self._restored = False
        delivery.lineage = Lineage(secret, versions)
        self._resumable, self._had_session = secret is not None, True
        stream.begin(message.sequence, can_replay=self._resumable)
        self._subscriptions.begin([] if data.subscriptions is UNSET else [one.token for one in data.subscriptions])
        self._outbound.begin(now, 0, hold_until=now, idle_ms=self._idle_ms)
        connected = Connected(data.connection_id, tuple(sorted(self._granted)), reason, wall)
        delivery.tell(connected, last, delivery.lineage)
        if had_session:
            self._metrics.outcome(reason or "not_resumed")
            if lost_from is not None or had_tokens:
                self._metrics.gaps += 1
                delivery.tell(Gap(lost_from, None, "session_lost", "snapshot", wall), 0)

    # --- time and sending ---------------------------------------------------------------------------------------

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

    def _pump(self, now: int) -> None:
        """Sends what is queued, as far as the rate allows."""
        if self._phase is _Phase.LIVE:
            replaying = self._stream.reader.last < self._stream.replay_to
            self._outbound.pump(now, replaying=replaying, stream=self._delivery.lineage.stream)

    def _acknowledge(self, now: int, *, final: bool = False) -> None:
        if not self._stream.can_replay:
            return
        position = self._delivery.position(self._stream.reader.last)
        if self.config.ack == "checkpoint":
            secret, confirmed = self._confirmed
            position = confirmed if secret == self._delivery.lineage.secret else None
        self._outbound.acknowledge(position, now, final=final)


def _closed_error() -> ClientClosedError:
    return ClientClosedError("CLIENT_CLOSED", "the client was closed", "Make a new client.")
