"""What an answer says of being kept, and what asking again costs."""

import pytest

from tokenwire_server.gateway.http import HttpApp
from tokenwire_server.pipeline import Pipeline

from .asgi import ask
from .market import BEGIN_MS, trade

BEGIN = BEGIN_MS // 1_000
SETTLED = "public, max-age=60, must-revalidate"


@pytest.fixture
def traded(pipeline: Pipeline) -> Pipeline:
    for second in range(120):
        trade(pipeline, second, "1")
    return pipeline


@pytest.mark.parametrize("path", ["/api/v1/klines/PEPE?", "/api/v1/indicators/PEPE?indicator=sma:3&"])
@pytest.mark.parametrize(
    ("query", "settled"),
    [
        (f"interval=1s&from={BEGIN}&to={BEGIN + 30}", True),
        (f"interval=1s&from={BEGIN}&to={BEGIN + 108}", True),  # its bar closes 10 s before the present
        (f"interval=1s&from={BEGIN}&to={BEGIN + 109}", False),  # most late trades come within these
        (f"interval=1s&from={BEGIN}&to={BEGIN + 119}", False),
        (f"interval=1m&from={BEGIN}&to={BEGIN + 59}", True),
        (f"interval=1m&from={BEGIN}&to={BEGIN + 60}", False),
        (f"interval=1s&to={BEGIN + 30}", False),
        (f"interval=1s&from={BEGIN}", False),
        ("interval=1s", False),
        (f"interval=1s&from={BEGIN}&to={BEGIN + 30}&fill=previous", True),
        (f"interval=1s&from={BEGIN - 99}&to={BEGIN - 1}", True),  # nothing, and nothing is to be expected
    ],
)
async def test_only_what_is_over_may_be_used_without_asking(
    app: HttpApp, traded: Pipeline, path: str, query: str, settled: bool
) -> None:
    reply = await ask(app, path + query)
    assert reply.status == 200
    assert reply.headers["cache-control"] == (SETTLED if settled else "no-cache")
    assert "Origin" in reply.headers["vary"]  # kept for a page of one origin, it is not for one of another


async def test_nothing_is_over_before_the_sources_clock_was_told(app: HttpApp, pipeline: Pipeline) -> None:
    pipeline.market._clocks.clear()
    reply = await ask(app, f"/api/v1/klines/PEPE?from={BEGIN}&to={BEGIN + 30}")
    assert reply.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/klines/PEPE?interval=1s",
        "/api/klines/PEPE?interval=1s",
        "/api/v1/indicators/PEPE?indicator=sma:3&interval=1s",
        "/udf/history?symbol=PEPE&resolution=1S&countback=5",
    ],
)
async def test_asking_again_costs_no_body_until_something_changes(app: HttpApp, traded: Pipeline, path: str) -> None:
    first = await ask(app, path)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await ask(app, path, headers={"if-none-match": condition})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["cache-control"] == first.headers["cache-control"]
        assert "content-length" not in again.headers
    for condition in ('"other"', tag.strip('"'), ""):
        assert (await ask(app, path, headers={"if-none-match": condition})).status == 200
    trade(traded, 119.5, "7")
    changed = await ask(app, path, headers={"if-none-match": tag})
    assert changed.status == 200
    assert changed.headers["etag"] != tag


async def test_a_late_trade_changes_the_tag_of_what_was_over(app: HttpApp, traded: Pipeline) -> None:
    path = f"/api/v1/klines/PEPE?interval=1s&from={BEGIN}&to={BEGIN + 30}"
    tag = (await ask(app, path)).headers["etag"]
    trade(traded, 3, "7", late=True)
    assert (await ask(app, path, headers={"if-none-match": tag})).status == 200


async def test_a_page_elsewhere_may_read_the_tag_and_ask_with_it(app: HttpApp, traded: Pipeline) -> None:
    origin = {"origin": "https://chart.example"}
    reply = await ask(app, "/api/v1/klines/PEPE", headers=origin)
    assert "ETag" in reply.headers["access-control-expose-headers"]
    wish = {"access-control-request-method": "GET", "access-control-request-headers": "if-none-match"}
    assert (await ask(app, "/api/v1/klines/PEPE", "OPTIONS", {**origin, **wish})).status == 200


@pytest.mark.parametrize(
    "path", ["/api/v1/klines/PEPE?", "/api/klines/PEPE?", "/api/v1/indicators/PEPE?indicator=sma:3&"]
)
async def test_it_is_said_how_far_bars_are_known(app: HttpApp, traded: Pipeline, path: str) -> None:
    first = await ask(app, path + "interval=1s", headers={"origin": "https://chart.example"})
    assert first.headers["x-tokenwire-until-ms"] == str(BEGIN_MS + 119_000)
    assert "x-tokenwire-until-ms" in first.headers["access-control-expose-headers"]
    traded.clock("test", BEGIN_MS + 119_999)
    again = await ask(app, path + "interval=1s", headers={"if-none-match": first.headers["etag"]})
    assert again.status == 304
    assert again.headers["x-tokenwire-until-ms"] == str(BEGIN_MS + 119_000), "trades before the clock may be to come"
    traded.clock("test", BEGIN_MS + 120_500)  # the bar closes: what is traded before that only corrects it
    third = await ask(app, path + "interval=1s")
    assert third.headers["x-tokenwire-until-ms"] == str(BEGIN_MS + 120_500)
    idle = await ask(app, path.replace("PEPE", "IDLE") + "interval=1s")
    assert idle.headers["x-tokenwire-until-ms"] == "0"


async def test_errors_are_not_kept(app: HttpApp) -> None:
    for path in ("/api/v1/klines/NOBODY", "/api/v1/klines/PEPE?limit=0", "/udf/symbols?symbol=NOBODY"):
        assert (await ask(app, path)).headers["cache-control"] == "no-store"


async def test_head_of_a_page_has_its_tag(app: HttpApp, traded: Pipeline) -> None:
    get, head = await ask(app, "/api/v1/klines/PEPE"), await ask(app, "/api/v1/klines/PEPE", "HEAD")
    assert (head.status, head.body, head.headers["etag"]) == (200, b"", get.headers["etag"])
