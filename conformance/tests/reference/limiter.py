"""How much one client may send (I-25, I-27, I-36, I-72)."""

from collections import deque
from enum import Enum
from typing import Final

__all__ = ["Limiter", "Rate"]

_RATE_PER_S: Final = 20
_BURST: Final = 40
_CONTROL_PER_S: Final = 200
_NOTICE_S: Final = 1.0
_FLOOD_S: Final = 10.0
_SHARE_BYTES: Final = 16_384
_REFUSALS: Final = 10
_WINDOW_S: Final = 60.0


class Rate(Enum):
    """What becomes of a message."""

    ACCEPT = 1
    DROP = 2
    TELL = 3
    CUT = 4


class Limiter:
    """Two buckets, and the refusals of the last minute."""

    def __init__(self, now_s: float, faults: frozenset[str]) -> None:
        self._faults = faults
        self._messages = 5.0 if "burst_of_five" in faults else float(_BURST)
        self._burst = self._messages
        self._control = float(_CONTROL_PER_S)
        self._at_s = now_s
        self._notice_s = now_s - _NOTICE_S
        self._flood_s: float | None = None
        self._last_drop_s = now_s
        self._refusals: deque[float] = deque()
        self.dropped = 0

    def message(self, now_s: float) -> Rate:
        """A message that is no ack and no ping."""
        self._refill(now_s)
        if self._messages < 1 and "no_rate_limit" not in self._faults:
            return self._over(now_s)
        self._messages -= 1
        return Rate.ACCEPT

    def control(self, now_s: float) -> Rate:
        """A ping, a pong or an ack."""
        if "pings_count_as_messages" in self._faults:
            return self.message(now_s)
        self._refill(now_s)
        if self._control < 1:
            return self._over(now_s)
        self._control -= 1
        return Rate.ACCEPT

    def charge(self, length: int) -> None:
        """A message of that many bytes was accepted."""
        if "long_messages_cost_one" not in self._faults:
            self._messages -= length // _SHARE_BYTES

    def refusal(self, now_s: float) -> bool:
        """A message was refused; whether it is the one that ends the connection."""
        self._refusals.append(now_s)
        while self._refusals[0] <= now_s - _WINDOW_S:
            self._refusals.popleft()
        return len(self._refusals) >= _REFUSALS and "refusals_without_end" not in self._faults

    def _refill(self, now_s: float) -> None:
        passed_s = now_s - self._at_s
        self._at_s = now_s
        self._messages = min(self._burst, self._messages + passed_s * _RATE_PER_S)
        self._control = min(float(_CONTROL_PER_S), self._control + passed_s * _CONTROL_PER_S)

    def _over(self, now_s: float) -> Rate:
        self.dropped += 1
        if self._flood_s is None or now_s - self._last_drop_s > 2 * _NOTICE_S:
            self._flood_s = now_s
        self._last_drop_s = now_s
        if now_s - self._flood_s >= _FLOOD_S and "flood_without_end" not in self._faults:
            return Rate.CUT
        if now_s - self._notice_s >= _NOTICE_S or "rate_told_each_time" in self._faults:
            self._notice_s = now_s
            return Rate.TELL
        return Rate.DROP
