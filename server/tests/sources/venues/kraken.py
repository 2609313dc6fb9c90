"""Kraken: https://docs.kraken.com/api/docs/websocket-v2/trade and
https://docs.kraken.com/api/docs/rest-api/get-recent-trades."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from .base import Venue, bought, price, time_ms

UPDATE = (
    '{"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,'
    '"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}'
)
"""As documented: the taker sold; numbers, not texts."""

PAGE = (
    '{"error":[],"result":{"XXBTZUSD":[["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952],'
    '["30243.30000","0.00376960",1688669598.2804112,"s","l","",61044953],'
    '["30243.30000","0.01235716",1688669602.698379,"s","m","",61044956]],"last":"1688671969993150842"}}'
)
"""As documented."""


class KrakenVenue(Venue):
    kind = "kraken"
    symbol = "BTC/USD"
    path = "/v2"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.snapshot: Sequence[int] = ()

    def answer(self, request: Any) -> Sequence[str]:
        parameters = {"channel": "trade", "symbol": [self.symbol], "snapshot": True}
        self.complain(request.get("method") == "subscribe" and request.get("params") == parameters, request)
        frames = [
            '{"channel":"status","type":"update","data":[{"version":"2.0.0","system":"online","api_version":"v2",'
            '"connection_id":13834774380200032777}]}',
            '{"method":"subscribe","req_id":' + str(request["req_id"]) + ',"result":{"channel":"trade","snapshot":true,'
            f'"symbol":"{self.symbol}"}},"success":true,"time_in":"2023-09-25T09:21:10.428340Z",'
            '"time_out":"2023-09-25T09:21:10.428375Z"}',
        ]
        if self.snapshot:
            frames.append(self.frame(*self.snapshot)[0].replace('"update"', '"snapshot"'))
        return [*frames, '{"channel":"heartbeat"}']

    def is_ping(self, text: str) -> str | None:
        times = '"time_in":"2023-09-24T14:10:23.799685Z","time_out":"2023-09-24T14:10:23.799703Z"'
        return f'{{"method":"pong",{times}}}' if text == '{"method":"ping"}' else None

    def frame(self, *numbers: int) -> Sequence[str]:
        rows = []
        for n in numbers:
            moment = datetime.fromtimestamp(time_ms(n) // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
            rows.append(
                f'{{"symbol":"BTC/USD","side":"{"buy" if bought(n) else "sell"}","price":{price(n)},"qty":0.25,'
                f'"ord_type":"limit","trade_id":{n},"timestamp":"{moment}"}}'
            )
        return ['{"channel":"trade","type":"update","data":[' + ",".join(rows) + "]}"]

    def spoilt(self) -> Sequence[str]:
        (good,) = self.frame(90)
        return [
            good.replace('"sell"', '"s e l l"'),
            good.replace('"trade_id":90,', ""),
            good.replace("190.5", "NaN"),
            good.replace("190.5", "1e999999"),
            good.replace("0.25", "1" + "0" * 60),
            good.replace('"timestamp":"', '"timestamp":"x'),
        ]

    def page(self, request: web.Request) -> web.Response:
        query = request.query
        self.complain(request.path == "/0/public/Trades" and query["pair"] == "BTCUSD", request.rel_url)
        since_ns = int(query["since"])
        chosen = [n for n in self.history if time_ms(n) * 1_000_000 > since_ns][: int(query["count"])]
        rows = ",".join(
            f'["{price(n)}","0.25",{time_ms(n) // 1_000}.0000001,"{"b" if bought(n) else "s"}","l","",{n}]'
            for n in chosen
        )
        text = f'{{"error":[],"result":{{"XXBTZUSD":[{rows}],"last":"1688671969993150842"}}}}'
        return web.Response(text=text, content_type="application/json")
