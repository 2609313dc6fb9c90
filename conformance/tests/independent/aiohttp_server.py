"""A Token Data v1.0 server as one writes it with aiohttp: ``python aiohttp_server.py PORT``.

Written from the specification alone. It takes any name for a token and has one made-up price feed.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
import uuid
from typing import Any

from aiohttp import WSMsgType, web

MAX_SUBSCRIPTIONS = 100
UPDATE_INTERVAL_S = 5
HEARTBEAT_S = 15
MAX_MESSAGE_BYTES = 1_048_576

prices: dict[str, int] = {}


class Client:
    def __init__(self, ws: web.WebSocketResponse) -> None:
        self.ws = ws
        self.sequence = 0
        self.tokens: set[str] = set()
        self.sending = asyncio.Lock()

    async def send(self, kind: str, data: dict[str, Any]) -> None:
        async with self.sending:
            self.sequence += 1
            timestamp = int(time.time() * 1000)
            # aiohttp compresses every message or none, so the small ones are compressed too.
            await self.ws.send_str(
                json.dumps({"type": kind, "sequence": self.sequence, "timestamp": timestamp, "data": data})
            )

    async def send_error(self, code: str, message: str) -> None:
        await self.send("error", {"code": code, "message": message, "level": "error"})

    async def send_update(self, token: str) -> None:
        price = prices[token] = max(1, prices.get(token, 100_000) + random.randint(-50, 50))
        text = f"{price / 1000:.3f}"
        volume = {"h24": "1000.0", "h1": "50.0", "m5": "5.0"}
        await self.send("token_update", {"address": token, "price": text, "marketCap": f"{price}000", "volume": volume})

    def full(self, token: str) -> bool:
        return token not in self.tokens and len(self.tokens) >= MAX_SUBSCRIPTIONS

    async def take(self, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return await self.send_error("INVALID_JSON", "this is not JSON")
        if not isinstance(message, dict) or not isinstance(data := message.get("data"), dict):
            return await self.send_error("INVALID_MESSAGE", "an object with data is needed")
        action, tokens = data.get("action"), data.get("tokens")
        if message.get("type") != "subscription" or action not in ("subscribe", "unsubscribe"):
            return await self.send_error("INVALID_MESSAGE", "a subscription to subscribe or unsubscribe is needed")
        if not isinstance(tokens, list) or not tokens:
            return await self.send_error("INVALID_MESSAGE", "tokens is a list with at least one name")
        done, refused = [], []
        for token in tokens:
            if not isinstance(token, str) or not 0 < len(token) <= 100 or (action == "subscribe" and self.full(token)):
                refused.append(str(token)[:100])
                continue
            (self.tokens.add if action == "subscribe" else self.tokens.discard)(token)
            done.append(token)
        for found, status in ((done, "success"), (refused, "error")):
            if found:
                await self.send("subscription", {"action": action, "tokens": found, "status": status})
        if refused:
            await self.send_error("REFUSED", f"{len(refused)} of the tokens are no names, or too many")
        return None

    async def feed(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(UPDATE_INTERVAL_S)
                for token in list(self.tokens):
                    if token in self.tokens:  # it may have been unsubscribed meanwhile
                        await self.send_update(token)


async def token_data(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES + 1)
    await ws.prepare(request)
    client = Client(ws)
    hello = {"status": "connected", "connectionId": str(uuid.uuid4()), "maxSubscriptions": MAX_SUBSCRIPTIONS}
    await client.send("connection", hello)
    feed = asyncio.create_task(client.feed())
    try:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await client.take(message.data)
            elif message.type is WSMsgType.BINARY:
                await client.send_error("INVALID_MESSAGE", "text is needed")
    except ConnectionError:
        pass
    finally:
        feed.cancel()
    return ws


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/api/v1/ws/token-data", token_data)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, handler_cancellation=True)
