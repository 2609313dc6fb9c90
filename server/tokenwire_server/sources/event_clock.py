"""A venue's event time, which goes on between its trades: pure."""

from typing import Final

from tokenwire_server.validation.trades import MAX_FUTURE_MS

__all__ = ["CLOCK_INTERVAL_MS", "EventClock"]

CLOCK_INTERVAL_MS: Final = 1_000  # how often it is worth telling


class EventClock:
    """A steady clock and the venue's lead over it, by its newest trade; a venue that replays the past
    brings the past's.

    Times are Unix ms; those of the steady clock are ms from wherever it begins, and nobody sets it. So it does not
    matter that our own clock is set meanwhile: a trade is only judged by it. Those from the future move nothing.
    """

    def __init__(self) -> None:
        self._lead_ms: int | None = None
        self._told_ms = 0

    def observe(self, event_ms: int, now_ms: int, steady_ms: int) -> None:
        """A trade of this event time came now; it is from the future if it is so by our clock and by the venue's."""
        present_ms = now_ms if self._lead_ms is None else max(now_ms, steady_ms + self._lead_ms)
        lead_ms = event_ms - steady_ms
        if event_ms - present_ms <= MAX_FUTURE_MS and (self._lead_ms is None or lead_ms > self._lead_ms):
            self._lead_ms = lead_ms

    def due(self, steady_ms: int) -> int | None:
        """The venue's time, when it is worth telling; None before the first trade, and right after it was told."""
        if self._lead_ms is None:
            return None
        event_ms = steady_ms + self._lead_ms
        if abs(event_ms - self._told_ms) < CLOCK_INTERVAL_MS:
            return None
        self._told_ms = event_ms
        return event_ms
