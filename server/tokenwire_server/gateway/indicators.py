"""Indicators over HTTP: ``/api/v1/indicators/{symbol}``."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

import msgspec
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tokenwire_server.gateway.bar_queries import BarQuery, BarReader, is_settled, next_cursor
from tokenwire_server.gateway.bar_rows import moment
from tokenwire_server.gateway.caching import UNTIL_DESCRIPTION, UNTIL_HEADER, tagged
from tokenwire_server.gateway.directory import BarDirectory
from tokenwire_server.gateway.http import Answer
from tokenwire_server.gateway.parameters import Parameter
from tokenwire_server.gateway.prepared import Asked, PreparedRoutes
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import MAX_LIMIT, PageBar, PageRequest
from tokenwire_server.market.indicators import (
    EXAMPLES,
    MAX_INDICATORS,
    MAX_WARM_UP_BARS,
    Indicator,
    IndicatorSeries,
    IndicatorValue,
    day_before,
    parse_indicators,
    warm_up_bars,
)

__all__ = ["MAX_WAITING_CALCULATIONS", "add_indicators"]

MAX_WAITING_CALCULATIONS: Final = 32
_MAX_SLICE_S: Final = 0.002  # for which the event loop is kept from everybody else
_MAX_TEXT_CHARS: Final = 400
_NUMBER: Final = "([1-9][0-9]{0,2}|1000)"
_ONE: Final = (
    f"(vwap|(sma|ema|atr):{_NUMBER}|rsi:([2-9]|[1-9][0-9]{{1,2}}|1000)"
    f"|macd:{_NUMBER}:{_NUMBER}:{_NUMBER}|bollinger:{_NUMBER}:[0-9]{{1,2}}(\\.[0-9]{{1,4}})?)"
)
_ABOUT: Final = (
    "Values are plain numbers: they are statistics, and not exact. `sma` and `bollinger` depend on the last `period` "
    "bars alone. `ema`, `macd`, `rsi` and `atr` depend on all bars before, the older the less: up to "
    f"{MAX_WARM_UP_BARS} bars before the page are taken into account, where there are as many, so that a value is the "
    "same on whatever page it is (to about 8 digits; fewer for the longest periods). `vwap` is of the trades since "
    "midnight, UTC. null: there are too few bars before."
)


class IndicatorRow(BaseModel):
    """The values at one bar."""

    open_time: str = Field(description="where the bar begins: RFC 3339, UTC")
    closed: bool = Field(description="false: the bar is running, and the values change with the next trade")
    values: dict[str, float | dict[str, float | None] | None] = Field(description="by indicator, as it was asked for")


class IndicatorRows(BaseModel):
    """Values, oldest first: a row for each bar that the same request for bars would have."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        json_schema_extra={
            "example": {
                "data": [
                    {
                        "open_time": "2026-03-21T10:30:00Z",
                        "closed": True,
                        "values": {
                            "sma:20": 0.172811,
                            "macd:12:26:9": {"macd": 1.2e-05, "signal": 9e-06, "histogram": 3e-06},
                        },
                    }
                ],
                "nextCursor": None,
            }
        },
    )

    data: list[IndicatorRow]
    next_cursor: str | None = Field(description="as `cursor` of the next request; null: there is no more")


