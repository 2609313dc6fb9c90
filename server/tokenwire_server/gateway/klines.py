"""Bars over HTTP: ``/api/v1/klines/{symbol}``, and ``/api/klines/{symbol}`` with plain numbers for chart libraries."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tokenwire_server.gateway.bar_queries import BarReader, is_settled, next_cursor
from tokenwire_server.gateway.bar_rows import BarRows, kline_row, plain_row
from tokenwire_server.gateway.caching import UNTIL_DESCRIPTION, UNTIL_HEADER, tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.prepared import Asked, PreparedRoutes

__all__ = ["add_klines"]

_HEADERS: Final = {UNTIL_HEADER: UNTIL_DESCRIPTION}
_ROW: Final[dict[str, Any]] = {
    "symbol": "DOGE",
    "interval": "1m",
    "open_time": "2026-03-21T10:30:00Z",
    "close_time": "2026-03-21T10:31:00Z",
    "open": "0.172801",
    "high": "0.172839",
    "low": "0.172801",
    "close": "0.172839",
    "volume": "28461.5",
    "turnover": "4918.6421085",
    "buy_volume": "20000",
    "buy_turnover": "3456.4",
    "trades": 12,
    "closed": True,
    "revision": 0,
}


class KlineRow(BaseModel):
    """One bar. Prices and volumes are exact decimal strings."""

    symbol: str
    interval: str
    open_time: str = Field(description="RFC 3339, UTC")
    close_time: str = Field(description="where the next one begins")
    open: str
    high: str
    low: str
    close: str
    volume: str = Field(description="in base units")
    turnover: str = Field(description="in quote units")
    buy_volume: str = Field(description="the part whose taker bought, in base units")
    buy_turnover: str
    trades: int = Field(description="how many; 0 where an empty interval was filled")
    closed: bool = Field(description="false: it is running, and changes with the next trade")
    revision: int = Field(description="trades that came after it was closed")


class Klines(BaseModel):
    """Bars, oldest first."""

    model_config = ConfigDict(
        alias_generator=to_camel, json_schema_extra={"example": {"data": [_ROW], "nextCursor": None}}
    )

    data: list[KlineRow]
    next_cursor: str | None = Field(description="as `cursor` of the next request; null: there is no more")


class PlainKline(BaseModel):
    """One bar in plain numbers, whose digits are exact in the text of the answer."""

    timestamp: int = Field(description="beginning, Unix time in ms", examples=[1774089000000])
    open: float = Field(examples=[0.172801])
    high: float = Field(examples=[0.172839])
    low: float = Field(examples=[0.172801])
    close: float = Field(examples=[0.172839])
    volume: float = Field(examples=[28461.5])


class PlainKlines(BaseModel):
    """Bars in plain numbers, oldest first."""

    data: list[PlainKline]


def add_klines(
    routes: PreparedRoutes, directory: BarDirectory, reader: BarReader, problems: Mapping[int | str, dict[str, Any]]
) -> None:
    """Add the routes; ``problems`` describes what a wrong request is told."""
    exact, plain = BarRows(kline_row), BarRows(plain_row)

    async def klines(asked: Asked) -> Answer:
        token, request = reader.read(asked)
        answer = await directory.bar_page(token.address, request)
        rows = b",".join([exact.of(token, request.interval, each) for each in answer.page.bars])
        body = b'{"data":[%b],"nextCursor":%b}' % (rows, msgspec.json.encode(next_cursor(answer.page)))
        return tagged(asked, body, is_settled=is_settled(request, answer), until_ms=answer.known_ms)

    async def plain_klines(asked: Asked) -> Answer:
        token, request = reader.read_newest(asked)
        answer = await directory.bar_page(token.address, request)
        rows = b",".join([plain.of(token, request.interval, each) for each in answer.page.bars])
        return tagged(asked, b'{"data":[%b]}' % rows, until_ms=answer.known_ms)

    routes.add(
        "/api/v1/klines/{symbol}",
        klines,
        summary="Bars of a token, the open one included",
        parameters=reader.parameters,
        responses={200: {"model": Klines, "headers": _HEADERS}, **problems},
    )
    routes.add(
        "/api/klines/{symbol}",
        plain_klines,
        summary="The newest bars in plain numbers",
        parameters=reader.newest,
        responses={200: {"model": PlainKlines, "headers": _HEADERS}, **problems},
    )
