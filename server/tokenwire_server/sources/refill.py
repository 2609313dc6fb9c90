"""Fetching what a hole took, over REST: paced, bounded in time and number, and obedient to 429 and 418."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Final

import msgspec

from tokenwire_server.sources.breaker import Breaker
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import FormatError, VenueTrade
from tokenwire_server.sources.http_get import HttpError, HttpGet
from tokenwire_server.sources.profile import Backfill
from tokenwire_server.sources.retry_after import retry_after_s

__all__ = ["MAX_BACKFILL_TRADES", "MAX_FILL_S", "Filled", "Refill"]

MAX_BACKFILL_TRADES: Final = 10_000  # of one hole; the newest of a longer one
MAX_FILL_S: Final = 30.0  # for one hole, waiting for the venue's permission included
MAX_ATTEMPTS: Final = 3  # the newest trades may be in the stream before they are in REST
RETRY_S: Final = 1.0
OPENS_AFTER: Final = 5
PAUSE_S: Final = 30.0
MAX_PAUSE_S: Final = 600.0
_BUSY: Final = (418, 429, 503)


class Filled(msgspec.Struct, frozen=True):
    """What came of a hole: ``trades`` in order, and how many are ``missed`` for good. ``complete`` is False when
    some are, or when nobody can say. ``problem`` is why the venue did not deliver, if it said."""

    trades: tuple[VenueTrade, ...]
    missed: int
    complete: bool
    problem: str = ""


class _UnavailableError(Exception):
    """The venue did not give a page; ``final`` when it will not within the hole's time."""

    def __init__(self, problem: str, *, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


class Refill:
    """Fills holes one after another. ``clock`` is Unix ms, ``sleep`` and ``rng`` are for tests."""

    def __init__(
        self,
        plan: Backfill,
        base_url: str,
        get: HttpGet,
        clock: Callable[[], int],
        rng: Random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.requests = 0
        self._plan = plan
        self._base_url = base_url.rstrip("/")
        self._get = get
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._breaker = Breaker(OPENS_AFTER, PAUSE_S, MAX_PAUSE_S)
        self._next_s = 0.0  # loop time before which the venue is not asked

    async def fill(self, hole: Hole) -> Filled:
        """Fetch the hole's trades, as many as can be had. Never raises for what the venue does."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + MAX_FILL_S
        found: dict[str, VenueTrade] = {}
        problem = ""
        span: Hole | None = _newest_part(hole)
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                await self._sleep(RETRY_S * attempt * self._rng.uniform(0.5, 1.5))
            try:
                if hole.first is None:
                    joined, may_grow = await self._join(hole, deadline_s)
                    if not may_grow or attempt == MAX_ATTEMPTS - 1:
                        return joined
                    continue
                await self._pages(span or hole, found, deadline_s)
            except _UnavailableError as error:
                problem = str(error)
                if error.final:
                    break
            span = _missing_span(hole, found)
            if span is None:
                break
        trades = tuple(sorted(found.values(), key=lambda item: item.number or 0))
        missed = hole.size - _covered(trades)
        return Filled(trades, missed, complete=hole.first is not None and missed == 0, problem=problem)

    async def _pages(self, span: Hole, found: dict[str, VenueTrade], deadline_s: float) -> None:
        """Ask page by page until nothing is missing, or a page brings nothing that is."""
        while span.size > 0:
            page = [item for item in await self._page(span, deadline_s) if _inside(item, span)]
            if not page:
                return
            found.update((item.trade.trade_id, item) for item in page)
            span = _narrowed(span, page, newest_first=self._plan.newest_first)

    async def _join(self, hole: Hole, deadline_s: float) -> tuple[Filled, bool]:
        """Without numbers: the page that holds both ends of the hole proves what is between them. Also whether a later
        page may hold more of it: that has newer trades alone."""
        page = await self._page(hole, deadline_s)
        ids = [item.trade.trade_id for item in page]
        begin = ids.index(hole.after_id) + 1 if hole.after_id in ids else None
        end = ids.index(hole.before_id) if hole.before_id in ids else None
        between = page[begin or 0 : len(page) if end is None else end]
        trades = tuple(item for item in between if item.trade.time_ms >= hole.after_ms)
        return Filled(trades, 0, complete=begin is not None and end is not None), end is None

    async def _page(self, span: Hole, deadline_s: float) -> list[VenueTrade]:
        """One page, oldest first."""
        loop = asyncio.get_running_loop()
        wait_s = max(self._next_s - loop.time(), self._breaker.wait_s(loop.time()))
        if loop.time() + wait_s > deadline_s:
            raise _UnavailableError(f"not before {wait_s:.0f} s from now", final=True)
        await self._sleep(max(wait_s, 0.0))
        self._next_s = loop.time() + self._plan.interval_s
        self.requests += 1
        try:
            answer = await self._get(self._base_url + self._plan.page(span))
            if answer.status in _BUSY:
                least_s = retry_after_s(answer.retry_after, self._clock())
                self._next_s = max(self._next_s, loop.time() + least_s)
            if answer.status != 200:
                raise _UnavailableError(f"HTTP {answer.status}")
            page = list(self._plan.read(span.symbol, answer.body))
        except (HttpError, FormatError, _UnavailableError) as error:
            self._breaker.failed(loop.time())
            raise _UnavailableError(str(error)) from None
        self._breaker.succeeded()
        return page[::-1] if self._plan.newest_first else page


def _newest_part(hole: Hole) -> Hole:
    if hole.last is None or hole.size <= MAX_BACKFILL_TRADES:
        return hole
    return msgspec.structs.replace(hole, first=hole.last - MAX_BACKFILL_TRADES + 1)


def _inside(item: VenueTrade, span: Hole) -> bool:
    return item.number is not None and (span.first or 0) <= item.number <= (span.last or -1)


def _narrowed(span: Hole, page: Sequence[VenueTrade], *, newest_first: bool) -> Hole:
    """What is left to ask for after ``page``, which has trades of the span alone."""
    numbers = [item.number for item in page if item.number is not None]
    if newest_first:
        return msgspec.structs.replace(span, last=min(numbers) - 1)
    newest = max(page, key=lambda item: item.number or 0)
    return msgspec.structs.replace(span, first=max(numbers) + 1, after_ms=newest.trade.time_ms)


def _missing_span(hole: Hole, found: Mapping[str, VenueTrade]) -> Hole | None:
    """The smallest span that holds everything still missing of the part that is fetched at all."""
    part = _newest_part(hole)
    if part.first is None or part.last is None:
        return None
    there = {item.number for item in found.values()}
    first, last = part.first, part.last
    while first <= last and first in there:
        first += 1
    while last >= first and last in there:
        last -= 1
    return msgspec.structs.replace(part, first=first, last=last) if first <= last else None


def _covered(trades: Sequence[VenueTrade]) -> int:
    return len({item.number for item in trades})
