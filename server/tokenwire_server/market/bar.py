"""One bar: what became of a price within an interval of event time. Exact decimals throughout."""

from decimal import Decimal
from typing import Final

import msgspec

from tokenwire_server.market.decimals import EXACT, ZERO
from tokenwire_server.market.trades import Side, Trade

__all__ = ["Bar"]

_add: Final = EXACT.add


class Bar(msgspec.Struct, gc=False):
    """The trades whose event time lies within ``[open_ms, open_ms + interval)``.

    ``open`` and ``close`` are the prices of the first and the last of them by event time (``first_ms``,
    ``last_ms``); of several at one time the one delivered first opens, the one delivered last closes. ``volume`` is in
    base units, ``turnover`` in quote units, ``buy_volume`` and ``buy_turnover`` are of trades whose taker bought.
    ``revision`` counts the trades that came after the bar was closed.
    """

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    turnover: Decimal
    buy_volume: Decimal
    buy_turnover: Decimal
    trades: int
    first_ms: int
    last_ms: int
    revision: int = 0

    @classmethod
    def of(cls, open_ms: int, trade: Trade, turnover: Decimal, revision: int = 0) -> "Bar":
        """A bar of one trade; ``turnover`` is its price times its amount."""
        price, amount = trade.price, trade.amount
        bought = trade.side is Side.BUY
        return cls(
            open_ms,
            price,
            price,
            price,
            price,
            amount,
            turnover,
            amount if bought else ZERO,
            turnover if bought else ZERO,
            1,
            trade.time_ms,
            trade.time_ms,
            revision,
        )

    def add(self, trade: Trade, turnover: Decimal) -> None:
        """One more trade, at whatever time within the bar."""
        price, amount, time_ms = trade.price, trade.amount, trade.time_ms
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        if time_ms >= self.last_ms:
            self.last_ms = time_ms
            self.close = price
        elif time_ms < self.first_ms:
            self.first_ms = time_ms
            self.open = price
        self.volume = _add(self.volume, amount)
        self.turnover = _add(self.turnover, turnover)
        if trade.side is Side.BUY:
            self.buy_volume = _add(self.buy_volume, amount)
            self.buy_turnover = _add(self.buy_turnover, turnover)
        self.trades += 1

    def merge(self, other: "Bar") -> None:
        """Everything of another bar, whose trades were delivered after these where their times are equal."""
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)
        if other.last_ms >= self.last_ms:
            self.last_ms = other.last_ms
            self.close = other.close
        if other.first_ms < self.first_ms:
            self.first_ms = other.first_ms
            self.open = other.open
        self.volume = _add(self.volume, other.volume)
        self.turnover = _add(self.turnover, other.turnover)
        self.buy_volume = _add(self.buy_volume, other.buy_volume)
        self.buy_turnover = _add(self.buy_turnover, other.buy_turnover)
        self.trades += other.trades

    def starting(self, open_ms: int) -> "Bar":
        """A copy, as (part of) the longer bar that begins at ``open_ms``."""
        return msgspec.structs.replace(self, open_ms=open_ms, revision=0)