def add_indicators(
    routes: PreparedRoutes, directory: BarDirectory, reader: BarReader, problems: Mapping[int | str, dict[str, Any]]
) -> None:
    """Add the route; ``problems`` describes what a wrong request is told."""
    wanted = Parameter[Any](
        "indicator",
        parse_indicators,
        {"type": "string", "maxLength": _MAX_TEXT_CHARS, "pattern": f"^{_ONE}(,{_ONE})*$"},
        None,
        f"up to {MAX_INDICATORS}, separated by commas: {', '.join(EXAMPLES)}",
        "sma:20,macd:12:26:9",
        is_required=True,
    )
    calculator = _Calculator(directory)

    async def indicators(asked: Asked) -> Answer:
        chosen = wanted.of(asked.query)
        query = reader.read(asked)
        answer = await directory.bar_page(query.token.address, query.page)
        bars = answer.page.bars
        columns = await calculator.columns(query, bars, chosen) if bars else []
        texts = [each.text for each in chosen]
        rows = [
            {
                "open_time": moment(listed.bar.open_ms),
                "closed": listed.is_closed,
                "values": dict(zip(texts, values, strict=True)),
            }
            for listed, *values in zip(bars, *columns, strict=True)
        ]
        body = msgspec.json.encode({"data": rows, "nextCursor": next_cursor(answer.page)})
        return tagged(asked, body, is_settled=is_settled(query.page, answer), until_ms=answer.known_ms)

    routes.add(
        "/api/v1/indicators/{symbol}",
        indicators,
        summary="Indicators of a token's bars, the open one included",
        description=_ABOUT,
        parameters=(wanted, *reader.parameters),
        responses={
            200: {"model": IndicatorRows, "headers": {UNTIL_HEADER: UNTIL_DESCRIPTION}},
            **problems,
            503: {**problems[422], "description": "Too many calculations at once; try again in a second"},
        },
    )


class _Calculator:
    """Calculates one request at a time, in slices short enough for the event loop."""

    def __init__(self, directory: BarDirectory) -> None:
        self._directory = directory
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def columns(
        self, query: BarQuery, bars: Sequence[PageBar], chosen: Sequence[Indicator]
    ) -> list[list[IndicatorValue]]:
        """The values of each indicator at each bar of a page, which has one at least."""
        if self._waiting >= MAX_WAITING_CALCULATIONS:
            raise HTTPException(503, "too many calculations at once", {"retry-after": "1"})
        self._waiting += 1
        try:
            async with self._lock:
                return await self._calculate(query, bars, chosen)
        finally:
            self._waiting -= 1

    async def _calculate(
        self, query: BarQuery, bars: Sequence[PageBar], chosen: Sequence[Indicator]
    ) -> list[list[IndicatorValue]]:
        begin_ms = bars[0].bar.open_ms
        earlier = await self._earlier(query, begin_ms, max(map(warm_up_bars, chosen)))
        today = await self._today(query, begin_ms) if any(each.name == "vwap" for each in chosen) else []
        columns = []
        for indicator in chosen:
            series = IndicatorSeries(indicator)
            count = warm_up_bars(indicator)
            warm_up = today if indicator.name == "vwap" else earlier[max(0, len(earlier) - count) :]
            async for bar in _in_slices(warm_up):
                series.add(bar)
            columns.append([series.add(bar) async for bar in _in_slices([each.bar for each in bars])])
        return columns

    async def _earlier(self, query: BarQuery, begin_ms: int, count: int) -> list[Bar]:
        """Up to ``count`` bars before the page, oldest first."""
        pages: list[list[PageBar]] = []
        while count > 0:
            request = query.page._replace(from_ms=None, to_ms=begin_ms - 1, limit=min(count, MAX_LIMIT))
            found = (await self._directory.bar_page(query.token.address, request)).page.bars
            if not found:
                break
            pages.append(found)
            count -= len(found)
            begin_ms = found[0].bar.open_ms
            await asyncio.sleep(0)
        return [each.bar for page in reversed(pages) for each in page]

    async def _today(self, query: BarQuery, begin_ms: int) -> list[Bar]:
        """Bars that hold what was traded on the page's first day before the page."""
        bars: list[Bar] = []
        for interval, from_ms, to_ms in day_before(begin_ms, query.page.interval, self._directory.bar_plan.intervals):
            while from_ms <= to_ms:
                request = PageRequest(interval, from_ms, to_ms, MAX_LIMIT)
                page = (await self._directory.bar_page(query.token.address, request)).page
                bars += [each.bar for each in page.bars]
                from_ms = to_ms + 1 if page.more_from_ms is None else page.more_from_ms  # noqa: PLW2901 - the next page
                await asyncio.sleep(0)
        return bars


async def _in_slices(bars: Sequence[Bar]) -> AsyncIterator[Bar]:
    """All bars, letting others have the event loop in between."""
    until_s = perf_counter() + _MAX_SLICE_S
    for bar in bars:
        yield bar
        if perf_counter() >= until_s:
            await asyncio.sleep(0)
            until_s = perf_counter() + _MAX_SLICE_S
