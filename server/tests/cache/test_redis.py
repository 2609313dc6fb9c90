"""Redis itself: its keys, what it is told of a swap that can't be, and what becomes of everything while it fails."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as aio

from tokenwire_server.cache import link as link_module
from tokenwire_server.cache import redis as adapter
from tokenwire_server.cache.link import Link
from tokenwire_server.cache.port import AgainError, CacheError, FencedError, OpenBar
from tokenwire_server.cache.publisher import build_index
from tokenwire_server.cache.redis import STAGING_TTL_MS, RedisCache
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.token_pages import SingleToken, TokenQuery

from ..services.granted import granted_redis
from ..services.redis import Redis
from .world import LOCK, VOLUME, World, addresses, names


@pytest.fixture
async def cache(redis_server: Redis, unique: str) -> AsyncIterator[RedisCache]:
    made = RedisCache(f"{redis_server.url()}?client_name={unique}", unique)
    yield made
    await made.close()


@pytest.fixture
async def own(own_redis: Redis, unique: str) -> AsyncIterator[RedisCache]:
    """On a server that may be killed."""
    made = RedisCache(f"{own_redis.url()}?client_name={unique}", unique, timeout_s=0.5)
    yield made
    await made.close()


@pytest.fixture
async def client(redis_server: Redis) -> AsyncIterator[aio.Redis]:
    made = aio.Redis.from_url(redis_server.url(), decode_responses=True)
    yield made
    await made.aclose()


async def lead(cache: RedisCache, owner: str = "leader", lease_ms: int = 600_000) -> int:
    return (await cache.acquire(LOCK, owner, lease_ms)).fence


async def reached(cache: RedisCache) -> str:
    while True:
        try:
            return await cache.ping()
        except CacheError:
            await asyncio.sleep(0.05)


async def test_the_keys_that_others_read(cache: RedisCache, client: aio.Redis, unique: str) -> None:
    world = World(3)
    await world.publish(cache, await lead(cache))
    tag = f"{unique}{{tokens}}"
    data = await client.hgetall(f"{tag}:data")
    assert {address: json.loads(row)["price"] for address, row in data.items()} == {"v:0": "1", "v:1": "2", "v:2": "3"}
    by_volume = await client.zrevrange(f"{tag}:by_volume", 0, -1, withscores=True)
    assert by_volume == [("v:2", 3.0), ("v:1", 2.0), ("v:0", 1.0)]
    market_caps = await client.zrevrange(f"{tag}:by_marketcap", 0, -1, withscores=True)
    assert [address for address, _ in market_caps] == ["v:0", "v:1", "v:2"]
    assert [score for _, score in market_caps] == pytest.approx([0, 0, 0])
    found = {name async for name in client.scan_iter(match=f"{unique}*")}
    orders = {f"{tag}:by_{key.lower()}" for key in SortKey}
    assert found == orders | {
        f"{tag}:{name}" for name in ("data", "names", "meta", "lock:publisher", "fence:publisher")
    }
    assert [await client.ttl(name) for name in sorted(orders)] == [-1] * len(orders)
    assert await client.ttl(f"{tag}:data") == -1
    assert (await client.hgetall(f"{tag}:meta"))["tokens"] == "3"


async def test_the_age_is_by_the_clock_of_redis(cache: RedisCache, client: aio.Redis, unique: str) -> None:
    await World(3).publish(cache, await lead(cache))
    await client.hincrby(f"{unique}{{tokens}}:meta", "published_ms", -60_000)
    page, found, loaded = await cache.page(VOLUME, None, 9), await cache.token("S1"), await cache.load()
    assert isinstance(found, SingleToken)
    for one in (page, found, loaded):
        assert one is not None
        assert one.age_ms is not None
        assert 60_000 <= one.age_ms < 120_000


async def test_nothing_is_left_of_facts_when_there_are_none(cache: RedisCache, client: aio.Redis, unique: str) -> None:
    fence, index = await lead(cache), await build_index(World(1).pipeline)
    key = f"{unique}{{tokens}}:facts"
    await cache.publish(index._replace(facts={"v:0": b"[1]"}), LOCK, fence)
    assert await client.hgetall(key) == {"v:0": "[1]"}
    assert await client.ttl(key) == -1
    await cache.publish(index, LOCK, fence)
    assert not await client.exists(key)


async def test_open_bars_go_with_their_interval(cache: RedisCache, client: aio.Redis, unique: str) -> None:
    await cache.put_bars([OpenBar("DOGE", "1m", b'{"a":1}', 60_000), OpenBar("a:{b}", "1h", b"{}", 3_600_000)])
    assert await client.get(f"{unique}kline:DOGE:1m:current") == '{"a":1}'
    assert 50_000 < await client.pttl(f"{unique}kline:DOGE:1m:current") <= 60_000
    assert 3_500_000 < await client.pttl(f"{unique}kline:a:{{b}}:1h:current") <= 3_600_000


async def test_a_swap_whose_staging_is_incomplete_changes_nothing(
    cache: RedisCache, client: aio.Redis, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = await lead(cache)
    await World(3).publish(cache, fence)
    swap = cache._swap

    async def after_a_loss(keys: list[str], arguments: list[object]) -> object:
        assert 0 < await client.pttl(keys[-1]) <= STAGING_TTL_MS
        await client.delete(keys[-1])
        return await swap(keys, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_swap", after_a_loss)
    with pytest.raises(AgainError, match="staging"):
        await World(5).publish(cache, fence)
    monkeypatch.undo()
    assert len(await addresses(cache)) == 3
    assert await World(5).publish(cache, fence)
    assert len(await addresses(cache)) == 5


async def test_the_janitor_removes_staging_keys_that_would_stay(
    cache: RedisCache, client: aio.Redis, unique: str
) -> None:
    await World(3).publish(cache, await lead(cache))
    orphan, alive = (f"{unique}{{tokens}}:staging:{name}" for name in ("1:x:data", "2:y:data"))
    await client.hset(orphan, "a", "b")
    await client.hset(alive, "a", "b")
    await client.pexpire(alive, 600_000)
    assert await cache.tidy(600_000) == 1
    assert [await client.exists(orphan), await client.exists(alive)] == [0, 1]
    assert len(await addresses(cache)) == 3


async def test_only_orders_that_changed_are_staged(cache: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    world, fence = World(5), await lead(cache)
    staged: list[str] = []
    stage = cache._stage

    async def listed(name: str, *rest: object) -> None:
        staged.append(name.rpartition(":")[2])
        await stage(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_stage", listed)
    await world.publish(cache, fence)
    assert set(staged) == {"data", "names", *SortKey}
    staged.clear()
    world.trade("v:1", 9)
    await world.publish(cache, fence)
    assert set(staged) == {"data", "volume", "volumeH1", "volumeM5", "price", "updated"}


async def test_another_one_publishes_in_between(cache: RedisCache, redis_server: Redis, unique: str) -> None:
    """What this one believes to be unchanged there is the other's by then."""
    world, other = World(5), RedisCache(redis_server.url(), unique)
    await world.publish(cache, await lead(cache, "a"))
    await cache.release(LOCK, "a")
    await World(2).publish(other, await lead(other, "b"))
    await other.release(LOCK, "b")
    await other.close()
    await world.publish(cache, await lead(cache, "a"))
    for sort in SortKey:
        assert len(await addresses(cache, query=TokenQuery(sort))) == 5


