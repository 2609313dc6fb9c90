"""The client's session: connecting, reading, resuming, giving up. Pure: time, randomness and sockets are outside.

A shell carries out :meth:`ClientSession.take_actions`, reports what happens to the socket, calls
:meth:`ClientSession.handle_timer` when :meth:`ClientSession.next_deadline` has passed, and hands out
:meth:`ClientSession.next_event`. ``now`` is monotonic milliseconds, ``wall`` Unix milliseconds; the wall clock may
jump and is never used for a time-out. After a ``Close`` the session does not wait for the socket's end: what is
reported of it later, up to the next ``opened``, is ignored.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from msgspec import UNSET

from tokenwire.actions import Action, Close
from tokenwire.checkpoint import Checkpoint
from tokenwire.config import ClientConfig
from tokenwire.connection import OPEN, Connection, Phase
from tokenwire.cuts import MAX_ID_CHARS, cut
from tokenwire.endpoint import is_secret
from tokenwire.errors import ClientClosedError, TokenwireError
from tokenwire.events import Connected, Event, Gap, Quote, Resumed
from tokenwire.metrics import ClientMetrics
from tokenwire.queue import Lineage
from tokenwire.requests import Request
from tokenwire.states import ConnectionState
from tokenwire.tokens import LatestValues
from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.extension_messages import ExtendedConnection, ExtendedConnectionData

__all__ = ["ClientSession"]

_ATTEMPT_STRIDE: Final = 1_000  # tries made after a checkpoint are not in it
_MAX_STREAM_CHARS: Final = 256
_MIN_IDLE_MS: Final = 1_000
_MAX_IDLE_MS: Final = 600_000
_RESUMING: Final = frozenset({"resume", "details"})
"""Without ids nobody knows whether an answer in the replay is to an earlier process, or to a message sent again."""


class ClientSession(Connection):
    """One client's connection over all its sockets. See the module for how a shell drives it.

    ``latest`` maps every name used, and every address, to the newest value applied. ``failure`` is set in state
    FAILED. ``max_subscriptions`` is what the server allows on this connection, None before it said so.
    """

    def __init__(self, config: ClientConfig, random: Callable[[], float], checkpoint: Checkpoint | None = None) -> None:
        super().__init__(config, random)
        self.max_subscriptions: int | None = None
        self.latest: Mapping[str, Quote] = LatestValues(self._table)
        self._had_session = False
        self._unconfirmed: Checkpoint | None = None
        self._confirmed: tuple[str | None, int] = (None, 0)
        if checkpoint is not None:
            self._restore(checkpoint)
            self._subscriptions.exchanges.prefix = f"r{self._attempt:x}-{int(random() * 2**32):x}-"

    def _restore(self, checkpoint: Checkpoint) -> None:
        secret = checkpoint.session
        if secret is not None and not ("resume" in self.config.capabilities and is_secret(secret)):
            secret = None
        self._attempt = checkpoint.attempt + _ATTEMPT_STRIDE
        self._resumable = self._had_session = self._subscriptions.attached = secret is not None
        self._delivery.restore(checkpoint, Lineage(secret, checkpoint.stream))
        if secret is not None:
            self._stream.reader.restart(checkpoint.position)
            self._confirmed = (secret, checkpoint.position)

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

    @property
    def addresses(self) -> Mapping[str, Collection[str]]:
        """The names that are wanted, by the address each is known to mean."""
        return self._table.by_address

    def start(self, now: int) -> None:
        """Begins connecting; nothing happens when it was begun before."""
        if self._phase is Phase.IDLE and not self.is_closed:
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
        if self._phase is Phase.LIVE:
            self._acknowledge(now, final=True)
        if self._phase in OPEN:
            self._actions.append(Close(CloseCode.NORMAL))
        elif self._phase is Phase.DIALING:
            self._actions.append(Close(None))
        self.is_closed = True
        self._phase = Phase.OVER
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

    # --- the beginning of a socket ----------------------------------------------------------------------------

    def _begin(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data = message.data
        asked = frozenset(self.config.capabilities)
        self._granted = frozenset() if data.capabilities is UNSET else asked.intersection(data.capabilities)
        resumed = data.resumed is True and self._asked_resume
        if resumed and (message.sequence < self._stream.reader.last or not self._granted >= _RESUMING):
            self._resumable = False
            self._metrics.outcome("refuted")
            self._end(CloseCode.PROTOCOL_ERROR, "the server resumed what is not that session", now, wall)
            return
        self._live_since = now
        self._phase = Phase.LIVE
        self._set_limits(data)
        self._delivery.versioned = self._subscriptions.exchanges.details = "details" in self._granted
        self._step(ConnectionState.CONNECTED, now)
        if resumed:
            self._resume(message, now, wall)
        else:
            self._fresh(message, now, wall)
        self._pump(now)

    def _set_limits(self, data: ExtendedConnectionData) -> None:
        """The server's figures, within reason (I-51)."""
        self.max_subscriptions = max(data.max_subscriptions, 1)
        if data.idle_timeout_ms is not UNSET:
            self._idle_ms = min(max(data.idle_timeout_ms, _MIN_IDLE_MS), _MAX_IDLE_MS)
        batch = limits.MAX_BATCH if data.max_batch is UNSET else data.max_batch
        size = limits.MAX_MESSAGE_BYTES if data.max_message_bytes is UNSET else data.max_message_bytes
        self._subscriptions.exchanges.set_limits(batch, size)

    def _resume(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data, high_water = message.data, message.sequence
        last = self._stream.reader.last
        self._stream.resume(high_water, now)
        if data.session is not UNSET and is_secret(data.session):
            self._delivery.lineage.secret = data.session
        self._subscriptions.resume(None if data.subscriptions is UNSET else [one.token for one in data.subscriptions])
        hold_until = now + self.config.hold_ms if last < high_water else now
        self._outbound.begin(now, last, hold_until=hold_until, idle_ms=self._idle_ms)
        first = last + 1 if data.replay_from is UNSET else data.replay_from
        self._metrics.outcome("resumed")
        outage = max(now - self._lost_ms, 0)
        self._delivery.tell(
            Resumed(cut(data.connection_id, MAX_ID_CHARS), first, max(high_water, first - 1), outage, wall), last
        )

    def _fresh(self, message: ExtendedConnection, now: int, wall: int) -> None:
        data, delivery, stream = message.data, self._delivery, self._stream
        reason = None if data.reason is UNSET else data.reason
        had_session, had_tokens = self._had_session, bool(self._table.tokens)
        last = stream.reader.last
        lost_from = None if delivery.lineage.secret is None else last + 1
        secret = None
        if self._granted >= _RESUMING and data.session is not UNSET:
            if is_secret(data.session):
                secret = data.session
            else:
                stream.invalid("a session secret that cannot be sent back", now, wall)
        versions = data.stream if data.stream is not UNSET and "details" in self._granted else None
        if versions is not None and len(versions) > _MAX_STREAM_CHARS:
            stream.invalid("the name of a stream that is too long", now, wall)
            versions = None
        if versions is None or versions != delivery.lineage.stream:
            self._table.forget_versions()
        delivery.lineage = Lineage(secret, versions)
        self._resumable, self._had_session = secret is not None, True
        stream.begin(message.sequence, can_replay="resume" in self._granted)
        self._subscriptions.begin([] if data.subscriptions is UNSET else [one.token for one in data.subscriptions])
        self._outbound.begin(now, 0, hold_until=now, idle_ms=self._idle_ms)
        connected = Connected(
            cut(data.connection_id, MAX_ID_CHARS), tuple(sorted(self._granted)), reason, wall, versions
        )
        delivery.tell(connected, last, delivery.lineage)
        if had_session:
            self._metrics.outcome(reason or "not_resumed")
            if lost_from is not None or had_tokens:
                self._metrics.gaps += 1
                delivery.tell(Gap(lost_from, None, "session_lost", "snapshot", wall), 0)

    # --- sending ----------------------------------------------------------------------------------------------

    def _pump(self, now: int) -> None:
        """Sends what is queued, as far as the rate allows."""
        if self._phase is Phase.LIVE:
            replaying = self._stream.reader.last < self._stream.replay_to
            self._outbound.pump(now, replaying=replaying, stream=self._delivery.lineage.stream)

    def _acknowledge(self, now: int, *, final: bool = False) -> None:
        if not self._stream.can_replay:
            return
        position = self._delivery.position(self._stream.reader.last)
        if self.config.ack == "checkpoint" and self._resumable:
            secret, confirmed = self._confirmed
            position = confirmed if secret == self._delivery.lineage.secret else None
        self._outbound.acknowledge(position, now, final=final)


def _closed_error() -> ClientClosedError:
    return ClientClosedError("CLIENT_CLOSED", "the client was closed", "Make a new client.")
