"""Requests over HTTP: their limits, and what is left of one that was given up."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from tokenwire import sync
from tokenwire.rest import MAX_REQUESTS, Rest, RestError

from ..live import quick
from .market_peer import page, scripted, trading

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def port_of(handle: Handler) -> AsyncIterator[str]:
    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
async def test_a_server_that_sends_a_byte_at_a_time_is_given_up(begin: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        with contextlib.suppress(ConnectionError):
            while not is_over.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        has_ended.set()

    is_over, has_ended = asyncio.Event(), asyncio.Event()
    async with port_of(drip) as url:
        rest = Rest(url, {}, timeout_s=0.2)
        async with asyncio.timeout(5):
            with pytest.raises(RestError, match="too long"):
                await rest.get("tokens")
        is_over.set()
        await has_ended.wait()


async def test_only_so_many_requests_run_at_once() -> None:
    running = most = 0
    is_full = asyncio.Event()

    async def answer(path: str) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == MAX_REQUESTS:
            is_full.set()
        await is_full.wait()
        running -= 1
        return page()

    async with scripted(trading(), answer) as url:
        rest = Rest(url, {})
        await asyncio.gather(*[rest.get("tokens") for _ in range(3 * MAX_REQUESTS)])
    assert most == MAX_REQUESTS


@pytest.mark.parametrize(("header", "wait_ms"), [({"Retry-After": "7"}, 7_000), ({"Retry-After": "soon"}, None)])
async def test_a_refusal_says_how_long_to_wait(header: dict[str, str], wait_ms: int | None) -> None:
    async with scripted(trading(), lambda path: (429, b"", header)) as url:
        with pytest.raises(RestError) as caught:
            await Rest(url, {}).get("tokens")
        assert caught.value.retry_after_ms == wait_ms


def test_closing_does_not_wait_for_an_answer() -> None:
    ready, finish, is_answered = threading.Event(), threading.Event(), threading.Event()
    found: list[str] = []

    async def answer(path: str) -> Any:
        is_asked.set()
        await asyncio.to_thread(finish.wait)
        is_answered.set()
        return page()

    async def serve() -> None:
        async with scripted(trading(1), answer) as url:
            found.append(url)
            ready.set()
            await asyncio.to_thread(finish.wait)

    is_asked = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        client = sync.TokenClient(found[0], config=quick())
        client.open()
        client.trades("DOGE", after=0)
        assert is_asked.wait(10)
        timer = threading.Timer(30, finish.set)  # a close that waits does so until here
        timer.start()
        client.close()
        timer.cancel()
        assert not is_answered.is_set()
    finally:
        finish.set()
        thread.join()


@pytest.mark.parametrize(
    ("said", "understood"), [("1700000000000", 1_700_000_000_000), ("soon", None), ("-1", None), ("9" * 400, None)]
)
async def test_how_far_the_server_knows_what_it_answers_with(said: str, understood: int | None) -> None:
    answer = (*page({"number": 1}), {"X-Tokenwire-Until-Ms": said})
    async with scripted(trading(), lambda path: answer) as url:
        found = await Rest(url, {}).ask("klines", "DOGE")
    assert found.body["data"] == [{"number": 1}]
    assert found.until_ms == understood
