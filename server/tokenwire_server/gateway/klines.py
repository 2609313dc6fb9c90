"""Bars over HTTP: ``/api/v1/klines/{symbol}``, and ``/api/klines/{symbol}`` with plain numbers for chart libraries."""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Protocol

import msgspec
from fastapi import FastAPI, HTTPException, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import DEFAULT_LIMIT, MAX_LIMIT, Fill, Page, PageBar, TokenView, page_of
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.intervals import Interval, IntervalError, parse_interval
from tokenwire_server.market.registry import AMBIGUOUS_TOKEN, Resolution
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["BarDirectory", "add_klines"]

_SECONDS_BELOW: Final = 100_000_000_000  # a smaller number is a time in seconds (until the year 5138), else in ms
_LAST_MS: Final = 253_402_300_799_999  # the year 9999 ends
_WHOLE: Final = re.compile(r"[0-9]{1,16}")
_DEFAULT_INTERVAL: Final = "1m"


class BarDirectory(Protocol):
    """Where the bars are."""

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""

    def resolve(self, name: str) -> Resolution:
        """What a name for a token means."""

    def view(self, address: str) -> TokenView:
        """The bars of the token at this address, which exists."""


class KlineRow(BaseModel):
    """One bar. Prices and volumes are exact decimal strings."""

    symbol: str
    interval: str
    open_time: str = Field(description="RFC 3339, UTC", examples=["2026-03-21T10:30:00Z"])
    close_time: str = Field(description="where the next one begins", examples=["2026-03-21T10:31:00Z"])
    open: str = Field(examples=["0.123"])
    high: str
    low: str
    close: str
    volume: str = Field(description="in base units", examples=["1000"])
    turnover: str = Field(description="in quote units")
    buy_volume: str = Field(description="the part whose taker bought, in base units")
    buy_turnover: str
    trades: int = Field(description="how many; 0 where an empty interval was filled")
    closed: bool = Field(description="false: it is running, and changes with the next trade")
    revision: int = Field(description="trades that came after it was closed")


class Klines(BaseModel):
    """Bars, oldest first."""

    model_config = ConfigDict(alias_generator=to_camel)

    data: list[KlineRow]
    next_cursor: str | None = Field(description="as `cursor` of the next request; null: there is no more")


class PlainKline(BaseModel):
    """One bar in plain numbers, whose digits are exact in the text of the answer."""

    timestamp: int = Field(description="beginning, Unix time in ms", examples=[1711017000000])
    open: float = Field(examples=[0.123])
    high: float
    low: float
    close: float
    volume: float


class PlainKlines(BaseModel):
    """Bars in plain numbers, oldest first."""

    data: list[PlainKline]


def add_klines(app: FastAPI, directory: BarDirectory, problems: Mapping[int | str, dict[str, Any]]) -> None:
    """Add the routes; ``problems`` describes the errors 404 and 422."""

    Symbol = Annotated[  # noqa: N806 - a type
        str, Path(max_length=MAX_ID_CHARS, description="symbol or address of a token", examples=["DOGE"])
    ]
    IntervalText = Annotated[  # noqa: N806 - a type
        str, Query(alias="interval", max_length=12, description=f"one of {', '.join(directory.bar_plan.index)}")
    ]
    Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="most bars")]  # noqa: N806 - a type

    @app.get(
        "/api/v1/klines/{symbol}",
        summary="Bars of a token, the open one included",
        responses={200: {"model": Klines}, **problems},
        response_class=Response,
    )
    async def klines(
        symbol: Symbol,
        interval: IntervalText = _DEFAULT_INTERVAL,
        limit: Limit = DEFAULT_LIMIT,
        begin: Annotated[
            str | None,
            Query(alias="from", max_length=40, description="first beginning: Unix time in s or ms, or RFC 3339"),
        ] = None,
        end: Annotated[str | None, Query(alias="to", max_length=40, description="last beginning, likewise")] = None,
        fill: Annotated[Fill, Query(description="previous: bars without volume where nobody traded")] = Fill.NONE,
        cursor: Annotated[str | None, Query(max_length=40, description="`nextCursor` of the answer before")] = None,
    ) -> Response:
        from_ms, to_ms = _time(begin, "from"), _time(end, "to")
        if cursor is not None:
            from_ms, to_ms = _continued(cursor, to_ms)
        elif from_ms is not None and to_ms is not None and from_ms > to_ms:
            raise HTTPException(422, "from is later than to")
        length, view = _found(directory, symbol, interval)
        page = _page(directory, view, length, from_ms, to_ms, limit, fill)
        rows = b",".join(_row(view.symbol, length, each) for each in page.bars)
        return _json(b'{"data":[%b],"nextCursor":%b}' % (rows, msgspec.json.encode(_next(page))))

    @app.get(
        "/api/klines/{symbol}",
        summary="The newest bars in plain numbers",
        responses={200: {"model": PlainKlines}, **problems},
        response_class=Response,
    )
    async def plain_klines(
        symbol: Symbol, interval: IntervalText = _DEFAULT_INTERVAL, limit: Limit = DEFAULT_LIMIT
    ) -> Response:
        length, view = _found(directory, symbol, interval)
        page = _page(directory, view, length, None, None, limit, Fill.NONE)
        return _json(b'{"data":[%b]}' % b",".join(_plain_row(each.bar) for each in page.bars))


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def _found(directory: BarDirectory, symbol: str, text: str) -> tuple[Interval, TokenView]:
    """The interval and the token that a request names."""
    there_are = f"there are {', '.join(directory.bar_plan.index)}"
    try:
        interval = parse_interval(text)
    except IntervalError as error:
        raise HTTPException(422, f"interval: {error}; {there_are}") from None
    if interval.text not in directory.bar_plan.index:
        raise HTTPException(422, f"interval: {text} is not kept here; {there_are}")
    found = directory.resolve(symbol)
    if found.address is not None:
        return interval, directory.view(found.address)
    if found.code == AMBIGUOUS_TOKEN:
        names = ", ".join(found.candidates)
        raise HTTPException(404, f"several tokens are called {symbol}: {names}; ask for an address")
    raise HTTPException(404, f"no token has this address or symbol: {symbol}")


