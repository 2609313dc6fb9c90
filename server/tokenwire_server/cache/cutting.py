"""Pages out of an order that somewhere else is read in slices: the one way to cut them, whatever the cache."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from tokenwire_server.market.token_pages import (
    MAX_LOOKED_AT,
    TokenPage,
    TokenQuery,
    read_cursor,
    row_text,
    write_cursor,
)

__all__ = ["SLICE", "ReadSlice", "Slice", "cut_page", "natural_ranges", "row_symbol"]

SLICE: Final = 1_000
"""Most tokens that are read at once: of these a search is decoded without a pause."""


class Slice(NamedTuple):
    """Rows from one place of an order on, None for tokens that are gone since, published ``age_ms`` ago. ``number`` is
    the order's, ``total`` how many tokens it has."""

    number: int
    total: int
    rows: Sequence[bytes | None]
    age_ms: int


Range = tuple[int, int]
ReadSlice = Callable[[int | None, int, int], Awaitable[Slice | None]]
"""From the order's number (None: the newest), place and count to what is there; None: there is no order at all.
Raises CursorExpiredError if the order is no longer kept."""


class _Names(msgspec.Struct):
    address: str
    symbol: str
    name: str


_names: Final = msgspec.json.Decoder(_Names)


def natural_ranges(
    priced: int, place: int, count: int, *, is_reversed: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Which places of the natural order to read: first from the one to before the other, backwards if it is reversed;
    then those without a value, forwards, which come last both ways."""
    if not is_reversed:
        return (place, place + count), (0, 0)
    end = max(0, priced - place)
    rest = max(place, priced)
    return (max(0, end - count), end), (rest, max(rest, place + count))


async def cut_page(read: ReadSlice, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage | None:
    """The page that is asked for; None: there is no order. Raises CursorError, CursorExpiredError."""
    number, place = (None, 0) if cursor is None else read_cursor(cursor, query)
    wanted = query.search.casefold()
    if not wanted:
        found = await read(number, place, limit)
        if found is None:
            return None
        end = place + limit
        cursor = write_cursor(found.number, end, query) if end < found.total else None
        return TokenPage([row for row in found.rows if row is not None], cursor, found.age_ms)
    rows: list[bytes] = []
    looked_at_end = place + MAX_LOOKED_AT
    while True:
        found = await read(number, place, min(SLICE, looked_at_end - place))
        if found is None:
            return None
        number = found.number
        for row in found.rows:
            if row is not None and _has(row, wanted):
                if len(rows) == limit:
                    return TokenPage(rows, write_cursor(number, place, query), found.age_ms)
                rows.append(row)
            place += 1
        if place >= found.total or not found.rows:
            return TokenPage(rows, None, found.age_ms)
        if place >= looked_at_end:
            return TokenPage(rows, write_cursor(number, place, query), found.age_ms)
        await asyncio.sleep(0)


def row_symbol(row: bytes) -> str:
    """The symbol in a row."""
    return _names.decode(row).symbol


def _has(row: bytes, wanted: str) -> bool:
    names = _names.decode(row)
    return wanted in row_text(names.symbol, names.name, names.address)
