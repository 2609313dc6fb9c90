"""How long trades and bars are kept. Pure."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from tokenwire_server.market.intervals import MAX_INTERVAL_MS, IntervalError, parse_interval

__all__ = ["DEFAULT_BARS", "DEFAULT_TRADES", "FOREVER", "Retention", "parse_duration_ms", "parse_retention_bars"]

FOREVER: Final = "forever"
DEFAULT_TRADES: Final = "30d"
DEFAULT_BARS: Final = "1s=7d"
MAX_DAYS: Final = 36_500
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")


class Retention(NamedTuple):
    """How long what is kept, in ms of event time counted back from each token's newest; None: for ever."""

    trades_ms: int | None = 30 * _UNITS_MS["d"]
    bars_ms: Mapping[int, int] = MappingProxyType({1_000: 7 * _UNITS_MS["d"]})
    """By the length of the interval in ms; those that are missing are kept for ever."""


def parse_duration_ms(text: str) -> int | None:
    """Read ``30d`` and the like (s, m, h, d or w); None for ``forever``.

    Raises:
        ValueError: it is none of these, or longer than a hundred years.
    """
    if text.strip().lower() == FOREVER:
        return None
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:20]!r} is no duration: a number with s, m, h, d or w, such as 30d, or {FOREVER}")
    ms = int(match[1]) * _UNITS_MS[match[2]]
    if ms > MAX_DAYS * _UNITS_MS["d"]:
        raise ValueError(f"{text} is too long: at most {MAX_DAYS}d, or {FOREVER}")
    return ms


def parse_retention_bars(text: str) -> Mapping[int, int]:
    """Read ``1s=7d;1m=1w``: how long bars of each length are kept; lengths that are missing, for ever.

    Bars are kept for a week at least, since the running bars of longer intervals are made again of shorter ones.

    Raises:
        ValueError: a part is no such pair, names an interval twice, or keeps it too short.
    """
    kept: dict[int, int] = {}
    seen = set()
    for part in re.split(r"[;,\s]+", text.strip(";, ")):
        if not part or part.lower() == FOREVER:
            continue
        name, equals, duration = part.partition("=")
        if not equals:
            raise ValueError(f"{part[:40]!r} is no interval and its duration, such as 1s=7d")
        try:
            interval = parse_interval(name)
        except IntervalError as error:
            raise ValueError(str(error)) from None
        if interval.ms in seen:
            raise ValueError(f"{interval.text} is named twice")
        seen.add(interval.ms)
        ms = parse_duration_ms(duration)
        if ms is not None and ms < MAX_INTERVAL_MS:
            raise ValueError(f"{part}: bars are kept for 7d at least, since running longer bars are made of them")
        if ms is not None:
            kept[interval.ms] = ms
    return MappingProxyType(kept)
