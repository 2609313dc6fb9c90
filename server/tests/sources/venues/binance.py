"""Binance: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams and …/rest-api."""

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from .base import Venue, bought, price, time_ms


class BinanceVenue(Venue):
    kind = "binance"
    symbol = "BTCUSDT"
    path = "/stream"
    shutdown = '{"e":"serverShutdown","E":1770123456789}'

    def answer(self, request: Any) -> Sequence[str]:
        self.complain(request.keys() == {"method", "params", "id"}, request)
        self.complain(request["params"] == [f"{self.symbol.lower()}@aggTrade"], request)
        return [f'{{"result":null,"id":{request["id"]}}}']

    def frame(self, *numbers: int) -> Sequence[str]:
        return [
            f'{{"stream":"btcusdt@aggTrade","data":{{"e":"aggTrade","E":{time_ms(n) + 5},"s":"BTCUSDT","a":{n},'
            f'"p":"{price(n)}","q":"0.25","f":{n},"l":{n},"T":{time_ms(n)},"m":{json.dumps(not bought(n))},"M":true}}}}'
            for n in numbers
        ]

    def spoilt(self) -> Sequence[str]:
        (good,) = self.frame(90)
        return [
            good.replace('"m":true', '"m":"buy"'),
            good.replace('"a":90', '"a":null'),
            good.replace('"190.5"', "NaN"),
            good.replace('"190.5"', '"NaN"'),
            good.replace('"0.25"', f'"1{"0" * 40}"'),
            good.replace('"T":', '"X":'),
        ]

    def page(self, request: web.Request) -> web.Response:
        query = request.query
        self.complain(request.path == "/api/v3/aggTrades" and query["symbol"] == self.symbol, request.rel_url)
        self.complain(1 <= int(query["limit"]) <= 1_000, request.rel_url)
        chosen = [n for n in self.history if n >= int(query["fromId"])][: int(query["limit"])]
        rows = [
            {"a": n, "p": price(n), "q": "0.25", "f": n, "l": n, "T": time_ms(n), "m": not bought(n), "M": True}
            for n in chosen
        ]
        return web.Response(text=json.dumps(rows), content_type="application/json")
