"""``tokenwire-server simulate --url``: trades posted to a server, each once, with the patience it asks for."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tokenwire_server.app import Running, running
from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.settings import Settings
from tokenwire_server.simulate_command import SimulateRequest, simulate
from tokenwire_server.sources import build_sources
from tokenwire_server.trade_poster import TradePoster

from .command import stored

pytestmark = pytest.mark.usefixtures("own_folder")


def settings(data: Path, **more: Any) -> Settings:
    return Settings(**{"port": 0, "drain_s": 0, "data": data, "source": ("none",), **more})


def posted(server: Running, **more: Any) -> SimulateRequest:
    url = f"http://127.0.0.1:{server.port}/api/v1/trades"
    return SimulateRequest(**{"url": url, "seed": 6, "speed": 0.0, "limit": 2_500, "quiet": True, **more})


async def test_a_real_server_takes_them_all_once(tmp_path: Path) -> None:
    async with running(settings(tmp_path), []) as server:
        first = await simulate(Settings(), posted(server))
        assert (first.trades, first.duplicates, dict(first.rejected)) == (2_500, 0, {})
        assert first.posts >= 3
        assert server.pipeline.market.trades == 2_500
        again = await simulate(Settings(), posted(server, start_ms=1_767_225_600_000))
        assert (again.trades, again.duplicates) == (0, 2_500), "the same seed is the same trades"
        assert server.pipeline.market.find("posted:PEPE") is not None
    assert len(stored(tmp_path)) == 2_500


async def test_bad_trades_are_reported_and_the_others_taken(tmp_path: Path) -> None:
    async with running(settings(tmp_path), []) as server:
        summary = await simulate(Settings(), posted(server, scenario="bad-data"))
    assert sum(summary.rejected.values()) > 50
    assert summary.trades + sum(summary.rejected.values()) == 2_500


async def test_the_ingest_token_is_shown(tmp_path: Path) -> None:
    async with running(settings(tmp_path, ingest_token="secret"), []) as server:
        with pytest.raises(UserError, match="says 401"):
            await simulate(Settings(), posted(server))
        summary = await simulate(Settings(ingest_token="secret"), posted(server, limit=10))
    assert summary.trades == 10


async def test_a_server_with_tokens_of_its_own_says_so(tmp_path: Path) -> None:
    theirs = Settings(source=("simulator",), seed=6)
    async with running(settings(tmp_path, source=("simulator",)), build_sources(theirs)) as server:
        with pytest.raises(UserError, match=r"rejects every trade: .* comes from the source simulator"):
            await simulate(Settings(), posted(server))


Answering = Callable[[int, list[Any]], tuple[int, dict[str, str], Any]]


@asynccontextmanager
async def answering(answer: Answering) -> AsyncIterator[tuple[str, list[list[Any]]]]:
    """A server that answers its Nth post, and its URL; what came."""
    posts: list[list[Any]] = []

    async def take(request: web.Request) -> web.Response:
        posts.append(await request.json())
        status, headers, body = answer(len(posts), posts[-1])
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, headers=headers, text=text, content_type="application/json")

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", posts
    finally:
        await runner.cleanup()


def taken(trades: Sequence[Any]) -> dict[str, Any]:
    return {"accepted": len(trades), "duplicates": 0, "rejected": []}


class Waits:
    """Remembers what was slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s


def a_trade(number: int) -> Trade:
    from decimal import Decimal

    return Trade("PEPE-address", str(number), Decimal("1.5E-9"), Decimal(2), Side.BUY, 1_700_000_000_000)


async def post(url: str, waits: Waits, count: int, **options: Any) -> TradePoster:
    async with TradePoster(url, sleep=waits.sleep, monotonic=waits.monotonic, **options) as poster:
        poster.tokens("x", [TokenInfo("PEPE-address", "PEPE")])
        poster.trades("x", [a_trade(n) for n in range(count)])
        await poster.send(everything=True)
    return poster


async def test_a_busy_server_is_left_alone_as_long_as_it_asks() -> None:
    def answer(number: int, trades: list[Any]) -> tuple[int, dict[str, str], Any]:
        if number <= 2:
            return (503, 429)[number - 1], {"Retry-After": str(7 * number)}, {"detail": "later"}
        return 200, {}, taken(trades)

    waits = Waits()
    async with answering(answer) as (url, posts):
        poster = await post(url, waits, 1_500, prefix="p-")
    assert waits.slept == [7.0, 14.0]
    assert (poster.accepted, poster.posts, poster.waits) == (1_500, 2, 2)
    assert posts[0] == posts[1] == posts[2], "the same batch again"
    assert [len(each) for each in posts] == [1_000, 1_000, 1_000, 500]
    assert posts[0][1] == {
        "id": "p-1", "symbol": "PEPE", "price": "0.0000000015", "amount": "2", "side": "Buy",
        "timestamp": 1_700_000_000_000,
    }  # fmt: skip


async def test_a_server_that_stays_busy_is_given_up() -> None:
    async with answering(lambda number, trades: (503, {"Retry-After": "50"}, {"detail": "the disk is full"})) as (
        url,
        _,
    ):
        waits = Waits()
        with pytest.raises(UserError, match=r"given up after 120 s: .* says 503: the disk is full"):
            await post(url, waits, 1)
    assert sum(waits.slept) <= 120


async def test_once_it_is_to_end_nothing_is_tried_twice() -> None:
    async with answering(lambda number, trades: (503, {"Retry-After": "1"}, "{}")) as (url, posts):
        poster = await post(url, Waits(), 2_500, is_stopping=lambda: True)
    assert (len(posts), poster.unsent) == (1, 2_500)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"detail": "nothing here"}, "says 404: nothing here"),
        (413, {"detail": "too much"}, "says 413: too much"),
        (301, "", "says 301"),
        (503, {"detail": "start the server with --data DIR"}, "says 503: start the server with"),
        (500, "<html>" + "x" * 10_000, "says 500: <html>xxx"),
        (200, "<html>", "does not answer as a server that takes trades does"),
        (200, {"accepted": "many"}, "does not answer as a server"),
    ],
)
async def test_other_answers_end_it(status: int, body: Any, words: str) -> None:
    async with answering(lambda number, trades: (status, {}, body)) as (url, _):
        with pytest.raises(UserError, match=words) as caught:
            await post(url, Waits(), 1)
    assert len(str(caught.value)) < 400


async def test_a_server_that_vanishes_is_asked_again_and_one_that_never_was_is_not() -> None:
    waits = Waits()
    with pytest.raises(UserError, match=r"can't be reached: .* start a server there"):
        await post("http://127.0.0.1:9/", waits, 1)
    assert waits.slept == []

    async with TradePoster("http://127.0.0.1:9/", sleep=waits.sleep, monotonic=waits.monotonic) as poster:
        async with answering(lambda number, trades: (200, {}, taken(trades))) as (url, _):
            poster._url = url
            poster.trades("x", [a_trade(1)])
            await poster.send(everything=True)
        poster.trades("x", [a_trade(2)])
        with pytest.raises(UserError, match="given up after 120 s"):
            await poster.send(everything=True)
    assert len(waits.slept) > 100


async def test_small_batches_wait_for_more() -> None:
    waits = Waits()
    async with (
        answering(lambda number, trades: (200, {}, taken(trades))) as (url, posts),
        TradePoster(url, sleep=waits.sleep, monotonic=waits.monotonic) as poster,
    ):
        for n in range(10):
            poster.trades("x", [a_trade(n)])
            waits.now_s += 0.1
            await poster.send()
        await poster.send(everything=True)
    assert [len(each) for each in posts] == [3, 3, 3, 1]
