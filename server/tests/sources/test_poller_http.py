"""One request over a real loopback socket: what comes back, and in which ways nothing does."""

import asyncio
import gzip
import json
import zlib
from decimal import Decimal

import pytest
from aiohttp import web

from tokenwire_server.sources.http_get import MAX_BODY_BYTES
from tokenwire_server.sources.poller_findings import Answer, Question
from tokenwire_server.sources.poller_http import FetchError, Pace, fetch, poll_session

from .poller_service import HTML, PAIRS, Reply, Service

NOW = 1_700_000_000_000


async def ask(reply: Reply, timeout_s: float = 5.0) -> Answer:
    service = Service()
    service.always["/x"] = reply
    async with service.running(), poll_session() as session:
        question = Question("/x", (("q", "a,b & c"),))
        answer = await fetch(session, service.url, question, {"x-k": "v"}, timeout_s=timeout_s, wall_ms=lambda: NOW)
        (asked,) = service.asked
        assert asked.query == {"q": "a,b & c"}
        assert asked.headers["x-k"] == "v"
        return answer


async def failure(reply: Reply, timeout_s: float = 5.0) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await ask(reply, timeout_s)
    assert str(caught.value).isprintable()
    return caught.value


async def test_json_comes_exactly() -> None:
    answer = await ask(Reply('{"a":0.1234567890123456789012,"b":null}'))
    assert answer == Answer({"a": Decimal("0.1234567890123456789012"), "b": None}, NOW)


async def test_a_compressed_answer_is_read() -> None:
    reply = Reply(gzip.compress(PAIRS.encode()), headers={"Content-Encoding": "gzip"})
    assert len((await ask(reply)).document["pairs"]) == 2


@pytest.mark.parametrize("body", [HTML, PAIRS[:1000], "", "NaN", b"\xff\xfe\x00", "[" * 100_000])
async def test_what_is_no_json(body: str | bytes) -> None:
    error = await failure(Reply(body))
    assert (error.reason, error.retry) == ("not_json", False)


async def test_a_body_of_20_megabytes_is_not_taken() -> None:
    error = await failure(Reply(b"[" + b" " * 20_000_000 + b"]"))
    assert (error.reason, error.retry) == ("too_large", False)


async def test_neither_is_one_that_says_no_length_nor_one_that_unpacks_to_it() -> None:
    for encoding, body in (("identity", b" " * (MAX_BODY_BYTES + 1)), ("deflate", zlib.compress(b" " * 200_000_000))):
        sent = 0

        async def answer(request: web.Request, encoding: str = encoding, body: bytes = body) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse(headers={"Content-Encoding": encoding})
            response.enable_chunked_encoding()
            await response.prepare(request)
            for first in range(0, len(body), 65_536):
                await response.write(body[first : first + 65_536])
                sent += 65_536
            return response

        application = web.Application()
        application.router.add_get("/x", answer)
        runner = web.AppRunner(application, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with poll_session() as session:
            with pytest.raises(FetchError, match="too_large"):
                await fetch(session, f"http://127.0.0.1:{runner.addresses[0][1]}", Question("/x"), {})
        await runner.cleanup()


async def test_the_largest_answer_is_taken() -> None:
    assert (await ask(Reply(b"[" + b" " * (MAX_BODY_BYTES - 2) + b"]"))).document == []


@pytest.mark.parametrize(
    ("status", "header", "retry", "wait_s"),
    [
        (429, "7", True, 7),
        (429, None, True, 0),
        (429, "soon", True, 0),
        (429, "Tue, 14 Nov 2023 22:13:25 GMT", True, 5),
        (429, "999999", True, 600),
        (503, "3", True, 3),
        (500, "3", True, 0),
        (400, None, False, 0),
        (404, None, False, 0),
        (302, None, False, 0),
    ],
)
async def test_statuses(status: int, header: str | None, retry: bool, wait_s: float) -> None:
    headers = {"Location": "/x"} if status == 302 else {}
    error = await failure(Reply("[]", status, headers | ({"Retry-After": header} if header else {})))
    assert (error.reason, error.retry, error.wait_s) == (f"http_{status}", retry, wait_s)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_said(status: int) -> None:
    error = await failure(Reply(json.dumps({"error": "Unauthorized"}), status))
    assert not error.retry
    assert "key" in error.detail


async def test_a_slow_answer_times_out() -> None:
    error = await failure(Reply(gate=lambda: asyncio.sleep(30)), timeout_s=0.05)
    assert (error.reason, error.detail, error.retry) == ("timeout", "no answer within 0.05 s", True)


async def test_nobody_listens() -> None:
    service = Service()
    async with service.running():
        pass
    async with poll_session() as session:
        with pytest.raises(FetchError, match="unreachable") as caught:
            await fetch(session, service.url, Question("/x"), {})
    assert caught.value.retry


def test_the_pace_holds_the_rate_in_every_window() -> None:
    pace = Pace(10)  # nine: a tenth is left for the network
    starts: list[float] = []
    now_s = 100.0
    for _ in range(30):
        now_s += pace.wait_s(now_s)
        pace.started(now_s)
        starts.append(now_s)
    assert starts == [100.0] * 9 + [160.0] * 9 + [220.0] * 9 + [280.0] * 3
    assert pace.held_s(now_s) == 0


def test_a_hold_is_never_shortened() -> None:
    pace = Pace(10)
    pace.hold(50)
    pace.hold(20)
    assert (pace.wait_s(10), pace.held_s(10), pace.wait_s(50)) == (40, 40, 0)
