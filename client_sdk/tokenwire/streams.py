"""Streams of trades, bars and books for asyncio programs; :class:`TokenClient` makes them."""

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

import msgspec

from tokenwire.backoff import RETRY_AFTER_CAP_MS
from tokenwire.bar_line import BarLine
from tokenwire.channels import Bar, Book, Trade, bar_of_row, trade_of_row
from tokenwire.errors import TokenwireError
from tokenwire.feeds import Feed
from tokenwire.rest import Rest, RestError
from tokenwire.trade_line import MAX_WAITING, TradeLine

__all__ = ["BarStream", "BookStream", "Stream", "TradeStream", "wall_ms"]

_log = logging.getLogger("tokenwire")
_PAGE: Final = 1_000  # rows of one request
_TRIES: Final = 4
_PAUSE_S: Final = 0.5  # before the second try, doubled for each further one
_MAX_PAUSE_S: Final = 30.0
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_NOT_YET: Final = "NOT_YET"

_T = TypeVar("_T")


class Page(NamedTuple):
    """A page of the REST interface; ``until_ms`` as of :class:`RestAnswer`."""

    fields: dict[str, Any]
    until_ms: int | None


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
        self._rejected: dict[str, str] = {}
        self._addresses: dict[str, str] = {}  # address -> name
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._has_ended = asyncio.Event()
        self.on_closed: Callable[[Any], object] = lambda stream: None
        feed.add(self)

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the names that the server accepted."""
        return {name: address for address, name in self._addresses.items()}

    @property
    def rejected(self) -> dict[str, str]:
        """The names that the server refused, with the codes why; one that nobody knew may be accepted later."""
        return dict(self._rejected)

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
        self._has_ended.set()
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
            self._rejected.pop(name, None)
            if address not in self._addresses and name in self.names:
                self._addresses = {known: other for known, other in self._addresses.items() if other != name}
                self._addresses[address] = name
                self._forget_former()
                self._begin(address)
        self._changed.set()

    def hears(self, address: str) -> bool:
        """See :class:`Listener`."""
        return address in self._addresses

    def refused(self, rejected: dict[str, str]) -> None:
        """See :class:`Listener`."""
        accepted = set(self._addresses.values())
        self._rejected.update({name: code for name, code in rejected.items() if name not in accepted})

    def failed(self, error: TokenwireError) -> None:
        """See :class:`Listener`."""
        self._error = self._error or error
        self._has_ended.set()
        self._changed.set()

    @abstractmethod
    def item(self, item: Trade | Bar | Book) -> None:
        """See :class:`Listener`."""

    def broken(self, addresses: Collection[str], *, is_new: bool) -> None:
        """See :class:`Listener`."""

    # --- what a kind of stream adds ------------------------------------------------------------------------------

    def _begin(self, address: str) -> None:
        """A token is subscribed."""

    def _forget_former(self) -> None:
        """Let go of what belongs to addresses that no name means any more."""

    def _look_again(self, address: str) -> None:
        """A fetch has ended: more may have been wanted in its last moment."""

    @abstractmethod
    def _take(self) -> _T | None:
        """What is to be given out next."""

    def _fetch(self, address: str, fetch: Callable[[str], Any]) -> None:
        """Run ``fetch(address)`` once, if it does not run already."""
        if address not in self._fetching and not self._is_closed:
            task = asyncio.create_task(fetch(address), name=f"tokenwire fetch {address}")
            self._fetching[address] = task
            task.add_done_callback(lambda task: self._fetched(address, task))

    def _fetched(self, address: str, task: asyncio.Task[None]) -> None:
        self._fetching.pop(address, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("fetching failed", exc_info=error)
            self.failed(TokenwireError("INTERNAL", f"the client ran into a defect of its own: {error!r}", "Report it"))
        elif not task.cancelled():
            self._look_again(address)
        self._changed.set()

    async def page(
        self,
        path: tuple[str, ...],
        query: dict[str, str | int | None],
        *,
        is_patient: bool = False,
        is_told: bool = False,
        reaches: Callable[[int], bool] = lambda _: True,
    ) -> Page | None:
        """A page of the REST interface; None if it can't be had.

        It is tried a few times, with longer and longer pauses or what the server asks for; ``is_patient``: as long as
        a further try may help and the stream has not ended. A server that says how far it knows what is asked for, and
        is not as far as it ``reaches``, is tried again too; so is one that does not know the token.

        Raises:
            RestError: with ``is_told``, the request is wrong.
        """
        attempt = unknown = 0
        while True:
            attempt += 1
            is_hopeless = False
            try:
                page, until_ms = await self._rest.ask(*path, **query)
                if not isinstance(page, dict) or not isinstance(page.get("data"), list):
                    error = RestError("INVALID_ANSWER", "the answer is no page", "", 200)
                elif until_ms is None or reaches(until_ms):
                    return Page(page, until_ms)
                else:
                    error = RestError(_NOT_YET, "the server that answered is behind the one that is connected", "", 200)
            except RestError as refused:
                error = refused
                unknown += refused.status == _NOT_FOUND
                is_hopeless = _is_hopeless(refused, unknown)
            if is_hopeless and is_told:
                raise error
            if attempt == _TRIES or is_hopeless:
                _log.warning("%s could not be fetched: %s", "/".join(path), error)
            is_worth_it = attempt < _TRIES or (is_patient and error.code != "INVALID_ANSWER")
            if is_hopeless or not is_worth_it or self._has_ended.is_set():
                return None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s(attempt, error.retry_after_ms)):
                    await self._has_ended.wait()
            if self._is_closed:
                return None


def _is_hopeless(error: RestError, unknown: int) -> bool:
    """Whether trying again won't help. Of several servers one may know a token that another one does not know yet, so
    it counts how often it was ``unknown``."""
    if error.status is None or not 400 <= error.status < 500:
        return False
    return error.status != _TOO_MANY and (error.status != _NOT_FOUND or unknown >= _TRIES)


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
        name = self._addresses.get(item.address)
        if isinstance(item, self._kind) and name is not None:
            line = self._line(item.address)
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

    def _forget_former(self) -> None:
        for address, line in list(self._lines.items()):
            if address not in self._addresses and not line.waiting and address not in self._fetching:
                del self._lines[address]

    def _look_again(self, address: str) -> None:
        if address in self._lines:
            self._look(address, self._lines[address])

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
    is fetched first. A server that has begun to number anew, and is not that far yet, is noticed: ``missed`` is None.
    """

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...], after: int | None = None) -> None:
        self._after = after
        super().__init__(feed, rest, names, Trade, lambda: TradeLine(after))

    def broken(self, addresses: Collection[str], *, is_new: bool) -> None:
        """See :class:`Listener`."""
        for address in addresses:
            line = self._lines.get(address)
            if line is not None and is_new:
                line.begin_anew()
            elif line is not None:  # the next trade, which would tell of a hole, may be long in coming
                line.catch_up()
                self._look(address, line)

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
            page = await self.page(("trades", address), {"after": wanted.after, "limit": _PAGE})
            fields = {} if page is None else page.fields
            rows = fields.get("data", [])
            trades = _readable(rows, lambda row: trade_of_row(name, row, wall_ms()))
            numbers = [number for trade in trades if (number := trade.number or 0) > wanted.after]
            has_more = fields.get("nextCursor") is not None or len(rows) >= _PAGE
            is_all = not has_more or not numbers or numbers[-1] >= wanted.before - 1
            if line.wanted is wanted:  # else it began anew meanwhile
                oldest, newest = _numbers(fields)
                end = newest if not has_more else numbers[-1] if numbers else None
                is_sure = oldest is not None and end is not None and len(trades) == len(rows)
                known = range(oldest, end + 1) if is_sure and oldest is not None and end is not None else range(0)
                line.fetched(trades, is_all=is_all, known=known, newest=newest)
            self._changed.set()


