"""Pages through all tokens while prices change."""

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_schemas.codec import encode_data
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.ranking import RANK_INTERVAL_MS, Ranking, SortKey
from tokenwire_server.market.token_pages import (
    ORDER_KEPT_MS,
    CursorError,
    CursorExpiredError,
    TokenPages,
    TokenQuery,
)
from tokenwire_server.market.trades import Side, TokenInfo, Trade

BEGIN_MS = 1_700_000_000_000
VOLUME = TokenQuery()


def detailed(token: TokenState) -> bytes:
    return encode_data(token.data())[:-1] + b',"version":%d,"sourceTime":%d}' % (token.version, token.source_time_ms)


class World:
    def __init__(self, count: int, max_kept_places: int = 1_000_000) -> None:
        self.market = Market(lambda token: None, BEGIN_MS)
        self.pages = TokenPages(Ranking(lambda: self.market), detailed, BEGIN_MS, max_kept_places)
        self.trades = 0
        for number in range(count):
            self.market.add_tokens("test", [TokenInfo(f"v:{number}", f"S{number}", f"Name {number % 10}")])
            self.trade(number, number + 1)

    def trade(self, number: int, price: int) -> None:
        self.trades += 1
        trade = Trade(f"v:{number}", str(self.trades), Decimal(price), Decimal(1), Side.BUY, BEGIN_MS + self.trades)
        self.market.apply("test", trade)

    def page(
        self, cursor: str | None, limit: int, now_ms: int, query: TokenQuery = VOLUME
    ) -> tuple[list[str], str | None]:
        page = self.pages.page(query, cursor, limit, now_ms)
        return [json.loads(row)["address"] for row in page.rows], page.next_cursor


@given(
    st.integers(0, 40),
    st.integers(1, 9),
    st.sampled_from(SortKey),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 39), st.integers(1, 99)), max_size=60),
)
@settings(max_examples=150)
def test_a_walk_meets_every_token_once_while_values_change(
    count: int, limit: int, sort: SortKey, is_reversed: bool, changes: list[tuple[int, int]]
) -> None:
    world = World(count)
    query = TokenQuery(sort, is_reversed)
    expected, _ = world.page(None, 1_000, 0, query)
    met: list[str] = []
    cursor: str | None = None
    now_ms = 0
    pending = iter(changes)
    while True:
        found, cursor = world.page(cursor, limit, now_ms, query)
        met += found
        if cursor is None:
            break
        assert len(found) == limit
        now_ms += RANK_INTERVAL_MS
        for number, price in (next(pending, (0, 1)) for _ in range(5)):
            if number < count:
                world.trade(number, price)
        world.page(None, 2, now_ms, query)  # somebody else begins a walk of the new order
    assert met == expected
    assert len(set(met)) == len(met) == count


def test_rows_have_the_newest_value_although_the_order_is_frozen() -> None:
    world = World(3)
    _, cursor = world.page(None, 1, 0)
    world.trade(1, 1_000)
    page = world.pages.page(VOLUME, cursor, 1, RANK_INTERVAL_MS)
    row = json.loads(page.rows[0])
    assert (row["address"], row["price"], row["volume"]["h24"]) == ("v:1", "1000", "1002")
    assert list(row) == [
        *("address", "price", "marketCap", "volume", "version", "sourceTime", "symbol", "name", "chain", "source"),
    ]


def test_a_token_without_a_price_is_listed_with_nulls() -> None:
    world = World(1)
    world.market.add_tokens("test", [TokenInfo('v:"x"', "X", chain="c")])
    row = json.loads(world.pages.page(VOLUME, None, 10, 0).rows[1])
    assert [row[field] for field in ("price", "marketCap", "volume", "sourceTime")] == [None] * 4
    assert (row["address"], row["symbol"], row["chain"]) == ('c:v:"x"', "X", "c")


def test_a_search_looks_at_symbol_name_and_address_in_any_case() -> None:
    world = World(30)
    for search, count in (("NAME 3", 3), ("s29", 1), ("V:1", 11), ("nothing", 0), ("", 30)):
        query = TokenQuery(search=search)
        found, cursor = world.page(None, 2, 0, query)
        while cursor is not None:
            more, cursor = world.page(cursor, 2, 0, query)
            found += more
        assert len(found) == count


def test_a_cursor_is_good_for_its_own_question_only() -> None:
    world = World(5)
    _, cursor = world.page(None, 2, 0)
    assert cursor is not None
    for query in (TokenQuery(SortKey.PRICE), TokenQuery(is_reversed=True), TokenQuery(search="s")):
        with pytest.raises(CursorError, match="another sort, order or q"):
            world.page(cursor, 2, 0, query)
    for wrong in ("", "x", "1-2", cursor + "0", cursor.upper() + "Z", "-".join(["9" * 40, "0", "0" * 8])):
        with pytest.raises(CursorError, match="not one that this server gave"):
            world.page(wrong, 2, 0)
    beyond = re.sub(r"-(\d+)-", "-999999999-", cursor)
    assert world.page(beyond, 2, 0) == ([], None)
    assert world.page(cursor, 2, 0)[0] == ["v:2", "v:1"]


def test_an_order_is_kept_while_it_is_walked_through_and_a_minute_longer() -> None:
    world = World(9)
    _, cursor = world.page(None, 2, 0)
    _, cursor = world.page(cursor, 2, ORDER_KEPT_MS)
    again, cursor = world.page(cursor, 2, 2 * ORDER_KEPT_MS)
    assert again == ["v:4", "v:3"]
    with pytest.raises(CursorExpiredError):
        world.page(cursor, 2, 3 * ORDER_KEPT_MS + 1)
    assert world.pages.kept_places == 0


def test_a_cursor_of_an_earlier_process_is_known_for_what_it_is() -> None:
    _, cursor = World(5).page(None, 2, 0)
    later = World(5)
    later.pages = TokenPages(Ranking(lambda: later.market), detailed, BEGIN_MS + 60_000)
    later.page(None, 2, 0)
    with pytest.raises(CursorExpiredError):
        later.page(cursor, 2, 0)


def test_frozen_orders_are_bounded_and_those_used_last_stay() -> None:
    world = World(10, max_kept_places=35)
    _, walked = world.page(None, 2, 0)
    _, left = world.page(None, 2, 0, TokenQuery(SortKey.PRICE))
    for second in range(1, 9):
        world.trade(second % 10, 50 + second)
        world.page(walked, 2, second * RANK_INTERVAL_MS)
        world.page(None, 2, second * RANK_INTERVAL_MS)
        assert world.pages.kept_places <= 35
    assert world.page(walked, 2, 9_000)[0]
    with pytest.raises(CursorExpiredError):
        world.page(left, 2, 9_000, TokenQuery(SortKey.PRICE))


def test_one_order_that_many_walk_through_is_kept_once() -> None:
    world = World(10)
    cursors = {world.page(None, 2, now_ms)[1] for now_ms in (0, 1_000, 2_000)}
    assert len(cursors) == 1
    assert world.pages.kept_places == 10
    world.page(None, 10, 0)  # a walk of one page freezes nothing
    assert world.pages.kept_places == 10
