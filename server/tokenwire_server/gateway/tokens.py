"""Tokens over HTTP: pages of all in some order (``/api/v1/tokens``), and a single one (``/api/v1/tokens/{symbol}``)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tokenwire_server.gateway.bar_queries import no_token
from tokenwire_server.gateway.caching import tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.parameters import Parameter, choice, number, text
from tokenwire_server.gateway.prepared import Asked, PreparedRoutes
from tokenwire_server.market.ranking import SortKey
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.token_pages import (
    DEFAULT_LIMIT,
    MAX_CURSOR_CHARS,
    MAX_LIMIT,
    MAX_SEARCH_CHARS,
    ORDER_KEPT_MS,
    CursorError,
    CursorExpiredError,
    SingleToken,
    TokenPage,
    TokenQuery,
)

__all__ = ["AGE_HEADER", "TokenDirectory", "add_tokens"]

AGE_HEADER: Final = "x-tokenwire-stale-ms"
"""On rows that are known to be old: how many milliseconds old they are."""

_ROW: Final[dict[str, Any]] = {
    "address": "CACBoV6bJG6PSiqv9MrRtMkxreFCst8fSVpyWDXb1aVG",
    "price": "0.172839",
    "marketCap": "25407333000",
    "volume": {"h24": "233464.07217311", "h1": "233464.07217311", "m5": "233464.07217311"},
    "version": 1795239100962818,
    "sourceTime": 1795239101210,
    "symbol": "DOGE",
    "name": "Dogecoin",
    "chain": "solana",
    "source": "simulator",
}


class TokenDirectory(BarDirectory, Protocol):
    """Where the tokens are."""

    async def token_page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage:
        """All tokens, in pages. Raises CursorError, CursorExpiredError."""

    async def token(self, name: str) -> SingleToken | Resolution:
        """The token that a name means; else what there is of that name."""


class Direction(StrEnum):
    """Which end of an order comes first."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class Turnover(BaseModel):
    """In quote units, over 24 hours, one hour and five minutes."""

    h24: str
    h1: str
    m5: str


class TokenRow(BaseModel):
    """One token, with its newest value as in a `token_update`: exact decimal strings. Before the first trade the fields
    of the value are null."""

    model_config = ConfigDict(alias_generator=to_camel, json_schema_extra={"example": _ROW})

    address: str
    price: str | None
    market_cap: str | None = Field(description='"0" while it is not known')
    volume: Turnover | None
    version: int = Field(description="rises with every change of the value")
    source_time: int | None = Field(description="of the newest trade, or as the source states; Unix time in ms")
    symbol: str
    name: str = Field(description="empty: not known")
    chain: str = Field(description="empty: none")
    source: str = Field(description="name of the source that it comes from")


class Fact(BaseModel):
    """What one source says of a token. Null is what it does not say."""

    model_config = ConfigDict(alias_generator=to_camel)

    source: str
    heard_time: int = Field(description="when it said so, Unix time in ms")
    price: str | None = Field(description="in USD")
    native: str | None = Field(description="the price in `quote`, where the source has none in USD")
    quote: str
    liquidity: str | None = Field(description="in USD, as are market cap and turnover")
    market_cap: str | None
    h24: str | None
    h1: str | None
    m5: str | None


class TokenDetail(TokenRow):
    """One token, and what its value was merged from."""

    model_config = ConfigDict(alias_generator=to_camel, json_schema_extra={"example": {**_ROW, "facts": []}})

    facts: list[Fact] = Field(description="who says what of it; empty if its value is not merged from several sources")


class Tokens(BaseModel):
    """Tokens in the order that was asked for."""

    model_config = ConfigDict(
        alias_generator=to_camel, json_schema_extra={"example": {"data": [_ROW], "nextCursor": None}}
    )

    data: list[TokenRow]
    next_cursor: str | None = Field(description="as `cursor` of the next request; null: there is no more")


def add_tokens(routes: PreparedRoutes, directory: TokenDirectory, problems: Mapping[int | str, dict[str, Any]]) -> None:
    """Add the routes; ``problems`` describes what a wrong request is told, 410 included."""
    sort = choice(
        "sort", SortKey, SortKey.VOLUME, "what to put them in order of; volume is that of 24 hours, new is arrival here"
    )
    order = _order()
    search = text(
        "q", MAX_SEARCH_CHARS, "", "only tokens with this in their symbol, name or address, in any case", "doge"
    )
    limit = number("limit", 1, MAX_LIMIT, DEFAULT_LIMIT, "most tokens")
    cursor = text(
        "cursor", MAX_CURSOR_CHARS, None, "`nextCursor` of the answer before, with the same sort, order and q"
    )

    async def tokens(asked: Asked) -> Answer:
        query = asked.query
        key, direction = sort.of(query), order.of(query)
        is_reversed = direction is not None and (direction is Direction.DESCENDING) is not key.is_descending
        wanted = TokenQuery(key, is_reversed, search.of(query).strip())
        try:
            page = await directory.token_page(wanted, cursor.of(query), limit.of(query))
        except CursorExpiredError as error:
            raise HTTPException(410, f"cursor: {error}") from None
        except CursorError as error:
            raise HTTPException(422, f"cursor: {error}") from None
        body = b'{"data":[%b],"nextCursor":%b}' % (b",".join(page.rows), msgspec.json.encode(page.next_cursor))
        return aged(tagged(asked, body), page.age_ms)

    async def token(asked: Asked) -> Answer:
        found = await directory.token(asked.subject)
        if isinstance(found, Resolution):
            raise no_token(found, asked.subject)
        return aged(tagged(asked, b'%b,"facts":%b}' % (found.row[:-1], found.facts)), found.age_ms)

    def aged(answer: Answer, age_ms: int | None) -> Answer:
        return answer if age_ms is None else (*answer[:2], {**answer[2], AGE_HEADER: str(age_ms)})

    aging = (
        f"While the Redis that servers share their tokens through is away, or nobody refreshes what is there, "
        f"`{AGE_HEADER}` says how old the answer is."
    )
    routes.add(
        "/api/v1/tokens",
        tokens,
        summary="All tokens, in pages",
        description="A walk by `nextCursor` meets every token once: the order is frozen at the first page, while each "
        f"row has the newest value. A frozen order is forgotten {ORDER_KEPT_MS // 1_000} s after its last page, sooner "
        "when there are very many; its cursors are answered with 410 then. Tokens without a price come last. " + aging,
        parameters=(sort, order, search, limit, cursor),
        responses={200: {"model": Tokens}, **problems},
    )
    routes.add(
        "/api/v1/tokens/{symbol}",
        token,
        summary="One token",
        description="Of servers that share their tokens through Redis, each tells of those that it gets no data of "
        "itself what the others share. " + aging,
        responses={200: {"model": TokenDetail}, **{code: problems[code] for code in problems if code != 410}},
    )


def _order() -> Parameter[Direction | None]:
    def parse(given: str) -> Direction:
        try:
            return Direction(given)
        except ValueError:
            raise ValueError(f"one of {', '.join(Direction)}") from None

    schema = {"type": "string", "enum": [str(each) for each in Direction]}
    about = "asc or desc; without it the largest and newest first, names from A to Z"
    return Parameter[Direction | None]("order", parse, schema, None, about)
