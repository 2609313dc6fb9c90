"""What every cache does: pages that are those of the live market, swaps, walks across swaps, locks and fences."""

import json
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwire_server.cache.port import Cache, FencedError, OpenBar
from tokenwire_server.cache.publisher import build_index
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.registry import NOT_FOUND
from tokenwire_server.market.token_pages import CursorError, CursorExpiredError, SingleToken, TokenQuery
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenFacts, TokenValue

from .world import BEGIN_MS, LOCK, VOLUME, World, addresses, names, rows, walk

EVM = "0xAbCdEf0123456789aBcDeF0123456789ABCDEF01"
HOSTILE = [
    "{tokens}:data",
    "}{",
    "*?[a]\\",
    'say "x"',
    "a:b:c",
    "line\u2028",
    "\U0001f680" * 5,
    "é" * 40,
    "%s%d",
    "-inf",
    "nan",
    "$0",
    "'; return 1 --",
]


async def test_nothing_is_published_at_first(cache: Cache) -> None:
    assert await cache.page(VOLUME, None, 10) is None
    assert await cache.token("v:0") is None
    assert await cache.load() is None


@given(
    prices=st.lists(st.sampled_from([None, 0, 1, 2, 3, 10**30]), max_size=25),
    limit=st.integers(1, 9),
    sort=st.sampled_from(SortKey),
    is_reversed=st.booleans(),
    search=st.sampled_from(["", "S1", "name", "v:2"]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_pages_are_those_of_the_live_market(
    cache: Cache, prices: list[int | None], limit: int, sort: SortKey, is_reversed: bool, search: str
) -> None:
    """Equal values, missing ones, and those that doubles can't tell apart included."""
    world = World()
    for number, price in enumerate(prices):
        world.pipeline.tokens("test", [TokenInfo(f"v:{number}", f"S{number}", f"Name {number % 3}")])
        if price:
            world.trade(f"v:{number}", price + (number if price > 100 else 0))
    fence = (await cache.acquire(LOCK, "leader", 600_000)).fence
    await world.publish(cache, fence)
    query = TokenQuery(sort, is_reversed, search)
    live = world.pipeline.token_pages
    expected = live.page(query, None, limit, 0)
    if not prices:
        return
    page = await cache.page(query, None, limit)
    assert page is not None
    assert (page.rows, page.next_cursor is None) == (expected.rows, expected.next_cursor is None)
    expected_all = live.page(query, None, 1_000, 0)
    assert await walk(cache, limit, query) == [json.loads(row)["address"] for row in expected_all.rows]


async def test_the_order_within_a_walk_is_that_of_its_beginning_and_rows_are_the_newest(
    cache: Cache, fence: int
) -> None:
    world = World(9)
    await world.publish(cache, fence)
    expected = await addresses(cache)
    first = await cache.page(VOLUME, None, 2)
    assert first is not None
    found, cursor = names(first), first.next_cursor
    while cursor is not None:
        world.trade(f"v:{world.trades % 9}", 100 + world.trades)
        await world.publish(cache, fence)
        await cache.page(VOLUME, None, 3)  # somebody else begins a walk of the new order
        page = await cache.page(VOLUME, cursor, 2)
        for row in rows(page):
            token = world.pipeline.market.get(row["address"])
            assert token is not None
            assert Decimal(row["price"]) == token.price
        assert page is not None
        found, cursor = found + names(page), page.next_cursor
    assert found == expected
    assert await addresses(cache) != expected


async def test_an_order_that_nobody_walked_through_is_not_kept(cache: Cache, fence: int) -> None:
    world = World(5)
    await world.publish(cache, fence)
    page = await cache.page(VOLUME, None, 5)  # the whole of it
    assert page is not None
    assert page.next_cursor is None
    by_price = TokenQuery(SortKey.PRICE)
    cursors = [found.next_cursor for found in [await cache.page(by_price, None, 2)] if found is not None]
    world.trade("v:0", 99)
    await world.publish(cache, fence)
    assert names(await cache.page(by_price, cursors[0], 2)) == ["v:2", "v:1"]
    assert cursors[0] is not None
    number = cursors[0].partition("-")[0]
    with pytest.raises(CursorExpiredError):
        await cache.page(VOLUME, f"{number}-2-{VOLUME.check}", 2)


async def test_a_cursor_is_good_for_its_own_question_only(cache: Cache, fence: int) -> None:
    await World(5).publish(cache, fence)
    page = await cache.page(VOLUME, None, 2)
    assert page is not None
    cursor = page.next_cursor
    assert cursor is not None
    for query in (TokenQuery(SortKey.PRICE), TokenQuery(is_reversed=True), TokenQuery(search="s")):
        with pytest.raises(CursorError, match="another sort, order or q"):
            await cache.page(query, cursor, 2)
    for wrong in ("", "x", "1-2", cursor + "0", "-".join(["9" * 40, "0", "0" * 8])):
        with pytest.raises(CursorError, match="not one that this server gave"):
            await cache.page(VOLUME, wrong, 2)
    with pytest.raises(CursorExpiredError):
        await cache.page(VOLUME, f"77-2-{VOLUME.check}", 2)
    beyond = cursor.split("-")[0] + f"-999999999-{VOLUME.check}"
    page = await cache.page(VOLUME, beyond, 2)
    assert page is not None
    assert (page.rows, page.next_cursor) == ([], None)


async def test_an_empty_refresh_leaves_what_there_is(cache: Cache, fence: int) -> None:
    assert await World(0).publish(cache, fence) is None
    assert await cache.page(VOLUME, None, 2) is None
    await World(3).publish(cache, fence)
    assert await World(0).publish(cache, fence) is None
    assert await addresses(cache) == ["v:2", "v:1", "v:0"]


async def test_generations_rise_and_a_token_that_is_gone_is_left_out(cache: Cache, fence: int) -> None:
    one = await World(5).publish(cache, fence)
    page = await cache.page(VOLUME, None, 1)
    assert page is not None
    two = await World(3).publish(cache, fence)
    assert one is not None
    assert two == one + 1
    assert names(await cache.page(VOLUME, page.next_cursor, 9)) == ["v:2", "v:1", "v:0"]
    assert await addresses(cache) == ["v:2", "v:1", "v:0"]


async def test_loading_gives_what_was_published(cache: Cache, fence: int) -> None:
    world = World(1_203)
    await world.publish(cache, fence)
    world.trade("v:7", 5_000)
    generation = await world.publish(cache, fence)
    loaded = await cache.load()
    assert loaded is not None
    assert loaded.generation == generation
    assert list(loaded.tokens.orders[SortKey.VOLUME].members) == await walk(cache, 1_000)
    assert len(loaded.tokens.rows) == 1_203
    assert loaded.tokens.names == (await build_index(world.pipeline)).names
    assert loaded.since[SortKey.PRICE] == generation
    assert loaded.since[SortKey.NAME] != generation
    page = await cache.page(TokenQuery(SortKey.NAME), None, 1)
    assert page is not None
    assert page.next_cursor == f"{loaded.since[SortKey.NAME]}-1-{TokenQuery(SortKey.NAME).check}"


async def test_single_tokens_are_those_of_the_live_market(cache: Cache, fence: int) -> None:
    """By address and symbol, in any case where that tells them apart; merged ones with who says what."""
    world = World()
    infos = [TokenInfo(EVM, "Ether"), TokenInfo("v:1", "doge"), TokenInfo("v:2", "Doge"), TokenInfo("v:3", "x")]
    infos.append(TokenInfo(f"0x{'ab' * 20}", "low"))
    infos += [TokenInfo(name, name) for name in HOSTILE] + [TokenInfo(f"w:{at}", "SAME") for at in range(20)]
    world.pipeline.tokens("test", infos)
    world.trade("v:1", 5)
    await world.publish(cache, fence)
    names = [part for info in infos for part in (info.address, info.symbol, info.symbol.upper(), info.symbol.lower())]
    for name in (*names, EVM.lower(), f"0x{'AB' * 20}", "nothing", "", "symbol:x", "v:9"):
        live = await world.pipeline.token(name)
        found = await cache.token(name)
        if isinstance(live, SingleToken):
            assert isinstance(found, SingleToken), name
            assert (found.row, found.facts) == (live.row, live.facts), name
        else:
            assert found == live, name


async def test_who_says_what_of_a_merged_token_is_there_while_it_is_so(cache: Cache, fence: int) -> None:
    world, one = World(1), Decimal(1)
    said = TokenFacts(source="jupiter", chain="solana", address="MINT", heard_ms=BEGIN_MS, price=one)
    world.pipeline.tokens("aggregator", [TokenInfo("MINT", "M")])
    for facts in ((said,), ()):
        world.pipeline.values("aggregator", [TokenValue("MINT", one, one, one, one, one, BEGIN_MS, facts)])
        await world.publish(cache, fence)
        found, live = await cache.token("m"), await world.pipeline.token("m")
        assert isinstance(found, SingleToken)
        assert isinstance(live, SingleToken)
        assert found.facts == live.facts
        assert len(json.loads(found.facts)) == len(facts)
        loaded = await cache.load()
        assert loaded is not None
        assert loaded.tokens.facts == ({"MINT": found.facts} if facts else {})


async def test_a_token_that_comes_later_is_found_too(cache: Cache, fence: int) -> None:
    world = World(2)
    await world.publish(cache, fence)
    assert await cache.token("new") == NOT_FOUND
    world.pipeline.tokens("test", [TokenInfo("v:new", "NEW")])
    await world.publish(cache, fence)
    assert isinstance(await cache.token("new"), SingleToken)


async def test_everything_tells_how_old_it_is(cache: Cache, fence: int) -> None:
    await World(3).publish(cache, fence)
    page, found, loaded = await cache.page(VOLUME, None, 1), await cache.token("S1"), await cache.load()
    searched = await cache.page(TokenQuery(search="S"), None, 1)
    assert isinstance(found, SingleToken)
    for one in (page, searched, found, loaded):
        assert one is not None
        assert one.age_ms is not None
        assert 0 <= one.age_ms < 60_000


async def test_ten_thousand_tokens(cache: Cache, fence: int) -> None:
    world = World(10_000)
    await world.publish(cache, fence)
    assert await walk(cache, 1_000) == [f"v:{number}" for number in range(9_999, -1, -1)]
    assert len(await walk(cache, 1_000, TokenQuery(search="name 3"))) == 1_000


async def test_names_of_any_kind(cache: Cache, fence: int) -> None:
    world = World()
    for name in HOSTILE:
        world.pipeline.tokens("test", [TokenInfo(name, name, name)])
    known = {token.address for token in world.pipeline.market}
    assert len(known) >= 9
    for address in known:
        world.trade(address, 1)
    await world.publish(cache, fence)
    for sort in SortKey:
        assert set(await walk(cache, 2, TokenQuery(sort))) == known
    assert await walk(cache, 2, TokenQuery(search="{TOKENS}")) == ["{tokens}:data"]


async def test_one_owner_has_the_lock_and_every_grant_has_a_higher_fence(cache: Cache) -> None:
    first = await cache.acquire("lock", "a", 600_000)
    assert first.fence > 0
    refused = await cache.acquire("lock", "b", 600_000)
    assert refused.fence == 0
    assert 0 < refused.free_in_ms <= 600_000
    assert not await cache.renew("lock", "b", 600_000)
    await cache.release("lock", "b")  # not its own
    assert await cache.renew("lock", "a", 600_000)
    again = await cache.acquire("lock", "a", 600_000)  # the first answer was lost on the way
    assert again.fence > first.fence
    await cache.release("lock", "a")
    assert not await cache.renew("lock", "a", 600_000)
    assert (await cache.acquire("lock", "b", 600_000)).fence > again.fence
    assert (await cache.acquire("other", "a", 600_000)).fence > 0


async def test_what_a_former_leader_publishes_is_refused(cache: Cache) -> None:
    former = await cache.acquire(LOCK, "a", 600_000)
    await World(3).publish(cache, former.fence)
    await cache.release(LOCK, "a")  # as when its lease ran out
    await World(5).publish(cache, former.fence)  # nobody else leads: it does no harm
    later = await cache.acquire(LOCK, "b", 600_000)
    await World(7).publish(cache, later.fence)
    for fence in (former.fence, 0, later.fence + 1):
        with pytest.raises(FencedError):
            await World(3).publish(cache, fence)
    assert len(await addresses(cache)) == 7


async def test_an_index_that_nobody_refreshes_is_removed(cache: Cache, fence: int) -> None:
    world = World(3)
    first = await world.publish(cache, fence)
    assert await cache.tidy(600_000) == 0
    assert len(await addresses(cache)) == 3
    assert await cache.tidy(-1) > 0
    assert await cache.page(VOLUME, None, 2) is None
    assert await cache.token("S1") is None
    assert await cache.load() is None
    assert await cache.tidy(-1) == 0
    world.trade("v:0", 9)
    second = await world.publish(cache, fence)
    assert first is not None
    assert second is not None
    assert second > first  # no cursor of before means anything else now
    assert len(await addresses(cache)) == 3


async def test_open_bars_are_taken(cache: Cache) -> None:
    await cache.put_bars([])
    await cache.put_bars([OpenBar(name, "1m", b"{}", 60_000) for name in HOSTILE])