async def test_kept_orders_are_bounded(
    cache: RedisCache, client: aio.Redis, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "MAX_KEPT_PLACES", 35)
    world, fence = World(10), await lead(cache)
    await world.publish(cache, fence)
    walked = await cache.page(VOLUME, None, 2)
    assert walked is not None
    for step in range(6):
        world.trade(f"v:{step}", 50 + step)
        await world.publish(cache, fence)
        assert await cache.page(VOLUME, walked.next_cursor, 2)
        await cache.page(VOLUME, None, 2)
        kept = [name async for name in client.scan_iter(match=f"{unique}{{tokens}}:order:*")]
        assert 1 <= len(kept) <= 3
        assert all([await client.pttl(name) > 0 for name in kept])


async def test_everything_is_lost_and_comes_back(own: RedisCache, own_redis: Redis) -> None:
    world, fence = World(5), await lead(own)
    await world.publish(own, fence)
    page = await own.page(VOLUME, None, 2)
    assert page is not None
    own_redis.command("FLUSHALL")
    assert await own.page(VOLUME, None, 2) is None
    with pytest.raises(FencedError):
        await world.publish(own, fence)
    assert not await own.renew(LOCK, "leader", 1_000)
    later = await lead(own)
    assert later > fence  # though Redis knows nothing of it
    await world.publish(own, later)
    assert len(await addresses(own)) == 5
    with pytest.raises(FencedError):
        await world.publish(own, fence)


