"""Tokens over HTTP: rows, orders, pages, and what a wrong request is told."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, cast

import pytest

from tokenwire_server.cache.port import TokenIndexPages
from tokenwire_server.cache.publisher import build_index
from tokenwire_server.cache.redis import RedisCache
from tokenwire_server.gateway.http import ASGIApp, Receive, Scope, Send, build_http_app
from tokenwire_server.market.token_pages import ORDER_KEPT_MS
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenFacts, TokenValue
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings

from .asgi import Reply, ask
from .market import BEGIN_MS, PEPE, trade

NAMES = ["Beta", "alpha", "Gamma", "delta"]


async def tokens(app: ASGIApp, query: str = "", status: int = 200) -> Any:
    reply = await ask(app, f"/api/v1/tokens{query}")
    assert reply.status == status, reply.body
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.json["detail"]
    return reply.json


def symbols(found: Any) -> str:
    return " ".join(row["symbol"] for row in found["data"])


@pytest.fixture(params=["memory", "redis"])
async def app(request: pytest.FixtureRequest, pipeline: Pipeline, unique: str) -> AsyncIterator[ASGIApp]:
    """The application over the market itself, and over a Redis that has what the market has at each request."""
    answering = build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)
    if request.param == "memory":
        yield answering
        return
    cache = RedisCache(request.getfixturevalue("redis_server").url(), unique)
    grant = await cache.acquire("publisher", "test", 60_000)
    pipeline.shared_pages = cast(TokenIndexPages, cache)

    async def publishing(scope: Scope, receive: Receive, send: Send) -> None:
        pipeline.ranking._look_ms = None
        await cache.publish(await build_index(pipeline), "publisher", grant.fence)
        await answering(scope, receive, send)

    yield publishing
    await cache.close()


@pytest.fixture
def listed(pipeline: Pipeline) -> Pipeline:
    """Four tokens with prices 1 to 4 and volumes the other way round."""
    infos = [TokenInfo(f"v:{at}", f"T{at}", name, chain="v") for at, name in enumerate(NAMES, 1)]
    pipeline.tokens("test", infos)
    for at in range(1, 5):
        trade(pipeline, at, str(at), str(100 // at**2), address=f"v:{at}")
    return pipeline


async def test_a_row_is_the_token_update_with_its_names(app: ASGIApp, listed: Pipeline) -> None:
    reply = await ask(app, "/api/v1/tokens/T2")
    assert reply.status == 200
    token = listed.market.get("v:2")
    assert token is not None
    assert reply.json == {
        "address": "v:2",
        "price": "2",
        "marketCap": "0",
        "volume": {"h24": "50", "h1": "50", "m5": "50"},
        "version": token.version,
        "sourceTime": BEGIN_MS + 2_000,
        "symbol": "T2",
        "name": "alpha",
        "chain": "v",
        "source": "test",
        "facts": [],
    }
    assert (await ask(app, "/api/v1/tokens/v:2")).body == reply.body
    trade(listed, 5, "3", address="v:2")
    changed = (await ask(app, "/api/v1/tokens/T2")).json
    assert (changed["price"], changed["version"]) == ("3", token.version)


async def test_a_merged_token_says_who_says_what(app: ASGIApp, pipeline: Pipeline) -> None:
    one, two = Decimal("1.50"), Decimal(2)
    facts = (
        TokenFacts(source="dexscreener", chain="solana", address="MINT", heard_ms=BEGIN_MS, price=one, liquidity=two),
        TokenFacts(source="jupiter", chain="solana", address="MINT", heard_ms=BEGIN_MS + 1, native=one, quote="SOL"),
    )
    pipeline.tokens("aggregator", [TokenInfo("MINT", "M")])
    pipeline.values("aggregator", [TokenValue("MINT", one, two, two, two, two, BEGIN_MS, facts)])
    found = (await ask(app, "/api/v1/tokens/MINT")).json
    assert (found["price"], found["marketCap"], found["volume"]["m5"]) == ("1.5", "2", "2")
    nothing = dict.fromkeys(("price", "native", "liquidity", "marketCap", "h24", "h1", "m5"))
    assert found["facts"] == [
        {**nothing, "source": "dexscreener", "heardTime": BEGIN_MS, "quote": "USD", "price": "1.5", "liquidity": "2"},
        {**nothing, "source": "jupiter", "heardTime": BEGIN_MS + 1, "quote": "SOL", "native": "1.5"},
    ]


async def test_a_name_with_a_slash(app: ASGIApp) -> None:
    assert (await ask(app, "/api/v1/tokens/BTC/USD")).json["address"] == "venue:BTC/USD"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "T1 T2 T3 T4"),
        ("?sort=volume", "T1 T2 T3 T4"),
        ("?sort=volumeM5&order=asc", "T4 T3 T2 T1"),
        ("?sort=price", "T4 T3 T2 T1"),
        ("?sort=price&order=desc", "T4 T3 T2 T1"),
        ("?sort=price&order=asc", "T1 T2 T3 T4"),
        ("?sort=name", "T2 T1 T4 T3"),
        ("?sort=name&order=desc", "T3 T4 T1 T2"),
        ("?sort=new", "T4 T3 T2 T1"),
        ("?sort=new&order=asc", "T1 T2 T3 T4"),
        ("?sort=updated", "T4 T3 T2 T1"),
        ("?sort=symbol&order=desc", "T4 T3 T2 T1"),
        ("?sort=marketCap", "T1 T2 T3 T4"),
    ],
)
async def test_orders(app: ASGIApp, listed: Pipeline, query: str, expected: str) -> None:
    found = await tokens(app, f"{query}{'&' if query else '?'}limit=1000")
    assert [name for name in symbols(found).split() if name.startswith("T") and name != "TWICE"] == expected.split()
    assert len(found["data"]) == len(listed.market)


async def test_tokens_without_a_price_come_last_with_nulls(app: ASGIApp, listed: Pipeline) -> None:
    for order in ("asc", "desc"):
        rows = (await tokens(app, f"?sort=price&order={order}"))["data"]
        assert [row["price"] is None for row in rows] == [False] * 4 + [True] * 5


async def test_a_search(app: ASGIApp, listed: Pipeline) -> None:
    assert symbols(await tokens(app, "?q=LPH")) == "T2"
    assert symbols(await tokens(app, "?q=v:3")) == "T3"
    assert symbols(await tokens(app, "?q=nothing")) == ""


async def test_a_walk_meets_every_token_once(app: ASGIApp, listed: Pipeline) -> None:
    met: list[str] = []
    query = "?limit=2&sort=price"
    while query:
        found = await tokens(app, query)
        met += symbols(found).split()
        trade(listed, 10 + len(met), str(len(met)), address="v:1")
        query = f"?limit=2&sort=price&cursor={found['nextCursor']}" if found["nextCursor"] else ""
    assert sorted(met) == sorted(token.symbol for token in listed.market)


async def test_an_old_cursor_is_told_to_begin_anew() -> None:
    now_ms = [0]
    pipeline = Pipeline(10, lambda: now_ms[0], lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo(f"v:{at}", f"T{at}") for at in range(3)])
    app = build_http_app(pipeline, lambda: (b"", ""), Settings(), pipeline)
    cursor = (await tokens(app, "?limit=1"))["nextCursor"]
    now_ms[0] = ORDER_KEPT_MS
    assert await tokens(app, f"?limit=1&cursor={cursor}")
    now_ms[0] = 2 * ORDER_KEPT_MS + 1
    assert "begin anew" in await tokens(app, f"?limit=1&cursor={cursor}", 410)


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("/NOBODY", 404, "no token has this address or symbol: NOBODY"),
        ("/TWICE", 404, "several tokens are called TWICE: X1, X2"),
        ("?sort=size", 422, "sort: one of volume, volumeH1, volumeM5, marketCap, price, name, symbol, new, updated"),
        ("?order=up", 422, "order: one of asc, desc"),
        ("?limit=0", 422, "limit: a whole number from 1 to 1000"),
        ("?q=" + "x" * 65, 422, "q: at most 64 characters"),
        ("?cursor=nonsense", 422, "not one that this server gave"),
        ("?cursor=1-1-00000000", 422, "another sort, order or q"),
    ],
)
async def test_wrong_requests(app: ASGIApp, query: str, status: int, says: str) -> None:
    assert says in await tokens(app, query, status)


async def test_numbers_are_never_numbers(app: ASGIApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "0.00000000000000000000000000000000000001", "99999999999999999999999999999999999999")
    reply: Reply = await ask(app, "/api/v1/tokens?limit=1")
    (row,) = json.loads(reply.body, parse_float=pytest.fail)["data"]
    assert row["address"] == PEPE
    assert row["price"] == "0." + "0" * 37 + "1"
    assert row["volume"]["h24"] == "0.99999999999999999999999999999999999999"
