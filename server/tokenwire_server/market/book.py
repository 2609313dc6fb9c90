"""One token's order book: what is offered and asked for at each price, from snapshots and deltas.

What is known is always a *beginning* of the venue's book: all levels from the best one to some price, none missing in
between. A snapshot may be cut, and the worst levels beyond :data:`MAX_BOOK_LEVELS` are forgotten; what a delta says of
prices farther away is left out, because the levels before them are not known.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from tokenwire_server.market.decimals import canonical

__all__ = [
    "MAX_BOOK_LEVELS",
    "MAX_DEPTH_LEVELS",
    "BookCondition",
    "BookDelta",
    "BookSnapshot",
    "BookTop",
    "BookUpdate",
    "Level",
    "OrderBook",
]

MAX_BOOK_LEVELS: Final = 1_000  # of each side
MAX_DEPTH_LEVELS: Final = 100  # of each side, that a reader may ask for

Level = tuple[Decimal, Decimal]
"""A price (above 0) and the amount at it in base units (0 in a delta: the level is gone)."""

Row = tuple[str, str]
"""A price and its amount, as canonical decimal strings."""


class BookSnapshot(msgspec.Struct, frozen=True):
    """A whole book at ``time_ms`` (Unix ms), which replaces what was known.

    ``limit_levels`` is how many levels of a side the venue lists at most (0: all): a side of so many may go on.
    """

    bids: Sequence[Level]
    asks: Sequence[Level]
    time_ms: int
    limit_levels: int = 0


class BookDelta(msgspec.Struct, frozen=True):
    """The levels that changed, with their new amounts, at ``time_ms`` (Unix ms)."""

    bids: Sequence[Level]
    asks: Sequence[Level]
    time_ms: int


BookUpdate = BookSnapshot | BookDelta


class BookCondition(StrEnum):
    """What became of a book by an update."""

    SOUND = "sound"
    SHALLOW = "shallow"  # fewer than MAX_DEPTH_LEVELS are left of a side that goes on: a new snapshot would help
    CROSSED = "crossed"  # somebody bids as much as another asks: an update is missing, the book is stale now
    STALE = "stale"  # left out, because only a snapshot helps
    CLOSED = "closed"  # left out, because nobody wants the book, or it is another source's


class BookTop(msgspec.Struct, frozen=True):
    """The best levels of both sides, the best ones first; never changes.

    ``revision`` is the book's, ``time_ms`` the event time of its newest update (Unix ms), ``is_stale`` says that the
    levels may have changed since without being noticed.
    """

    bids: tuple[Row, ...]
    asks: tuple[Row, ...]
    revision: int
    time_ms: int
    is_stale: bool


class _Side:
    """The levels of one side. Keys are prices, of bids negative ones, so that the best come first."""

    __slots__ = ("amounts", "horizon", "is_bid", "keys", "rows")

    def __init__(self, *, is_bid: bool) -> None:
        self.is_bid: Final = is_bid
        self.keys: list[Decimal] = []  # ascending
        self.amounts: dict[Decimal, Decimal] = {}  # by key
        self.horizon: Decimal | None = None  # nothing is known of keys above; None: there is nothing unknown
        self.rows: tuple[Row, ...] | None = None  # the text of the best levels, as many as were asked for

    def replace(self, levels: Sequence[Level], limit_levels: int) -> bool:
        before = self.amounts
        listed = {self._flip(price): amount for price, amount in levels}
        self.amounts = {key: amount for key, amount in listed.items() if amount}
        self.keys = sorted(self.amounts)
        self.horizon = max(listed) if 0 < limit_levels <= len(listed) else None
        self._trim()
        if self.amounts == before:
            return False
        self.rows = None
        return True

    def change(self, levels: Sequence[Level]) -> bool:
        keys, amounts, horizon = self.keys, self.amounts, self.horizon
        is_changed = False
        for price, amount in levels:
            key = self._flip(price)
            before = amounts.get(key)
            if before is None:
                if not amount or (horizon is not None and key > horizon):
                    continue
                insort(keys, key)
                amounts[key] = amount
            elif before == amount:
                continue
            elif amount:
                amounts[key] = amount
            else:
                del amounts[key]
                del keys[bisect_left(keys, key)]
            is_changed = True
        self._trim()
        if is_changed:
            self.rows = None
        return is_changed

    def top(self, depth: int) -> tuple[Row, ...]:
        rows = self.rows
        if rows is None or len(rows) < min(depth, len(self.keys)):
            flip, amounts = self._flip, self.amounts
            rows = tuple((canonical(flip(key)), canonical(amounts[key])) for key in self.keys[:depth])
            self.rows = rows
        return rows[:depth]

    def _flip(self, number: Decimal) -> Decimal:
        return number.copy_negate() if self.is_bid else number  # the minus sign would round to 28 digits

    def _trim(self) -> None:
        if len(self.keys) > MAX_BOOK_LEVELS:
            for key in self.keys[MAX_BOOK_LEVELS:]:
                del self.amounts[key]
            del self.keys[MAX_BOOK_LEVELS:]
            self.horizon = self.keys[-1]


class OrderBook:
    """The book of the token at ``address``; ``revision`` rises by one with every change that a reader can see.

    A book begins empty and stale; the first snapshot fills it.
    """

    __slots__ = ("_asks", "_bids", "_tops", "address", "is_filled", "is_stale", "revision", "time_ms")

    def __init__(self, address: str, revision: int = 0) -> None:
        self.address: Final = address
        self.revision = revision
        self.time_ms = 0
        """Event time of the newest update (Unix ms)."""
        self.is_filled = False
        """A snapshot has come."""
        self.is_stale = True
        """Changes may have been missed: what is known is old, until the next snapshot."""
        self._bids = _Side(is_bid=True)
        self._asks = _Side(is_bid=False)
        self._tops: dict[int, BookTop] = {}  # by depth, until something changes

    @property
    def levels(self) -> int:
        """How many levels of both sides are known."""
        return len(self._bids.keys) + len(self._asks.keys)

    def apply(self, update: BookUpdate) -> BookCondition:
        """Take over an update whose numbers are valid. While the book is stale, deltas are left out."""
        bids, asks = self._bids, self._asks
        if isinstance(update, BookSnapshot):
            is_changed = bids.replace(update.bids, update.limit_levels)
            is_changed |= asks.replace(update.asks, update.limit_levels)
            is_changed |= self.is_stale
            self.is_filled = True
            self.is_stale = False
        elif self.is_stale:
            return BookCondition.STALE
        else:
            is_changed = bids.change(update.bids)
            is_changed |= asks.change(update.asks)
        self.time_ms = update.time_ms
        if self.is_crossed:
            self.is_stale = is_changed = True
        if is_changed:
            self.revision += 1
        self._tops.clear()
        if self.is_stale:
            return BookCondition.CROSSED
        is_shallow = any(side.horizon is not None and len(side.keys) < MAX_DEPTH_LEVELS for side in (bids, asks))
        return BookCondition.SHALLOW if is_shallow else BookCondition.SOUND

    def lose(self) -> bool:
        """Changes may have been missed; what is known stays, as stale. True when that is news."""
        if self.is_stale:
            return False
        self.is_stale = True
        self.revision += 1
        self._tops.clear()
        return True

    @property
    def is_crossed(self) -> bool:
        """The best bid is not below the best ask, which no venue's book can be."""
        bids, asks = self._bids.keys, self._asks.keys
        return bool(bids and asks) and bids[0].copy_negate() >= asks[0]

    def top(self, depth: int) -> BookTop:
        """The best ``depth`` levels of each side, or as many as are known. The same object until something changes.

        Raises:
            ValueError: the depth is not from 1 to MAX_DEPTH_LEVELS.
        """
        if not 1 <= depth <= MAX_DEPTH_LEVELS:
            raise ValueError(f"the depth of a book is 1 to {MAX_DEPTH_LEVELS} levels")
        known = self._tops.get(depth)
        if known is None:
            bids, asks = self._bids.top(depth), self._asks.top(depth)
            known = self._tops[depth] = BookTop(bids, asks, self.revision, self.time_ms, self.is_stale)
        return known
