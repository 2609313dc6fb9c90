"""What a server tells of tokens: what its own market has, what the shared index has, or what it knew of that last."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tokenwire_server.cache.link import Link
from tokenwire_server.cache.memory import MemoryCache
from tokenwire_server.cache.port import CacheError
from tokenwire_server.cache.shared import LATE_MS, SharedPages
from tokenwire_server.market.registry import AMBIGUOUS_TOKEN, NOT_FOUND, Resolution
from tokenwire_server.market.token_pages import SingleToken, TokenPage, TokenQuery
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.ports import FollowStatus, SourceState

from ..stream.virtual import run_virtual
from .world import LOCK, VOLUME, World

REFRESH_MS = 30_000


class CountedCache(MemoryCache):
    """Counts what it is asked, and is away when it is told so."""

    asked = 0
    is_away = False

    async def page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None:
        self._ask()
        return await super().page(query, cursor, limit)

    async def token(self, name: str) -> SingleToken | Resolution | None:
        self._ask()
        return await super().token(name)

    def _ask(self) -> None:
        self.asked += 1
        if self.is_away:
            raise CacheError("away")


class Server:
    """Its own market, and pages of an index that another one publishes."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.cache = CountedCache(lambda: int(loop.time() * 1_000))
        self.own = World(0, lambda: int(loop.time() * 1_000))
        self.other = World(3, lambda: int(loop.time() * 1_000))
        self.link = Link(self.ping)
        own = self.own.pipeline
        self.pages = SharedPages(self.cache, self.link, own.token_pages, own.now_ms, REFRESH_MS)
        own.shared_pages = self.pages
        self.tasks = [asyncio.create_task(work) for work in (self.link.run(), self.pages.run())]

    async def ping(self) -> str:
        if self.cache.is_away:
            raise CacheError("away")
        return "memory 1"

    async def publish(self) -> None:
        grant = await self.cache.acquire(LOCK, "another", 10**9)
        await self.other.publish(self.cache, grant.fence)

    def know(self, symbol: str, price: int, state: SourceState) -> None:
        """Have it in the market here, from a source in this state."""
        address = f"v:{symbol.removeprefix('S')}"
        self.own.pipeline.tokens("test", [TokenInfo(address, symbol)])
        self.own.trade(address, price)
        self.own.pipeline.states["test"] = state

    async def price(self, name: str) -> str | None:
        found = await self.own.pipeline.token(name)
        assert isinstance(found, SingleToken), found
        price: str | None = json.loads(found.row)["price"]
        return price


def virtual(main: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        server = Server()
        await asyncio.sleep(0.1)
        try:
            await main(server)
        finally:
            for task in server.tasks:
                task.cancel()
            await asyncio.gather(*server.tasks, return_exceptions=True)

    run_virtual(run)


def test_a_token_that_another_server_polls_is_that_of_the_index() -> None:
    async def main(server: Server) -> None:
        assert await server.own.pipeline.token("S1") == NOT_FOUND
        await server.publish()
        assert await server.price("s1") == "2"
        assert await server.own.pipeline.token("S9") == NOT_FOUND

    virtual(main)


@pytest.mark.parametrize(
    ("state", "price"),
    [(SourceState.LIVE, "99"), (SourceState.ENDED, "99"), (SourceState.STARTING, "2"), (SourceState.FAILED, "2")],
)
def test_what_a_source_brings_to_this_server_itself_is_its_own(state: SourceState, price: str) -> None:
    """And what it brings no more, as that of a poller which stands by, is another one's, if that has it."""

    async def main(server: Server) -> None:
        server.know("S1", 99, state)
        server.know("S8", 7, state)
        assert await server.price("S1") == "99"
        await server.publish()
        assert await server.price("S1") == price
        assert await server.price("S8") == "7"  # nobody publishes it

    virtual(main)


def test_several_of_one_symbol_are_told_as_the_index_knows_them() -> None:
    async def main(server: Server) -> None:
        server.other.pipeline.tokens("test", [TokenInfo("w:1", "S1")])
        server.know("S1", 99, SourceState.STARTING)
        await server.publish()
        found = await server.own.pipeline.token("S1")
        assert found == Resolution(code=AMBIGUOUS_TOKEN, candidates=("v:1", "w:1"))

    virtual(main)


def test_a_gateway_that_follows_the_log_needs_nobody_and_one_that_does_not_asks() -> None:
    async def main(server: Server) -> None:
        follows = [FollowStatus("", 0)]
        server.own.pipeline.follow(lambda: follows[0], None, lambda: None)
        server.know("S1", 99, SourceState.RECONNECTING)
        await server.publish()
        assert await server.price("S1") == "99"
        assert await server.own.pipeline.token("S2") == NOT_FOUND
        assert server.cache.asked == 0
        follows[0] = FollowStatus("the log can't be read", 0)
        assert await server.price("S1") == "2"
        assert await server.price("S2") == "3"

    virtual(main)


def test_while_the_cache_is_away_a_token_is_what_was_known_last_and_tells_its_age() -> None:
    async def main(server: Server) -> None:
        await server.publish()
        await asyncio.sleep(REFRESH_MS / 1_000)  # it was loaded
        server.other.trade("v:1", 50)
        await server.publish()
        server.cache.is_away = True
        for _ in range(2):
            found = await server.own.pipeline.token("S1")
            assert isinstance(found, SingleToken)
            assert (json.loads(found.row)["price"], found.age_ms) == ("2", REFRESH_MS)
        assert server.cache.asked == 1

    virtual(main)


def test_an_index_that_nobody_refreshes_tells_its_age() -> None:
    async def main(server: Server) -> None:
        await server.publish()
        for after_ms, told in ((REFRESH_MS + LATE_MS - 1_000, False), (2_000, True)):
            await asyncio.sleep(after_ms / 1_000)
            for one in (await server.pages.page(VOLUME, None, 9), await server.pages.token("S1")):
                assert isinstance(one, TokenPage | SingleToken)
                assert (one.age_ms or 0) // 1_000 == ((REFRESH_MS + LATE_MS) // 1_000 + 1 if told else 0)
        await server.publish()
        page = await server.pages.page(VOLUME, None, 9)
        assert page.age_ms is None

    virtual(main)


def test_the_age_of_what_is_loaded_is_that_since_it_was_published() -> None:
    async def main(server: Server) -> None:
        await server.publish()
        await asyncio.sleep(REFRESH_MS / 1_000 - 1)
        assert server.pages.generation == 0
        await asyncio.sleep(2)
        assert server.pages.generation == 1
        server.cache.is_away = True
        page = await server.pages.page(VOLUME, None, 9)
        assert page.age_ms == REFRESH_MS + 1_000

    virtual(main)
