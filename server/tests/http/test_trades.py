"""Trades over HTTP: fields, pages by number, holes, and what a wrong request is told."""

from typing import Any

import pytest

from tokenwire_server.gateway.http import HttpApp
from tokenwire_server.market.trade_log import MAX_TRADES
from tokenwire_server.market.trades import Side
from tokenwire_server.pipeline import Pipeline

from .asgi import ask
from .market import PEPE, trade


async def trades(app: HttpApp, query: str, status: int = 200) -> Any:
    reply = await ask(app, f"/api/v1/trades/{query}")
    assert reply.status == status, reply.body
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.json["detail"]
    return reply.json


def numbers(found: Any) -> list[int]:
    return [row["number"] for row in found["data"]]


async def test_a_trade_has_exact_strings_and_a_time_to_the_ms(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1.5, "0.0000012340", "1000000.50", Side.SELL)
    assert await trades(app, "PEPE") == {
        "data": [
            {
                "number": 1,
                "id": "1.5:0.0000012340",
                "symbol": "PEPE",
                "address": PEPE,
                "price": "0.000001234",
                "amount": "1000000.5",
                "side": "Sell",
                "timestamp": "2023-11-14T22:00:01.500Z",
            }
        ],
        "nextCursor": None,
        "oldest": 1,
        "newest": 1,
    }
    assert (await trades(app, PEPE))["newest"] == 1


async def test_a_token_that_never_traded_has_none(app: HttpApp) -> None:
    assert await trades(app, "IDLE") == {"data": [], "nextCursor": None, "oldest": 1, "newest": 0}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [5, 6, 7]),
        ("&after=2", [3, 4, 5]),
        ("&after=0", [1, 2, 3]),
        ("&after=6", [7]),
        ("&after=7", []),
        ("&after=99", []),
        ("&before=4", [1, 2, 3]),
        ("&before=1", []),
        ("&before=99", [5, 6, 7]),
        ("&after=1&before=4", [2, 3]),
    ],
)
async def test_pages_by_number(app: HttpApp, pipeline: Pipeline, query: str, expected: list[int]) -> None:
    for second in range(7):
        trade(pipeline, second, "1")
    assert numbers(await trades(app, f"PEPE?limit=3{query}")) == expected


@pytest.mark.parametrize("query", ["", "&after=0", "&after=2&before=10"])
async def test_a_walk_meets_every_trade_once(app: HttpApp, pipeline: Pipeline, query: str) -> None:
    for second in range(11):
        trade(pipeline, second, "1")
    met: list[int] = []
    asked = f"PEPE?limit=2{query}"
    while asked:
        found = await trades(app, asked)
        assert found["data"], "a cursor led to nothing"
        met += numbers(found)
        cursor = found["nextCursor"]
        asked = f"PEPE?limit=2{query}&cursor={cursor}" if cursor else ""
    assert sorted(met) == (list(range(3, 10)) if "before" in query else list(range(1, 12)))
    assert len(set(met)) == len(met)


async def test_what_is_gone_is_said(app: HttpApp, pipeline: Pipeline) -> None:
    for second in range(MAX_TRADES + 4):
        trade(pipeline, second, "1")
    found = await trades(app, "PEPE?after=2&limit=2")
    assert (numbers(found), found["oldest"], found["newest"]) == ([5, 6], 5, MAX_TRADES + 4)
    assert numbers(await trades(app, "PEPE?before=5")) == []
    last = await trades(app, "PEPE?before=7")
    assert (numbers(last), last["nextCursor"]) == ([5, 6], None)


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("NOBODY", 404, "no token has this address or symbol: NOBODY"),
        ("TWICE", 404, "several tokens are called TWICE: X1, X2"),
        ("", 404, "no token"),
        ("PEPE?limit=0", 422, "limit: a whole number from 1 to 1000"),
        ("PEPE?limit=1001", 422, "limit"),
        ("PEPE?after=-1", 422, "after"),
        ("PEPE?after=1.5", 422, "after"),
        ("PEPE?after=9007199254740992", 422, "after"),
        ("PEPE?before=0", 422, "before"),
        ("PEPE?after=5&before=5", 422, "after: not below before"),
        ("PEPE?cursor=nonsense", 422, "not one that this server gave"),
        ("PEPE?cursor=%C3%A4", 422, "not one that this server gave"),
        ("PEPE?cursor=YzE", 422, "not one that this server gave"),
        ("PEPE?cursor=" + "Y" * 41, 422, "cursor: at most 40 characters"),
    ],
)
async def test_wrong_requests(app: HttpApp, query: str, status: int, says: str) -> None:
    assert says in await trades(app, query, status)


async def test_whoever_has_the_page_gets_no_second_one(app: HttpApp, pipeline: Pipeline) -> None:
    trade(pipeline, 1, "1")
    first = await ask(app, "/api/v1/trades/PEPE")
    assert first.headers["cache-control"] == "no-cache"
    second = await ask(app, "/api/v1/trades/PEPE", headers={"if-none-match": first.headers["etag"]})
    assert (second.status, second.body) == (304, b"")
    trade(pipeline, 2, "1")
    third = await ask(app, "/api/v1/trades/PEPE", headers={"if-none-match": first.headers["etag"]})
    assert third.status == 200
