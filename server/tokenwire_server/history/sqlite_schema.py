"""The tables of the SQLite history, and how rows become records and back.

Decimals are stored as text, exactly. A bar's key is (token, interval, beginning), so storing it again replaces it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import NumberedTrade, StoredToken
from tokenwire_server.market.trades import Side, TokenInfo, Trade

__all__ = [
    "APPLICATION_ID", "BAR_COLUMNS", "SCHEMA", "TOKEN_COLUMNS", "TRADE_COLUMNS", "VERSION", "Row", "bar_of", "bar_rows",
    "insert_many", "token_of", "token_row", "trade_of", "trade_rows",
]  # fmt: skip

APPLICATION_ID: Final = 0x746F6B77  # "tokw": a file of this program
VERSION: Final = 1

SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE tokens (id INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE, symbol TEXT NOT NULL,"
    " name TEXT NOT NULL, chain TEXT NOT NULL, supply TEXT, source TEXT NOT NULL, trades INTEGER NOT NULL,"
    " now_ms INTEGER NOT NULL, price TEXT NOT NULL, price_ms INTEGER NOT NULL)",
    "CREATE TABLE bars (token INTEGER NOT NULL, interval_ms INTEGER NOT NULL, open_ms INTEGER NOT NULL,"
    " open TEXT NOT NULL, high TEXT NOT NULL, low TEXT NOT NULL, close TEXT NOT NULL,"
    " volume TEXT NOT NULL, turnover TEXT NOT NULL, buy_volume TEXT NOT NULL, buy_turnover TEXT NOT NULL,"
    " trades INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, revision INTEGER NOT NULL,"
    " PRIMARY KEY (token, interval_ms, open_ms)) WITHOUT ROWID",
    "CREATE TABLE trades (token INTEGER NOT NULL, number INTEGER NOT NULL, trade_id TEXT NOT NULL,"
    " price TEXT NOT NULL, amount TEXT NOT NULL, side TEXT NOT NULL, time_ms INTEGER NOT NULL,"
    " PRIMARY KEY (token, number)) WITHOUT ROWID",
    "CREATE INDEX trades_by_id ON trades (token, trade_id)",
    "CREATE TABLE offsets (source TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID",
)

TOKEN_COLUMNS: Final = "address, symbol, name, chain, supply, source, trades, now_ms, price, price_ms"  # noqa: S105
BAR_COLUMNS: Final = (
    "open_ms, open, high, low, close, volume, turnover, buy_volume, buy_turnover, trades, first_ms, last_ms, revision"
)
TRADE_COLUMNS: Final = "number, trade_id, price, amount, side, time_ms"

_CHUNKS: Final = (512, 64, 8, 1)

Row = tuple[Any, ...]


def insert_many(connection: sqlite3.Connection, statement: str, width: int, rows: Sequence[Row]) -> None:
    """Insert rows of ``width`` columns, many with each statement.

    A thread gives up the interpreter for every statement, and gets it back only when another pauses; a statement for
    each row would leave a busy event loop and this thread waiting for each other all the time.
    """
    at = 0
    row = f"({', '.join('?' * width)})"
    for size in _CHUNKS:
        sql = f"{statement} VALUES {', '.join([row] * size)}"
        while len(rows) - at >= size:
            connection.execute(sql, [value for each in rows[at : at + size] for value in each])
            at += size


def token_row(token: StoredToken) -> Row:
    """In the order of ``TOKEN_COLUMNS``."""
    info = token.info
    supply = None if info.supply is None else str(info.supply)
    return (
        *(info.address, info.symbol, info.name, info.chain, supply),
        *(token.source, token.trades, token.now_ms, str(token.price), token.price_ms),
    )


def token_of(row: Row) -> StoredToken:
    """From the order of ``TOKEN_COLUMNS``."""
    address, symbol, name, chain, supply, source, trades, now_ms, price, price_ms = row
    info = TokenInfo(address, symbol, name, chain, None if supply is None else Decimal(supply))
    return StoredToken(info, source, trades, now_ms, Decimal(price), price_ms)


def bar_rows(token: int, interval_ms: int, bars: Iterable[Bar]) -> Iterator[Row]:
    """With the key before ``BAR_COLUMNS``."""
    for bar in bars:
        yield (
            *(token, interval_ms, bar.open_ms, str(bar.open), str(bar.high), str(bar.low), str(bar.close)),
            *(str(bar.volume), str(bar.turnover), str(bar.buy_volume), str(bar.buy_turnover)),
            *(bar.trades, bar.first_ms, bar.last_ms, bar.revision),
        )


def bar_of(row: Row) -> Bar:
    """From the order of ``BAR_COLUMNS``."""
    open_ms, price, high, low, close, volume, turnover, buy_volume, buy_turnover, *rest = row
    return Bar(
        *(open_ms, Decimal(price), Decimal(high), Decimal(low), Decimal(close), Decimal(volume), Decimal(turnover)),
        *(Decimal(buy_volume), Decimal(buy_turnover), *rest),
    )


def trade_rows(ids: Mapping[str, int], trades: Mapping[str, Sequence[NumberedTrade]]) -> list[Row]:
    """With the token before ``TRADE_COLUMNS``."""
    return [
        (ids[address], number, trade.trade_id, str(trade.price), str(trade.amount), trade.side.value, trade.time_ms)
        for address, numbered in trades.items()
        for number, trade in numbered
    ]


def trade_of(address: str, row: Row) -> NumberedTrade:
    """From the order of ``TRADE_COLUMNS``."""
    number, trade_id, price, amount, side, time_ms = row
    return NumberedTrade(number, Trade(address, trade_id, Decimal(price), Decimal(amount), Side(side), time_ms))