class BarStream(_LineStream[Bar, BarLine]):
    """The bars of some tokens: every one that closes, the open one as it changes, and revisions of closed ones.

    ``history`` bars are fetched first. What closes while there is no connection is fetched over HTTP, which is tried
    until it works. What the server refuses for good, or may have lost by beginning anew, is told of by ``missed`` of
    the next bar.
    """

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...], interval: str, history: int = 0) -> None:
        self._interval = interval
        self._history = history
        super().__init__(feed, rest, names, Bar, BarLine)

    def broken(self, addresses: Collection[str], *, is_new: bool) -> None:
        """See :class:`Listener`."""
        for address in addresses:
            line = self._lines.get(address)
            if line is not None:
                line.begin_anew(is_new=is_new)
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
            query: dict[str, str | int | None] = {
                "interval": self._interval,
                "limit": self._history if is_history else _PAGE,
                "cursor": cursor,
                "from": None if is_history or cursor else from_ms,
            }
            page = await self.page(("klines", address), query, is_patient=True, reaches=line.reaches)
            fields, until_ms = ({}, None) if page is None else page
            rows = fields.get("data", [])
            bars = _readable(rows, lambda row: bar_of_row(name, address, row, wall_ms()))
            following = None if is_history else fields.get("nextCursor")
            is_stuck = following is not None and (not bars or bars[-1].open_ms <= from_ms or following == cursor)
            cursor = None if is_stuck else following
            # A server that has not the bar which came before may keep those behind it no more either.
            is_cut = query["from"] is not None and (until_ms is None or until_ms >= from_ms)
            is_cut = is_cut and (not bars or bars[0].open_ms > from_ms)
            has_missed = page is None or is_stuck or is_cut or len(bars) < len(rows)
            line.fetched(bars, is_all=cursor is None, has_missed=has_missed, until_ms=until_ms)
            self._changed.set()


