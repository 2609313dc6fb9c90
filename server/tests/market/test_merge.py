"""What several sources say of one token: the rules of merging, and that no order of arrival bends them."""

from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.merge import MAX_SOURCES_PER_TOKEN, FactBook, describe, merge
from tokenwire_server.market.values import TokenFacts, TokenValue
from tokenwire_server.validation.trades import validate_value

T0 = 1_700_000_000_000
FRESH_MS = 90_000
KEY = ("solana", "Mint")


def fact(source: str = "dexscreener", at_ms: int = 0, **changes: Any) -> TokenFacts:
    fields: dict[str, Any] = {"symbol": "TOK", "chain": "solana", "address": "Mint"} | changes
    for name in ("price", "liquidity", "market_cap", "h24", "h1", "m5"):
        if isinstance(fields.get(name), int | str):
            fields[name] = Decimal(fields[name])
    return TokenFacts(source=source, heard_ms=T0 + at_ms, **fields)


def merged(*facts: TokenFacts, now_ms: int = 0) -> TokenValue:
    value = merge(facts, T0 + now_ms, FRESH_MS)
    assert value is not None
    return value


def test_one_source_is_passed_on() -> None:
    only = fact(price=2, market_cap=7, h24=5, h1=3, m5=1, liquidity=9)
    expected = TokenValue("Mint", Decimal(2), Decimal(7), Decimal(5), Decimal(3), Decimal(1), T0, (only,))
    assert merged(only) == expected


def test_the_price_comes_from_where_most_liquidity_is() -> None:
    deep, shallow = fact("jupiter", -60_000, price=3, liquidity=10), fact("dexscreener", price=2, liquidity=9)
    assert merged(shallow, deep).price == 3
    unknown = fact("dexscreener", price=2)
    assert merged(unknown, deep).price == 3


def test_at_equal_liquidity_the_newer_price_counts_then_the_order_of_sources() -> None:
    assert merged(fact(price=2), fact("jupiter", 1, price=3)).price == 3
    assert merged(fact("jupiter", price=3), fact(price=2)).price == 2
    assert merged(fact("zebra", price=3), fact("jupiter", price=2)).price == 2


@pytest.mark.parametrize(("age_ms", "price"), [(FRESH_MS, 3), (FRESH_MS + 1, 2)])
def test_a_stale_price_never_overrides_a_fresh_one(age_ms: int, price: int) -> None:
    assert merged(fact("jupiter", -age_ms, price=3, liquidity=10**9), fact(price=2, liquidity=1)).price == price


def test_without_a_fresh_price_nothing_is_stated() -> None:
    facts = [fact(), fact("jupiter", -FRESH_MS - 1, price=3)]
    assert merge(facts, T0, FRESH_MS) is None
    assert merge([], T0, FRESH_MS) is None


def test_a_token_that_nobody_names_is_not_stated() -> None:
    assert merge([fact(price=1, symbol="")], T0, FRESH_MS) is None
    assert merged(fact(price=1, symbol=""), fact("jupiter", symbol="X")).price == 1


def test_the_market_cap_is_the_first_stated_in_the_order_of_sources_fresh_ones_first() -> None:
    old = -FRESH_MS - 1
    assert merged(fact(price=1, market_cap=5), fact("jupiter", market_cap=6)).market_cap == 5
    assert merged(fact(price=1), fact("jupiter", market_cap=6)).market_cap == 6
    assert merged(fact(at_ms=old, price=1, market_cap=5), fact("jupiter", price=1, market_cap=6)).market_cap == 6
    assert merged(fact(at_ms=old, market_cap=5), fact("jupiter", price=1)).market_cap == 5
    assert merged(fact(price=1)).market_cap == 0


def test_volumes_are_of_one_source_and_never_added() -> None:
    value = merged(fact(price=1, liquidity=1, h24=10, h1=0), fact("jupiter", price=2, liquidity=2, h24=20, h1=5, m5=1))
    assert (value.h24, value.h1, value.m5) == (10, 0, 0)
    value = merged(fact(price=1), fact("jupiter", h24=20))
    assert (value.h24, value.h1, value.m5) == (20, 0, 0)


def test_symbols_do_not_identify_and_chains_do() -> None:
    book = FactBook(10)
    for address, chain in (("Mint", "solana"), ("mint", "solana"), ("Mint", "base")):
        assert book.hear(fact(address=address, chain=chain, price=1))
    assert len(book) == 3
    on_base = merge(book.facts(("base", "Mint")), T0, FRESH_MS)
    assert on_base is not None
    assert on_base.address == "base:Mint"