async def test_a_kill_between_staging_and_swap(own: RedisCache, own_redis: Redis) -> None:
    world, fence = World(5), await lead(own)
    first = await world.publish(own, fence)
    world.trade("v:0", 99)
    swap = own._swap

    async def killed(keys: list[str], arguments: list[object]) -> object:
        own_redis.kill()
        return await swap(keys, arguments)  # type: ignore[arg-type]

    own._swap = killed  # type: ignore[assignment]
    with pytest.raises(CacheError, match="can't be reached"):
        await world.publish(own, fence)
    own._swap = swap
    own_redis.start()
    await reached(own)
    assert await addresses(own) == ["v:4", "v:3", "v:2", "v:1", "v:0"]
    second = await world.publish(own, fence)  # its lease has not run out
    assert first is not None
    assert second == first + 1
    assert await addresses(own) == ["v:0", "v:4", "v:3", "v:2", "v:1"]


async def test_one_that_is_stopped_is_not_waited_for_long(own: RedisCache, own_redis: Redis) -> None:
    await World(5).publish(own, await lead(own))
    own_redis.stop()
    with pytest.raises(CacheError, match="does not answer in time"):
        await own.page(VOLUME, None, 2)
    own_redis.cont()
    await reached(own)
    assert names(await own.page(VOLUME, None, 1)) == ["v:4"]


async def connections(client: aio.Redis, name: str) -> set[str]:
    """The numbers of those that have this name."""
    return {each["id"] for each in await client.client_list() if each["name"] == name}


