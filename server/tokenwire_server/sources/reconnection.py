"""When to connect anew, pure: full-jitter back-off, and a circuit breaker for a venue that keeps failing at once."""

from random import Random
from typing import Final

from tokenwire_schemas.limits import BACKOFF_BASE_MS, BACKOFF_CAP_MS
from tokenwire_server.sources.breaker import Breaker, BreakerState

__all__ = ["OPENS_AFTER", "STABLE_S", "Reconnection"]

STABLE_S: Final = 30.0  # a connection that lived this long resets the back-off and closes the circuit
OPENS_AFTER: Final = 10  # connections in a row that lived shorter
PAUSE_S: Final = 60.0
MAX_PAUSE_S: Final = 600.0
_MAX_DOUBLINGS: Final = 16


class Reconnection:
    """The pauses between one source's connections. Times are seconds of any one clock."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._breaker = Breaker(OPENS_AFTER, PAUSE_S, MAX_PAUSE_S)
        self._attempt = 0

    def lived(self, lived_s: float) -> bool:
        """A connection lives and is ``lived_s`` old; True when that closed the circuit."""
        if lived_s < STABLE_S:
            return False
        self._attempt = 0
        return self._breaker.succeeded()

    def lost(self, now_s: float, lived_s: float, least_s: float = 0.0, *, at_once: bool = False) -> float:
        """A connection ended; how long to wait for the next, at least ``least_s`` (what the venue asked for).

        ``at_once``: the venue announced the end, so that nobody has to wait; but a venue that says goodbye again and
        again is not asked at once again and again.
        """
        self.lived(lived_s)
        if lived_s < STABLE_S:
            self._breaker.failed(now_s)
        pause_s = self._breaker.wait_s(now_s)
        first = self._attempt == 0
        ceiling_ms = min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** min(self._attempt, _MAX_DOUBLINGS))
        self._attempt += 1
        if at_once and first and pause_s == 0:
            return 0.0
        return max(self._rng.uniform(0, ceiling_ms / 1_000), least_s, pause_s)

    def circuit(self, now_s: float) -> str:
        """What is to be said of the circuit breaker; nothing in normal times."""
        state = self._breaker.state(now_s)
        if state is BreakerState.CLOSED:
            return ""
        if state is BreakerState.HALF_OPEN:
            return "circuit half-open"
        return f"circuit open for {self._breaker.wait_s(now_s):.0f} s after {self._breaker.failures} quick failures"
