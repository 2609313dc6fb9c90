"""The history in PostgreSQL, with hypertables where TimescaleDB is.

One connection writes, a transaction for each batch; a few others read what was last committed. What a commit returned
for survives the end of the process and of the database's. While the database is away every method raises
:class:`~tokenwire_server.history.port.HistoryError`, and the next call tries to reach it again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from tokenwire_server.history.beginning import resume
from tokenwire_server.history.late_bars import merge_late
from tokenwire_server.history.port import ForeignHistoryError, HistoryError
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.postgres_pruning import PRUNED_AT_ONCE, drop_chunks, prune_bars, prune_trades
from tokenwire_server.history.postgres_schema import (
    BAR_COLUMNS,
    TOKEN_COLUMNS,
    Row,
    bar_of,
    bar_rows,
    token_row,
    trade_rows,
)
from tokenwire_server.history.postgres_view import PostgresView, reading
from tokenwire_server.history.postgres_writer import PostgresWriter
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, Beginning, Series
from tokenwire_server.market.retention import Retention

__all__ = ["PostgresHistory", "PostgresReservation"]

NUMBERS_AHEAD: Final = 1_000_000  # for as long as the database is away; a crash skips what of them was not used
ROWS_AT_ONCE: Final = 200  # are encoded before others have their turn: some ms

_BAR_KEY: Final = "token, interval_ms, open_time"
_BAR_VALUES: Final = [column.strip() for column in BAR_COLUMNS.split(",")[1:]]

_PUT_TOKENS: Final = (
    f"INSERT INTO tokens (id, {TOKEN_COLUMNS}) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[],"  # noqa: S608
    " $5::text[], $6::numeric[], $7::text[], $8::bigint[], $9::bigint[], $10::numeric[], $11::bigint[])"
    " ON CONFLICT (address) DO UPDATE SET"
    " symbol = excluded.symbol, name = excluded.name, supply = excluded.supply, source = excluded.source,"
    " trades = excluded.trades, now_ms = excluded.now_ms, price = excluded.price, price_ms = excluded.price_ms"
)
_PUT_BARS: Final = (
    f"INSERT INTO bars SELECT * FROM staged_bars ON CONFLICT ({_BAR_KEY}) DO UPDATE SET "  # noqa: S608
    + ", ".join(f"{column} = excluded.{column}" for column in _BAR_VALUES)
)
_STORED_BARS: Final = (
    f"SELECT token, interval_ms, {BAR_COLUMNS} FROM bars WHERE ({_BAR_KEY}) IN"  # noqa: S608
    " (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[]))"
)
_PUT_OFFSETS: Final = (
    "INSERT INTO offsets SELECT * FROM unnest($1::text[], $2::text[])"
    " ON CONFLICT (source) DO UPDATE SET position = excluded.position"
)
_PUT_META: Final = (
    "INSERT INTO meta SELECT * FROM unnest($1::text[], $2::text[])"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


class PostgresHistory(PostgresView):
    """See :class:`~tokenwire_server.history.port.History`. Made by :meth:`open`.

    ``engine`` says what it is stored in; ``reserved``, how many trades may have been numbered (None: not known).
    """

    def __init__(self, place: PostgresPlace, writer: PostgresWriter, readers: Any, retention: Retention) -> None:
        super().__init__(place, readers)
        self.engine = writer.engine
        self.reserved: int | None = None
        self._writer = writer
        self._retention = retention

    @classmethod
    async def open(
        cls, place: PostgresPlace, retention: Retention | None = None, *, replaces_silent: bool = False
    ) -> "PostgresHistory":
        """Open the history in ``place``, whose tables are made if there are none. ``replaces_silent`` as of
        :class:`PostgresWriter`.

        Raises:
            HistoryTakenError: another process writes it.
            HistoryError: it can't be reached, is not permitted, is of a newer version or of another program.
        """
        writer = await PostgresWriter.open(place, replaces_silent=replaces_silent)
        try:
            history = cls(place, writer, await reading(place), retention or Retention())
        except BaseException:
            await writer.close()
            raise
        try:
            found = await history._read("SELECT value FROM meta WHERE key = 'reserved'")
        except BaseException:
            history._readers.terminate()
            await writer.close()
            raise
        history.reserved = int(found[0][0]) if found else None
        return history

    async def begin(self, reserved: int | None, stream: str, *, follows: bool = False) -> Beginning:
        """As of :class:`History`."""

        async def work(connection: Any) -> Beginning:
            meta: dict[str, str] = dict(await connection.fetch("SELECT key, value FROM meta"))
            offsets: dict[str, str] = dict(await connection.fetch("SELECT source, position FROM offsets"))
            try:
                beginning, skipped = resume(meta, offsets, reserved, stream, follows=follows)
            except ForeignHistoryError as error:
                raise ForeignHistoryError(f"{self._place}: {error}") from None
            await connection.execute("UPDATE tokens SET trades = trades + $1 WHERE $1::bigint > 0", skipped)
            await _put_meta(
                connection,
                stream=beginning.stream,
                numbered=beginning.numbered,
                floor=beginning.floor,
                follows=int(follows),
                finished=0,
            )
            return beginning

        return await self._writer.transact(work)

    async def reserve(self, count: int) -> None:
        """Have it stored that up to ``count`` trades may be numbered; a smaller one than before is left out. Raises
        HistoryError."""
        if self.reserved is not None and count <= self.reserved:
            return
        await self._writer.transact(lambda connection: _put_meta(connection, reserved=count))
        self.reserved = count

    async def commit(self, batch: Batch) -> None:
        """As of :class:`History`."""
        writer = self._writer

        async def work(connection: Any) -> Mapping[str, int]:
            name = f"{writer.epoch}:{batch.number}"
            ids = writer.ids
            if await connection.fetchval("SELECT value FROM meta WHERE key = 'batch'") == name:
                return ids  # it was stored, although that seemed to fail
            unknown = [token.info.address for token in batch.tokens if token.info.address not in ids]
            if unknown:
                first = max(ids.values(), default=0) + 1
                ids = ids | {address: first + n for n, address in enumerate(dict.fromkeys(unknown))}
            tokens = {token.info.address: token for token in batch.tokens}  # a statement changes a row once
            if tokens:
                rows = [token_row(ids[address], token) for address, token in tokens.items()]
                await connection.execute(_PUT_TOKENS, *map(list, zip(*rows, strict=True)))
            if batch.trades:
                await connection.copy_records_to_table("trades", records=_paced(trade_rows(ids, batch.trades)))
            await _put_bars(connection, ids, batch)
            if batch.offsets:
                await connection.execute(_PUT_OFFSETS, list(batch.offsets), list(batch.offsets.values()))
            finished = int(batch.is_last)
            await _put_meta(connection, batch=name, numbered=batch.numbered, version=batch.version, finished=finished)
            return ids

        writer.ids = dict(await writer.transact(work))

    async def prune(self) -> int:
        """As of :class:`History`."""
        retention, writer = self._retention, self._writer
        deleted = await writer.transact(lambda connection: drop_chunks(connection, retention))
        for piece in (prune_bars, prune_trades):
            while True:  # in pieces, each a transaction of its own: batches go in between
                count = await writer.transact(partial(piece, retention=retention))
                deleted += count
                if count < PRUNED_AT_ONCE:
                    break
        return deleted

    async def close(self) -> None:
        """As of :class:`History`."""
        await super().close()
        await self._writer.close()


class PostgresReservation:
    """See :class:`~tokenwire_server.history.port.Reservation`: the bound stands in the database, which is never
    waited for when numbers have run out."""

    ahead: Final = NUMBERS_AHEAD

    def __init__(self, history: PostgresHistory) -> None:
        self._history = history

    @property
    def upto(self) -> int | None:
        """What is known to be stored."""
        return self._history.reserved

    async def reserve(self, count: int) -> None:
        """As of :class:`Reservation`."""
        await self._history.reserve(count)

    def reserve_now(self, count: int) -> None:
        """As of :class:`Reservation`."""
        if self.upto is None or count > self.upto:
            raise HistoryError("all that the database was asked for are used, and more are not reserved yet")

    def close(self) -> None:
        """Nothing is held here."""


async def _put_meta(connection: Any, **values: object) -> None:
    await connection.execute(_PUT_META, list(values), list(map(str, values.values())))


async def _put_bars(connection: Any, ids: Mapping[str, int], batch: Batch) -> None:
    if not batch.bars and not batch.late:
        return
    stored = await _stored(connection, ids, batch.late)

    def rows() -> Iterator[Row]:
        for (address, interval_ms), bars in batch.bars.items():
            late = batch.late.get((address, interval_ms), {})  # a statement changes a row once
            yield from bar_rows(ids[address], interval_ms, (bar for bar in bars.values() if bar.open_ms not in late))
        for (address, interval_ms), late in batch.late.items():
            merged = merge_late(stored.get((ids[address], interval_ms), ()), late)
            yield from bar_rows(ids[address], interval_ms, merged)

    await connection.copy_records_to_table("staged_bars", records=_paced(rows()))
    await connection.execute(_PUT_BARS)


async def _paced(rows: Iterable[Row]) -> AsyncIterator[Row]:
    """So that what else there is to do need not wait until all of them are encoded."""
    for n, row in enumerate(rows, 1):
        yield row
        if n % ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)


async def _stored(
    connection: Any, ids: Mapping[str, int], late: Mapping[Series, Mapping[int, Bar]]
) -> dict[tuple[int, int], list[Bar]]:
    """The stored bars that begin when those of ``late`` do, by token and length."""
    keys = [(ids[address], interval_ms, open_ms) for (address, interval_ms), bars in late.items() for open_ms in bars]
    if not keys:
        return {}
    found: dict[tuple[int, int], list[Bar]] = {}
    for token, interval_ms, *row in await connection.fetch(_STORED_BARS, *map(list, zip(*keys, strict=True))):
        found.setdefault((token, interval_ms), []).append(bar_of(row))
    return found
