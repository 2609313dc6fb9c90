"""What is stored in PostgreSQL, read beside whoever writes it.

A few connections, made when somebody reads. While the database is away, or nothing was ever stored, or another version
of this program made the tables, every method raises :class:`~tokenwire_server.history.port.HistoryError`, and the next
call tries again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres_place import FAILURES, PostgresPlace, arguments_of, explained, prepare
from tokenwire_server.history.postgres_schema import (
    BAR_COLUMNS,
    TOKEN_COLUMNS,
    TRADE_COLUMNS,
    VERSION,
    bar_of,
    token_of,
    trade_of,
    version_of,
)
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import NumberedTrade, StoredToken

__all__ = ["NewestStored", "PostgresView"]

MAX_READERS: Final = 4
READ_TIMEOUT_S: Final = 30.0  # with the wait for a connection
CLOSE_TIMEOUT_S: Final = 5.0  # for reads that are under way
_IDLE_READER_S: Final = 300.0

_TOKEN_ID: Final = "(SELECT id FROM tokens WHERE address = $1)"  # noqa: S105 - a subquery


class NewestStored(NamedTuple):
    """How far a token is stored: all trades up to ``number``, and all bars that had closed by ``now_ms`` (Unix ms of
    event time)."""

    number: int
    now_ms: int


class PostgresView:
    """The reading half of :class:`~tokenwire_server.history.port.History`, and what else is worth knowing of it. Made
    by :meth:`view`, which asks the database nothing yet."""

    def __init__(self, place: PostgresPlace, readers: Any) -> None:
        self._place = place
        self._readers = readers

    @classmethod
    async def view(cls, place: PostgresPlace) -> "PostgresView":
        """What is stored in ``place``."""
        return PostgresView(place, await reading(place))

    async def tokens(self) -> Sequence[StoredToken]:
        """As of :class:`History`."""
        return list(map(token_of, await self._read(f"SELECT {TOKEN_COLUMNS} FROM tokens ORDER BY id")))  # noqa: S608

    async def bars(
        self, address: str, interval_ms: int, from_ms: int, before_ms: int, limit: int, *, newest: bool = False
    ) -> list[Bar]:
        """As of :class:`History`."""
        sql = (
            f"SELECT {BAR_COLUMNS} FROM bars WHERE token = {_TOKEN_ID} AND interval_ms = $2"  # noqa: S608
            f" AND open_time >= $3 AND open_time < $4 ORDER BY open_time {'DESC' if newest else 'ASC'} LIMIT $5"
        )
        found = await self._read(sql, address, interval_ms, from_ms, before_ms, limit)
        return list(map(bar_of, reversed(found) if newest else found))

    async def turnovers(self, address: str, interval_ms: int, from_ms: int) -> list[tuple[int, Decimal]]:
        """As of :class:`History`."""
        sql = (
            f"SELECT open_time, turnover FROM bars WHERE token = {_TOKEN_ID} AND interval_ms = $2"  # noqa: S608
            " AND open_time >= $3 ORDER BY open_time"
        )
        return [(open_ms, turnover) for open_ms, turnover in await self._read(sql, address, interval_ms, from_ms)]

    async def trades(self, address: str, after: int, limit: int) -> list[NumberedTrade]:
        """As of :class:`History`."""
        sql = f"SELECT {TRADE_COLUMNS} FROM trades WHERE token = {_TOKEN_ID} AND number > $2 ORDER BY number LIMIT $3"  # noqa: S608
        return [trade_of(address, row) for row in await self._read(sql, address, after, limit)]

    async def trades_before(self, address: str, before: int, limit: int) -> list[NumberedTrade]:
        """As of :class:`History`."""
        sql = (
            f"SELECT {TRADE_COLUMNS} FROM trades WHERE token = {_TOKEN_ID} AND number < $2"  # noqa: S608
            " ORDER BY number DESC LIMIT $3"
        )
        return [trade_of(address, row) for row in reversed(await self._read(sql, address, before, limit))]

    async def oldest(self, address: str) -> int | None:
        """As of :class:`History`."""
        found = await self._read(f"SELECT min(number) FROM trades WHERE token = {_TOKEN_ID}", address)  # noqa: S608
        number: int | None = found[0][0]
        return number

    async def newest(self, address: str) -> NewestStored | None:
        """How far this token is stored; None: not at all."""
        found = await self._read("SELECT trades, now_ms FROM tokens WHERE address = $1", address)
        return NewestStored(*found[0]) if found else None

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """As of :class:`History`."""
        sql = f"SELECT trade_id FROM trades WHERE token = {_TOKEN_ID} AND trade_id = ANY($2::text[])"  # noqa: S608
        return {trade_id for (trade_id,) in await self._read(sql, address, list(ids))}

    async def offsets(self) -> Mapping[str, str]:
        """Where each source goes on; of what a loader writes, how far each partition is stored
        (``stream.loading.Position``)."""
        return dict(await self._read("SELECT source, position FROM offsets"))

    async def followed(self) -> str | None:
        """The lineage of the log that a loader stores there; None if nobody does."""
        meta = dict(await self._read("SELECT key, value FROM meta WHERE key IN ('stream', 'follows')"))
        return meta.get("stream") if meta.get("follows") == "1" else None

    async def close(self) -> None:
        """Finish what was begun. Afterwards nothing else may be called."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._readers.close()
        except FAILURES:
            self._readers.terminate()

    async def _read(self, sql: str, *parameters: object) -> list[Any]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S), self._readers.acquire() as connection:
                found: list[Any] = await connection.fetch(sql, *parameters)
                return found
        except FAILURES as error:
            raise explained(self._place, error) from None


async def reading(place: PostgresPlace) -> Any:
    """A pool of connections that read, each of which looks what tables there are."""

    async def begin(connection: Any) -> None:
        await prepare(connection)
        version = await version_of(connection, place)
        if version == 0:
            raise HistoryError(f"nothing was stored yet in {place}; start tokenwire-server load, or what else writes")
        if version < VERSION:
            raise HistoryError(
                f"{place} was written by an older version (format {version}, this one knows {VERSION}); restart what "
                "writes it with this version"
            )

    return await asyncpg.create_pool(
        **arguments_of(place, writes=False),
        min_size=0,
        max_size=MAX_READERS,
        max_inactive_connection_lifetime=_IDLE_READER_S,
        init=begin,
    )
