"""Who may post, and posting over real connections."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokenwire_server.app import Running, running
from tokenwire_server.gateway import ingest
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.gateway.http_protocol import TimedHttpProtocol
from tokenwire_server.intake import Intake
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings

from .asgi import Reply, ask

NOW_MS = 1_774_089_000_000
TOKEN = "a-secret-of-some-length"
TRADE = {"id": "a", "symbol": "PEPE", "price": "1", "amount": "2", "side": "Sell", "timestamp": NOW_MS}
BODY = json.dumps(TRADE).encode()


def build(**settings: Any) -> HttpApp:
    pipeline = Pipeline(10, lambda: 0, lambda: NOW_MS)
    chosen = Settings(**settings)
    return build_http_app(pipeline, lambda: (b"", ""), chosen, pipeline, Intake(pipeline, None, "posted"))


async def post(
    app: HttpApp, headers: dict[str, str] | None = None, client: tuple[str, int] | None = ("127.0.0.1", 1)
) -> Reply:
    """503 is the answer to whoever may: there is no history here."""
    given = {"host": "127.0.0.1:8080", "content-type": "application/json", **(headers or {})}
    given = {name: text for name, text in given.items() if text}
    reply = await ask(app, "/api/v1/trades", "POST", given, [BODY], client)
    assert reply.headers["content-type"] == "application/problem+json"
    return reply


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8080", 503),
        ("127.0.0.1", "localhost", 503),
        ("127.9.9.9", "LOCALHOST:1", 503),
        ("::1", "[::1]:8080", 503),
        ("::ffff:127.0.0.1", "localhost:8080", 503),
        ("10.0.0.7", "localhost:8080", 403),
        ("::ffff:10.0.0.7", "localhost:8080", 403),
        ("", "localhost:8080", 403),
        ("localhost.evil.example", "localhost", 403),
        ("127.0.0.1", "evil.example:8080", 403),
        ("127.0.0.1", "127.0.0.1.evil.example", 403),
        ("127.0.0.1", "[::1", 403),
        ("127.0.0.1", "", 403),
    ],
)
async def test_without_a_token_only_programs_on_this_machine_may(client: str, host: str, status: int) -> None:
    assert (await post(build(), {"host": host}, (client, 1))).status == status


async def test_a_unix_socket_has_no_address() -> None:
    assert (await post(build(), client=None)).status == 403


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"]
)
async def test_what_a_proxy_forwards_comes_from_elsewhere(name: str) -> None:
    assert (await post(build(), {name: "127.0.0.1"})).status == 403


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 503),
        (f"bearer  {TOKEN} ", 503),
        ("", 401),
        (TOKEN, 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \u00e4", 401),
    ],
)
async def test_with_a_token_it_must_be_shown_wherever_one_is(authorization: str, status: int) -> None:
    for client in ("127.0.0.1", "203.0.113.9"):
        headers = {"authorization": authorization, "host": "service.example", "x-forwarded-for": "198.51.100.1"}
        reply = await post(build(ingest_token=TOKEN), headers, (client, 1))
        assert reply.status == status
        if status == 401:
            assert reply.headers["www-authenticate"] == 'Bearer realm="ingest"'
            assert TOKEN not in reply.body.decode()


@pytest.mark.parametrize(
    ("settings", "origin", "status"),
    [
        ({}, "http://127.0.0.1:8080", 503),
        ({}, "https://evil.example", 403),
        ({}, "http://127.0.0.1:9999", 403),
        ({}, "null", 403),
        ({"allowed_origins": ("https://app.example",)}, "https://app.example", 503),
        ({"allowed_origins": ("https://app.example",)}, "https://evil.example", 403),
        ({"allowed_origins": ("*",)}, "https://evil.example", 403),
        ({"allowed_origins": ("*",), "ingest_token": TOKEN}, "https://any.example", 503),
        ({"ingest_token": TOKEN}, "https://any.example", 403),
    ],
)
async def test_pages_of_other_origins_may_read_and_not_write(
    settings: dict[str, Any], origin: str, status: int
) -> None:
    app = build(**settings)
    reply = await post(app, {"origin": origin, "authorization": f"Bearer {TOKEN}"})
    assert reply.status == status
    wanted = {"origin": origin, "access-control-request-method": "POST"}
    wanted["access-control-request-headers"] = "authorization, content-type"
    preflight = await ask(app, "/api/v1/trades", "OPTIONS", wanted)
    if status == 403:
        assert preflight.status == 400
    elif origin != "http://127.0.0.1:8080":  # a page of the server's own needs none
        assert preflight.status == 200
        assert "POST" in preflight.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 503),
        ("Application/JSON; charset=utf-8", 503),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("", 415),
    ],
)
async def test_only_json_is_taken_so_that_no_form_can_post(kind: str, status: int) -> None:
    assert (await post(build(), {"content-type": kind})).status == status


async def test_compressed_bodies_are_not_taken() -> None:
    assert (await post(build(), {"content-encoding": "gzip"})).status == 415


# --- Over real connections ---------------------------------------------------------------------------------------


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    settings = Settings(port=0, drain_s=0, source=("none",), data=tmp_path / "data", rest_rate_limit="0")
    async with running(settings, []) as server:
        yield server


def url(server: Running) -> str:
    return f"http://127.0.0.1:{server.port}"


async def test_post_over_http_and_read_it_again(server: Running) -> None:
    async with aiohttp.ClientSession(url(server)) as session:
        now = {**TRADE, "timestamp": "2026-03-21T10:30:00Z"}
        items = [{**now, "id": str(number)} for number in range(300)]
        tasks = [session.post("/internal/trades", json=items[first::3]) for first in (0, 1, 2)]
        replies = await asyncio.gather(*tasks, session.post("/api/v1/trades", json=items))
        found = [await reply.json() for reply in replies]
        assert {reply.status for reply in replies} == {200}
        assert sum(each["accepted"] for each in found) == 300
        assert sum(each["duplicates"] for each in found) == 300
        page = await (await session.get("/api/v1/trades/PEPE?after=0&limit=1000")).json()
        assert [row["number"] for row in page["data"]] == list(range(1, 301))
        metrics = await (await session.get("/metrics")).text()
        assert 'tokenwire_trades_accepted_total{source="posted"} 300' in metrics
        assert 'tokenwire_data_doubted_total{reason="time_old",source="posted"} 300' in metrics


async def test_a_bar_closes_though_nothing_more_is_posted(server: Running) -> None:
    async with aiohttp.ClientSession(url(server)) as session:
        await session.post("/api/v1/trades", json={**TRADE, "timestamp": int(time.time() * 1_000)})
        async with asyncio.timeout(10):
            while True:
                found = await (await session.get("/api/v1/klines/PEPE?interval=1s")).json()
                if found["data"][0]["closed"]:
                    break
                await asyncio.sleep(0.1)
        assert (await (await session.get("/ready")).json())["sources"] == {"posted": "live"}


async def test_a_body_of_10_mb_is_refused_and_others_are_served(server: Running) -> None:
    async with aiohttp.ClientSession(url(server)) as session:

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(160):
                yield b"[" + b" " * 65_535

        headers = {"content-type": "application/json"}
        big = await session.post("/api/v1/trades", data=io.BytesIO(b"[" + b" " * 10_000_000), headers=headers)
        assert big.status == 413
        chunked = await session.post("/api/v1/trades", data=endless(), headers=headers)
        assert chunked.status == 413
        assert (await session.post("/api/v1/trades", json=TRADE)).status == 200


async def test_a_chunked_body_is_taken(server: Running) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(BODY), 7):
            yield BODY[at : at + 7]

    async with aiohttp.ClientSession(url(server)) as session:
        reply = await session.post("/api/v1/trades", data=parts(), headers={"content-type": "application/json"})
        assert (reply.status, (await reply.json())["accepted"]) == (200, 1)


def head(server: Running, length: int) -> bytes:
    return (
        f"POST /api/v1/trades HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


async def test_a_body_that_stops_gets_408_and_takes_no_place(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimedHttpProtocol, "timeout_s", 0.3)
    connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(ingest.MAX_POSTS)]
    for _, writer in connections:
        writer.write(head(server, len(BODY)) + BODY[:20])
    for reader, writer in connections:
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408")
        writer.close()
    monkeypatch.undo()
    async with aiohttp.ClientSession(url(server)) as session:
        assert (await session.post("/api/v1/trades", json=TRADE)).status == 200


async def test_a_body_that_trickles_gets_408(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BODY_TIMEOUT_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(server, 1_000))

    async def trickle() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
    assert answer.startswith(b"HTTP/1.1 408")
    trickling.cancel()
    writer.close()


async def test_a_client_that_leaves_in_the_middle_does_no_harm(server: Running) -> None:
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(server, len(BODY)) + BODY[:20])
        await writer.drain()
        writer.close()
    async with aiohttp.ClientSession(url(server)) as session:
        assert (await session.post("/api/v1/trades", json=TRADE)).status == 200


async def test_what_was_posted_outlives_the_server(tmp_path: Path) -> None:
    settings = Settings(port=0, drain_s=0, source=("none",), data=tmp_path / "data")
    for expected in ({"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}):
        async with running(settings, []) as server, aiohttp.ClientSession(url(server)) as session:
            has_begun = expected["duplicates"] == 1
            assert (server.pipeline.states == {"posted": SourceState.LIVE}) is has_begun
            assert (server.pipeline.market.event_now_ms("posted") > 0) is has_begun, "so that bars close"
            reply = await session.post("/api/v1/trades", json=TRADE)
            assert expected.items() <= (await reply.json()).items()
            page = await (await session.get("/api/v1/trades/PEPE")).json()
            assert ([row["number"] for row in page["data"]], page["newest"]) == ([1], 1)
            bars = await (await session.get("/api/v1/klines/PEPE?interval=1m")).json()
            assert [bar["trades"] for bar in bars["data"]] == [1]
