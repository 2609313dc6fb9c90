"""What is stored, row by row, read beside a server that writes: in pieces, each a read of its own."""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from tokenwire_server.errors import UserError
from tokenwire_server.history.sqlite import FILE_NAME, connect, explained
from tokenwire_server.history.sqlite_schema import APPLICATION_ID, VERSION

__all__ = ["BAR_FIELDS", "PIECE_ROWS", "TRADE_FIELDS", "ExportToken", "Reader", "StoredReader"]

PIECE_ROWS: Final = 10_000
BAR_FIELDS: Final = (
    "open_ms", "open", "high", "low", "close", "volume", "turnover", "buy_volume", "buy_turnover", "trades", "revision",
)  # fmt: skip
TRADE_FIELDS: Final = ("number", "trade_id", "price", "amount", "side", "time_ms")


class ExportToken(NamedTuple):
    """A stored token. Bars that end by ``now_ms`` are closed."""

    id: int
    address: str
    symbol: str
    now_ms: int


class Reader(Protocol):
    """Reads a history beside whoever writes it. All methods raise UserError if it can't be read."""

    def close(self) -> None:
        """Let go of it."""

    def tokens(self, name: str | None) -> list[ExportToken]:
        """All tokens, or those with this address or symbol."""

    def intervals_ms(self) -> list[int]:
        """The lengths of bars that are stored."""

    def bars(
        self, token: ExportToken, interval_ms: int, from_ms: int, to_ms: int
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Closed bars that begin within ``[from_ms, to_ms]``, ascending, in pieces; the order of ``BAR_FIELDS``."""

    def trades(self, token: ExportToken, from_ms: int, to_ms: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Trades whose time lies within ``[from_ms, to_ms]``, by number, in pieces; the order of ``TRADE_FIELDS``."""


class StoredReader:
    """See :class:`Reader`: of the history in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        if not self._path.is_file():
            raise UserError(f"there is no history in {folder}; name the directory that the server got with --data DIR")
        try:
            self._connection = connect(self._path, read_only=True)
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise UserError(explained(self._path, error)) from None
        if (application, version) != (APPLICATION_ID, VERSION):
            self._connection.close()
            raise UserError(f"{self._path} is no history of this version; was it written by a newer one?")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def tokens(self, name: str | None) -> list[ExportToken]:
        """All tokens, or those with this address or symbol."""
        sql = "SELECT id, address, symbol, now_ms FROM tokens"
        if name is None:
            return [ExportToken(*row) for row in self._rows(f"{sql} ORDER BY id")]
        found = self._rows(f"{sql} WHERE address = ? OR symbol = ? COLLATE NOCASE ORDER BY id", name, name)
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
            f"SELECT {', '.join(BAR_FIELDS)} FROM bars WHERE token = ? AND interval_ms = ? AND open_ms >= ?"  # noqa: S608
            " AND open_ms <= ? ORDER BY open_ms LIMIT ?"
        )
        last_ms = min(to_ms, token.now_ms - interval_ms)
        while rows := self._rows(sql, token.id, interval_ms, from_ms, last_ms, PIECE_ROWS):
            yield rows
            from_ms = rows[-1][0] + 1

    def trades(self, token: ExportToken, from_ms: int, to_ms: int) -> Iterator[Sequence[tuple[Any, ...]]]:
        """As of :class:`Reader`."""
        sql = f"SELECT {', '.join(TRADE_FIELDS)} FROM trades WHERE token = ? AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        number = 0
        while rows := self._rows(sql, token.id, number, PIECE_ROWS):
            number = rows[-1][0]
            yield [row for row in rows if from_ms <= row[-1] <= to_ms]

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise UserError(explained(self._path, error)) from None
