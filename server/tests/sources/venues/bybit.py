"""Bybit v5: https://bybit-exchange.github.io/docs/v5/websocket/public/trade, …/v5/ws/connect and
…/v5/market/recent-trade."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from .base import Venue, bought, price, time_ms

TRADE = (
    '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
    '"S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,'
    '"seq":1783284617}]}'
)
"""As documented: the taker bought."""

PAGE = (
    '{"retCode":0,"retMsg":"OK","result":{"category":"spot","list":[{"execId":"2100000000007764263",'
    '"symbol":"BTCUSDT","price":"16618.49","size":"0.00012","side":"Buy","time":"1672052955758",'
    '"isBlockTrade":false,"isRPITrade":true,"seq":"123456"}]},"retExtInfo":{},"time":1672053054358}'
)
"""As documented."""


class BybitVenue(Venue):
    kind = "bybit"
    symbol = "BTCUSDT"
    path = "/v5/public/spot"
    numbered = False

    def answer(self, request: Any) -> Sequence[str]:
        self.complain(request["op"] == "subscribe" and request["args"] == ["publicTrade.BTCUSDT"], request)
        return [
            '{"success":true,"ret_msg":"subscribe","conn_id":"2324d924-aa4d-45b0-a858-7b8be29ab52b",'
            f'"req_id":"{request["req_id"]}","op":"subscribe"}}'
        ]

    def is_ping(self, text: str) -> str | None:
        pong = '{"success":true,"ret_msg":"pong","conn_id":"0970e817-426e-429a-a679-ff7f55e0b16a","op":"ping"}'
        return pong if text == '{"op":"ping"}' else None

    def frame(self, *numbers: int) -> Sequence[str]:
        rows = [
            f'{{"T":{time_ms(n)},"s":"BTCUSDT","S":"{"Buy" if bought(n) else "Sell"}","v":"0.25","p":"{price(n)}",'
            f'"L":"PlusTick","i":"{n}","BT":false,"seq":{1783284617 + 9 * n}}}'
            for n in numbers
        ]
        return [f'{{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{",".join(rows)}]}}']

    def spoilt(self) -> Sequence[str]:
        (good,) = self.frame(90)
        return [
            good.replace('"Sell"', '"sell"'),
            good.replace('"i":"90"', '"i":""'),
            good.replace('"190.5"', "NaN"),
            good.replace('"190.5"', "[190.5]"),
            good.replace('"0.25"', f'"1{"0" * 40}"'),
            good.replace('"T":16', '"T":-16'),
        ]

    def page(self, request: web.Request) -> web.Response:
        query = request.query
        self.complain(request.path == "/v5/market/recent-trade" and query["symbol"] == self.symbol, request.rel_url)
        self.complain(query["category"] == "spot" and query["limit"] == "60", request.rel_url)
        rows = ",".join(
            f'{{"execId":"{n}","symbol":"BTCUSDT","price":"{price(n)}","size":"0.25",'
            f'"side":"{"Buy" if bought(n) else "Sell"}","time":"{time_ms(n)}","isBlockTrade":false,"isRPITrade":true,'
            f'"seq":"{n}"}}'
            for n in sorted(self.history, reverse=True)[:60]
        )
        text = (
            f'{{"retCode":0,"retMsg":"OK","result":{{"category":"spot","list":[{rows}]}},"retExtInfo":{{}},"time":1}}'
        )
        return web.Response(text=text, content_type="application/json")
