"""The one GET of the sources, against a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tokenwire_server.sources import http_get
from tokenwire_server.sources.http_get import HttpError, Reply, http_client


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    async def plain(request: web.Request) -> web.Response:
        return web.Response(status=429, text="slow down", headers={"Retry-After": "5"})

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("/plain")

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * 3_000_000)
        response.enable_compression(web.ContentCoding.gzip)  # a few kB on the wire
        return response

    async def never(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    app = web.Application()
    for handler in (plain, away, huge, never):
        app.router.add_get(f"/{handler.__name__}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_what_comes_back_is_told_and_redirects_are_not_followed() -> None:
    async with served() as url, http_client() as get:
        assert await get(f"{url}/plain") == Reply(429, b"slow down", "5")
        assert (await get(f"{url}/away")).status == 302


async def test_time_and_size_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_get, "REQUEST_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http_get, "MAX_BODY_BYTES", 2_000_000)
    async with served() as url, http_client() as get:
        with pytest.raises(HttpError, match="longer than 2000000 bytes"):
            await get(f"{url}/huge")
        with pytest.raises(HttpError, match="Timeout"):
            await get(f"{url}/never")
        with pytest.raises(HttpError, match="Error"):
            await get("http://127.0.0.1:1/")
        assert (await get(f"{url}/plain")).status == 429
