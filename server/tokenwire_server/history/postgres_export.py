"""What is stored in PostgreSQL, row by row, read beside a server that writes: in pieces, each a read of its own."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import asyncpg

from tokenwire_server.errors import UserError
from tokenwire_server.history.export import BAR_FIELDS, PIECE_ROWS, TRADE_FIELDS, ExportToken
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres_place import FAILURES, PostgresPlace, arguments_of, explained, prepare
from tokenwire_server.history.postgres_schema import version_of

__all__ = ["PostgresReader"]

_COLUMNS: Final = {"open_ms": "open_time", "time_ms": "time"}


def _columns(fields: Sequence[str]) -> str:
    return ", ".join(_COLUMNS.get(field, field) for field in fields)


class PostgresReader:
    """See :class:`~tokenwire_server.history.export.Reader`: of the history in ``place``."""

    def __init__(self, place: PostgresPlace) -> None:
        self._place = place
        self._runner = asyncio.Runner()
        try:
            self._connection: Any = self._run(self._connect())
        except BaseException:
            self._runner.close()
            raise

    def close(self) -> None:
        """Let go of the database."""
        self._connection.terminate()
        self._runner.close()

    def tokens(self, name: str | None) -> list[ExportToken]:
        """All tokens, or those with this address or symbol."""
        sql = "SELECT id, address, symbol, now_ms FROM tokens"
        if name is None:
            return [ExportToken(*row) for row in self._rows(f"{sql} ORDER BY id")]
        found = self._rows(f"{sql} WHERE address = $1 OR lower(symbol) = lower($1) ORDER BY id", name)
        if not found:
            raise UserError(f"no stored token has this address or symbol: {name}")
        return [ExportToken(*row) for row in found]

    def intervals_ms(self) -> list[int]:
        """The lengths of bars that are stored."""
        return [ms for (ms,) in self._rows("SELECT DISTINCT interval_ms FROM bars ORDER BY interval_ms")]

    def bars(
        self, token: ExportToken, interval_ms: int, from_ms: int, to_ms: int
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """As of :class:`Reader`."""
        sql = (
            f"SELECT {_columns(BAR_FIELDS)} FROM bars WHERE token = $1 AND interval_ms = $2 AND open_time >= $3"  # noqa: S608
            " AND open_time <= $4 ORDER BY open_time LIMIT $5"
        )
        last_ms = min(to_ms, token.now_ms - interval_ms)
        while rows := self._rows(sql, token.id, interval_ms, from_ms, last_ms, PIECE_ROWS):
            yield rows
            from_ms = rows[-1][0] + 1

    def trades(self, token: ExportToken, from_ms: int, to_ms: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        """As of :class:`Reader`."""
        sql = f"SELECT {_columns(TRADE_FIELDS)} FROM trades WHERE token = $1 AND number > $2 ORDER BY number LIMIT $3"  # noqa: S608
        number = 0
        while rows := self._rows(sql, token.id, number, PIECE_ROWS):
            number = rows[-1][0]
            yield [row for row in rows if from_ms <= row[-1] <= to_ms]

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(**arguments_of(self._place, writes=False))
        await prepare(connection)
        if await version_of(connection, self._place) == 0:
            connection.terminate()
            raise HistoryError(f"there is no history in {self._place}")
        return connection

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return list(map(tuple, self._run(self._connection.fetch(sql, *parameters))))

    def _run(self, work: Any) -> Any:
        try:
            return self._runner.run(work)
        except FAILURES as error:
            raise UserError(str(explained(self._place, error))) from None
        except HistoryError as error:
            raise UserError(str(error)) from None
