"""Bars for TradingView's charting library, in the form its ``UDFCompatibleDatafeed`` asks for.

The library reads the body and not the status: errors are ``{"s": "error", "errmsg": …}``, with status 404 for a symbol
that there is not and 200 otherwise. Times are in seconds; ``to`` is not included. Prices are numbers whose digits are
exact in the text.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from heapq import nsmallest
from typing import Any, Final

import msgspec
from fastapi import HTTPException

from tokenwire_server.gateway.bar_queries import is_settled, token_of
from tokenwire_server.gateway.caching import tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.parameters import Parameter, number, text
from tokenwire_server.gateway.prepared import Asked, Handler, PreparedRoutes
from tokenwire_server.gateway.udf_models import UdfConfig, UdfError, UdfFound, UdfHistory, UdfNoData, UdfSymbol
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import MAX_LIMIT, BarPage, Page, PageRequest
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.validation.trades import MAX_ID_CHARS

__all__ = ["MAX_HISTORY_BARS", "add_udf", "price_digits", "resolution_of"]

MAX_HISTORY_BARS: Final = 5_000  # in one answer; of a longer range the newest
MAX_FOUND: Final = 100
_DEFAULT_FOUND: Final = 30  # what the library asks for
_SIGNIFICANT_DIGITS: Final = 5
_MIN_DIGITS: Final = 2
_MAX_DIGITS: Final = 15  # JavaScript's numbers hold no longer scale
_LAST_S: Final = 253_402_300_799  # the year 9999 ends
_SLICE_TOKENS: Final = 2_000  # looked at before others have the event loop
_SLICE_BARS: Final = 500
_TYPE: Final = "crypto"


def resolution_of(interval: Interval) -> str:
    """The library's name of an interval: ``1S``, minutes as a bare number, ``1D``, ``1W``."""
    for unit, unit_ms in (("W", 604_800_000), ("D", 86_400_000), ("", 60_000)):
        if interval.ms % unit_ms == 0:
            return f"{interval.ms // unit_ms}{unit}"
    return f"{interval.ms // 1_000}S"


def price_digits(price: Decimal | None) -> int:
    """Digits behind the point that show five significant ones of such a price."""
    if not price:
        return _MIN_DIGITS
    return min(max(_SIGNIFICANT_DIGITS - 1 - price.adjusted(), _MIN_DIGITS), _MAX_DIGITS)


def add_udf(routes: PreparedRoutes, directory: BarDirectory) -> None:
    """Add the routes."""
    faces = _Faces(directory)
    symbol = text("symbol", MAX_ID_CHARS, None, "symbol or address of a token", "DOGE", is_required=True)
    error = {"model": UdfError, "description": "No token has this name, or several"}

    async def config(asked: Asked) -> Answer:
        return tagged(asked, msgspec.json.encode(faces.config()))

    async def symbols(asked: Asked) -> Answer:
        return tagged(asked, msgspec.json.encode(faces.symbol(token_of(directory, symbol.of(asked.query)))))

    async def current_time(asked: Asked) -> Answer:
        headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
        return 200, str(directory.wall_ms() // 1_000).encode(), headers

    search = _Search(directory, faces)
    history = _History(directory, faces, symbol)
    text_answer: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}, "example": "1774089000"}}}
    routes.add(
        "/udf/config", _told(config), summary="TradingView: what there is", responses={200: {"model": UdfConfig}}
    )
    routes.add(
        "/udf/symbols",
        _told(symbols),
        summary="TradingView: one token",
        parameters=[symbol],
        responses={200: {"model": UdfSymbol | UdfError}, 404: error},
    )
    routes.add(
        "/udf/search",
        _told(search.answer),
        summary="TradingView: tokens by a part of their symbol, or the beginning of their address",
        parameters=search.parameters,
        responses={200: {"model": list[UdfFound] | UdfError}},
    )
    routes.add(
        "/udf/history",
        _told(history.answer),
        summary="TradingView: bars, the open one included",
        parameters=history.parameters,
        responses={200: {"model": UdfHistory | UdfNoData | UdfError}, 404: error},
    )
    routes.add("/udf/time", current_time, summary="TradingView: Unix time in s", responses={200: text_answer})


def _told(handler: Handler) -> Handler:
    """The handler, with its errors in the library's form."""

    async def answer(asked: Asked) -> Answer:
        try:
            return await handler(asked)
        except HTTPException as error:
            status = 404 if error.status_code == 404 else 200
            headers = {"content-type": "application/json", "cache-control": "no-store"}
            return status, msgspec.json.encode({"s": "error", "errmsg": error.detail}), headers

    return answer


