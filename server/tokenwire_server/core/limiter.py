"""What one peer may send: a token bucket for messages, one for control frames, a window of protocol errors."""

from enum import Enum

from tokenwire_schemas import limits

__all__ = ["Limiter", "Verdict"]

_SCALE = 1000  # tokens are kept in thousandths, so that whole milliseconds refill exactly
_QUIET_MS = 2 * limits.RATE_NOTICE_INTERVAL_MS


class Verdict(Enum):
    """What becomes of an inbound message."""

    ACCEPT = "accept"
    DROP = "drop"  # silently: the notice for this second is out already
    NOTIFY = "notify"  # dropped, and now the client is told how many were
    CUT = "cut"  # the flood lasted 10 s


class Limiter:
    """Limits of one connection; all times are monotonic milliseconds."""

    __slots__ = ("_control", "_control_ms", "_errors", "_flood_ms", "_last_drop_ms", "_messages", "_messages_ms",
                 "_notice_ms", "dropped")  # fmt: skip

    def __init__(self, now_ms: int) -> None:
        self.dropped = 0  # since the last notice
        self._messages = limits.INBOUND_BURST * _SCALE
        self._control = limits.INBOUND_CONTROL_RATE_PER_S * _SCALE
        self._messages_ms = self._control_ms = now_ms
        self._flood_ms: int | None = None
        self._last_drop_ms = self._notice_ms = now_ms - limits.RATE_NOTICE_INTERVAL_MS
        self._errors: list[int] | None = None

    def message(self, now_ms: int) -> Verdict:
        """Account for one data message."""
        refill = (now_ms - self._messages_ms) * limits.INBOUND_RATE_PER_S
        self._messages = min(self._messages + refill, limits.INBOUND_BURST * _SCALE)
        self._messages_ms = now_ms
        if self._messages >= _SCALE:
            self._messages -= _SCALE
            return Verdict.ACCEPT
        return self._drop(now_ms)

    def charge(self, messages: int) -> None:
        """Account for ``messages`` more, already accepted; they delay the next ones."""
        self._messages -= messages * _SCALE

    def may_read(self, now_ms: int, *, small: bool) -> bool:
        """Whether a message may be looked at: within the rate, or so small that it may be an ack or a ping, which
        have the rate of control frames. What it is accounted for is told by :meth:`message` or :meth:`control`."""
        messages = self._messages + (now_ms - self._messages_ms) * limits.INBOUND_RATE_PER_S
        control = self._control + (now_ms - self._control_ms) * limits.INBOUND_CONTROL_RATE_PER_S
        return messages >= _SCALE or (small and control >= _SCALE)

    def control(self, now_ms: int) -> Verdict:
        """Account for one ping, pong or ack."""
        refill = (now_ms - self._control_ms) * limits.INBOUND_CONTROL_RATE_PER_S
        self._control = min(self._control + refill, limits.INBOUND_CONTROL_RATE_PER_S * _SCALE)
        self._control_ms = now_ms
        if self._control >= _SCALE:
            self._control -= _SCALE
            return Verdict.ACCEPT
        return self._drop(now_ms)

    def protocol_error(self, now_ms: int) -> bool:
        """Account for one protocol error; true if it is one too many within the window."""
        if self._errors is None:
            self._errors = []
        errors = self._errors
        errors.append(now_ms)
        while errors[0] <= now_ms - limits.PROTOCOL_ERRORS_WINDOW_MS:
            del errors[0]
        return len(errors) >= limits.PROTOCOL_ERRORS_MAX

    def _drop(self, now_ms: int) -> Verdict:
        self.dropped += 1
        if self._flood_ms is None or now_ms - self._last_drop_ms > _QUIET_MS:
            self._flood_ms = now_ms
        self._last_drop_ms = now_ms
        if now_ms - self._flood_ms >= limits.RATE_SUSTAINED_MS:
            return Verdict.CUT
        if now_ms - self._notice_ms >= limits.RATE_NOTICE_INTERVAL_MS:
            self._notice_ms = now_ms
            return Verdict.NOTIFY
        return Verdict.DROP
