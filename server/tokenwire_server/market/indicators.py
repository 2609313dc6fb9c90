"""Indicators over the bars of a token: moving averages, RSI, MACD, Bollinger bands, ATR and VWAP. Pure.

An indicator is written as its name and its numbers: ``sma:20``, ``ema:50``, ``rsi:14``, ``atr:14``, ``macd:12:26:9``
(fast, slow, signal), ``bollinger:20:2`` (period, standard deviations), ``vwap``. All but ATR and VWAP are of closing
prices.

Values are floats: they are statistics, and not exact. What they depend on:

* SMA and Bollinger: the last ``period`` bars, nothing else.
* EMA, MACD, RSI and ATR: every bar there was, the older the less. :func:`warm_up_bars` says how many earlier bars make
  what is before them weigh less than about 10^-8 of what it did.
* VWAP: the trades since midnight (UTC), which are the turnover divided by the volume of the bars that opened since.
  So bars of any length give the same one.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from talipp.indicators import ATR, BB, EMA, MACD, RSI, SMA, VWAP  # type: ignore[import-untyped]
from talipp.ohlcv import OHLCV  # type: ignore[import-untyped]

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.intervals import Interval

__all__ = [
    "EXAMPLES",
    "MAX_INDICATORS",
    "MAX_PERIOD_BARS",
    "MAX_WARM_UP_BARS",
    "Indicator",
    "IndicatorError",
    "IndicatorSeries",
    "IndicatorValue",
    "Stretch",
    "day_before",
    "parse_indicator",
    "parse_indicators",
    "warm_up_bars",
]

MAX_PERIOD_BARS: Final = 1_000
MAX_INDICATORS: Final = 8  # in one request
MAX_WARM_UP_BARS: Final = 5_000
MAX_DEVIATIONS: Final = 100
_DAY_MS: Final = 86_400_000
_EMA_PERIODS: Final = 10  # after n periods the start weighs e^-2n
_WILDER_PERIODS: Final = 20  # e^-n
_PERIOD: Final = re.compile(r"[1-9][0-9]{0,3}")
_DEVIATIONS: Final = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{1,4})?")
_MAX_TEXT_CHARS: Final = 40

IndicatorValue = float | dict[str, float | None] | None
"""A number, or several by name (``macd``, ``signal``, ``histogram``; ``lower``, ``middle``, ``upper``); None while
there are too few bars."""


class IndicatorError(ValueError):
    """A text names no indicator; the message says what would."""


class Indicator(NamedTuple):
    """What to calculate. ``text`` is its only spelling, also in answers."""

    text: str
    name: str
    periods: tuple[int, ...]
    deviations: float = 0


class _Kind(NamedTuple):
    """``least``: the smallest period. ``warm_up``: how many bars before the first one asked for."""

    example: str
    periods: int
    build: Callable[[Indicator], Any]
    warm_up: Callable[[Indicator], int]
    least: int = 1
    has_deviations: bool = False
    takes_closes: bool = True


def _window(indicator: Indicator) -> int:
    return indicator.periods[0] - 1


_KINDS: Final[dict[str, _Kind]] = {
    "sma": _Kind("sma:20", 1, lambda each: SMA(*each.periods), _window),
    "ema": _Kind("ema:50", 1, lambda each: EMA(*each.periods), lambda each: _EMA_PERIODS * each.periods[0]),
    "rsi": _Kind("rsi:14", 1, lambda each: RSI(*each.periods), lambda each: _WILDER_PERIODS * each.periods[0], least=2),
    "macd": _Kind(
        "macd:12:26:9",
        3,
        lambda each: MACD(*each.periods),
        lambda each: _EMA_PERIODS * (each.periods[1] + each.periods[2]),
    ),
    "bollinger": _Kind(
        "bollinger:20:2", 1, lambda each: BB(each.periods[0], each.deviations), _window, has_deviations=True
    ),
    "atr": _Kind(
        "atr:14",
        1,
        lambda each: ATR(*each.periods),
        lambda each: _WILDER_PERIODS * each.periods[0],
        takes_closes=False,
    ),
    "vwap": _Kind("vwap", 0, lambda each: VWAP(), lambda each: 0, takes_closes=False),
}
EXAMPLES: Final = tuple(kind.example for kind in _KINDS.values())
"""One of each kind."""


def parse_indicator(text: str) -> Indicator:
    """Read ``sma:20`` and the like.

    Raises:
        IndicatorError: no such name, not its numbers, or one out of range.
    """
    name, *numbers = text.strip().split(":") if len(text) <= _MAX_TEXT_CHARS else [""]
    kind = _KINDS.get(name)
    if kind is None:
        raise IndicatorError(f"there are {', '.join(EXAMPLES)}")
    if len(numbers) != kind.periods + kind.has_deviations:
        raise IndicatorError(f"{name} is written like {kind.example}")
    periods = []
    for number in numbers[: kind.periods]:
        if not _PERIOD.fullmatch(number) or not kind.least <= int(number) <= MAX_PERIOD_BARS:
            raise IndicatorError(f"a period of {name} is from {kind.least} to {MAX_PERIOD_BARS} bars: {kind.example}")
        periods.append(int(number))
    if name == "macd" and periods[0] >= periods[1]:
        raise IndicatorError(f"the first period of macd is shorter than the second: {kind.example}")
    if not kind.has_deviations:
        return Indicator(":".join([name, *map(str, periods)]), name, tuple(periods))
    if not _DEVIATIONS.fullmatch(numbers[-1]) or not 0 < float(numbers[-1]) <= MAX_DEVIATIONS:
        raise IndicatorError(f"the deviations of {name} are above 0, up to {MAX_DEVIATIONS}: {kind.example}")
    deviations = float(numbers[-1])
    return Indicator(f"{name}:{periods[0]}:{deviations:g}", name, tuple(periods), deviations)


def parse_indicators(text: str) -> tuple[Indicator, ...]:
    """Read several, separated by commas, each once, in their order.

    Raises:
        IndicatorError: one of them is none, or they are too many.
    """
    found = tuple(dict.fromkeys(parse_indicator(each) for each in text.split(",")[: MAX_INDICATORS + 1]))
    if len(found) > MAX_INDICATORS or text.count(",") >= MAX_INDICATORS:
        raise IndicatorError(f"at most {MAX_INDICATORS} at once")
    return found


def warm_up_bars(indicator: Indicator) -> int:
    """How many bars to add before the first whose value is wanted; for VWAP see :func:`day_before`."""
    return min(_KINDS[indicator.name].warm_up(indicator), MAX_WARM_UP_BARS)


class Stretch(NamedTuple):
    """Bars of one interval that begin within ``[from_ms, to_ms]``."""

    interval: Interval
    from_ms: int
    to_ms: int


def day_before(open_ms: int, interval: Interval, intervals: Sequence[Interval]) -> list[Stretch]:
    """What of its day is over when a bar begins: few bars, the longest first, that together hold the same trades as
    those of ``interval`` that began since midnight (UTC)."""
    midnight_ms = open_ms // _DAY_MS * _DAY_MS
    begin_ms = interval.open_ms(midnight_ms + interval.ms - 1)  # the first of its bars to begin on this day
    stretches = []
    # Only lengths that end where one of its own bars does, so that its own can always do the rest.
    usable = {each for each in intervals if each.ms > interval.ms and each.holds(interval)} | {interval}
    for each in sorted(usable, key=lambda each: each.ms, reverse=True):
        end_ms = each.open_ms(open_ms)
        if end_ms > begin_ms and each.open_ms(begin_ms) == begin_ms:
            stretches.append(Stretch(each, begin_ms, end_ms - each.ms))
            begin_ms = end_ms
    return stretches


class IndicatorSeries:
    """One indicator, bar by bar. Memory is bounded however many bars there are."""

    def __init__(self, indicator: Indicator) -> None:
        self._indicator = indicator
        self._kind = _KINDS[indicator.name]
        self._series = self._kind.build(indicator)
        # Before it has seen all its periods, the library takes a purged series for a new one.
        self._keep = 2 * sum(indicator.periods) + 10
        self._day = -1

    def add(self, bar: Bar) -> IndicatorValue:
        """The next bar, and the value with it."""
        series = self._series
        if self._indicator.name == "vwap" and bar.open_ms // _DAY_MS != self._day:
            self._day = bar.open_ms // _DAY_MS
            series = self._series = self._kind.build(self._indicator)
        series.add(self._input(bar))
        if len(series) >= 2 * self._keep:
            series.purge_oldest(len(series) - self._keep)
        return self._value()

    def update(self, bar: Bar) -> IndicatorValue:
        """The newest bar has changed: it is this now."""
        self._series.update(self._input(bar))
        return self._value()

    def _input(self, bar: Bar) -> Any:
        if self._kind.takes_closes:
            return float(bar.close)
        if self._indicator.name == "vwap":
            price = float(bar.turnover) / float(bar.volume) if bar.volume else float(bar.close)
            return OHLCV(price, price, price, price, float(bar.volume))
        return OHLCV(float(bar.open), float(bar.high), float(bar.low), float(bar.close), float(bar.volume))

    def _value(self) -> IndicatorValue:
        value: Any = self._series[-1]
        if value is None or isinstance(value, float):
            return value
        if self._indicator.name == "macd":
            return {"macd": value.macd, "signal": value.signal, "histogram": value.histogram}
        return {"lower": value.lb, "middle": value.cb, "upper": value.ub}
