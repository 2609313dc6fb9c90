"""Validation of what sources deliver: trades, stated values and token descriptions, before the market sees them.

A verdict is None (good) or a :class:`Rejection` whose ``reason`` is one of the constants of :class:`Reason`,
so that it can be counted as a metric label. Nothing here raises for bad data, reads a clock or keeps state.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol

import msgspec

__all__ = [
    "MAX_FRACTION_DIGITS",
    "MAX_FUTURE_MS",
    "MAX_ID_CHARS",
    "MAX_INTEGER_DIGITS",
    "MAX_SKEW_MS",
    "MIN_TIME_MS",
    "Reason",
    "Rejection",
    "TokenLike",
    "TradeLike",
    "ValueLike",
    "fits",
    "validate_recorded",
    "validate_token",
    "validate_trade",
    "validate_value",
]

MAX_INTEGER_DIGITS: Final = 38
MAX_FRACTION_DIGITS: Final = 38
MAX_ID_CHARS: Final = 256  # addresses, symbols, names and trade ids
MAX_FUTURE_MS: Final = 60_000  # how far a venue's clock may be ahead of ours
MAX_SKEW_MS: Final = 86_400_000  # the same of a recorded trade; beyond it the token's price would wait for that time
MIN_TIME_MS: Final = 1_230_940_800_000  # 2009-01-03: no token traded before the first block


class Reason(StrEnum):
    """Why something was rejected; stable names, used as metric labels."""

    ADDRESS = "address_invalid"
    TRADE_ID = "trade_id_invalid"
    SYMBOL = "symbol_invalid"
    NAME = "name_invalid"
    PRICE_NOT_POSITIVE = "price_not_positive"
    PRICE_OUT_OF_BOUNDS = "price_out_of_bounds"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_OUT_OF_BOUNDS = "amount_out_of_bounds"
    SUPPLY = "supply_invalid"
    MARKET_CAP = "market_cap_invalid"
    VOLUME = "volume_invalid"
    TIME_TOO_OLD = "time_too_old"
    TIME_IN_FUTURE = "time_in_future"


class Rejection(msgspec.Struct, frozen=True):
    """A negative verdict: the countable ``reason`` and a bounded ``detail`` for the log."""

    reason: Reason
    detail: str


class TradeLike(Protocol):
    """What is looked at in a trade. Structural, because validation stands below the market."""

    @property
    def address(self) -> str: ...
    @property
    def trade_id(self) -> str: ...
    @property
    def price(self) -> Decimal: ...
    @property
    def amount(self) -> Decimal: ...
    @property
    def time_ms(self) -> int: ...


class ValueLike(Protocol):
    """What is looked at in a stated value."""

    @property
    def address(self) -> str: ...
    @property
    def price(self) -> Decimal: ...
    @property
    def market_cap(self) -> Decimal: ...
    @property
    def h24(self) -> Decimal: ...
    @property
    def h1(self) -> Decimal: ...
    @property
    def m5(self) -> Decimal: ...
    @property
    def time_ms(self) -> int: ...


class TokenLike(Protocol):
    """What is looked at in a token's description."""

    @property
    def address(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def chain(self) -> str: ...
    @property
    def supply(self) -> Decimal | None: ...


def fits(value: Decimal) -> bool:
    """Whether ``value`` is finite and has at most 38 integer and 38 fractional digits, written out."""
    if not value.is_finite() or (value and value.adjusted() >= MAX_INTEGER_DIGITS):
        return False
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and -MAX_FRACTION_DIGITS <= exponent < MAX_INTEGER_DIGITS


def validate_trade(trade: TradeLike, now_ms: int) -> Rejection | None:
    """Judge a trade. ``now_ms`` is the source's present (Unix ms): the wall clock, or a tape's own clock."""
    if not _usable(trade.address):
        return _reject(Reason.ADDRESS, trade.address)
    if not _usable(trade.trade_id):
        return _reject(Reason.TRADE_ID, trade.trade_id)
    rejection = _price(trade.price)
    if rejection is not None:
        return rejection
    amount = trade.amount
    if not fits(amount):
        return _reject(Reason.AMOUNT_OUT_OF_BOUNDS, amount)
    if amount <= 0:
        return _reject(Reason.AMOUNT_NOT_POSITIVE, amount)
    return _time(trade.time_ms, now_ms)


def validate_recorded(trade: TradeLike, now_ms: int) -> Rejection | None:
    """Judge a trade that is told of later than it was made, or by another's clock: any time after 1970 will do, up to
    ``MAX_SKEW_MS`` ahead."""
    time_ms = trade.time_ms
    rejection = validate_trade(trade, max(now_ms, time_ms))  # which judges the time last
    if rejection is None:
        return _reject(Reason.TIME_IN_FUTURE, time_ms) if time_ms > now_ms + MAX_SKEW_MS else None
    return None if rejection.reason is Reason.TIME_TOO_OLD and time_ms > 0 else rejection


def validate_value(value: ValueLike, now_ms: int) -> Rejection | None:
    """Judge a stated value. A price is positive, a market cap or a turnover may be 0; ``now_ms`` as for trades."""
    if not _usable(value.address):
        return _reject(Reason.ADDRESS, value.address)
    rejection = _price(value.price)
    if rejection is not None:
        return rejection
    if not _amount(value.market_cap):
        return _reject(Reason.MARKET_CAP, value.market_cap)
    for turnover in (value.h24, value.h1, value.m5):
        if not _amount(turnover):
            return _reject(Reason.VOLUME, turnover)
    return _time(value.time_ms, now_ms)


def validate_token(token: TokenLike) -> Rejection | None:
    """Judge a token's description. A supply is unknown (None) or a positive bounded number."""
    if not _usable(token.address):
        return _reject(Reason.ADDRESS, token.address)
    if not _usable(token.symbol):
        return _reject(Reason.SYMBOL, token.symbol)
    for text in (token.name, token.chain):
        if text and not _usable(text):
            return _reject(Reason.NAME, text)
    if token.supply is not None and not (fits(token.supply) and token.supply > 0):
        return _reject(Reason.SUPPLY, token.supply)
    return None


def _price(price: Decimal) -> Rejection | None:
    if not fits(price):
        return _reject(Reason.PRICE_OUT_OF_BOUNDS, price)
    return None if price > 0 else _reject(Reason.PRICE_NOT_POSITIVE, price)


def _amount(value: Decimal) -> bool:
    return fits(value) and value >= 0


def _time(time_ms: int, now_ms: int) -> Rejection | None:
    if time_ms < MIN_TIME_MS:
        return _reject(Reason.TIME_TOO_OLD, time_ms)
    return _reject(Reason.TIME_IN_FUTURE, time_ms) if time_ms > now_ms + MAX_FUTURE_MS else None


def _usable(text: str) -> bool:
    return 0 < len(text) <= MAX_ID_CHARS and text.isprintable()


def _reject(reason: Reason, value: object) -> Rejection:
    # A Decimal of a million digits must not become a log line: the text is cut.
    return Rejection(reason, ascii(str(value)[:64]))
