"""Binance's order books, pure: ``depthUpdate`` events of ``SYMBOL@depth@100ms``, and snapshots of ``/api/v3/depth``.

Each event says which updates it holds, from ``U`` (first) to ``u`` (last), and the amounts at the prices that they
changed, absolute and as of ``u``; amount 0 removes a price. How snapshots and events fit together is
:mod:`.binance_depth_splice`.
"""

from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from tokenwire_server.market.book import MAX_BOOK_LEVELS, Level
from tokenwire_server.sources.frames import MAX_SYMBOL_CHARS, FormatError, load, number, whole

__all__ = [
    "DEPTH_EVENT",
    "MAX_EVENT_LEVELS",
    "SNAPSHOT_LEVELS",
    "DepthEvent",
    "DepthSnapshot",
    "depth_stream",
    "parse_depth",
    "parse_snapshot",
    "snapshot_path",
]

DEPTH_EVENT: Final = "depthUpdate"
SNAPSHOT_LEVELS: Final = MAX_BOOK_LEVELS  # of each side; the venue counts 50 of the 6,000 a minute that it allows
MAX_EVENT_LEVELS: Final = 5_000  # of each side; the venue's own bound for snapshots


class DepthEvent(msgspec.Struct, frozen=True):
    """The updates ``first`` to ``last`` of one symbol; ``time_ms`` is the venue's (Unix ms)."""

    symbol: str
    first: int
    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    time_ms: int


class DepthSnapshot(msgspec.Struct, frozen=True):
    """The best levels of a book after update ``last``. It has no time of its own: ``time_ms`` is when it was read."""

    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    time_ms: int


def depth_stream(symbol: str) -> str:
    """The name of the stream of a symbol's events."""
    return f"{symbol.lower()}@depth@100ms"


def snapshot_path(symbol: str) -> str:
    """Path and query of a symbol's snapshot."""
    return f"/api/v3/depth?{urlencode({'symbol': symbol, 'limit': SNAPSHOT_LEVELS})}"


def parse_depth(frame: str | bytes) -> DepthEvent | None:
    """Read an event, raw or within ``{"stream": …, "data": …}``; None for a frame that is none.

    Raises:
        FormatError: it is no JSON, or an event that cannot be used.
    """
    message = load(frame)
    data = message.get("data") if isinstance(message, dict) and "stream" in message else message
    if not isinstance(data, dict) or data.get("e") != DEPTH_EVENT:
        return None
    symbol = data.get("s")
    if not isinstance(symbol, str) or not 0 < len(symbol) <= MAX_SYMBOL_CHARS:
        raise FormatError("bad_symbol", symbol)
    event = DepthEvent(
        symbol=symbol,
        first=whole(data, "U", "bad_update_id"),
        last=whole(data, "u", "bad_update_id"),
        bids=_levels(data.get("b")),
        asks=_levels(data.get("a")),
        time_ms=whole(data, "E", "bad_time"),
    )
    if event.first > event.last:
        raise FormatError("bad_update_id", f"{event.first} > {event.last}")
    return event


def parse_snapshot(body: str | bytes, time_ms: int) -> DepthSnapshot:
    """Read a snapshot at ``time_ms`` (Unix ms). Raises FormatError."""
    data = load(body)
    if not isinstance(data, dict):
        raise FormatError("not_an_object", body)
    last = whole(data, "lastUpdateId", "bad_update_id")
    return DepthSnapshot(last, _levels(data.get("bids")), _levels(data.get("asks")), time_ms)


def _levels(listed: Any) -> tuple[Level, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_EVENT_LEVELS:
        raise FormatError("bad_levels", f"{len(listed)} levels" if isinstance(listed, list) else listed)
    return tuple(_level(each) for each in listed)


def _level(listed: Any) -> Level:
    if not isinstance(listed, list) or len(listed) < 2:
        raise FormatError("bad_level", listed)
    price, amount = number(listed[0], "bad_price"), number(listed[1], "bad_amount")
    if price <= 0:
        raise FormatError("bad_price", price)
    if amount < 0:
        raise FormatError("bad_amount", amount)
    return price, amount
