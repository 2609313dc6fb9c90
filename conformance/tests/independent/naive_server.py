"""A server as one writes it in a hurry, wrong in many ways: ``python naive_server.py PORT``."""

import asyncio
import json
import random
import sys
import time

from websockets.asyncio.server import ServerConnection, serve

clients: dict[ServerConnection, set[str]] = {}
sequence = 0


def message(kind: str, data: object) -> str:
    global sequence  # noqa: PLW0603 - one counter for everybody: the first of its mistakes
    sequence += random.choice([1, 1, 2])
    return json.dumps({"type": kind, "sequence": sequence, "timestamp": time.time(), "data": data})


async def feed() -> None:
    while True:
        await asyncio.sleep(5)
        for ws, tokens in list(clients.items()):
            for token in tokens:
                update = {"address": token, "price": random.random(), "marketCap": 1e9, "volume": 1000}
                await ws.send(message("token_update", update))


async def handle(ws: ServerConnection) -> None:
    clients[ws] = set()
    try:
        await ws.send(message("connection", {"status": "ok", "id": 7}))
        async for text in ws:
            request = json.loads(text)["data"]
            if request["action"] == "subscribe":
                clients[ws].update(request["tokens"])
            await ws.send(message("subscribed", {"tokens": list(clients[ws])}))
    finally:
        del clients[ws]


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None):
        await feed()


if __name__ == "__main__":
    asyncio.run(main())
