"""A server whose channels, and whose REST side, follow a script."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from tokenwire import TokenClient
from tokenwire.channels import Trade

from ..live import Peer, quick

DOGE = "DOGE-address"
MINUTE_0_MS = 1_700_000_040_000

Answer = Callable[[str], Any]
"""Status, body and perhaps headers for a path, or something to be awaited for them."""


async def take(stream: Any, count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return [await anext(stream) for _ in range(count)]


def numbers(trades: list[Trade]) -> list[int | None]:
    return [trade.number for trade in trades]


def client_of(server: Any, **settings: Any) -> TokenClient:
    return TokenClient(server.url, config=quick(capabilities=("details", "resume"), **settings))


@asynccontextmanager
async def scripted(script: Callable[[Peer], Any], answer: Answer) -> AsyncIterator[str]:
    """Sockets run ``script``; other requests get status and body of ``answer(path)``."""
    count = 0

    async def plain(connection: ServerConnection, request: Request) -> Response | None:
        if request.path.startswith("/api/v1/ws/"):
            return None
        found = answer(request.path)
        status, body, *more = await found if inspect.isawaitable(found) else found
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
        headers.update(*more)
        return Response(status, "whatever", headers, body)

    async def handle(socket: ServerConnection) -> None:
        nonlocal count
        count += 1
        await script(Peer(socket, count))

    async with serve(handle, "127.0.0.1", 0, process_request=plain, ping_interval=None, close_timeout=0.2) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def page(*rows: Any, **more: Any) -> tuple[int, bytes]:
    """An answer with these rows, the last page."""
    return 200, json.dumps({"data": rows, "nextCursor": None, **more}).encode()


def nothing(path: str) -> tuple[int, bytes]:
    return 404, b""


def wire(number: int, address: str = DOGE) -> dict[str, Any]:
    return {
        "symbol": "DOGE", "price": "1", "volume": "2", "side": "Sell", "timestamp": "2024-03-21T10:30:00.125Z",
        "address": address, "version": number, "id": str(number),
    }  # fmt: skip


def row(number: int) -> dict[str, Any]:
    return {
        "number": number, "id": str(number), "symbol": "DOGE", "address": DOGE, "price": "1", "amount": "2",
        "side": "Sell", "timestamp": "2024-03-21T10:30:00.125Z",
    }  # fmt: skip


def bar(minute: int, trades: int, *, closed: bool = True) -> dict[str, Any]:
    """As it is sent, and as a row."""
    begin_ms = MINUTE_0_MS + minute * 60_000
    begin, end = (datetime.fromtimestamp(ms / 1_000, UTC).isoformat() for ms in (begin_ms, begin_ms + 60_000))
    return {
        "symbol": "DOGE", "interval": "1m", "open_time": begin, "close_time": end, "open": "1", "high": "1", "low": "1",
        "close": "1", "volume": "1", "address": DOGE, "closed": closed, "version": trades, "turnover": "1",
        "buy_volume": "0", "buy_turnover": "0", "trades": trades, "revision": 0,
    }  # fmt: skip


def minute_of(open_ms: int) -> int:
    return (open_ms - MINUTE_0_MS) // 60_000


Step = int | str | dict[str, Any] | Awaitable[Any]


def numbered(script: Callable[[Peer, int], Awaitable[None]]) -> Callable[[Peer], Awaitable[None]]:
    """``script`` with the number of its connection among those of the channels, from 1."""
    count = 0

    async def run(peer: Peer) -> None:
        nonlocal count
        if "channels" not in peer.request.path:
            await peer.welcome(capabilities=["details"], stream="s-1")
            await peer.stay()
            return
        count += 1
        await script(peer, count)

    return run


def trading(*steps: Step, lineages: tuple[str, ...] = ("s-1",)) -> Callable[[Peer], Any]:
    """A script: numbers of trades, forms of bars, something to wait for; ``cut`` ends the socket, and each later one
    goes on where it was. The n-th is of the n-th lineage, all further ones of the last."""
    left = list(steps)

    async def script(peer: Peer, count: int) -> None:
        stream = lineages[min(count, len(lineages)) - 1]
        await peer.welcome(capabilities=["details", "channels"], stream=stream)
        await peer.accept()
        while left:
            step = left.pop(0)
            if step == "cut":
                peer.socket.transport.abort()
                return
            if isinstance(step, dict):
                await peer.say("kline", step)
            elif isinstance(step, int | str):
                await peer.say("transaction", wire(int(step)))
            else:
                await step
        await peer.stay()

    return numbered(script)
