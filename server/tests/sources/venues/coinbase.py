"""Coinbase Exchange: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels (matches) and
https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-trades."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from .base import Venue, bought, price, time_ms

MATCH = (
    '{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"ac928c66-ca53-498f-9c13-a110027a60e8",'
    '"taker_order_id":"132fb6ae-456b-4654-b4e0-d681ac05cea1","time":"2014-11-07T08:19:27.028459Z",'
    '"product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}'
)
"""As documented: the maker sold."""


def rfc3339(number: int) -> str:
    return datetime.fromtimestamp(time_ms(number) // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


class CoinbaseVenue(Venue):
    kind = "coinbase"
    symbol = "BTC-USD"
    path = "/"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last_match: int | None = None
        """Sent after a subscription."""

    def answer(self, request: Any) -> Sequence[str]:
        expected = {"type": "subscribe", "product_ids": [self.symbol], "channels": ["matches"]}
        self.complain(request == expected, request)
        granted = '{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}'
        if self.last_match is None:
            return [granted]
        # Captured: the last match overtakes the grant.
        return [self.frame(self.last_match)[0].replace('"match"', '"last_match"'), granted]

    def frame(self, *numbers: int) -> Sequence[str]:
        frames = []
        for n in numbers:
            frame = MATCH.replace('"trade_id":10,"sequence":50', f'"trade_id":{n},"sequence":{50 + 7 * n}')
            frame = frame.replace("2014-11-07T08:19:27.028459Z", rfc3339(n)).replace("5.23512", "0.25")
            maker = "sell" if bought(n) else "buy"
            frames.append(frame.replace("400.23", price(n)).replace('"side":"sell"', f'"side":"{maker}"'))
        return frames

    def spoilt(self) -> Sequence[str]:
        (good,) = self.frame(90)
        return [
            good.replace('"side":"buy"', '"side":"bid"'),
            good.replace('"trade_id":90,', ""),
            good.replace('"190.5"', "NaN"),
            good.replace('"190.5"', '"1e400"'),
            good.replace('"0.25"', '{"nested":[[[]]]}'),
            good.replace('"time":"20', '"time":"'),
        ]

    def page(self, request: web.Request) -> web.Response:
        self.complain(request.path == f"/products/{self.symbol}/trades", request.rel_url)
        before = int(request.query["after"])  # further back
        chosen = sorted((n for n in self.history if n < before), reverse=True)[: int(request.query["limit"])]
        rows = [
            {
                "time": rfc3339(n),
                "trade_id": n,
                "price": price(n),
                "size": "0.25",
                "side": "sell" if bought(n) else "buy",
            }
            for n in chosen
        ]
        return web.Response(text=json.dumps(rows), content_type="application/json")
