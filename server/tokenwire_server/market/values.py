"""The market's other input: a value that its source states, instead of one computed from trades."""

from decimal import Decimal

import msgspec

__all__ = ["TokenValue"]


class TokenValue(msgspec.Struct, frozen=True):
    """What an aggregator says of one token. It does not trade, so nothing is computed from it.

    ``address`` is the token's identity, ``price`` and ``market_cap`` are in USD (a cap of 0: unknown), ``h24``,
    ``h1`` and ``m5`` are the turnover in USD of the last 24 hours, hour and 5 minutes, ``time_ms`` is the event time.
    """

    address: str
    price: Decimal
    market_cap: Decimal
    h24: Decimal
    h1: Decimal
    m5: Decimal
    time_ms: int