def _page(
    directory: BarDirectory,
    view: TokenView,
    interval: Interval,
    from_ms: int | None,
    to_ms: int | None,
    limit: int,
    fill: Fill,
) -> Page:
    if view.bars is None:
        return Page([])
    index = directory.bar_plan.index[interval.text]
    return page_of(view.bars, index, view.now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)


def _time(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if _WHOLE.fullmatch(text):
        number = int(text)
        ms = number * 1000 if number < _SECONDS_BELOW else number
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise HTTPException(
                422, f"{name}: a Unix time in s or ms, or RFC 3339 such as 2026-03-21T10:30:00Z, not {text!r}"
            ) from None
        if moment.tzinfo is None:
            raise HTTPException(422, f"{name}: {text} has no time zone; add Z for UTC")
        ms = round(moment.timestamp() * 1000)
    if not 0 <= ms <= _LAST_MS:
        raise HTTPException(422, f"{name}: {text} is out of range")
    return ms


def _next(page: Page) -> str | None:
    if page.more_from_ms is not None:
        return _cursor(f"f{page.more_from_ms}")
    return None if page.more_before_ms is None else _cursor(f"b{page.more_before_ms}")


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _continued(cursor: str, to_ms: int | None) -> tuple[int | None, int | None]:
    """The bounds of the page that a cursor stands for."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if text[:1] not in ("f", "b") or not _WHOLE.fullmatch(text[1:]):
        raise HTTPException(422, "cursor: not one that this server gave; leave it out to begin anew")
    ms = int(text[1:])
    return (ms, to_ms) if text[0] == "f" else (None, ms - 1)


def _row(symbol: str, interval: Interval, listed: PageBar) -> bytes:
    bar = listed.bar
    return msgspec.json.encode(
        {
            "symbol": symbol,
            "interval": interval.text,
            "open_time": _rfc3339(bar.open_ms),
            "close_time": _rfc3339(bar.open_ms + interval.ms),
            "open": canonical(bar.open),
            "high": canonical(bar.high),
            "low": canonical(bar.low),
            "close": canonical(bar.close),
            "volume": canonical(bar.volume),
            "turnover": canonical(bar.turnover),
            "buy_volume": canonical(bar.buy_volume),
            "buy_turnover": canonical(bar.buy_turnover),
            "trades": bar.trades,
            "closed": listed.is_closed,
            "revision": bar.revision,
        }
    )


def _plain_row(bar: Bar) -> bytes:
    prices = zip(
        ("open", "high", "low", "close", "volume"), (bar.open, bar.high, bar.low, bar.close, bar.volume), strict=True
    )
    values = ",".join(f'"{name}":{canonical(value)}' for name, value in prices)
    return f'{{"timestamp":{bar.open_ms},{values}}}'.encode()


def _rfc3339(ms: int) -> str:
    """Bars begin at whole seconds."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
