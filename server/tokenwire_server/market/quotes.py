"""Prices quoted in SOL, BTC or ETH, turned into USD.

A rate is *live* when something fed states it: SOL's own price among an aggregator's tokens, or trades of an exchange
pair (``RATE_PAIRS``; a dollar stablecoin counts as a dollar). The youngest live rate counts, and none that is older
than the book allows: an old rate is never used silently. Without a live one the fixed price of the settings is used,
where there is one, and marked as such; without that either, nothing is converted.

Which token *is* SOL, BTC or ETH is told by its address: anybody can mint a token called SOL.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

import msgspec

from tokenwire_server.market.decimals import ZERO
from tokenwire_server.market.values import PriceOf
from tokenwire_server.validation.trades import MAX_FUTURE_MS, fits

__all__ = ["ASSETS", "MAX_RATE_AGE_MS", "QUOTE_TOKENS", "RATE_PAIRS", "Rate", "RateBook", "convert"]

ASSETS: Final = ("SOL", "BTC", "ETH")
MAX_RATE_AGE_MS: Final = 120_000
MAX_ORIGINS: Final = 16  # places that state the rate of one asset
_SIGNIFICANT_DIGITS: Final = 18  # of a converted price: a rate knows fewer

QUOTE_TOKENS: Final[Mapping[tuple[str, str], str]] = {
    ("solana", "So11111111111111111111111111111111111111112"): "SOL",
    ("solana", "7vfCXTUXx5WJV5JADk17DUJ4ksgau7utNKj4b963voxs"): "ETH",
    ("solana", "3NZ9JMVBmGAqocybic2c7LQCJScmgsAZ6vQqTDzcqmJh"): "BTC",
    ("ethereum", "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"): "ETH",
    ("ethereum", "0x2260fac5e5542a773aa44fbcfedf7c193bc2c599"): "BTC",
    ("base", "0x4200000000000000000000000000000000000006"): "ETH",
    ("optimism", "0x4200000000000000000000000000000000000006"): "ETH",
    ("arbitrum", "0x82af49447d8a07e3bd95bd0d56f35241523fbab1"): "ETH",
}
"""Wrapped forms of the assets by identity: as a quote they name the rate to use, as a token they state it."""

RATE_PAIRS: Final[Mapping[str, tuple[str, ...]]] = {
    asset: (
        f"binance:{asset}USDT",
        f"bybit:{asset}USDT",
        f"coinbase:{asset}-USD",
        f"kraken:{asset}/USD",
        f"okx:{asset}-USDT",
    )
    for asset in ASSETS
}
"""The exchange pairs, by wire address, whose trades state an asset's rate."""

_ROUNDED: Final = Context(prec=_SIGNIFICANT_DIGITS, rounding=ROUND_HALF_EVEN)


class Rate(msgspec.Struct, frozen=True):
    """USD for one unit of an asset. ``origin`` says who states it (``fallback``: the settings), ``time_ms`` when."""

    price: Decimal
    origin: str
    time_ms: int


class RateBook:
    """The newest rates of every asset. ``fallbacks`` are fixed prices by asset, ``max_age_ms`` is how old a live
    rate may be when it is used."""

    def __init__(self, fallbacks: Mapping[str, Decimal] | None = None, max_age_ms: int = MAX_RATE_AGE_MS) -> None:
        self._fallbacks = dict(fallbacks or {})
        self._max_age_ms = max_age_ms
        self._live: dict[str, dict[str, Rate]] = {asset: {} for asset in ASSETS}

    def observe(self, asset: str, price: Decimal, origin: str, time_ms: int) -> None:
        """``origin`` states a rate as of ``time_ms`` (Unix ms). What is no positive number, or older than what the
        origin said before, changes nothing."""
        rates = self._live.get(asset)
        if rates is None or not (fits(price) and price > ZERO):
            return
        held = rates.get(origin)
        if held is None and len(rates) >= MAX_ORIGINS:
            return
        if held is None or (time_ms, price) >= (held.time_ms, held.price):
            rates[origin] = Rate(price, origin, time_ms)

    def read(self, asset: str, price_of: PriceOf) -> None:
        """Observe the exchange pairs that state the asset's rate."""
        for address in RATE_PAIRS.get(asset, ()):
            quoted = price_of(address)
            if quoted is not None:
                self.observe(asset, quoted[0], address, quoted[1])

    def rate(self, asset: str, now_ms: int) -> Rate | None:
        """The rate in force at ``now_ms``: the youngest live one within the age, else the fallback, else None."""
        live = [
            rate
            for rate in self._live.get(asset, {}).values()
            if -MAX_FUTURE_MS <= now_ms - rate.time_ms <= self._max_age_ms
        ]
        if live:
            return max(live, key=lambda rate: (rate.time_ms, rate.origin))
        fixed = self._fallbacks.get(asset)
        return None if fixed is None else Rate(fixed, "fallback", now_ms)


def convert(native: Decimal, rate: Rate) -> Decimal:
    """A price in units of the asset as USD, rounded to 18 significant digits."""
    return _ROUNDED.multiply(native, rate.price)
