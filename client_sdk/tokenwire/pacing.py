"""Keeps the client below the server's inbound rate (I-27, I-36)."""

from typing import Final

from tokenwire_schemas import limits

__all__ = ["Pacer"]

# Well below what is allowed: messages spread here may arrive bunched there.
_RATE_PER_S: Final = limits.INBOUND_RATE_PER_S * 3 // 4
_BURST: Final = limits.INBOUND_BURST // 2


class Pacer:
    """A token bucket of messages; starts full with every socket."""

    __slots__ = ("_credit", "_since", "not_before")

    def __init__(self, now: int) -> None:
        self._credit = float(_BURST)
        self._since = now
        self.not_before = now
        """Nothing is sent earlier, in monotonic ms; set after RATE_LIMITED."""

    def _refill(self, now: int) -> None:
        if now > self._since:
            self._credit = min(_BURST, self._credit + (now - self._since) * _RATE_PER_S / 1000)
            self._since = now

    def take(self, size: int, now: int) -> bool:
        """Whether a message of ``size`` characters may be sent now; counts it if so."""
        self._refill(now)
        if now < self.not_before or self._credit < 1:
            return False
        self._credit -= 1 + size // limits.INBOUND_SHARE_BYTES  # a long one may go into debt; the next one waits
        return True

    def ready_at(self, now: int) -> int:
        """When the next message may be sent, in monotonic ms."""
        self._refill(now)
        wait = 0 if self._credit >= 1 else int((1 - self._credit) * 1000 / _RATE_PER_S) + 1
        return max(now + wait, self.not_before)
