"""A venue on a virtual network, in virtual time, for tests of what a collector does in the course of hours."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import async_solipsism
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.http_get import HttpError, HttpGet, Reply
from tokenwire_server.sources.profile import Profile

from .conftest import RecordingSink
from .venues import Venue

HOST, PORT = "venue.test", 9443
T0 = 1_700_000_000_000  # the wall clock when virtual time is 0

Handler = Callable[[ServerConnection], Awaitable[None]]


class World:
    """A venue on a virtual network, and everything that it was told, with the time."""

    def __init__(self) -> None:
        self.sink = RecordingSink()
        self.begun_s: list[float] = []
        self.heard: list[tuple[float, str]] = []
        self.asked: list[tuple[float, str]] = []
        self.answer: Callable[[str], Awaitable[Reply]] = self.no_rest

    def run(self, handler: Handler, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def serve_one(socket: ServerConnection) -> None:
            self.begun_s.append(self.now_s)
            with suppress(ConnectionClosed):
                await handler(socket)

        async def main() -> None:
            async with serve(serve_one, HOST, PORT, ping_interval=None, close_timeout=1):
                await test()

        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            runner.run(main())

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def speak(self, venue: Venue, *, pongs: bool = True) -> Handler:
        """Grant what is asked for and answer pings."""

        async def handler(socket: ServerConnection) -> None:
            async for text in socket:
                assert isinstance(text, str)
                self.heard.append((self.now_s, text))
                pong = venue.is_ping(text)
                if pong is None:
                    for frame in venue.answer(json.loads(text)):
                        await socket.send(frame)
                elif pongs:
                    await socket.send(pong)

        return handler

    async def no_rest(self, url: str) -> Reply:
        raise HttpError("nothing is there")

    @asynccontextmanager
    async def http(self) -> AsyncIterator[HttpGet]:
        async def get(url: str) -> Reply:
            self.asked.append((self.now_s, url))
            return await self.answer(url)

        yield get

    @asynccontextmanager
    async def collecting(
        self, profile: Profile, symbol: str, *, rest: bool = False, positions: Sequence[str] = ()
    ) -> AsyncIterator[Exchange]:
        source = Exchange(
            profile,
            [symbol],
            f"ws://{HOST}:{PORT}",
            "http://rest.test" if rest else None,
            clock=lambda: T0 + int(self.now_s * 1_000),
            rng=Random(1),
            http=self.http,
        )
        if positions:
            source.resume(positions)
        task = asyncio.create_task(source.run(self.sink))
        try:
            yield source
            assert not task.done()
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
