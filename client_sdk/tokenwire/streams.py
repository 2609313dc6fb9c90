"""Streams of trades, bars, books and indicators for asyncio programs; :class:`TokenClient` makes them."""

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import msgspec

from tokenwire.bar_line import BarLine
from tokenwire.channels import Bar, Book, Trade, bar_of_row, trade_of_row
from tokenwire.errors import TokenwireError
from tokenwire.feeds import Feed
from tokenwire.rest import Rest, RestError
from tokenwire.trade_line import MAX_WAITING, TradeLine

__all__ = ["BarStream", "BookStream", "IndicatorStream", "Indicators", "Stream", "TradeStream"]

_log = logging.getLogger("tokenwire")
_PAGE: Final = 1_000  # rows of one request
_TRIES: Final = 4
_PAUSE_S: Final = 0.5  # before the second try, doubled for each further one
_INDICATOR_PAUSE_S: Final = 1.0  # between two requests for an open bar

_T = TypeVar("_T")


class Stream(Generic[_T]):
    """An asynchronous iterator over what comes of some tokens, for as long as it is not closed.

    ``async with`` (or :meth:`aclose`) ends the subscription; closing the client does it too.

    Iterating raises:
        SubscriptionError: none of the names was accepted.
        ConnectionFailedError: the connection is given up.
        TokenwireError: CHANNELS_NOT_GRANTED, the server has no channels.
    """

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...]) -> None:
        self.names = names
        self._feed = feed
        self._rest = rest
        self._error: TokenwireError | None = None
        self._is_closed = False
        self._addresses: dict[str, str] = {}  # address -> name
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self.on_closed: Callable[[Any], object] = lambda stream: None
        feed.add(self)

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the names that the server accepted."""
        return {name: address for address, name in self._addresses.items()}

    def __aiter__(self) -> AsyncIterator[_T]:
        return self

    async def __anext__(self) -> _T:
        while True:
            found = self._take()
            if found is not None:
                return found
            if self._error is not None and not self._fetching:
                raise self._error
            if self._is_closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription; iterating ends after what has come."""
        self._is_closed = True
        self.on_closed(self)
        self._feed.remove(self)
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._changed.set()

    # --- what the feed says --------------------------------------------------------------------------------------

    def accepted(self, addresses: dict[str, str]) -> None:
        """See :class:`Listener`."""
        for name, address in addresses.items():
            if address not in self._addresses and name in self.names:
                self._addresses[address] = name
                self._begin(address)
        self._changed.set()

    def failed(self, error: TokenwireError) -> None:
        """See :class:`Listener`."""
        self._error = self._error or error
        self._changed.set()

    @abstractmethod
    def item(self, item: Trade | Bar | Book) -> None:
        """See :class:`Listener`."""

    def broken(self, stream: str | None, *, is_new: bool) -> None:
        """See :class:`Listener`."""

    # --- what a kind of stream adds ------------------------------------------------------------------------------

    def _begin(self, address: str) -> None:
        """A token is subscribed."""

    @abstractmethod
    def _take(self) -> _T | None:
        """What is to be given out next."""

    def _fetch(self, address: str, fetch: Callable[[str], Any]) -> None:
        """Run ``fetch(address)`` once, if it does not run already."""
        if address not in self._fetching and not self._is_closed:
            task = asyncio.create_task(fetch(address), name=f"tokenwire fetch {address}")
            self._fetching[address] = task
            task.add_done_callback(lambda _: self._fetched(address))

    def _fetched(self, address: str) -> None:
        self._fetching.pop(address, None)
        self._changed.set()

    async def page(self, *path: str, **query: str | int | None) -> dict[str, Any] | None:
        """A page of the REST interface, after a few tries; None if it can't be had."""
        for attempt in range(_TRIES):
            try:
                page = await self._rest.get(*path, **query)
                if isinstance(page, dict) and isinstance(page.get("data"), list):
                    return page
                error: TokenwireError = RestError("INVALID_ANSWER", "the answer is no page", "", 200)
            except RestError as refused:
                error = refused
                if refused.status is not None and 400 <= refused.status < 500 and refused.status != 429:
                    break
            if attempt < _TRIES - 1:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        _log.warning("%s could not be fetched: %s", "/".join(path), error)
        return None


