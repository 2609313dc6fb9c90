"""A circuit breaker, pure: after failures in a row it asks for a long pause, then lets one attempt probe."""

from enum import StrEnum
from typing import Final

__all__ = ["Breaker", "BreakerState"]

_MAX_DOUBLINGS: Final = 16


class BreakerState(StrEnum):
    """``closed`` is normal; ``open`` means no attempt; ``half-open`` means that one attempt probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Opens after ``opens_after`` failures in a row, for ``pause_s``; a probe that fails doubles the pause, up to
    ``max_pause_s``. Times are seconds of any one clock. Raises ValueError for numbers that make no breaker."""

    def __init__(self, opens_after: int, pause_s: float, max_pause_s: float) -> None:
        if opens_after < 1 or not 0 < pause_s <= max_pause_s:
            raise ValueError("opens_after must be 1 or more, and 0 < pause_s <= max_pause_s")
        self.failures = 0
        """In a row."""
        self.openings = 0
        self._opens_after = opens_after
        self._pause_s = pause_s
        self._max_pause_s = max_pause_s
        self._opened_in_a_row = 0
        self._until_s: float | None = None  # None: closed

    def state(self, now_s: float) -> BreakerState:
        """Where it stands."""
        if self._until_s is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._until_s else BreakerState.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """How long the next attempt must wait; 0 for none."""
        return 0.0 if self._until_s is None else max(0.0, self._until_s - now_s)

    def failed(self, now_s: float) -> None:
        """An attempt failed."""
        self.failures += 1
        # What was under way when it opened, and fails now, says nothing new.
        if self.state(now_s) is BreakerState.OPEN:
            return
        if self._until_s is not None or self.failures >= self._opens_after:
            self.openings += 1
            pause_s = self._pause_s * 2 ** min(self._opened_in_a_row, _MAX_DOUBLINGS)
            self._opened_in_a_row += 1
            self._until_s = now_s + min(pause_s, self._max_pause_s)

    def succeeded(self) -> bool:
        """An attempt went well; True when that closed the circuit."""
        closed_now = self._until_s is not None
        self.failures = 0
        self._opened_in_a_row = 0
        self._until_s = None
        return closed_now
