"""Trades over HTTP: ``/api/v1/trades/{symbol}``, by their numbers, so that a client can fill a hole."""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

import msgspec
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tokenwire_server.gateway.bar_queries import token_of
from tokenwire_server.gateway.caching import tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.parameters import number, text
from tokenwire_server.gateway.prepared import Asked, PreparedRoutes
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.trade_log import NumberedTrade
from tokenwire_server.market.trade_pages import DEFAULT_LIMIT, MAX_LIMIT, TradePage, TradeRequest

__all__ = ["TradeDirectory", "add_trades"]

_MAX_NUMBER: Final = (1 << 53) - 1
_MAX_CURSOR_CHARS: Final = 40
_CURSOR: Final = re.compile(r"([ab])([0-9]{1,16})")
_ROW: Final[dict[str, Any]] = {
    "number": 4711,
    "id": "7f6c2a52-5d0c-4d2f-9b34-7d1f0f3d8a11",
    "symbol": "DOGE",
    "address": "CACBoV6bJG6PSiqv9MrRtMkxreFCst8fSVpyWDXb1aVG",
    "price": "0.172839",
    "amount": "2500",
    "side": "Buy",
    "timestamp": "2026-03-21T10:30:00.123Z",
}


class TradeDirectory(BarDirectory, Protocol):
    """Where the trades are."""

    async def trade_page(self, address: str, request: TradeRequest) -> TradePage:
        """Trades of the token at this address, which exists."""


class TradeRow(BaseModel):
    """One trade. Price and amount are exact decimal strings."""

    number: int = Field(description="its place among the trades of the token")
    id: str = Field(description="as its source calls it")
    symbol: str
    address: str
    price: str
    amount: str = Field(description="in base units")
    side: Literal["Buy", "Sell"] = Field(description="of the taker")
    timestamp: str = Field(description="RFC 3339, UTC, with ms")


class Trades(BaseModel):
    """Trades by ascending number. A number that is skipped from `oldest` on was never given to a trade."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        json_schema_extra={"example": {"data": [_ROW], "nextCursor": None, "oldest": 3712, "newest": 4711}},
    )

    data: list[TradeRow]
    next_cursor: str | None = Field(description="as `cursor` of the next request; null: there is no more by now")
    oldest: int = Field(description="number of the first trade that can still be had; those before it are gone")
    newest: int = Field(description="number of the last trade so far; 0: there was none")


def add_trades(routes: PreparedRoutes, directory: TradeDirectory, problems: Mapping[int | str, dict[str, Any]]) -> None:
    """Add the route; ``problems`` describes what a wrong request is told."""
    after = number("after", 0, _MAX_NUMBER, None, "only trades with a higher number, the oldest of them", 4610)
    before = number("before", 1, _MAX_NUMBER, None, "only trades with a lower number; without after the newest of them")
    limit = number("limit", 1, MAX_LIMIT, DEFAULT_LIMIT, "most trades")
    cursor = text("cursor", _MAX_CURSOR_CHARS, None, "`nextCursor` of the answer before")

    async def trades(asked: Asked) -> Answer:
        query = asked.query
        token = token_of(directory, asked.subject)
        request = TradeRequest(after.of(query), before.of(query), limit.of(query))
        given = cursor.of(query)
        if given is not None:
            request = _continued(given, request)
        elif request.after is not None and request.before is not None and request.after >= request.before:
            raise HTTPException(422, "after: not below before")
        page = await directory.trade_page(token.address, request)
        names = _names(token)
        rows = b",".join([_row(names, each) for each in page.trades])
        body = b'{"data":[%b],"nextCursor":%b,"oldest":%d,"newest":%d}' % (
            *(rows, msgspec.json.encode(_next_cursor(page, request)), page.oldest, page.newest),
        )
        return tagged(asked, body)

    routes.add(
        "/api/v1/trades/{symbol}",
        trades,
        summary="Trades of a token, by ascending number",
        description="The newest ones; with `after`, those that follow a number. To fill a hole, ask with the last "
        "number that you have as `after` and go on by `nextCursor`. If `oldest` is above the first number that you "
        "miss, those before `oldest` can't be had any more.",
        parameters=(after, before, limit, cursor),
        responses={200: {"model": Trades}, **problems},
    )


def _next_cursor(page: TradePage, request: TradeRequest) -> str | None:
    if not page.trades:
        return None
    if request.after is None:
        first = page.trades[0].number
        return _cursor(f"b{first}") if first > page.oldest else None
    last = page.trades[-1].number
    end = page.newest if request.before is None else min(page.newest, request.before - 1)
    return _cursor(f"a{last}") if last < end else None


def _cursor(words: str) -> str:
    return base64.urlsafe_b64encode(words.encode()).decode().rstrip("=")


def _continued(cursor: str, request: TradeRequest) -> TradeRequest:
    """The request for the page that a cursor stands for."""
    try:
        words = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        words = ""
    match = _CURSOR.fullmatch(words)
    if match is None:
        raise HTTPException(422, "cursor: not one that this server gave; leave it out to begin anew")
    if match[1] == "a":
        return request._replace(after=int(match[2]))
    return request._replace(after=None, before=int(match[2]))


def _names(token: TokenState) -> bytes:
    """What all rows of the token have in common."""
    return b'"symbol":%b,"address":%b' % (msgspec.json.encode(token.symbol), msgspec.json.encode(token.address))


def _row(names: bytes, numbered: NumberedTrade) -> bytes:
    trade = numbered.trade
    # Put together by hand: several times faster than an encoder, and there are up to a thousand of them.
    told = f',"price":"{canonical(trade.price)}","amount":"{canonical(trade.amount)}","side":"{trade.side.value}"'
    return b'{"number":%d,"id":%b,%b%b,"timestamp":"%b.%03dZ"}' % (
        *(numbered.number, msgspec.json.encode(trade.trade_id), names, told.encode()),
        *(_second(trade.time_ms // 1_000), trade.time_ms % 1_000),
    )


@lru_cache(maxsize=4_096)
def _second(unix_s: int) -> bytes:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S}".encode()
