"""What the client sends on a live socket: requests, acks, replays and pings, each at its pace."""

from typing import Final

import msgspec

from tokenwire.actions import Action, Ping, Send
from tokenwire.clock import ClockEstimate
from tokenwire.config import ClientConfig
from tokenwire.metrics import ClientMetrics
from tokenwire.pacing import Pacer
from tokenwire.subscriptions import Subscriptions
from tokenwire_schemas.extension_messages import Ack, AckData, PingData, Replay, ReplayData
from tokenwire_schemas.extension_messages import Ping as PingMessage

__all__ = ["Outbound"]

_MIN_ACK_INTERVAL_MS: Final = 50
_RATE_PAUSE_MS: Final = 1_000
_MAX_RATE_PAUSE_MS: Final = 60_000
_encoder: Final = msgspec.json.Encoder()


class Outbound:
    """Numbers, stamps and paces the client's messages; appends to the session's actions."""

    __slots__ = (
        "_ack_ms",
        "_actions",
        "_clock",
        "_config",
        "_hold_until",
        "_interval_ms",
        "_metrics",
        "_now",
        "_pacer",
        "_ping_ms",
        "_resend_at",
        "_sequence",
        "_subscriptions",
        "_wall",
        "acked",
    )

    def __init__(
        self,
        config: ClientConfig,
        subscriptions: Subscriptions,
        clock: ClockEstimate,
        metrics: ClientMetrics,
        actions: list[Action],
    ) -> None:
        self._config = config
        self._subscriptions = subscriptions
        self._clock = clock
        self._metrics = metrics
        self._actions = actions
        self._pacer = Pacer(0)
        self._sequence = 0
        self._now = self._wall = 0
        self._ack_ms = self._ping_ms = 0
        self._interval_ms = config.ping_interval_ms
        self._hold_until: int | None = None
        self._resend_at: int | None = None
        self.acked = 0
        """The last number acknowledged."""

    def set_clock(self, now: int, wall: int) -> None:
        """What time it is; calls without ``wall`` go on from here."""
        self._now, self._wall = now, wall

    def begin(self, now: int, acked: int, *, hold_until: int, idle_ms: int) -> None:
        """A live socket. Requests wait for the end of its replay, at most until ``hold_until``.

        Pings come often enough for a peer that is dead after ``idle_ms``.
        """
        self._interval_ms = min(self._config.ping_interval_ms, max(idle_ms // 2, 1))
        self._pacer = Pacer(now)
        self._sequence = 0
        self.acked = acked
        self._ack_ms = now
        self._ping_ms = now - self._interval_ms  # the first ping at once: it sets the clock
        self._hold_until = hold_until
        self._resend_at = None

    def _next(self, now: int) -> tuple[int, int]:
        """Sequence and timestamp of the next message; a strict server may want both."""
        self._sequence += 1
        return self._sequence, max(self._wall + now - self._now, 0)

    def _send(self, message: msgspec.Struct) -> None:
        self._actions.append(Send(_encoder.encode(message).decode()))

    def ready_at(self, now: int) -> int:
        """When the next message may be sent."""
        return self._pacer.ready_at(now)

    def rate_limited(self, retry_after_ms: int, now: int) -> None:
        """The server dropped something: be silent for a while, then repeat what was not answered."""
        pause = min(max(retry_after_ms, _RATE_PAUSE_MS), _MAX_RATE_PAUSE_MS)
        self._pacer.not_before = max(self._pacer.not_before, now + pause)
        self._resend_at = now + pause

    def pump(self, now: int, *, replaying: bool, stream: str | None) -> None:
        """Sends requests as far as the rate allows."""
        subscriptions, exchanges = self._subscriptions, self._subscriptions.exchanges
        if self._hold_until is not None:
            if replaying and now < self._hold_until:
                return
            self._hold_until = None
            exchanges.send_again()
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_at = None
            exchanges.send_again()
        if subscriptions.unsettled and exchanges.is_idle and not replaying:
            subscriptions.settle()
        while (exchange := exchanges.next_to_send) is not None:
            if not self._pacer.take(exchange.size, now):
                return
            sequence, timestamp = self._next(now)
            known = subscriptions.known(exchange) if exchanges.details else {}
            text = exchange.encode(
                sequence,
                timestamp,
                with_id=exchanges.details,
                known=known,
                stream=stream,
                channel=self._config.channel,
            )
            exchanges.sent(exchange, now)
            self._actions.append(Send(text))

    def replay(self, first: int, last: int, now: int) -> bool:
        """Asks for ``first`` to ``last`` once more; False when the rate does not allow it yet."""
        if not self._pacer.take(0, now):
            return False
        sequence, timestamp = self._next(now)
        self._send(Replay(sequence=sequence, timestamp=timestamp, data=ReplayData(first, last)))
        self._metrics.replays_asked += 1
        return True

    def acknowledge(self, position: int | None, now: int, *, final: bool) -> None:
        """Acknowledges ``position`` if it rose and it is time to."""
        since = now - self._ack_ms
        if position is None or position <= self.acked:
            if since >= self._config.ack_interval_ms:
                self._ack_ms = now
            return
        many = position - self.acked >= self._config.ack_frames and since >= _MIN_ACK_INTERVAL_MS
        if not (final or many or since >= self._config.ack_interval_ms):
            return
        sequence, timestamp = self._next(now)
        self._send(Ack(sequence=sequence, timestamp=timestamp, data=AckData(position)))
        self.acked = position
        self._ack_ms = now
        self._metrics.acks += 1

    def _ping_due(self, heard_ms: int, granted: frozenset[str]) -> int:
        """By the protocol's own ping at every interval, for the clock; else after that much quiet."""
        if "heartbeat" in granted:
            return max(self._ping_ms + self._interval_ms, self._pacer.not_before)
        return max(self._ping_ms, heard_ms) + self._interval_ms

    def ping(self, heard_ms: int, granted: frozenset[str], now: int) -> None:
        """Pings if it is time to."""
        if now < self._ping_due(heard_ms, granted):
            return
        if "heartbeat" not in granted:
            self._actions.append(Ping())
        elif self._pacer.take(0, now):
            sequence, timestamp = self._next(now)
            data = PingData(self._clock.ping(now, timestamp))
            self._send(PingMessage(sequence=sequence, timestamp=timestamp, data=data))
        else:
            self._actions.append(Ping())
        self._ping_ms = now
        self._metrics.pings += 1

    def deadline(self, heard_ms: int, granted: frozenset[str], last: int, *, can_ack: bool) -> int:
        """When something of this is due; ``last`` is the last number received in order."""
        due = self._ping_due(heard_ms, granted)
        if can_ack and last > self.acked:
            due = min(due, self._ack_ms + self._config.ack_interval_ms)
        answer = self._subscriptions.deadline()
        if answer is not None:
            due = min(due, answer)
        if self._hold_until is not None:
            return min(due, self._hold_until)
        if self._subscriptions.exchanges.next_to_send is not None:
            due = min(due, self._pacer.ready_at(self._now))
        if self._resend_at is not None:
            due = min(due, self._resend_at)
        return due
