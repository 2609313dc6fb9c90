"""Which of two clocks is right, this machine's or the brokers', can't be known; how far they differ can."""

import time
from collections.abc import Callable
from typing import Final

from tokenwire_server.telemetry.logs import get_log

__all__ = ["MAX_CLOCK_SKEW_MS", "BrokersClock"]

_log = get_log(__name__)

HEARD_MS: Final = 30_000
MAX_CLOCK_SKEW_MS: Final = 5_000  # between the brokers' clock and ours, before it is told of


class BrokersClock:
    """This machine's clock (``wall_ms``, Unix ms), and how far the brokers' is ahead of it."""

    def __init__(self, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.wall_ms: Final = wall_ms
        self.skew_ms = 0
        """How far the brokers' clock is ahead of ours, as far as that is certain."""
        self._until_ms = 0  # when what was heard by then is judged
        self._lead_ms = 0  # the greatest since

    def later_ms(self) -> int:
        """By whichever is ahead: what is from the future by both of them is."""
        return self.wall_ms() + max(0, self.skew_ms)

    def earlier_ms(self) -> int:
        """By whichever is behind."""
        return self.wall_ms() + min(0, self.skew_ms)

    def judge(self, written_ms: int, before_ms: int, after_ms: int) -> None:
        """The brokers wrote something by their clock at ``written_ms``, between these times of ours."""
        self._tell(written_ms - after_ms if written_ms > after_ms else min(written_ms - before_ms, 0))

    def heard(self, written_ms: int, steady_ms: int) -> None:
        """What the brokers wrote by their clock at ``written_ms`` came now; how long that took isn't known. So the
        shortest time within ``HEARD_MS`` counts, by a clock that nobody sets."""
        lead_ms = written_ms - self.wall_ms()
        if steady_ms < self._until_ms:
            self._lead_ms = max(self._lead_ms, lead_ms)
            return
        if self._until_ms:
            self._tell(self._lead_ms)
        self._until_ms, self._lead_ms = steady_ms + HEARD_MS, lead_ms

    def _tell(self, skew_ms: int) -> None:
        before, self.skew_ms = self.skew_ms, skew_ms
        if abs(skew_ms) <= MAX_CLOCK_SKEW_MS:
            if abs(before) > MAX_CLOCK_SKEW_MS:
                _log.info("clocks agree again")
        elif abs(before) <= MAX_CLOCK_SKEW_MS:
            _log.warning("clocks differ", brokers_ahead_ms=skew_ms, advice="set the machines' clocks by NTP")
