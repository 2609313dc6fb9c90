"""The market's other input: values that sources state, instead of values computed from trades."""

from collections.abc import Callable
from decimal import Decimal
from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["PriceOf", "ReadsMarket", "TokenFacts", "TokenValue"]

PriceOf = Callable[[str], tuple[Decimal, int] | None]
"""From a wire address to the token's price and the event time of its newest change (Unix ms); None: no value."""


class TokenFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one source said of one token at one time; None is what it did not say.

    ``source`` is the name of who said it, ``chain`` and ``address`` are the token's identity (EVM addresses in lower
    case), ``heard_ms`` is when the answer came (Unix ms). ``price``, ``market_cap``, ``liquidity`` and the turnovers
    ``h24``, ``h1`` and ``m5`` are in USD. A source without a price in USD gives ``native``, in units of ``quote``
    (SOL, BTC or ETH); ``price`` is then converted from it, or None as long as no rate is known.
    """

    source: str
    chain: str
    address: str
    heard_ms: int
    symbol: str = ""
    name: str = ""
    price: Decimal | None = None
    native: Decimal | None = None
    quote: str = "USD"
    liquidity: Decimal | None = None
    market_cap: Decimal | None = None
    h24: Decimal | None = None
    h1: Decimal | None = None
    m5: Decimal | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The token's identity."""
        return self.chain, self.address


class TokenValue(msgspec.Struct, frozen=True):
    """What an aggregator says of one token. It does not trade, so nothing is computed from it.

    ``address`` is the token's identity, ``price`` and ``market_cap`` are in USD (a cap of 0: unknown), ``h24``,
    ``h1`` and ``m5`` are the turnover in USD of the last 24 hours, hour and 5 minutes, ``time_ms`` is the event time.
    ``facts`` is what the value was merged from, in order of the sources' names; empty if one source states it alone.
    """

    address: str
    price: Decimal
    market_cap: Decimal
    h24: Decimal
    h1: Decimal
    m5: Decimal
    time_ms: int
    facts: tuple[TokenFacts, ...] = ()


@runtime_checkable
class ReadsMarket(Protocol):
    """A source that merges what several say. Each of its tokens is confirmed by its own values alone, not by those
    of others, and it may read the prices that other sources bring."""

    def read_market(self, price_of: PriceOf) -> None:
        """Read prices through ``price_of`` from now on."""