class _Faces:
    """How intervals and tokens look to the library."""

    def __init__(self, directory: BarDirectory) -> None:
        self._directory = directory
        self.intervals = {resolution_of(each): each for each in directory.bar_plan.intervals}
        for bare, unit in (("D", "1D"), ("W", "1W"), ("S", "1S")):
            if unit in self.intervals:
                self.intervals[bare] = self.intervals[unit]  # the library writes either
        self.resolutions = [resolution_of(each) for each in directory.bar_plan.intervals]

    def config(self) -> dict[str, Any]:
        sources = [{"value": name, "name": name, "desc": name} for name in self._directory.source_states()]
        return {
            "supported_resolutions": self.resolutions,
            "supports_search": True,
            "supports_group_request": False,
            "supports_marks": False,
            "supports_timescale_marks": False,
            "supports_time": True,
            "exchanges": [{"value": "", "name": "All", "desc": ""}, *sources],
            "symbols_types": [{"name": "All", "value": ""}, {"name": "Crypto", "value": _TYPE}],
        }

    def symbol(self, token: TokenState) -> dict[str, Any]:
        seconds, minutes = self._counts("S"), self._counts("")
        days, weeks = self._counts("D"), self._counts("W")
        return {
            "name": token.symbol,
            "ticker": token.address,
            "description": token.address,
            "type": _TYPE,
            "session": "24x7",
            "timezone": "Etc/UTC",
            "exchange": token.source_name,
            "listed_exchange": token.source_name,
            "format": "price",
            "minmov": 1,
            "pricescale": 10 ** price_digits(token.price),
            "has_intraday": bool(minutes or seconds),
            "has_seconds": bool(seconds),
            "has_daily": bool(days),
            "has_weekly_and_monthly": bool(weeks),
            "seconds_multipliers": seconds,
            "intraday_multipliers": minutes,
            "daily_multipliers": days,
            "weekly_multipliers": weeks,
            "supported_resolutions": self.resolutions,
            "volume_precision": 8,
            "data_status": "streaming",
        }

    def _counts(self, unit: str) -> list[str]:
        """Multiples of a unit that there are bars of; minutes have no unit."""
        if not unit:
            return [each for each in self.resolutions if each.isdigit()]
        return [each.removesuffix(unit) for each in self.resolutions if each.endswith(unit)]


class _Search:
    """Tokens by a part of their symbol or the beginning of their address, the closest first."""

    def __init__(self, directory: BarDirectory, faces: _Faces) -> None:
        self._directory = directory
        self._query = text("query", MAX_ID_CHARS, "", "a part of a symbol, or the beginning of an address", "DO")
        self._type = text("type", MAX_ID_CHARS, "", f"{_TYPE}, or empty for all")
        self._exchange = text("exchange", MAX_ID_CHARS, "", "a source, or empty for all")
        self._limit = number("limit", 1, MAX_FOUND, _DEFAULT_FOUND, "most tokens")
        self.parameters = [self._query, self._type, self._exchange, self._limit]

    async def answer(self, asked: Asked) -> Answer:
        query = asked.query
        wanted = self._query.of(query).casefold()
        kind, exchange, limit = self._type.of(query), self._exchange.of(query), self._limit.of(query)
        ranked: list[tuple[int, int, TokenState]] = []
        # A copy: tokens may arrive while others have the event loop.
        tokens = list(self._directory.listed()) if kind in ("", _TYPE) else []
        for place, token in enumerate(tokens):
            if place % _SLICE_TOKENS == _SLICE_TOKENS - 1:
                await asyncio.sleep(0)
                ranked = nsmallest(limit, ranked)
            if exchange not in ("", token.source_name):
                continue
            rank = _rank(wanted, token)
            if rank is not None:
                ranked.append((rank, place, token))
        return tagged(asked, msgspec.json.encode([_found(token) for _, _, token in nsmallest(limit, ranked)]))


def _rank(wanted: str, token: TokenState) -> int | None:
    """How close a token is to what is looked for; None: not at all."""
    symbol = token.symbol.casefold()
    if symbol == wanted:
        return 0
    if symbol.startswith(wanted):
        return 1
    if wanted in symbol:
        return 2
    return 3 if token.address.casefold().startswith(wanted) else None


