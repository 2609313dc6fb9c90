"""The task on ``websockets``: the asyncio server on uvloop, which its documentation recommends for speed.

Why this API: ``send`` of bytes marked as text spares an encoding, and one connection after the other costs least
(a task or a queue per client, its other advice, costs more when nobody is slow). ``broadcast`` sends identical bytes.
"""

import uvloop
from feed import Client, Feed, options
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory


async def main() -> None:
    told = options("websockets")
    feed: Feed[ServerConnection] = Feed(told.workload)

    async def handler(connection: ServerConnection) -> None:
        client = Client(connection)
        try:
            async for message in connection:
                feed.subscribe(client, message)
        except ConnectionClosed:
            pass
        finally:
            feed.leave(client)

    full = [ServerPerMessageDeflateFactory(server_max_window_bits=15, compress_settings={"memLevel": 8})]
    async with serve(
        handler,
        "127.0.0.1",
        told.port,
        compression="deflate" if told.compress == "default" else None,
        extensions=full if told.compress == "full" else None,
        backlog=1024,
    ):
        async for tick in feed.ticks():
            for group, members, tails in tick:
                if told.broadcast:
                    for tail in tails:
                        group.sequence += 1
                        message = b"%b%d%b" % (feed.prefix, group.sequence, tail)
                        broadcast([client.connection for client in members], message, text=True)
                    continue
                for client in members:
                    try:
                        for tail in tails:
                            client.sequence += 1
                            await client.connection.send(b"%b%d%b" % (feed.prefix, client.sequence, tail), text=True)
                    except ConnectionClosed:
                        feed.leave(client)


if __name__ == "__main__":
    uvloop.run(main())
