"""Order books over HTTP: levels, depth, freshness, and what a wrong request is told."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.gateway import book as module
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.market.book import BookSnapshot
from tokenwire_server.market.books import LINGER_MS, MAX_BOOKS
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings
from tokenwire_server.sources.simulation import Simulation
from tokenwire_server.sources.simulator import Simulator

from .asgi import Reply, ask

BEGIN_MS = 1_700_000_000_000
PEPE = "PEPE-address"


@pytest.fixture
def now() -> list[int]:
    return [0]


@pytest.fixture
def pipeline(now: list[int]) -> Pipeline:
    pipeline = Pipeline(1_000, lambda: now[0], lambda: BEGIN_MS)
    names = ["TWICE", "TWICE", "BARE"]
    pipeline.tokens("test", [TokenInfo(PEPE, "PEPE"), *(TokenInfo(f"X{n}", name) for n, name in enumerate(names))])
    pipeline.books.offer("test", [PEPE])
    return pipeline


@pytest.fixture
def app(pipeline: Pipeline) -> HttpApp:
    return build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)


def deliver(pipeline: Pipeline, count: int = 2, time_ms: int = BEGIN_MS) -> None:
    bids = [(Decimal(1000 - place), Decimal("1.50")) for place in range(count)]
    asks = [(Decimal(1001 + place), Decimal("2E+1")) for place in range(count)]
    pipeline.books.apply("test", PEPE, BookSnapshot(bids, asks, time_ms))


async def book(app: HttpApp, query: str, status: int = 200) -> Any:
    reply = await ask(app, f"/api/v1/book/{query}")
    assert reply.status == status, reply.body
    if status != 200:
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.json["detail"]
    assert reply.headers["content-type"] == "application/json"
    return reply.json


async def until_wanted(pipeline: Pipeline, *asking: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(10):
        while not pipeline.books.wanted("test") and not any(each.done() for each in asking):
            await asyncio.sleep(0.001)
    assert not any(each.done() for each in asking)


async def test_the_first_request_waits_for_the_book_and_later_ones_have_it(app: HttpApp, pipeline: Pipeline) -> None:
    asking = asyncio.create_task(book(app, "PEPE"))
    await until_wanted(pipeline, asking)
    deliver(pipeline, time_ms=BEGIN_MS + 123)
    held = pipeline.book(PEPE)
    assert held is not None
    expected = {
        "symbol": "PEPE",
        "address": PEPE,
        "bids": [["1000", "1.5"], ["999", "1.5"]],
        "asks": [["1001", "20"], ["1002", "20"]],
        "revision": held.revision,
        "timestamp": "2023-11-14T22:13:20.123Z",
        "stale": False,
    }
    assert await asking == expected == await book(app, PEPE)


async def test_a_book_that_gave_way_while_it_was_waited_for_is_asked_for_again(
    app: HttpApp, pipeline: Pipeline
) -> None:
    asking = asyncio.create_task(book(app, "PEPE"))
    await until_wanted(pipeline, asking)
    pipeline.books.advance(LINGER_MS)
    assert pipeline.book(PEPE) is None
    await until_wanted(pipeline, asking)
    deliver(pipeline)
    assert len((await asking)["bids"]) == 2


async def test_as_deep_as_asked_for(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.look_at_book(PEPE)
    deliver(pipeline, 120)
    for query, depth in (("PEPE", 10), ("PEPE?depth=1", 1), ("PEPE?depth=100", 100), ("PEPE?depth=7", 7)):
        found = await book(app, query)
        assert (len(found["bids"]), len(found["asks"])) == (depth, depth)


async def test_a_book_that_may_be_old_says_so(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.look_at_book(PEPE)
    deliver(pipeline)
    before = await book(app, "PEPE")
    pipeline.books.lose("test", PEPE)
    assert await book(app, "PEPE") == {**before, "stale": True, "revision": before["revision"] + 1}


async def test_whoever_has_it_already_gets_no_body(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.look_at_book(PEPE)
    deliver(pipeline)
    first = await ask(app, "/api/v1/book/PEPE")
    assert first.headers["cache-control"] == "no-cache"
    condition = {"if-none-match": first.headers["etag"]}
    assert (await ask(app, "/api/v1/book/PEPE", headers=condition)).status == 304
    pipeline.books.lose("test", PEPE)
    assert (await ask(app, "/api/v1/book/PEPE", headers=condition)).status == 200


async def test_a_book_that_does_not_come_is_not_served(
    app: HttpApp, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    reply: Reply = await ask(app, "/api/v1/book/PEPE")
    assert (reply.status, reply.headers["retry-after"]) == (503, "2")
    assert "has not sent this book yet" in reply.json["detail"]
    assert list(pipeline.books.wanted("test")) == [PEPE]


async def test_only_so_many_requests_wait(app: HttpApp, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    asking = {asyncio.create_task(ask(app, "/api/v1/book/PEPE")) for _ in range(3)}
    done, waiting = await asyncio.wait(asking, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    deliver(pipeline)
    refused = [task.result() for task in done]
    assert [reply.status for reply in refused] == [503]
    assert "too many requests wait" in refused[0].json["detail"]
    assert [reply.status for reply in await asyncio.gather(*waiting)] == [200, 200]
    await book(app, "PEPE")


async def test_when_all_places_are_held_no_other_book_opens(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.books.offer("test", [f"H{number}" for number in range(MAX_BOOKS)])
    for number in range(MAX_BOOKS):
        pipeline.books.hold(f"H{number}")
    assert "as many other books are open" in await book(app, "PEPE", 503)


async def test_a_request_keeps_the_book_for_a_while(app: HttpApp, pipeline: Pipeline, now: list[int]) -> None:
    pipeline.look_at_book(PEPE)
    deliver(pipeline)
    now[0] = LINGER_MS - 1
    await book(app, "PEPE")
    now[0] = 2 * LINGER_MS - 2
    pipeline.books.advance(now[0])
    assert pipeline.book(PEPE) is not None
    pipeline.books.advance(now[0] + 1)
    assert pipeline.book(PEPE) is None


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("NOBODY", 404, "no token has this address or symbol: NOBODY"),
        ("TWICE", 404, "several tokens are called TWICE: X0, X1"),
        ("BARE", 404, "BARE has no order book: its source gives none"),
        ("PEPE?depth=0", 422, "depth: a whole number from 1 to 100"),
        ("PEPE?depth=101", 422, "depth: a whole number from 1 to 100"),
        ("PEPE?depth=1e1", 422, "depth: a whole number from 1 to 100"),
        ("PEPE?depth=", 422, "depth: a whole number from 1 to 100"),
        ("PEPE?depth=-1", 422, "depth: a whole number from 1 to 100"),
        ("A" * 257, 422, "symbol: at most 256"),
    ],
)
async def test_wrong_requests(app: HttpApp, pipeline: Pipeline, query: str, status: int, says: str) -> None:
    assert says in await book(app, query, status)
    assert len(pipeline.books) == 0


async def test_the_description_has_an_example(app: HttpApp) -> None:
    document = (await ask(app, "/openapi.json")).json
    route = document["paths"]["/api/v1/book/{symbol}"]["get"]
    assert {"200", "404", "422", "503"} <= route["responses"].keys()
    assert [each["name"] for each in route["parameters"]] == ["symbol", "depth"]
    schema = document["components"]["schemas"]["BookAnswer"]
    assert schema["example"].keys() == schema["properties"].keys() == set(schema["required"])


async def test_a_simulated_market_has_books() -> None:
    pipeline = Pipeline(1_000, lambda: 0, lambda: BEGIN_MS)
    source = Simulator(Simulation(1, tokens=10))
    pipeline.add_source(source)
    running = asyncio.create_task(source.run(pipeline))
    app = build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(), pipeline)
    try:
        found = await book(app, "DOGE?depth=100")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (len(found["bids"]), len(found["asks"]), found["stale"]) == (100, 100, False)
    assert Decimal(found["bids"][0][0]) < Decimal(found["asks"][0][0])
