"""Servers for the tests of the shells: the real one, and one that follows a script."""

import asyncio
import http
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from server.tests.gateway.conftest import ManualSource
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tokenwire import ClientConfig
from tokenwire_server.app import Running, running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.settings import Settings

TIME_MS = 1_700_000_000_000
PATH = "/api/v1/ws/token-data"


@asynccontextmanager
async def real_server(
    tokens: Sequence[str] = ("DOGE", "PEPE", "SHIB"), hub: HubConfig | None = None, **settings: Any
) -> AsyncIterator[tuple[Running, ManualSource]]:
    """The real server, with a tick every 50 ms and a price of 1 for each token."""
    source = ManualSource(tokens)
    chosen = Settings(**{"port": 0, "update_interval_s": 0.05, "drain_s": 0, **settings})
    async with running(chosen, [source], hub) as server:
        while source.sink is None:
            await asyncio.sleep(0)
        yield server, source


def quick(url: str = "ws://localhost", **settings: Any) -> ClientConfig:
    """Settings that do not make a test wait: tries 10 ms apart."""
    return ClientConfig(**{"url": url, "backoff_base_ms": 10, "backoff_cap_ms": 20, "stable_ms": 60_000, **settings})


class Peer:
    """The server's side of one socket, in a script."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number
        """Counts the sockets of this server from 1."""
        self.sequence = 0
        assert socket.request is not None
        self.request = socket.request

    async def say(self, kind: str, data: object, sequence: int | None = None) -> None:
        """One message, numbered on from the last unless told."""
        if sequence is None:
            self.sequence += 1
        await self.socket.send(
            json.dumps({"type": kind, "sequence": sequence or self.sequence, "timestamp": wall_ms(), "data": data})
        )

    async def welcome(self, **extra: object) -> None:
        """The first message, strict unless ``extra`` says more."""
        data = {"status": "connected", "connectionId": f"00000000-0000-4000-8000-{self.number:012d}"}
        await self.say("connection", {**data, "maxSubscriptions": 100, **extra})

    async def hear(self, kind: str) -> dict[str, Any]:
        """The data of the next message of ``kind``; others are skipped."""
        while True:
            message = json.loads(await self.socket.recv())
            if message["type"] == kind:
                data: dict[str, Any] = message["data"]
                return data

    async def accept(self, limit: int = 100) -> list[str]:
        """Answer one subscribe; the names accepted, whose values are sent as well."""
        asked = await self.hear("subscription")
        names, refused = asked["tokens"][:limit], asked["tokens"][limit:]
        extra = {"requestId": asked["requestId"]} if "requestId" in asked else {}
        success = {"action": asked["action"], "tokens": [address_of(name) for name in names], "status": "success"}
        if names:
            await self.say("subscription", success | extra)
        if refused:
            await self.say("subscription", {"action": asked["action"], "tokens": refused, "status": "error"} | extra)
            text = {"code": "SUBSCRIPTION_LIMIT", "message": "too many", "level": "error"}
            await self.say("error", text | extra)
        for name in names:
            await self.value(name)
        return names

    async def value(self, name: str, price: str = "1") -> None:
        """One update."""
        volume = {"h24": "1", "h1": "1", "m5": "0"}
        await self.say(
            "token_update", {"address": address_of(name), "price": price, "marketCap": "0", "volume": volume}
        )

    async def stay(self) -> None:
        """Until the client goes."""
        await self.socket.wait_closed()


def address_of(name: str) -> str:
    """Of a name or of an address."""
    return f"{name.removesuffix('-address')}-address"


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(
    script: Script, status: Callable[[int], tuple[int, dict[str, str]] | None] = lambda _: None
) -> AsyncIterator[str]:
    """A server whose every socket runs ``script``; ``status`` refuses the n-th handshake. The URL to reach it."""
    count = 0

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal count
        count += 1
        refusal = status(count)
        if refusal is None:
            return None
        response = connection.respond(http.HTTPStatus(refusal[0]), "no\n")
        for name, value in refusal[1].items():
            response.headers[name] = value
        return response

    async def handle(socket: ServerConnection) -> None:
        await script(Peer(socket, count))

    async with serve(handle, "127.0.0.1", 0, process_request=answer, ping_interval=None, close_timeout=0.2) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}{PATH}"


@asynccontextmanager
async def tcp_server(words: bytes | None) -> AsyncIterator[int]:
    """A port that says ``words`` to everybody and hangs up; None accepts and stays silent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if words is None:
            with suppress(ConnectionError):
                while await reader.read(4_096):
                    pass
        else:
            writer.write(words)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    done = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await done.wait()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000