def _found(token: TokenState) -> dict[str, str]:
    return {
        "symbol": token.symbol,
        "full_name": token.address,
        "description": token.address,
        "exchange": token.source_name,
        "ticker": token.address,
        "type": _TYPE,
    }


class _History:
    """Bars of a range, or so many of them up to a time."""

    def __init__(self, directory: BarDirectory, faces: _Faces, symbol: Parameter[Any]) -> None:
        self._directory = directory
        self._symbol = symbol
        self._resolution = Parameter[Any](
            "resolution",
            lambda given: _one_of(faces.intervals, given),
            {"type": "string", "enum": faces.resolutions},
            None,
            f"length of a bar: one of {', '.join(faces.resolutions)}",
            faces.resolutions[0],
            is_required=True,
        )
        self._from = number("from", 0, _LAST_S, None, "first beginning, Unix time in s", 1774080000)
        self._to = number(
            "to", 0, _LAST_S, None, "end of the range, not included, Unix time in s; absent: now", 4102444800
        )
        self._countback = number(
            "countback", 1, 1_000_000, None, f"how many bars up to `to`, instead of `from`; {MAX_HISTORY_BARS} at most"
        )
        self.parameters = [symbol, self._resolution, self._from, self._to, self._countback]

    async def answer(self, asked: Asked) -> Answer:
        query = asked.query
        interval = self._resolution.of(query)
        from_s, to_s, countback = self._from.of(query), self._to.of(query), self._countback.of(query)
        if from_s is not None and to_s is not None and from_s > to_s:
            raise HTTPException(422, "from is later than to")
        token = token_of(self._directory, self._symbol.of(query))
        from_ms = None if from_s is None or countback is not None else from_s * 1_000
        to_ms = None if to_s is None else to_s * 1_000 - 1
        count = MAX_HISTORY_BARS if countback is None else min(countback, MAX_HISTORY_BARS)
        bars, now_ms = await self._bars(token, interval, from_ms, to_ms, count)
        if not bars:
            return tagged(asked, msgspec.json.encode(await self._no_data(token, interval, from_ms)))
        asked_for = PageRequest(interval, 0, to_ms)  # whatever it begins with, nothing older comes
        return tagged(asked, await _columns(bars), is_settled=is_settled(asked_for, BarPage(Page([]), now_ms)))

    async def _bars(
        self, token: TokenState, interval: Interval, from_ms: int | None, to_ms: int | None, count: int
    ) -> tuple[list[Bar], int]:
        """The newest ``count`` bars of a range, oldest first, and the event time of their source."""
        pages: list[list[Bar]] = []
        while True:
            request = PageRequest(interval, None, to_ms, min(count, MAX_LIMIT))
            page, now_ms, _ = await self._directory.bar_page(token.address, request)
            found = [each.bar for each in page.bars if from_ms is None or each.bar.open_ms >= from_ms]
            pages.append(found)
            count -= len(found)
            if not count or page.more_before_ms is None or len(found) < len(page.bars):
                return [bar for each in reversed(pages) for bar in each], now_ms
            to_ms = page.more_before_ms - 1

    async def _no_data(self, token: TokenState, interval: Interval, from_ms: int | None) -> dict[str, Any]:
        """The answer for an empty range: where to look instead."""
        if from_ms is not None:
            request = PageRequest(interval, None, from_ms - 1, 1)
            for earlier in (await self._directory.bar_page(token.address, request)).page.bars:
                return {"s": "no_data", "nextTime": earlier.bar.open_ms // 1_000}
        return {"s": "no_data"}


async def _columns(bars: Sequence[Bar]) -> bytes:
    """Bars as the library reads them."""
    columns: dict[str, list[str]] = {name: [] for name in "tohlcv"}
    for place, bar in enumerate(bars):
        if place % _SLICE_BARS == _SLICE_BARS - 1:
            await asyncio.sleep(0)
        columns["t"].append(str(bar.open_ms // 1_000))
        for name, value in zip("ohlcv", (bar.open, bar.high, bar.low, bar.close, bar.volume), strict=True):
            columns[name].append(canonical(value))
    values = ",".join(f'"{name}":[{",".join(column)}]' for name, column in columns.items())
    return f'{{"s":"ok",{values}}}'.encode()


def _one_of(intervals: Mapping[str, Interval], given: str) -> Interval:
    interval = intervals.get(given)
    if interval is None:
        raise ValueError(f"one of {', '.join(intervals)}")
    return interval
