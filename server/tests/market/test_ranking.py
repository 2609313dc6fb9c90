"""Orders of tokens, against a plain sort of all of them."""

from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.ranking import RANK_INTERVAL_MS, Ranking, SortKey
from tokenwire_server.market.trades import Side, TokenInfo, Trade

BEGIN_MS = 1_700_000_000_000
NAMES = ["b", "A", "", "a", "Ähre", "zz"]


class World:
    def __init__(self) -> None:
        self.market = Market(lambda token: None, BEGIN_MS)
        self.ranking = Ranking(lambda: self.market)
        self.trades = 0
        self.looks = 0

    def announce(self, number: int, supply: int | None = None) -> None:
        info = TokenInfo(f"v:{number}", f"S{number % 3}x{number}", NAMES[number % len(NAMES)])
        self.market.add_tokens(
            "test", [TokenInfo(info.address, info.symbol, info.name, "", supply and Decimal(supply))]
        )

    def trade(self, number: int, price: int, amount: int = 1, at_ms: int = 0) -> None:
        self.trades += 1
        trade = Trade(f"v:{number}", str(self.trades), Decimal(price), Decimal(amount), Side.BUY, BEGIN_MS + at_ms)
        self.market.apply("test", trade)

    def names(self, key: SortKey, now_ms: int = 0) -> list[str]:
        return [token.address for token in self.ranking.ranked(key, now_ms).tokens]

    def expected(self, key: SortKey) -> list[str]:
        tokens = list(self.market)
        arrival = {token: at for at, token in enumerate(tokens)}
        natural: dict[SortKey, Any] = {
            SortKey.VOLUME: lambda t: -t.volumes[0],
            SortKey.VOLUME_H1: lambda t: -t.volumes[1],
            SortKey.VOLUME_M5: lambda t: -t.volumes[2],
            SortKey.MARKET_CAP: lambda t: -t.market_cap,
            SortKey.PRICE: lambda t: -(t.price or 0),
            SortKey.NAME: lambda t: (t.name or t.symbol).casefold(),
            SortKey.SYMBOL: lambda t: t.symbol.casefold(),
            SortKey.NEW: lambda t: -arrival[t],
            SortKey.UPDATED: lambda t: -t.source_time_ms,
        }

        def sort_key(token: TokenState) -> Any:
            return (key.needs_value and not token.has_value, natural[key](token), arrival[token])

        return [token.address for token in sorted(tokens, key=sort_key)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("announce"), st.integers(0, 12), st.integers(1, 3)),
        st.tuples(st.just("trade"), st.integers(0, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 9)),
        st.tuples(st.just("look"), st.sampled_from(SortKey)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200)
def test_every_order_is_that_of_a_plain_sort_whatever_happened_between_two_looks(steps: list[Any]) -> None:
    world = World()
    now_ms = 0
    for name, *values in steps:
        if name == "look":
            now_ms += RANK_INTERVAL_MS
            key = values[0]
            assert world.names(key, now_ms) == world.expected(key)
            priced = world.ranking.ranked(key, now_ms).priced
            assert world.ranking.top(key, 4, now_ms) == list(world.ranking.ranked(key, now_ms).tokens[:priced][:4])
        else:
            getattr(world, name)(*values)
    for key in SortKey:
        assert world.names(key, now_ms + RANK_INTERVAL_MS) == world.expected(key)


def test_an_order_is_kept_for_a_second_and_is_one_object_while_it_stays() -> None:
    world = World()
    for number in range(3):
        world.announce(number)
        world.trade(number, number + 1)
    first = world.ranking.ranked(SortKey.PRICE, 0)
    assert [token.address for token in first.tokens] == ["v:2", "v:1", "v:0"]
    world.trade(0, 9)
    assert world.ranking.ranked(SortKey.PRICE, RANK_INTERVAL_MS - 1) is first
    second = world.ranking.ranked(SortKey.PRICE, RANK_INTERVAL_MS)
    assert [token.address for token in second.tokens] == ["v:0", "v:2", "v:1"]
    world.trade(0, 10)
    assert world.ranking.ranked(SortKey.PRICE, 2 * RANK_INTERVAL_MS) is second


def test_a_token_that_gets_its_first_price_changes_places_with_those_that_have_none() -> None:
    world = World()
    for number in range(3):
        world.announce(number)
    assert world.ranking.top(SortKey.VOLUME, 10, 0) == []
    assert world.names(SortKey.VOLUME) == ["v:0", "v:1", "v:2"]
    world.trade(2, 1)
    assert [token.address for token in world.ranking.top(SortKey.VOLUME, 10, RANK_INTERVAL_MS)] == ["v:2"]
    assert len(world.ranking.top(SortKey.NEW, 2, RANK_INTERVAL_MS)) == 2


def test_reversed_those_without_a_value_still_come_last() -> None:
    world = World()
    for number, price in ((0, 0), (1, 5), (2, 7), (3, 0)):
        world.announce(number)
        if price:
            world.trade(number, price)
    ranked = world.ranking.ranked(SortKey.PRICE, 0)
    for is_reversed, expected in ((False, ["v:2", "v:1", "v:0", "v:3"]), (True, ["v:1", "v:2", "v:0", "v:3"])):
        for place in range(6):
            for count in range(6):
                found = [token.address for token in ranked.after(place, count, is_reversed=is_reversed)]
                assert found == expected[place : place + count]
