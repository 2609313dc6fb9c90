"""OKX v5: https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-trades-channel, …-get-trades-history and
…/#overview-websocket-connect."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from .base import Venue, bought, price, time_ms

TRADE = (
    '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
    '"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3","source":"0","seqId":1234}]}'
)
"""As documented: three matches, of which this is the last; the taker bought."""

PAGE = (
    '{"code":"0","msg":"","data":[{"instId":"BTC-USDT","side":"sell","sz":"0.00001","source":"0","px":"29963.2",'
    '"tradeId":"242720720","ts":"1654161646974"},{"instId":"BTC-USDT","side":"sell","sz":"0.00001","source":"0",'
    '"px":"29964.1","tradeId":"242720719","ts":"1654161641568"}]}'
)
"""As documented."""


class OkxVenue(Venue):
    kind = "okx"
    symbol = "BTC-USDT"
    path = "/ws/v5/public"
    shutdown = (
        '{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. '
        'Please reconnect.","connId":"a4d3ae55"}'
    )

    def answer(self, request: Any) -> Sequence[str]:
        expected = {"op": "subscribe", "args": [{"channel": "trades", "instId": "BTC-USDT"}]}
        self.complain(request == expected, request)
        return ['{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}']

    def is_ping(self, text: str) -> str | None:
        return "pong" if text == "ping" else None

    def frame(self, *numbers: int) -> Sequence[str]:
        return [
            f'{{"arg":{{"channel":"trades","instId":"BTC-USDT"}},"data":[{{"instId":"BTC-USDT","tradeId":"{n}",'
            f'"px":"{price(n)}","sz":"0.25","side":"{"buy" if bought(n) else "sell"}","ts":"{time_ms(n)}","count":"1",'
            f'"source":"0","seqId":{n}}}]}}'
            for n in numbers
        ]

    def spoilt(self) -> Sequence[str]:
        (good,) = self.frame(90)
        return [
            good.replace('"sell"', '"short"'),
            good.replace('"tradeId":"90"', '"tradeId":"9o"'),
            good.replace('"190.5"', "NaN"),
            good.replace('"190.5"', "null"),
            good.replace('"count":"1"', '"count":"0"'),
            good.replace('"ts":"16', '"ts":"-16'),
        ]

    def page(self, request: web.Request) -> web.Response:
        query = request.query
        self.complain(request.path == "/api/v5/market/history-trades" and query["type"] == "1", request.rel_url)
        self.complain(query["instId"] == self.symbol and int(query["limit"]) <= 100, request.rel_url)
        chosen = sorted((n for n in self.history if n < int(query["after"])), reverse=True)[: int(query["limit"])]
        rows = ",".join(
            f'{{"instId":"BTC-USDT","side":"{"buy" if bought(n) else "sell"}","sz":"0.25","source":"0",'
            f'"px":"{price(n)}","tradeId":"{n}","ts":"{time_ms(n)}"}}'
            for n in chosen
        )
        return web.Response(text=f'{{"code":"0","msg":"","data":[{rows}]}}', content_type="application/json")
