"""The history in one SQLite file: the default, with nothing to install.

One thread writes, a transaction for each batch; another reads what was last committed (WAL). What a commit returned
for survives the end of the process and of the machine (``synchronous=FULL``).
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from tokenwire_server.history.beginning import resume
from tokenwire_server.history.late_bars import merge_late
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.sqlite_schema import (
    APPLICATION_ID,
    BAR_COLUMNS,
    SCHEMA,
    TOKEN_COLUMNS,
    TRADE_COLUMNS,
    VERSION,
    Row,
    bar_of,
    bar_rows,
    insert_many,
    token_of,
    token_row,
    trade_of,
    trade_rows,
)
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, Beginning, NumberedTrade, StoredToken
from tokenwire_server.market.retention import Retention

__all__ = ["FILE_NAME", "SqliteHistory", "connect", "explained"]

FILE_NAME: Final = "history.sqlite3"

_BUSY_MS: Final = 2_000
_MAX_WAL_BYTES: Final = 64 * 1_048_576
_MAX_CHECKED_BYTES: Final = 64 * 1_048_576  # a larger file isn't read as a whole at the start
_PRUNED_AT_ONCE: Final = 5_000
_TOKEN_ID: Final = "(SELECT id FROM tokens WHERE address = ?)"  # noqa: S105 - a subquery

_PUT_TOKEN: Final = (
    f"INSERT INTO tokens ({TOKEN_COLUMNS}) VALUES ({', '.join('?' * 10)}) ON CONFLICT (address) DO UPDATE SET"  # noqa: S608
    " symbol = excluded.symbol, name = excluded.name, supply = excluded.supply, source = excluded.source,"
    " trades = excluded.trades, now_ms = excluded.now_ms, price = excluded.price, price_ms = excluded.price_ms"
)
_PUT_BARS: Final = f"INSERT OR REPLACE INTO bars (token, interval_ms, {BAR_COLUMNS})"
_PUT_TRADES: Final = f"INSERT INTO trades (token, {TRADE_COLUMNS})"
_PUT_OFFSET: Final = "INSERT OR REPLACE INTO offsets (source, position) VALUES (?, ?)"
_PUT_META: Final = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"

T = TypeVar("T")


class SqliteHistory:
    """See :class:`~tokenwire_server.history.port.History`. Made by :meth:`open`."""

    engine: Final = f"sqlite {sqlite3.sqlite_version}"

    def __init__(
        self, path: Path, writing: sqlite3.Connection, reading: sqlite3.Connection, retention: Retention
    ) -> None:
        self._path = path
        self._writing = writing
        self._reading = reading
        self._retention = retention
        self._writer = ThreadPoolExecutor(1, "history-write")
        self._reader = ThreadPoolExecutor(1, "history-read")
        self._ids: dict[str, int] = {}
        self._life = 0

    @classmethod
    async def open(cls, folder: Path, retention: Retention | None = None) -> "SqliteHistory":
        """Open the history in ``folder``, which is made if there is none.

        Raises:
            HistoryError: the folder can't be written, the file is damaged, none of ours or of a newer version.
        """
        return await asyncio.to_thread(cls._open, folder, retention or Retention())

    @classmethod
    def _open(cls, folder: Path, retention: Retention) -> "SqliteHistory":
        path = folder / FILE_NAME
        opened: list[sqlite3.Connection] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened.append(connect(path))
            _prepare(opened[0], path)
            opened.append(connect(path))
            opened[1].execute("PRAGMA query_only = ON")
            history = cls(path, opened[0], opened[1], retention)
            history._ids = dict(opened[0].execute("SELECT address, id FROM tokens"))
            return history
        except (OSError, sqlite3.Error, HistoryError) as error:
            for connection in opened:
                connection.close()
            raise error if isinstance(error, HistoryError) else HistoryError(explained(path, error)) from None

    async def begin(self, reserved: int | None, stream: str, *, follows: bool = False) -> Beginning:
        """As of :class:`History`."""
        return await self._write(lambda: self._begin(reserved, stream, follows))

    async def commit(self, batch: Batch) -> None:
        """As of :class:`History`."""
        await self._write(lambda: self._commit(batch))

    async def tokens(self) -> Sequence[StoredToken]:
        """As of :class:`History`."""
        return list(map(token_of, await self._read(f"SELECT {TOKEN_COLUMNS} FROM tokens ORDER BY id")))  # noqa: S608

    async def bars(
        self, address: str, interval_ms: int, from_ms: int, before_ms: int, limit: int, *, newest: bool = False
    ) -> list[Bar]:
        """As of :class:`History`."""
        sql = (
            f"SELECT {BAR_COLUMNS} FROM bars WHERE token = {_TOKEN_ID} AND interval_ms = ?"  # noqa: S608
            f" AND open_ms >= ? AND open_ms < ? ORDER BY open_ms {'DESC' if newest else 'ASC'} LIMIT ?"
        )
        found = await self._read(sql, address, interval_ms, from_ms, before_ms, limit)
        return list(map(bar_of, reversed(found) if newest else found))

    async def turnovers(self, address: str, interval_ms: int, from_ms: int) -> list[tuple[int, Decimal]]:
        """As of :class:`History`."""
        sql = (
            f"SELECT open_ms, turnover FROM bars WHERE token = {_TOKEN_ID} AND interval_ms = ?"  # noqa: S608
            " AND open_ms >= ? ORDER BY open_ms"
        )
        return [(open_ms, Decimal(text)) for open_ms, text in await self._read(sql, address, interval_ms, from_ms)]

    async def trades(self, address: str, after: int, limit: int) -> list[NumberedTrade]:
        """As of :class:`History`."""
        sql = f"SELECT {TRADE_COLUMNS} FROM trades WHERE token = {_TOKEN_ID} AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        return [trade_of(address, row) for row in await self._read(sql, address, after, limit)]

    async def trades_before(self, address: str, before: int, limit: int) -> list[NumberedTrade]:
        """As of :class:`History`."""
        sql = (
            f"SELECT {TRADE_COLUMNS} FROM trades WHERE token = {_TOKEN_ID} AND number < ?"  # noqa: S608
            " ORDER BY number DESC LIMIT ?"
        )
        return [trade_of(address, row) for row in reversed(await self._read(sql, address, before, limit))]

    async def oldest(self, address: str) -> int | None:
        """As of :class:`History`."""
        found = await self._read(f"SELECT min(number) FROM trades WHERE token = {_TOKEN_ID}", address)  # noqa: S608
        number: int | None = found[0][0]
        return number

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """As of :class:`History`."""
        sql = (
            f"SELECT trade_id FROM trades WHERE token = {_TOKEN_ID}"  # noqa: S608
            " AND trade_id IN (SELECT value FROM json_each(?))"
        )
        return {trade_id for (trade_id,) in await self._read(sql, address, json.dumps(list(ids)))}

    async def prune(self) -> int:
        """As of :class:`History`."""
        deleted = 0
        for sql, parameters in await self._old():
            while True:  # in pieces, each a transaction of its own: batches go in between
                count = await self._write(partial(self._delete, sql, parameters))
                deleted += count
                if count < _PRUNED_AT_ONCE:
                    break
        return deleted

    async def close(self) -> None:
        """As of :class:`History`."""
        loop = asyncio.get_running_loop()
        for pool, connection in ((self._reader, self._reading), (self._writer, self._writing)):
            await loop.run_in_executor(pool, connection.close)
            pool.shutdown()

    # --- in the threads ----------------------------------------------------------------------------------------

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._in(self._writer, work)

    async def _read(self, sql: str, *parameters: object) -> list[Any]:
        def fetch() -> list[Any]:
            with closing(self._reading.execute(sql, parameters)) as found:
                return found.fetchall()

        return await self._in(self._reader, fetch)

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (OSError, sqlite3.Error) as error:
            raise HistoryError(explained(self._path, error)) from None

    def _transact(self, work: Callable[[], T]) -> T:
        connection = self._writing
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            connection.execute("COMMIT")
            return result
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _begin(self, reserved: int | None, stream: str, follows: bool) -> Beginning:
        def work() -> Beginning:
            execute = self._writing.execute
            meta: dict[str, str] = dict(execute("SELECT key, value FROM meta"))
            offsets = dict(execute("SELECT source, position FROM offsets"))
            beginning, skipped = resume(meta, offsets, reserved, stream, follows=follows)
            if skipped:
                execute("UPDATE tokens SET trades = trades + ?", (skipped,))
            self._life = int(meta.get("life", 0)) + 1
            self._put_meta(
                stream=beginning.stream,
                numbered=beginning.numbered,
                floor=beginning.floor,
                follows=int(follows),
                life=self._life,
                finished=0,
            )
            return beginning

        return self._transact(work)

    def _commit(self, batch: Batch) -> None:
        connection = self._writing
        token = f"{self._life}:{batch.number}"
        if connection.execute("SELECT 1 FROM meta WHERE key = 'batch' AND value = ?", (token,)).fetchone():
            return  # it was stored, although that seemed to fail

        def work() -> Mapping[str, int]:
            connection.executemany(_PUT_TOKEN, map(token_row, batch.tokens))
            ids = self._ids
            unknown = [stored.info.address for stored in batch.tokens if stored.info.address not in ids]
            if unknown:
                sql = "SELECT address, id FROM tokens WHERE address IN (SELECT value FROM json_each(?))"
                ids = ids | dict(connection.execute(sql, (json.dumps(unknown),)))
            insert_many(connection, _PUT_TRADES, 7, trade_rows(ids, batch.trades))
            rows: list[Row] = []
            for (address, interval_ms), bars in batch.bars.items():
                rows += bar_rows(ids[address], interval_ms, bars.values())
            for (address, interval_ms), bars in batch.late.items():
                rows += bar_rows(ids[address], interval_ms, self._merged(ids[address], interval_ms, bars))
            insert_many(connection, _PUT_BARS, 15, rows)
            connection.executemany(_PUT_OFFSET, batch.offsets.items())
            finished = int(batch.is_last)
            self._put_meta(batch=token, numbered=batch.numbered, version=batch.version, finished=finished)
            return ids

        self._ids = dict(self._transact(work))

    def _merged(self, token: int, interval_ms: int, late: Mapping[int, Bar]) -> list[Bar]:
        sql = (
            f"SELECT {BAR_COLUMNS} FROM bars WHERE token = ? AND interval_ms = ?"  # noqa: S608
            " AND open_ms IN (SELECT value FROM json_each(?))"
        )
        stored = map(bar_of, self._writing.execute(sql, (token, interval_ms, json.dumps(list(late)))))
        return merge_late(stored, late)

    def _put_meta(self, **values: object) -> None:
        self._writing.executemany(_PUT_META, [(key, str(value)) for key, value in values.items()])

    async def _old(self) -> list[tuple[str, tuple[object, ...]]]:
        """What deletes a piece of everything that is older than it is kept."""
        work: list[tuple[str, tuple[object, ...]]] = []
        for token, now_ms in await self._read("SELECT id, now_ms FROM tokens"):
            for interval_ms, kept_ms in self._retention.bars_ms.items():
                sql = (
                    "DELETE FROM bars WHERE (token, interval_ms, open_ms) IN (SELECT token, interval_ms, open_ms FROM"
                    " bars WHERE token = ? AND interval_ms = ? AND open_ms < ? LIMIT ?)"
                )
                work.append((sql, (token, interval_ms, now_ms - kept_ms, _PRUNED_AT_ONCE)))
            if self._retention.trades_ms is not None:
                # In order of arrival, of which the times are nearly an order: up to the first that is kept.
                sql = (
                    "DELETE FROM trades WHERE token = ?1 AND number IN (SELECT number FROM trades WHERE token = ?1 AND"
                    " number < coalesce((SELECT number FROM trades WHERE token = ?1 AND time_ms >= ?2 ORDER BY number"
                    " LIMIT 1), 9223372036854775807) ORDER BY number LIMIT ?3)"
                )
                work.append((sql, (token, now_ms - self._retention.trades_ms, _PRUNED_AT_ONCE)))
        return work

    def _delete(self, sql: str, parameters: tuple[object, ...]) -> int:
        return self._transact(lambda: self._writing.execute(sql, parameters).rowcount)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection for whichever thread uses it alone; transactions are begun by hand."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_MS / 1_000, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("synchronous = FULL", "cache_size = -16384", f"journal_size_limit = {_MAX_WAL_BYTES}"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, and see whether an old one can be used."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise HistoryError(f"{path} is a database of another program; choose another directory with --data DIR")
    if version > VERSION:
        raise HistoryError(
            f"{path} was written by a newer version (format {version}, this one knows {VERSION}); upgrade, or choose "
            "another directory with --data DIR"
        )
    if tables and path.stat().st_size <= _MAX_CHECKED_BYTES:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"malformed: {verdict}")
    connection.execute("PRAGMA journal_mode = WAL")
    if not tables:
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")


def explained(path: Path, error: Exception) -> str:
    """What is wrong with the file, and what to do about it, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    lower = text.lower()
    if "full" in lower or "no space" in lower:
        advice = "free some space"
    elif "locked" in lower or "busy" in lower:
        advice = "another program writes it: let it finish"
    elif "malformed" in lower or "not a database" in lower or "corrupt" in lower:
        advice = "the file is damaged: put a copy in its place, or move it away to begin anew"
    elif "readonly" in lower or "read-only" in lower or "unable to open" in lower or "denied" in lower:
        advice = "check the directory and its permissions"
    else:
        advice = "check the disk"
    return f"the history {path} can't be used: {' '.join(text.split())[:200]}; {advice}"
