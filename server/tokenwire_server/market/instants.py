"""Instants as text: RFC 3339 in UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["MAX_INSTANT_CHARS", "parse_instant", "rfc3339"]

MAX_INSTANT_CHARS: Final = 40
_WHOLE: Final = re.compile(r"[0-9]{1,16}")
_SECONDS_BELOW: Final = 100_000_000_000  # a smaller number is a time in seconds (until the year 5138), else in ms
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS: Final = 253_402_300_799_999  # the year 9999 ends


def parse_instant(text: str) -> int:
    """Unix ms of a Unix time in seconds or ms, or of RFC 3339 with its time zone; parts of a ms are dropped.

    Raises:
        ValueError: it is none of these. The message says what would be right.
    """
    if _WHOLE.fullmatch(text):
        whole = int(text)
        ms = whole * 1_000 if whole < _SECONDS_BELOW else whole
    else:
        try:
            moment = datetime.fromisoformat(text) if len(text) <= MAX_INSTANT_CHARS else None
        except ValueError:
            moment = None
        if moment is None:
            raise ValueError("a Unix time in s or ms, or RFC 3339 such as 2026-03-21T10:30:00Z")
        if moment.tzinfo is None:
            raise ValueError("a time with its time zone (Z for UTC)")
        ms = (moment - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= ms <= _LAST_MS:
        raise ValueError("a time from 1970 to 9999")
    return ms


def rfc3339(time_ms: int) -> str:
    """``time_ms`` (Unix ms) with milliseconds, or without where they are zero."""
    seconds, rest = divmod(time_ms, 1_000)
    text = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    return f"{text}.{rest:03d}Z" if rest else text + "Z"