class _Line(Protocol[_T]):
    """The order of what comes of one token."""

    @property
    def waiting(self) -> int: ...
    def push(self, item: _T, /) -> None: ...
    def take(self) -> _T | None: ...


_L = TypeVar("_L", bound=_Line[Any])


class _LineStream(Stream[_T], Generic[_T, _L]):
    """A stream with an order for each token; ``_fill`` fetches what is missing in one."""

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...], kind: type[_T], line: Callable[[], _L]) -> None:
        self._kind = kind
        self._make_line = line
        self._lines: dict[str, _L] = {}
        super().__init__(feed, rest, names)

    def item(self, item: Trade | Bar | Book) -> None:
        """See :class:`Listener`."""
        if isinstance(item, self._kind):
            line = self._line(item.address)
            name = self._addresses.get(item.address, item.name)
            line.push(item if item.name == name else msgspec.structs.replace(item, name=name))
            self._look(item.address, line)

    @abstractmethod
    def _lacks(self, line: _L) -> bool:
        """Whether something is to be fetched now."""

    @abstractmethod
    async def _fill(self, address: str) -> None:
        """Fetch what is missing of a token."""

    def _line(self, address: str) -> _L:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = self._make_line()
        return line

    def _look(self, address: str, line: _L) -> None:
        if self._lacks(line):
            self._fetch(address, self._fill)
        self._changed.set()

    def _take(self) -> _T | None:
        for address, line in self._lines.items():
            found: _T | None = line.take()
            if found is not None:
                self._look(address, line)
                if len(self._lines) > 1:  # no token keeps the others waiting
                    self._lines[address] = self._lines.pop(address)
                return found
        return None


class TradeStream(_LineStream[Trade, TradeLine]):
    """The trades of some tokens: of each every one, in order, what was missed on the way fetched over HTTP.

    What can't be had is counted in ``missed`` of the next trade. ``after`` is the number of a trade: what came since
    is fetched first.
    """

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...], after: int | None = None) -> None:
        self._after = after
        super().__init__(feed, rest, names, Trade, lambda: TradeLine(after))

    def broken(self, stream: str | None, *, is_new: bool) -> None:
        """See :class:`Listener`."""
        if is_new:
            for line in self._lines.values():
                line.begin_anew()

    def _begin(self, address: str) -> None:
        line = self._line(address)
        if self._after is not None:
            line.catch_up()
            self._look(address, line)

    def _lacks(self, line: TradeLine) -> bool:
        return line.wanted is not None and line.waiting <= MAX_WAITING // 2

    async def _fill(self, address: str) -> None:
        line, name = self._lines[address], self._addresses.get(address, address)
        while (wanted := line.wanted) is not None and self._lacks(line):
            page = await self.page("trades", address, after=wanted.after, limit=_PAGE)
            rows = [] if page is None else page["data"]
            trades = _readable(rows, lambda row: trade_of_row(name, row, _wall_ms()))
            numbers = [trade.number or 0 for trade in trades]
            is_all = len(rows) < _PAGE or not numbers or numbers[-1] >= wanted.before - 1
            if line.wanted is wanted:  # else it began anew meanwhile
                line.fetched(trades, is_all=is_all)
            self._changed.set()


