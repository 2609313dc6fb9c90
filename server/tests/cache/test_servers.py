"""Whole servers that share a Redis: one polls and publishes, all answer, and Redis may come and go."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
import redis.asyncio as aio

from tokenwire_server.app import Running, running
from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.cache.elected import Elected
from tokenwire_server.cache.service import POLLERS, open_cache
from tokenwire_server.collect_role import collect_to_bus
from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.ports import Sink, Source, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources

from ..deploy.metrics import CACHE, COLLECTOR_CACHE, lacking
from ..services.granted import granted_redis
from ..services.redis import Redis
from ..sources.poller_service import PAIRS, Reply, Service

BEGIN_MS = 1_700_000_000_000
STALE = "x-tokenwire-stale-ms"
PATIENCE_S = 60


class Venue:
    """A source that says what it is told to."""

    name = "venue"
    cadence_ms = 60_000

    def __init__(self, *symbols: str) -> None:
        self.symbols = symbols
        self.sink: Sink | None = None

    async def run(self, sink: Sink) -> None:
        self.sink = sink
        sink.state(self.name, SourceState.LIVE)
        sink.tokens(self.name, [TokenInfo(f"v:{symbol}", symbol) for symbol in self.symbols])
        for number, symbol in enumerate(self.symbols, 1):
            self.trade(symbol, number)
        await asyncio.Event().wait()

    def trade(self, symbol: str, price: int) -> None:
        assert self.sink is not None
        trade = Trade(f"v:{symbol}", f"{symbol}{price}", Decimal(price), Decimal(1), Side.BUY, BEGIN_MS + price)
        self.sink.trades(self.name, [trade])


class Quiet(Venue):
    """Another one."""


class Servers:
    def __init__(self, url: str, prefix: str, session: aiohttp.ClientSession) -> None:
        self.settings = {
            **{"port": 0, "drain_s": 0, "rest_rate_limit": "0"},
            **{"redis_url": url, "redis_prefix": prefix, "poll_interval_ms": 1_000},
        }
        self.session = session

    def start(self, *sources: Source, **changes: Any) -> Any:
        return running(Settings.model_validate(self.settings | changes), sources)

    async def get(self, server: Running, path: str) -> tuple[int, Any, dict[str, str]]:
        async with self.session.get(f"http://127.0.0.1:{server.port}{path}") as reply:
            return reply.status, await reply.json(), {name.lower(): value for name, value in reply.headers.items()}

    async def symbols(self, server: Running) -> str:
        _, body, _ = await self.get(server, "/api/v1/tokens?sort=price")
        return " ".join(row["symbol"] for row in body["data"])

    async def metric(self, url: str, name: str) -> float:
        """The sum of all samples that begin so."""
        async with self.session.get(f"{url}metrics") as reply:
            text = await reply.text()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"tokenwire_{name}"))

    async def cache(self, server: Running) -> dict[str, Any]:
        _, body, _ = await self.get(server, "/ready")
        found: dict[str, Any] = body["cache"]
        return found


def place(server: Running) -> str:
    return f"http://127.0.0.1:{server.port}/"


@pytest.fixture
async def servers(redis_server: Redis, unique: str) -> AsyncIterator[Servers]:
    async with aiohttp.ClientSession() as session:
        yield Servers(redis_server.url(), unique, session)


@pytest.fixture
async def own_servers(own_redis: Redis, unique: str) -> AsyncIterator[Servers]:
    async with aiohttp.ClientSession() as session:
        yield Servers(own_redis.url(), unique, session)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_all_servers_give_the_pages_of_the_one_that_leads(servers: Servers) -> None:
    one, two = Venue("A", "B"), Venue("C")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(servers.start(one))

        async def published() -> bool:
            return (await servers.cache(first)).get("generation", 0) > 0

        await until(published)
        async with servers.start(two) as second:

            async def follows() -> bool:
                return await servers.symbols(second) == "B A"

            await until(follows)
            status, body, headers = await servers.get(second, "/ready")
            assert (status, body["cache"]["role"], body["cache"]["state"]) == (200, "standby", "ok")
            assert body["cache"]["engine"].startswith("redis ")
            assert (await servers.cache(first))["role"] == "leading"
            _, page, headers = await servers.get(first, "/api/v1/tokens?limit=1")
            assert STALE not in headers
            _, rest, _ = await servers.get(second, f"/api/v1/tokens?limit=1&cursor={page['nextCursor']}")
            assert [row["symbol"] for row in page["data"] + rest["data"]] == ["B", "A"]  # a walk over both
            prices = [(await servers.get(second, f"/api/v1/tokens/{name}"))[1]["price"] for name in ("a", "v:B", "C")]
            assert prices == ["1", "2", "1"]  # of the other, of the other, its own
            one.trade("A", 50)

            async def newer() -> bool:
                return await servers.symbols(second) == "A B"

            await until(newer)
            await stack.aclose()

            async def takes_over() -> bool:
                return await servers.symbols(second) == "C"

            await until(takes_over)
            assert (await servers.cache(second))["role"] == "leading"


async def test_while_redis_is_away_what_was_known_last_is_served(own_servers: Servers, own_redis: Redis) -> None:
    servers, venue = own_servers, Venue("A", "B")
    async with servers.start(venue) as leader, servers.start() as other:

        async def known() -> bool:
            return (await servers.cache(other)).get("generation", 0) > 0

        await until(known)
        for fail, mend in ((own_redis.stop, own_redis.cont), (own_redis.kill, own_redis.start)):
            fail()
            for server in (leader, other):
                _, body, headers = await servers.get(server, "/api/v1/tokens?sort=price")
                assert [row["symbol"] for row in body["data"]] == ["B", "A"]
                assert int(headers[STALE]) >= 0
                _, body, headers = await servers.get(server, "/api/v1/tokens?sort=price&limit=1")
                _, body, headers = await servers.get(server, f"/api/v1/tokens?sort=price&cursor={body['nextCursor']}")
                assert [row["symbol"] for row in body["data"]] == ["A"]
                _, body, headers = await servers.get(server, "/api/v1/tokens/a")
                assert (body["price"], STALE in headers) == ("1", server is other)
                cache = await servers.cache(server)
                assert cache["state"] == "degraded"
                assert "Redis at 127.0.0.1" in cache["reason"]
            status, _, _ = await servers.get(leader, "/ready")
            assert status == 200  # it serves
            await asyncio.to_thread(mend)

            async def mended() -> bool:
                states = [(await servers.cache(server))["state"] for server in (leader, other)]
                return states == ["ok", "ok"]

            await until(mended)
        own_redis.command("FLUSHALL")
        venue.trade("A", 70)

        async def again() -> bool:
            _, body, headers = await servers.get(other, "/api/v1/tokens?sort=price")
            return [row["symbol"] for row in body["data"]] == ["A", "B"] and STALE not in headers

        await until(again)


async def test_a_wrong_password_is_told_and_the_server_serves(
    servers: Servers, redis_server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with servers.start(Venue("A"), redis_url=f"redis://:s3cret@{redis_server.address}/0") as server:

        async def told() -> bool:
            return "refuses the user or the password" in (await servers.cache(server))["reason"]

        await until(told)
        assert await servers.symbols(server) == "A"
    assert "s3cret" not in caplog.text
    assert any("cache not reached" in record.message for record in caplog.records)


@pytest.mark.parametrize("url", ["redis://:s3cret@host:port/0", "redis://:s3cret@host/0?colour=red"])
async def test_a_url_that_can_not_be_used_is_the_users_error(servers: Servers, url: str) -> None:
    with pytest.raises(UserError, match="REDIS_URL can't be used") as told:
        async with servers.start(Venue("A"), redis_url=url):
            pass
    assert "s3cret" not in str(told.value)


async def test_one_server_polls_and_the_other_takes_over(servers: Servers) -> None:
    service = Service()
    service.always["/latest/dex/tokens"] = Reply(PAIRS)
    async with service.running(), AsyncExitStack() as stack:
        address = json.loads(PAIRS)["pairs"][0]["baseToken"]["address"]
        polled = {"source": (f"dexscreener:{address}",), "dexscreener_api_url": service.url, "poll_interval_ms": 200}

        def sources() -> list[Source]:
            return build_sources(Settings.model_validate(servers.settings | polled))

        first = await stack.enter_async_context(servers.start(*sources(), **polled))

        async def leads() -> bool:
            return (await servers.cache(first))["role"] == "leading"

        await until(leads)
        async with servers.start(*sources(), **polled) as second:
            before = len(service.asked)

            async def both_answer() -> bool:
                return await servers.symbols(second) != "" and len(service.asked) > before + 3

            await until(both_answer)
            assert first.pipeline.states["aggregator"] is SourceState.LIVE
            assert second.pipeline.states["aggregator"] is SourceState.STARTING
            assert not second.pipeline.values_taken  # it was told nothing by a poller
            told = [await servers.get(server, f"/api/v1/tokens/{address}") for server in (first, second)]
            assert [(status, body["facts"][0]["source"]) for status, body, _ in told] == [(200, "dexscreener")] * 2
            assert told[0][1]["symbol"] == told[1][1]["symbol"]
            await stack.aclose()

            async def polls() -> bool:
                return bool(second.pipeline.values_taken)

            await until(polls)


async def test_a_collector_says_that_redis_keeps_it_from_knowing_who_polls(
    servers: Servers, redis_server: Redis, unique: str
) -> None:
    service = Service()
    service.always["/latest/dex/tokens"] = Reply(PAIRS)
    address = json.loads(PAIRS)["pairs"][0]["baseToken"]["address"]
    async with service.running():
        settings = Settings.model_validate(
            {"source": (f"dexscreener:{address}",), "dexscreener_api_url": service.url, "poll_interval_ms": 200,
             "redis_url": f"redis://{unique}:s3cret@{redis_server.address}/0", "redis_prefix": unique}
        )  # fmt: skip
        urls: asyncio.Queue[str] = asyncio.Queue()
        task = asyncio.create_task(
            collect_to_bus(settings, build_sources(settings), MemoryBus(), port=0, announce=urls.put_nowait)
        )
        url = await urls.get()

        async def sources(words: str) -> bool:
            async with servers.session.get(f"{url}ready") as reply:
                body = await reply.json()
            return words in f"{body['sources']} {body.get('reason')} {body['cache']['state']}"

        await until(lambda: sources("it can't be known who is to poll: Redis at"))
        assert await sources("refuses the user or the password; correct them in REDIS_URL degraded")
        assert not service.asked
        redis_server.command(" ".join(granted_redis(unique, "s3cret", unique)))
        await until(lambda: sources("live"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        redis_server.command(f"ACL DELUSER {unique}")


async def test_who_only_polls_does_not_keep_others_from_publishing(servers: Servers) -> None:
    given = Settings.model_validate(servers.settings)
    async with open_cache(given) as cache, servers.start(Venue("A")) as server:
        assert cache is not None
        [elected, other] = cache.elected([Venue(), Quiet()], lambda source: not isinstance(source, Quiet), POLLERS)
        assert isinstance(elected, Elected)
        assert isinstance(other, Quiet)

        async def both() -> bool:
            return cache.status().role == (await servers.cache(server))["role"] == "leading"

        await until(both)


async def test_open_bars_are_there_for_others(servers: Servers, redis_server: Redis, unique: str) -> None:
    client = aio.Redis.from_url(redis_server.url())
    venue = Venue("A")
    async with servers.start(venue) as server:

        async def leads() -> bool:
            return (await servers.cache(server))["role"] == "leading"

        await until(leads)
        venue.trade("A", 5)

        async def written() -> bool:
            return await client.get(f"{unique}kline:A:1m:current") is not None

        await until(written)
        bar = json.loads(await client.get(f"{unique}kline:A:1m:current"))
        assert (bar["symbol"], bar["interval"], bar["close"], bar["trades"], bar["closed"]) == (
            "A",
            "1m",
            "5",
            2,
            False,
        )
        assert 0 < await client.pttl(f"{unique}kline:A:1m:current") <= 60_000
    await client.aclose()


async def test_what_a_server_does_with_the_cache_is_measured(own_servers: Servers, own_redis: Redis) -> None:
    servers = own_servers

    async def read(server: Running, *names: str) -> list[float]:
        return [await servers.metric(place(server), f"cache_{name}") for name in names]

    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(servers.start())
        assert await servers.symbols(other) == ""
        leader = await stack.enter_async_context(servers.start(Venue("A")))

        async def known() -> bool:
            return all([(await read(server, "generation "))[0] > 0 for server in (leader, other)])

        await until(known)
        body, _ = leader.metrics.exposition()
        assert not lacking(body.decode(), CACHE)
        assert await read(leader, 'leads{lock="publisher"}', "up", "failures_total") == [1, 1, 0]
        assert await read(other, 'leads{lock="publisher"}', "up", "refreshes_total") == [0, 1, 0]
        assert (await read(leader, 'refreshes_total{outcome="published"}'))[0] >= 1
        [age_s] = await read(other, "generation_age_seconds")
        assert 0 < age_s < 60
        own_redis.stop()
        for _ in range(2):
            assert await servers.symbols(other) == "A"
        origins = await read(other, *(f'pages_total{{from="{origin}"}}' for origin in ("market", "kept", "index")))
        assert origins == [1, 2, 0]
        up, failures = await read(other, "up", "failures_total")
        assert (up, failures > 0) == (0, True)
        assert await read(leader, 'leads{lock="publisher"}') == [1]  # as far as it knows
        own_redis.cont()

        async def mended() -> bool:
            return await read(other, "up") == [1]

        await until(mended)
        assert await servers.symbols(other) == "A"
        assert await read(other, 'pages_total{from="index"}') == [1]


async def test_what_a_collector_that_polls_does_with_the_cache_is_measured(servers: Servers) -> None:
    service = Service()
    service.always["/latest/dex/tokens"] = Reply(PAIRS)
    announced = asyncio.Queue[str]()
    async with service.running():
        polled = {"source": (f"dexscreener:{'A' * 44}",), "dexscreener_api_url": service.url}
        settings = Settings.model_validate(servers.settings | polled)
        collecting = asyncio.create_task(
            collect_to_bus(settings, build_sources(settings), MemoryBus(), port=0, announce=announced.put_nowait)
        )
        url = await announced.get()

        async def leads() -> bool:
            return await servers.metric(url, 'cache_leads{lock="poller"}') == 1

        await until(leads)
        async with servers.session.get(f"{url}metrics") as reply:
            assert not lacking(await reply.text(), COLLECTOR_CACHE)
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
