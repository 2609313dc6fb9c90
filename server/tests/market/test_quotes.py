"""Rates of SOL, BTC and ETH: live ones within their age, the fallback behind them, and nothing else."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.market import Market
from tokenwire_server.market.quotes import MAX_ORIGINS, MAX_RATE_AGE_MS, Rate, RateBook, convert
from tokenwire_server.market.trades import Side, TokenInfo, Trade

NOW = 1_700_000_000_000


def book(**fallbacks: str) -> RateBook:
    return RateBook({asset: Decimal(price) for asset, price in fallbacks.items()})


def test_the_youngest_live_rate_counts() -> None:
    rates = book(SOL="160")
    rates.observe("SOL", Decimal(150), "jupiter", NOW - 10)
    rates.observe("SOL", Decimal(151), "dexscreener", NOW - 5)
    assert rates.rate("SOL", NOW) == Rate(Decimal(151), "dexscreener", NOW - 5)


def test_an_old_rate_is_not_used_silently() -> None:
    rates = book(SOL="160")
    rates.observe("SOL", Decimal(150), "jupiter", NOW - MAX_RATE_AGE_MS)
    rates.observe("ETH", Decimal(3000), "jupiter", NOW - MAX_RATE_AGE_MS - 1)
    assert rates.rate("SOL", NOW) == Rate(Decimal(150), "jupiter", NOW - MAX_RATE_AGE_MS)
    assert rates.rate("SOL", NOW + 1) == Rate(Decimal(160), "fallback", NOW + 1)
    assert rates.rate("ETH", NOW) is None
    assert rates.rate("DOGE", NOW) is None


def test_a_rate_of_the_far_future_is_not_used() -> None:
    rates = book()
    rates.observe("SOL", Decimal(150), "binance:SOLUSDT", NOW + 60_001)
    assert rates.rate("SOL", NOW) is None
    assert rates.rate("SOL", NOW + 1) is not None


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity", "1e40"])
def test_nonsense_is_no_rate(price: str) -> None:
    rates = book()
    rates.observe("SOL", Decimal(price), "x", NOW)
    rates.observe("DOGE", Decimal(1), "x", NOW)
    assert rates.rate("SOL", NOW) is None


def test_an_origin_replaces_its_older_word_only_and_origins_are_bounded() -> None:
    rates = book()
    for time_ms, price in ((NOW, 2), (NOW - 1, 1)):
        rates.observe("SOL", Decimal(price), "x", time_ms)
    found = rates.rate("SOL", NOW)
    assert found is not None
    assert found.price == 2
    for number in range(MAX_ORIGINS):
        rates.observe("SOL", Decimal(9), f"origin{number}", NOW + number)
    assert len(rates._live["SOL"]) == MAX_ORIGINS


def test_trades_of_an_exchange_pair_state_a_rate() -> None:
    market = Market(lambda _: None, NOW)
    market.add_tokens("binance", [TokenInfo("binance:SOLUSDT", "SOLUSDT")])
    rates = book()
    rates.read("SOL", market.price_of)
    assert rates.rate("SOL", NOW) is None
    market.apply("binance", Trade("binance:SOLUSDT", "1", Decimal("145.58"), Decimal(1), Side.BUY, NOW - 1_000))
    rates.read("SOL", market.price_of)
    assert rates.rate("SOL", NOW) == Rate(Decimal("145.58"), "binance:SOLUSDT", NOW - 1_000)


def test_a_conversion_is_rounded_to_what_a_rate_knows() -> None:
    rate = Rate(Decimal("145.58"), "x", NOW)
    assert convert(Decimal("0.000004873"), rate) == Decimal("0.00070941134")
    assert convert(Decimal("0.123456789012345678"), rate) == Decimal("17.9728393444172838")


@given(st.permutations([(NOW - n, n) for n in range(5)]))
def test_the_order_of_arrival_does_not_matter(heard: list[tuple[int, int]]) -> None:
    rates = book()
    for time_ms, price in heard:
        rates.observe("BTC", Decimal(price + 1), f"origin{price % 2}", time_ms)
    assert rates.rate("BTC", NOW) == Rate(Decimal(1), "origin0", NOW)