async def test_connections_stay_while_nothing_is_asked(
    cache: RedisCache, client: aio.Redis, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page after an idle spell must not pay for a new one: looking after the link does not close those that wait."""
    monkeypatch.setattr(link_module, "CHECK_S", 0)
    await asyncio.gather(*[cache.page(VOLUME, None, 1) for _ in range(3)])
    before = await connections(client, unique)
    assert len(before) == 3
    checks = asyncio.Event()
    count = 0

    async def ping() -> str:
        nonlocal count
        count += 1
        if count > 5:
            checks.set()
        return await cache.ping()

    link = asyncio.create_task(Link(ping).run())
    await checks.wait()
    link.cancel()
    await asyncio.gather(link, return_exceptions=True)
    await asyncio.gather(*[cache.page(VOLUME, None, 1) for _ in range(3)])
    assert await connections(client, unique) == before


async def test_a_connection_that_redis_closed_while_it_was_idle_is_not_an_outage(
    cache: RedisCache, client: aio.Redis, unique: str
) -> None:
    """As it does with its setting ``timeout``."""
    await asyncio.gather(*[cache.page(VOLUME, None, 1) for _ in range(3)])
    for number in await connections(client, unique):
        await client.client_kill_filter(_id=number)
    while await connections(client, unique):
        await asyncio.sleep(0.01)
    for _ in range(2):
        await asyncio.gather(*[cache.page(VOLUME, None, 1) for _ in range(3)])


async def test_after_an_outage_no_old_connection_is_used(own: RedisCache, own_redis: Redis, unique: str) -> None:
    async with aio.Redis.from_url(own_redis.url(), decode_responses=True) as client:
        await asyncio.gather(*[own.page(VOLUME, None, 1) for _ in range(3)])
        before = await connections(client, unique)
        own_redis.stop()
        with pytest.raises(CacheError, match="does not answer in time"):
            await own.page(VOLUME, None, 1)
        own_redis.cont()
        await reached(own)
        after = await connections(client, unique)
        assert after
        assert not after & before


async def test_who_is_cancelled_while_asking_ends(cache: RedisCache) -> None:
    """At whatever step: who goes on instead would hold up the end of the server for ever."""

    async def ask() -> None:
        while True:
            await cache.page(VOLUME, None, 1)

    for steps in range(60):
        asking = asyncio.create_task(ask())
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_no_memory_left_is_told(own: RedisCache, own_redis: Redis) -> None:
    fence = await lead(own)
    await World(5).publish(own, fence)
    own_redis.command("CONFIG SET maxmemory 1")
    try:
        with pytest.raises(AgainError, match="maxmemory"):
            await World(5).publish(own, fence)
    finally:
        own_redis.command("CONFIG SET maxmemory 0")
    await World(6).publish(own, fence)
    assert len(await addresses(own)) == 6


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://:wrong@{address}/0", "refuses the user or the password; correct them in REDIS_URL"),
        ("redis://user:wrong@{address}/0", "refuses the user or the password"),
        ("redis://{address}/0", "wants a password"),
        ("redis://:s3cret@127.0.0.1:1/0", "Redis at 127.0.0.1:1 can't be reached: .*refused"),
        ("redis://:s3cret@nowhere.invalid:1/0", "can't be reached"),
        ("unix:///nowhere/redis.sock?password=s3cret", "Redis at /nowhere/redis.sock can't be reached"),
    ],
)
async def test_why_it_can_not_be_used_without_the_secret(redis_server: Redis, url: str, says: str) -> None:
    cache = RedisCache(url.format(address=redis_server.address))
    with pytest.raises(CacheError, match=says) as told:
        await cache.ping()
    await cache.close()
    assert "wrong" not in str(told.value)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("lacking", ["+script|load", "+zadd", "+rename", "~{prefix}{{tokens}}:*"])
async def test_a_right_that_is_missing_is_told_and_all_goes_on_once_it_is_there(
    redis_server: Redis, unique: str, lacking: str
) -> None:
    """Of a command, of one in a pipeline, of one in a script, of keys."""
    whole = granted_redis(unique, "s3cret", unique)
    words = [word for word in whole if word != lacking.format(prefix=unique)]
    assert len(words) == len(whole) - 1
    assert redis_server.command(" ".join(words)) == "+OK"
    assert redis_server.command("SCRIPT FLUSH") == "+OK"  # what nobody else loaded has to be loaded
    cache = RedisCache(f"redis://{unique}:s3cret@{redis_server.address}/0", unique)
    refused = (
        "refuses: .*(no permission|can't run this command).*; give that right .* to the user of REDIS_URL, see deploy"
    )
    with pytest.raises(AgainError, match=refused) as told:
        await World(5).publish(cache, await lead(cache))
    assert "s3cret" not in str(told.value)
    assert redis_server.command(" ".join(whole)) == "+OK"
    await World(5).publish(cache, await lead(cache))
    assert len(await addresses(cache)) == 5
    await cache.close()
    redis_server.command(f"ACL DELUSER {unique}")


async def test_the_engine_is_named(cache: RedisCache, redis_server: Redis) -> None:
    assert await cache.ping() == f"redis {redis_server.version}"


async def test_an_index_is_not_mixed_from_two(cache: RedisCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is swapped while it is read: the reader begins again, and gives up when it happens each time."""
    fence = await lead(cache)
    world = World(5)
    await world.publish(cache, fence)
    asked = cache._client.hmget
    swaps = [1]

    async def meanwhile(*arguments: object) -> object:
        if swaps:
            swaps.pop()
            world.trade("v:0", 100 + world.trades)
            await cache.publish(await build_index(world.pipeline), LOCK, fence)
        return await asked(*arguments)  # type: ignore[arg-type, misc]

    monkeypatch.setattr(cache._client, "hmget", meanwhile)
    loaded = await cache.load()
    assert loaded is not None
    page = await cache.page(VOLUME, None, 9)
    assert page is not None
    assert [loaded.tokens.rows[name] for name in names(page)] == page.rows
    swaps += [1] * 9
    with pytest.raises(AgainError, match="swapped"):
        await cache.load()
