"""Order books over HTTP: ``/api/v1/book/{symbol}``.

Books are kept up to date only while somebody looks at them, so the first request waits a moment for the book to come;
after that it is at hand for a minute from each request on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field

from tokenwire_server.gateway.bar_queries import token_of
from tokenwire_server.gateway.caching import tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.parameters import number
from tokenwire_server.gateway.prepared import Asked, PreparedRoutes
from tokenwire_server.market.book import MAX_DEPTH_LEVELS, OrderBook
from tokenwire_server.market.books import BookRefusal, BookRefusedError
from tokenwire_server.market.instants import rfc3339

__all__ = ["DEFAULT_DEPTH_LEVELS", "MAX_WAITING", "WAIT_S", "BookDirectory", "add_book"]

DEFAULT_DEPTH_LEVELS: Final = 10
WAIT_S: Final = 3.0  # for a book that nobody looked at before
WAIT_STEP_S: Final = 0.02
MAX_WAITING: Final = 100  # requests at once
RETRY_AFTER_S: Final = 2

_EXAMPLE: Final[dict[str, Any]] = {
    "symbol": "DOGE",
    "address": "CACBoV6bJG6PSiqv9MrRtMkxreFCst8fSVpyWDXb1aVG",
    "bids": [["0.17283", "5117.42"], ["0.17282", "811.9"]],
    "asks": [["0.17284", "2044.18"], ["0.17285", "7310.05"]],
    "revision": 1838326374400017,
    "timestamp": "2026-03-21T10:30:00.123Z",
    "stale": False,
}


class BookDirectory(BarDirectory, Protocol):
    """Where the order books are."""

    def look_at_book(self, address: str) -> OrderBook:
        """The book, kept up to date from now on for a while. Raises BookRefusedError."""


class BookAnswer(BaseModel):
    """An order book's best levels. Prices and amounts are exact decimal strings."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    symbol: str
    address: str
    bids: list[tuple[str, str]] = Field(description="price and amount in base units, the highest price first")
    asks: list[tuple[str, str]] = Field(description="likewise, the lowest price first")
    revision: int = Field(description="rises with every change of the book")
    timestamp: str = Field(description="event time of the newest update: RFC 3339, UTC, with ms")
    stale: bool = Field(
        description="true: the connection to the venue is being made anew, or updates were missed; the levels are the "
        "last that were known"
    )


def add_book(
    routes: PreparedRoutes,
    directory: BookDirectory,
    problems: Mapping[int | str, dict[str, Any]],
    unavailable: Mapping[str, Any],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Add the route; ``problems`` describes the errors 404 and 422, ``unavailable`` 503."""
    depth = number("depth", 1, MAX_DEPTH_LEVELS, DEFAULT_DEPTH_LEVELS, "most levels of each side")
    waiting = 0

    async def filled(address: str) -> OrderBook:
        nonlocal waiting
        book = directory.look_at_book(address)
        if book.is_filled:
            return book
        if waiting >= MAX_WAITING:
            raise _unavailable("too many requests wait for a book")
        waiting += 1
        try:
            for _ in range(round(WAIT_S / WAIT_STEP_S)):
                await sleep(WAIT_STEP_S)
                book = directory.look_at_book(address)
                if book.is_filled:
                    return book
        finally:
            waiting -= 1
        raise _unavailable("the venue has not sent this book yet")

    async def answer(asked: Asked) -> Answer:
        levels = depth.of(asked.query)
        token = token_of(directory, asked.subject)
        try:
            top = (await filled(token.address)).top(levels)
        except BookRefusedError as error:
            if error.reason is BookRefusal.NOT_OFFERED:
                raise HTTPException(404, f"{token.symbol} has no order book: its source gives none") from None
            raise _unavailable("as many other books are open as there may be") from None
        body = {
            "symbol": token.symbol,
            "address": token.address,
            "bids": top.bids,
            "asks": top.asks,
            "revision": top.revision,
            "timestamp": rfc3339(top.time_ms),
            "stale": top.is_stale,
        }
        return tagged(asked, msgspec.json.encode(body))

    routes.add(
        "/api/v1/book/{symbol}",
        answer,
        summary="A token's order book",
        description="The best levels of each side as they are known now. The first request for a token waits up to "
        f"{WAIT_S:.0f} s for its book to come; from then on the book is kept up to date, for a minute after the last "
        "request. A book that may be out of date says `stale`; one that never came is answered with 503.",
        parameters=(depth,),
        responses={200: {"model": BookAnswer}, **problems, 503: dict(unavailable)},
    )


def _unavailable(detail: str) -> HTTPException:
    return HTTPException(503, f"{detail}; ask again in {RETRY_AFTER_S} s", {"retry-after": str(RETRY_AFTER_S)})