class BarStream(_LineStream[Bar, BarLine]):
    """The bars of some tokens: every one that closes, the open one as it changes, and revisions of closed ones.

    ``history`` bars are fetched first. What closes while there is no connection is fetched over HTTP.
    """

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...], interval: str, history: int = 0) -> None:
        self._interval = interval
        self._history = history
        super().__init__(feed, rest, names, Bar, BarLine)

    def broken(self, stream: str | None, *, is_new: bool) -> None:
        """See :class:`Listener`."""
        for address, line in self._lines.items():
            line.begin_anew()
            self._look(address, line)

    def _begin(self, address: str) -> None:
        line = self._line(address)
        if self._history:
            line.want(0)
            self._look(address, line)

    def _lacks(self, line: BarLine) -> bool:
        return line.wants_from_ms is not None and line.waiting <= _PAGE

    async def _fill(self, address: str) -> None:
        line, name = self._lines[address], self._addresses.get(address, address)
        cursor: str | None = None
        while (from_ms := line.wants_from_ms) is not None and self._lacks(line):
            is_history = from_ms == 0
            page = await self.page(
                "klines",
                address,
                interval=self._interval,
                limit=self._history if is_history else _PAGE,
                cursor=None if is_history else cursor,
                **({} if is_history or cursor else {"from": from_ms}),
            )
            rows = [] if page is None else page["data"]
            bars = _readable(rows, lambda row: bar_of_row(name, address, row, _wall_ms()))
            cursor = None if page is None else page.get("nextCursor")
            line.fetched(bars, is_all=page is None or is_history or cursor is None)
            self._changed.set()


class BookStream(Stream[Book]):
    """The order books of some tokens: of each the newest form."""

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...]) -> None:
        self._newest: dict[str, Book] = {}
        super().__init__(feed, rest, names)

    def item(self, item: Trade | Bar | Book) -> None:
        """See :class:`Listener`."""
        if isinstance(item, Book):
            name = self._addresses.get(item.address, item.name)
            self._newest[item.address] = msgspec.structs.replace(item, name=name)
            self._changed.set()

    def _take(self) -> Book | None:
        return self._newest.pop(next(iter(self._newest))) if self._newest else None


class Indicators(msgspec.Struct, frozen=True):
    """The values at one bar, by indicator: a number, several by name, or None while there are too few bars."""

    name: str
    address: str
    interval: str
    open_ms: int
    closed: bool
    values: dict[str, Any]


class IndicatorStream:
    """Indicators of some tokens at every bar that closes, and at the open one as it changes, at most once a second."""

    def __init__(self, bars: BarStream, rest: Rest, interval: str, indicators: tuple[str, ...]) -> None:
        self.bars = bars
        self._rest = rest
        self._interval = interval
        self._indicators = indicators
        self._asked_s: dict[str, float] = {}

    def __aiter__(self) -> AsyncIterator[Indicators]:
        return self

    async def __anext__(self) -> Indicators:
        loop = asyncio.get_running_loop()
        while True:
            bar = await anext(self.bars)
            due_s = self._asked_s.get(bar.address, float("-inf")) + _INDICATOR_PAUSE_S
            if not bar.closed and loop.time() < due_s:
                continue
            self._asked_s[bar.address] = loop.time()
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

    async def _at(self, bar: Bar) -> Indicators | None:
        query: dict[str, str | int | None] = {"from": bar.open_ms, "to": bar.open_ms, "limit": 1}
        page = await self.bars.page(
            "indicators", bar.address, interval=self._interval, indicator=",".join(self._indicators), **query
        )
        rows = [] if page is None else page["data"]
        if not rows or not isinstance(rows[-1], dict) or not isinstance(rows[-1].get("values"), dict):
            return None
        closed = rows[-1].get("closed") is True
        return Indicators(bar.name, bar.address, self._interval, bar.open_ms, closed, _floats(rows[-1]["values"]))


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _floats(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _floats(value) if isinstance(value, dict) else None if value is None else float(value)
        for name, value in values.items()
    }


def _readable(rows: list[Any], read: Callable[[Any], _T]) -> list[_T]:
    """What can be read of ``rows``."""
    found: list[_T] = []
    for row in rows:
        try:
            found.append(read(row))
        except (ValueError, OverflowError, msgspec.ValidationError):
            _log.warning("a row that cannot be read was left out")
    return found
