"""Round-trip time and the server's clock, from pings that come back (I-57)."""

from collections import deque
from typing import Final

import msgspec

__all__ = ["ClockEstimate"]

_SAMPLES: Final = 8
_MAX_OUTSTANDING: Final = 8
_WALL_JUMP_MS: Final = 50


class _Sample(msgspec.Struct, frozen=True):
    rtt_ms: int
    ahead_of_monotonic_ms: float
    ahead_of_wall_ms: float


class ClockEstimate:
    """Of the last eight samples the one with the shortest round trip: its error is at most half of that.

    Kept against the monotonic clock, so that a jump of the local wall clock does not spoil latencies.
    """

    __slots__ = ("_best", "_count", "_outstanding", "_renew", "_samples", "rtt_ms")

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._outstanding: dict[str, tuple[int, int]] = {}
        self._count = 0
        self._renew = False
        self._best: _Sample | None = None
        self.rtt_ms: int | None = None

    def new_socket(self) -> None:
        """Another server may answer now: keep the estimate only until the first new sample."""
        self._outstanding.clear()
        self._renew = True

    def ping(self, now: int, wall: int) -> str:
        """The echo for a ping sent now."""
        self._count += 1
        echo = f"p{self._count}"
        if len(self._outstanding) >= _MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[echo] = (now, wall)
        return echo

    def pong(self, echo: object, timestamp: int, now: int, wall: int) -> bool:
        """A ping came back with the server's clock; False when it is none of ours."""
        sent = self._outstanding.pop(echo, None) if isinstance(echo, str) else None
        if sent is None:
            return False
        sent_now, sent_wall = sent
        rtt = max(now - sent_now, 0)
        self.rtt_ms = rtt
        if abs((wall - sent_wall) - rtt) > _WALL_JUMP_MS:  # the wall clock was set meanwhile: its midpoint is nothing
            sent_wall = wall - rtt
        if self._renew:
            self._samples.clear()
            self._renew = False
        half = rtt / 2
        self._samples.append(_Sample(rtt, timestamp - (sent_now + half), timestamp - (sent_wall + half)))
        self._best = min(self._samples, key=lambda sample: sample.rtt_ms)
        return True

    @property
    def offset_ms(self) -> float | None:
        """The server's clock minus the local wall clock, in ms."""
        return None if self._best is None else self._best.ahead_of_wall_ms

    def server_now(self, now: int, wall: int) -> float:
        """The server's time now, in ms; the local wall clock as long as nothing better is known."""
        return wall if self._best is None else now + self._best.ahead_of_monotonic_ms
