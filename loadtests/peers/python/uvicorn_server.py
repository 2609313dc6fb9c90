"""The task on ``uvicorn`` with Starlette: an ASGI endpoint per connection, ticks from a task of the lifespan.

Why these settings: ``websockets-sansio`` is uvicorn's default and its leanest implementation on a maintained library;
uvloop and httptools are its documented choice for speed. ASGI knows text messages as str only, so the bytes of a
tick become str once per set, and uvicorn encodes each message.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from feed import Client, Feed, options
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

told = options("uvicorn")
feed: Feed[WebSocket] = Feed(told.workload)


async def endpoint(connection: WebSocket) -> None:
    await connection.accept()
    client = Client(connection)
    try:
        while True:
            feed.subscribe(client, await connection.receive_text())
    except WebSocketDisconnect:
        pass
    finally:
        feed.leave(client)


async def publish() -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    prefix = feed.prefix.decode()
    async for tick in feed.ticks():
        for _, members, tails in tick:
            texts = [tail.decode() for tail in tails]
            for client in members:
                try:
                    for text in texts:
                        client.sequence += 1
                        await client.connection.send(
                            {"type": "websocket.send", "text": f"{prefix}{client.sequence}{text}"}
                        )
                except (WebSocketDisconnect, RuntimeError):
                    feed.leave(client)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    publisher = asyncio.create_task(publish())
    yield
    publisher.cancel()


server = uvicorn.Server(
    uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/api/v1/ws/token-data", endpoint)], lifespan=lifespan),
        host="127.0.0.1",
        port=told.port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=told.compress != "none",
        backlog=1024,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
)

if __name__ == "__main__":
    server.run()
