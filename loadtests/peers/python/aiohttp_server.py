"""The task on ``aiohttp``: a WebSocket handler on uvloop and ``WebSocketResponse.send_frame`` with bytes as text.

Why this API: ``send_frame`` is documented for whoever has encoded the message already; ``send_str`` would encode it
per connection. ``compress=True`` is its own default: it answers the client's offer and deflates every message.
"""

import uvloop
from aiohttp import ClientConnectionError, WSMsgType, web
from feed import Client, Feed, options


async def main() -> None:
    told = options("aiohttp")
    feed: Feed[web.WebSocketResponse] = Feed(told.workload)

    async def handler(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=told.compress != "none")
        await connection.prepare(request)
        client = Client(connection)
        try:
            async for message in connection:
                if message.type == WSMsgType.TEXT:
                    feed.subscribe(client, message.data)
        finally:
            feed.leave(client)
        return connection

    app = web.Application()
    app.router.add_get("/api/v1/ws/token-data", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", told.port, backlog=1024).start()
    async for tick in feed.ticks():
        for _, members, tails in tick:
            for client in members:
                try:
                    for tail in tails:
                        client.sequence += 1
                        message = b"%b%d%b" % (feed.prefix, client.sequence, tail)
                        await client.connection.send_frame(message, WSMsgType.TEXT)
                except ClientConnectionError:
                    feed.leave(client)


if __name__ == "__main__":
    uvloop.run(main())
