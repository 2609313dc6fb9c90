"""Lengths of bars: ``1s``, ``1m``, ``5m``, ``15m``, ``1h`` as the specification of bars has them, and any other of
whole seconds up to a week.

Bars begin at multiples of their length since the Unix epoch (UTC); those of whole weeks on Mondays.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["DEFAULT_INTERVALS", "MAX_INTERVALS", "Interval", "IntervalError", "parse_interval", "parse_intervals"]

MAX_INTERVALS: Final = 16  # that a server keeps; each costs memory and time for every token
MAX_INTERVAL_MS: Final = 7 * 86_400_000
_UNITS_MS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_FIRST_MONDAY_MS: Final = 4 * 86_400_000  # the epoch was a Thursday
_TEXT: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")


class IntervalError(ValueError):
    """A text names no interval; the message says what would."""


class Interval(NamedTuple):
    """The length of a bar. ``text`` is its only spelling: 60 s are ``1m``."""

    text: str
    ms: int

    @property
    def offset_ms(self) -> int:
        """Where the first bar after the epoch begins."""
        return _FIRST_MONDAY_MS if self.ms % _UNITS_MS["w"] == 0 else 0

    def open_ms(self, time_ms: int) -> int:
        """The beginning of the bar that an event at ``time_ms`` (Unix ms) belongs to."""
        offset = self.offset_ms
        return (time_ms - offset) // self.ms * self.ms + offset

    def holds(self, other: "Interval") -> bool:
        """Whether each bar of ``other``, which is shorter, lies within one of these."""
        return self.ms % other.ms == 0 and (self.offset_ms - other.offset_ms) % other.ms == 0


def parse_interval(text: str) -> Interval:
    """Read ``5m`` and the like.

    Raises:
        IntervalError: not a number with a unit of s, m, h, d or w, or longer than a week.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise IntervalError(f"{text[:20]!r} is no interval: a number with s, m, h, d or w, such as 1s, 5m or 1h")
    ms = int(match[1]) * _UNITS_MS[match[2]]
    if ms > MAX_INTERVAL_MS:
        raise IntervalError(f"{text} is too long for an interval: at most 1w")
    unit, unit_ms = next((unit, unit_ms) for unit, unit_ms in _UNITS_MS.items() if ms % unit_ms == 0)
    return Interval(f"{ms // unit_ms}{unit}", ms)


def parse_intervals(texts: Iterable[str]) -> tuple[Interval, ...]:
    """Read several, shortest first, each once.

    Raises:
        IntervalError: one of them is none, there are none, or too many.
    """
    found = sorted({parse_interval(text) for text in texts}, key=lambda interval: interval.ms)
    if not 1 <= len(found) <= MAX_INTERVALS:
        raise IntervalError(f"from 1 to {MAX_INTERVALS} intervals, not {len(found)}")
    return tuple(found)


DEFAULT_INTERVALS: Final = parse_intervals(["1s", "1m", "5m", "15m", "1h"])