def test_names_follow_the_order_of_sources() -> None:
    info = describe([fact("jupiter", symbol="J", name="Jay"), fact("dexscreener#2", symbol="D")])
    assert info is not None
    assert (info.symbol, info.name) == ("D", "Jay")


def test_a_source_replaces_its_older_words_only() -> None:
    book = FactBook(10)
    for at_ms, price in ((5, 2), (3, 1), (5, 2)):
        book.hear(fact(at_ms=at_ms, price=price))
    assert [known.price for known in book.facts(KEY)] == [2]


def test_a_lost_source_falls_back_to_the_other_and_time_goes_on() -> None:
    book = FactBook(10)
    book.hear(fact("jupiter", 0, price=3, liquidity=10))
    values = []
    for at_ms in range(0, 150_000, 30_000):
        book.hear(fact(at_ms=at_ms, price=2, liquidity=1))
        values.append(merged(*book.facts(KEY), now_ms=at_ms))
    assert [value.price for value in values] == [3, 3, 3, 3, 2]
    assert [value.time_ms - T0 for value in values] == list(range(0, 150_000, 30_000))


def test_the_book_is_bounded() -> None:
    book = FactBook(2)
    assert [book.hear(fact(address=f"Mint{n}")) for n in range(3)] == [True, True, False]
    heard = [book.hear(fact(f"source{n}", address="Mint0")) for n in range(MAX_SOURCES_PER_TOKEN)]
    assert heard == [True] * (MAX_SOURCES_PER_TOKEN - 1) + [False]
    assert (len(book), book.refused) == (2, 2)


def test_what_nobody_mentions_is_forgotten() -> None:
    book = FactBook(10)
    book.hear(fact("jupiter", 0, price=1))
    book.hear(fact("dexscreener", 10, price=1))
    book.hear(fact("dexscreener", 0, address="Other", price=1))
    assert book.forget(T0 + 5) == [("solana", "Other")]
    assert [known.source for known in book.facts(KEY)] == ["dexscreener"]
    assert book.forget(T0 + 11) == [KEY]
    assert len(book) == 0


amounts = st.none() | st.decimals(0, 10**6, places=3)
facts = st.builds(
    fact,
    st.sampled_from(["dexscreener", "dexscreener#2", "jupiter", "zebra"]),
    st.sampled_from([0, 30_000, 100_000, 101_000]),
    symbol=st.sampled_from(["", "A", "B"]),
    price=st.none() | st.decimals("0.001", 10**6, places=3),
    liquidity=amounts,
    market_cap=amounts,
    h24=amounts,
    h1=amounts,
    m5=amounts,
)


@given(st.lists(facts, max_size=12), st.randoms())
def test_the_order_of_arrival_does_not_matter(heard: list[TokenFacts], random: Random) -> None:
    books = FactBook(10), FactBook(10)
    shuffled = heard[:]
    random.shuffle(shuffled)
    for book, arrived in zip(books, (heard, shuffled), strict=True):
        for one in arrived:
            book.hear(one)
    one, other = (merge(book.facts(KEY), T0 + 120_000, FRESH_MS) for book in books)
    assert one == other


@given(st.lists(facts, min_size=1, max_size=12), st.integers(0, 200_000))
def test_every_part_of_a_value_is_what_a_source_said(heard: list[TokenFacts], now_ms: int) -> None:
    book = FactBook(10)
    for one in heard:
        book.hear(one)
    known = book.facts(KEY)
    fresh = [one for one in known if one.heard_ms >= T0 + now_ms - FRESH_MS]
    value = merge(known, T0 + now_ms, FRESH_MS)
    if value is None:
        assert not any(one.symbol for one in known) or all(one.price is None for one in fresh)
        return
    assert value.price in {one.price for one in fresh}
    deepest = max(one.liquidity or 0 for one in fresh if one.price is not None)
    assert any(one.price == value.price and (one.liquidity or 0) == deepest for one in fresh)
    assert value.market_cap in {one.market_cap or 0 for one in known}
    assert (value.h24, value.h1, value.m5) in {(one.h24 or 0, one.h1 or 0, one.m5 or 0) for one in known}
    assert value.time_ms == max(one.heard_ms for one in known)
    assert value.facts == known
    assert validate_value(value, T0 + 200_000) is None