class BookStream(Stream[Book]):
    """The order books of some tokens: of each the newest form."""

    def __init__(self, feed: Feed, rest: Rest, names: tuple[str, ...]) -> None:
        self._newest: dict[str, Book] = {}
        super().__init__(feed, rest, names)

    def item(self, item: Trade | Bar | Book) -> None:
        """See :class:`Listener`."""
        name = self._addresses.get(item.address)
        if isinstance(item, Book) and name is not None:
            self._newest[item.address] = msgspec.structs.replace(item, name=name)
            self._changed.set()

    def _take(self) -> Book | None:
        return self._newest.pop(next(iter(self._newest))) if self._newest else None


def pause_s(attempt: int, retry_after_ms: int | None) -> float:
    """How long to wait after so many tries, and not shorter than the server asks for, within reason."""
    pause: float = min(_PAUSE_S * 2 ** min(attempt - 1, 10), _MAX_PAUSE_S)
    return max(pause, min(retry_after_ms or 0, RETRY_AFTER_CAP_MS) / 1_000)


def _numbers(fields: dict[str, Any]) -> tuple[int | None, int | None]:
    """The first number that the server still has, and the last so far, as far as it says so."""
    oldest, newest = fields.get("oldest"), fields.get("newest")
    return oldest if isinstance(oldest, int) else None, newest if isinstance(newest, int) else None


def wall_ms() -> int:
    """Unix time in milliseconds by the local clock."""
    return time.time_ns() // 1_000_000


def _readable(rows: list[Any], read: Callable[[Any], _T]) -> list[_T]:
    """What can be read of ``rows``."""
    found: list[_T] = []
    for row in rows:
        try:
            found.append(read(row))
        except (ValueError, OverflowError, msgspec.ValidationError):
            _log.warning("a row that cannot be read was left out")
    return found
