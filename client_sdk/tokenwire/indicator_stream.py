"""Indicators at the bars of a stream, asked for over HTTP bar by bar."""

import asyncio
import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from tokenwire.channels import Bar
from tokenwire.streams import BarStream

__all__ = ["IndicatorStream", "Indicators"]

_log = logging.getLogger("tokenwire")
_PAUSE_S: Final = 1.0  # between two requests for an open bar


class Indicators(msgspec.Struct, frozen=True):
    """The values at one bar, by indicator: a number, several by name, or None while there are too few bars."""

    name: str
    address: str
    interval: str
    open_ms: int
    closed: bool
    values: dict[str, Any]


class IndicatorStream:
    """Indicators of some tokens at every bar that closes, and at the open one as it changes, at most once a second.

    Being cancelled while waiting for the next one loses none. Iterating raises, besides what a :class:`BarStream`
    raises, :class:`RestError` when the server has not what was asked for: no such indicator, for example.
    """

    def __init__(self, bars: BarStream, interval: str, indicators: tuple[str, ...]) -> None:
        self.bars = bars
        self._interval = interval
        self._indicators = indicators
        self._closed: Bar | None = None  # to be asked for before another bar is taken
        self._open: dict[str, Bar] = {}  # by address, the newest forms
        self._asked_s: dict[str, float] = {}
        self._lock = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Indicators]:
        return self

    async def __anext__(self) -> Indicators:
        async with self._lock:  # a bar is asked for once, whoever waits
            while True:
                bar = self._due()
                if bar is None:
                    await self._take()
                    continue
                row = await self._at(bar)
                if row is not None:
                    return row

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription."""
        await self.bars.aclose()

    def _due(self) -> Bar | None:
        """The bar to ask for now."""
        if self._closed is not None:
            return self._closed
        now_s = asyncio.get_running_loop().time()
        return next((bar for address, bar in self._open.items() if self._due_s(address) <= now_s), None)

    def _due_s(self, address: str) -> float:
        return self._asked_s.get(address, float("-inf")) + _PAUSE_S

    async def _take(self) -> None:
        """Take the next bar, or wait until an open one is due."""
        due_s = min(map(self._due_s, self._open), default=None)
        try:
            async with asyncio.timeout_at(due_s):
                bar = await anext(self.bars)
        except TimeoutError:
            return
        waiting = self._open.get(bar.address)
        if not bar.closed:
            self._open[bar.address] = bar
            return
        self._closed = bar
        if waiting is not None and waiting.open_ms <= bar.open_ms:
            del self._open[bar.address]

    async def _at(self, bar: Bar) -> Indicators | None:
        """The values at ``bar``, which is kept until there is an answer."""
        query: dict[str, str | int | None] = {"from": bar.open_ms, "to": bar.open_ms, "limit": 1}
        query |= {"interval": self._interval, "indicator": ",".join(self._indicators)}
        self._asked_s[bar.address] = asyncio.get_running_loop().time()
        try:
            page = await self.bars.page(
                ("indicators", bar.address), query, is_told=True, reaches=lambda until_ms: until_ms >= _known_ms(bar)
            )
        except asyncio.CancelledError:
            self._asked_s.pop(bar.address, None)
            raise
        except BaseException:
            self._done(bar)
            raise
        self._done(bar)
        rows = [] if page is None else page.fields["data"]
        if not rows or not isinstance(rows[-1], dict) or not isinstance(rows[-1].get("values"), dict):
            return None
        try:
            values = _floats(rows[-1]["values"])
        except (ValueError, TypeError, OverflowError, RecursionError):
            _log.warning("indicators that cannot be read were left out")
            return None
        return Indicators(bar.name, bar.address, self._interval, bar.open_ms, rows[-1].get("closed") is True, values)

    def _done(self, bar: Bar) -> None:
        if self._closed is bar:
            self._closed = None
        if self._open.get(bar.address) is bar:
            del self._open[bar.address]


def _known_ms(bar: Bar) -> int:
    """How far a server must be to know ``bar`` as it is."""
    return bar.close_ms if bar.closed else bar.open_ms


def _floats(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _floats(value) if isinstance(value, dict) else None if value is None else float(value)
        for name, value in values.items()
    }
