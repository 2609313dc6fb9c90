"""How long to wait before the next try (Spec, Connection Management; I-45)."""

from collections.abc import Callable
from typing import Final

from tokenwire_schemas.close_codes import CloseCode

__all__ = ["RETRY_AFTER_CAP_MS", "Backoff", "needs_floor"]

RETRY_AFTER_CAP_MS: Final = 300_000
"""A longer ``Retry-After`` is taken as five minutes, so that one bad header cannot silence a client for days."""

_MAX_DOUBLINGS: Final = 40
_FLOOR_CODES: Final = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.SERVICE_RESTART,
        CloseCode.TRY_AGAIN_LATER,
        CloseCode.SLOW_CONSUMER,
        CloseCode.RATE_LIMITED,
    }
)


def needs_floor(code: int | None) -> bool:
    """Whether coming back at once after this close code would hurt: slowness, rate, capacity or restart."""
    return code in _FLOOR_CODES


class Backoff:
    """Full jitter over a doubling bound; counts the tries since the last stable connection."""

    __slots__ = ("_base_ms", "_cap_ms", "_max_retries", "_random", "attempt")

    def __init__(self, base_ms: int, cap_ms: int, max_retries: int | None, random: Callable[[], float]) -> None:
        self._base_ms = base_ms
        self._cap_ms = cap_ms
        self._max_retries = max_retries
        self._random = random
        self.attempt = 0
        """Tries begun since the last stable connection."""

    def next_delay(self, *, floor: bool = False, retry_after_ms: int | None = None) -> int | None:
        """The wait in ms before the next try, None when no try is left.

        ``floor``: not below the base. ``retry_after_ms``: not below what the server asked for, at most
        :data:`RETRY_AFTER_CAP_MS`; the only thing that exceeds the cap.
        """
        if self._max_retries is not None and self.attempt >= self._max_retries:
            return None
        bound = min(self._cap_ms, self._base_ms << min(self.attempt, _MAX_DOUBLINGS))
        self.attempt += 1
        drawn = min(max(self._random(), 0.0), 1.0)
        delay = int(drawn * bound)
        if floor:
            delay = max(delay, min(self._base_ms, self._cap_ms))
        if retry_after_ms is not None:
            delay = max(delay, min(max(retry_after_ms, 0), RETRY_AFTER_CAP_MS))
        return delay

    def reset(self) -> None:
        """A connection was stable: the next wait starts over."""
        self.attempt = 0
