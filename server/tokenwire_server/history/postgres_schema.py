"""The tables of the PostgreSQL history, how they came to be, and how rows become records and back.

Decimals are ``numeric`` without bounds: exact. Times are ``timestamptz`` where people look for them, and Unix ms here.
A bar's key is (token, interval, beginning), so storing it again replaces it. Where TimescaleDB is, bars and trades are
hypertables: a key then has to contain the time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import NumberedTrade, StoredToken
from tokenwire_server.market.trades import Side, TokenInfo, Trade

__all__ = [
    "BAR_COLUMNS", "MIGRATIONS", "STAGED", "TOKEN_COLUMNS", "TRADE_COLUMNS", "VERSION", "Row", "bar_of", "bar_rows",
    "engine_of", "migrate", "timescale_schema", "token_of", "token_row", "trade_of", "trade_rows",
]  # fmt: skip

_NUMBERS: Final = "numeric NOT NULL"
CHUNK: Final = "7 days"  # of time in each part of a hypertable

MIGRATIONS: Final[Mapping[int, Sequence[str]]] = {
    1: (
        "CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL)",
        "CREATE TABLE writer (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL,"
        " holder text NOT NULL, since timestamptz NOT NULL DEFAULT now())",
        "INSERT INTO writer (epoch, holder) VALUES (0, 'nobody')",
        'CREATE TABLE tokens (id bigint PRIMARY KEY, address text COLLATE "C" NOT NULL UNIQUE, symbol text NOT NULL,'
        " name text NOT NULL, chain text NOT NULL, supply numeric, source text NOT NULL, trades bigint NOT NULL,"
        f" now_ms bigint NOT NULL, price {_NUMBERS}, price_ms bigint NOT NULL)",
        "CREATE TABLE bars (token bigint NOT NULL, interval_ms bigint NOT NULL, open_time timestamptz NOT NULL,"
        f" open {_NUMBERS}, high {_NUMBERS}, low {_NUMBERS}, close {_NUMBERS}, volume {_NUMBERS}, turnover {_NUMBERS},"
        f" buy_volume {_NUMBERS}, buy_turnover {_NUMBERS}, trades bigint NOT NULL, first_time timestamptz NOT NULL,"
        " last_time timestamptz NOT NULL, revision bigint NOT NULL, PRIMARY KEY (token, interval_ms, open_time))",
        'CREATE TABLE trades (token bigint NOT NULL, number bigint NOT NULL, trade_id text COLLATE "C" NOT NULL,'
        f" price {_NUMBERS}, amount {_NUMBERS}, side text NOT NULL, time timestamptz NOT NULL,"
        " PRIMARY KEY (token, number, time))",
        "CREATE INDEX trades_by_id ON trades (token, trade_id)",
        "CREATE TABLE offsets (source text PRIMARY KEY, position text NOT NULL)",
    ),
}
"""By version, in order; what was released is never changed."""

VERSION: Final = max(MIGRATIONS)

_HYPERTABLES: Final[Mapping[str, str]] = {"bars": "open_time", "trades": "time"}

TOKEN_COLUMNS: Final = "address, symbol, name, chain, supply, source, trades, now_ms, price, price_ms"  # noqa: S105
BAR_COLUMNS: Final = (
    "open_time, open, high, low, close, volume, turnover, buy_volume, buy_turnover, trades, first_time, last_time,"
    " revision"
)
TRADE_COLUMNS: Final = "number, trade_id, price, amount, side, time"

STAGED: Final = "CREATE TEMPORARY TABLE staged_bars (LIKE bars) ON COMMIT DELETE ROWS"

Row = tuple[Any, ...]


async def migrate(connection: Any, place: PostgresPlace) -> None:
    """Make the tables, or bring older ones up to date, in one transaction; the connection holds the writer's lock.

    Raises:
        HistoryError: they are of a newer version or of another program, or texts there are not UTF-8.
    """
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise HistoryError(f"the database of {place} has the encoding {encoding}; make one with ENCODING 'UTF8'")
    found = await version_of(connection, place)
    if found == VERSION:
        return
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        if found == 0:
            if await connection.fetchval("SELECT to_regnamespace($1)", f'"{place.schema}"') is None:
                await connection.execute(f'CREATE SCHEMA "{place.schema}"')
            await connection.execute(
                "CREATE TABLE migrations (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
            )
        for version in range(found + 1, VERSION + 1):
            for statement in MIGRATIONS[version]:
                await connection.execute(statement)
            await connection.execute("INSERT INTO migrations (version) VALUES ($1)", version)
        if found == 0:
            await _make_hypertables(connection)


async def version_of(connection: Any, place: PostgresPlace) -> int:
    """The version of the tables; 0: there are none.

    Raises:
        HistoryError: they are of a newer version or of another program.
    """
    tables = await connection.fetchval("SELECT array_agg(tablename) FROM pg_tables WHERE schemaname = $1", place.schema)
    if not tables:
        return 0
    if "migrations" not in tables or "writer" not in tables:
        raise HistoryError(f"{place} holds tables of another program; name another schema with TIMESCALE_SCHEMA")
    version: int = await connection.fetchval("SELECT max(version) FROM migrations")
    if version > VERSION:
        raise HistoryError(
            f"{place} was written by a newer version (format {version}, this one knows {VERSION}); upgrade, or name "
            "another schema with TIMESCALE_SCHEMA"
        )
    return version


async def _make_hypertables(connection: Any) -> None:
    """If TimescaleDB is there, or can be had."""
    if not await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
        return
    if await timescale_schema(connection) is None:
        try:
            async with connection.transaction():  # a savepoint: the user may not be allowed to, or it is not preloaded
                await connection.execute("CREATE EXTENSION timescaledb WITH SCHEMA public")
        except asyncpg.PostgresError:
            return
    schema = await timescale_schema(connection)
    for table, column in _HYPERTABLES.items():
        await connection.execute(
            f"SELECT {schema}.create_hypertable('{table}', {schema}.by_range('{column}', INTERVAL '{CHUNK}'),"
            " if_not_exists => true)"
        )


async def timescale_schema(connection: Any) -> str | None:
    """Where the functions of TimescaleDB are, quoted; None without it."""
    name: str | None = await connection.fetchval(
        "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
        " WHERE extname = 'timescaledb'"
    )
    return name


async def engine_of(connection: Any) -> str:
    """What the tables are: ``timescaledb 2.23.0, postgresql 17.5``, or ``postgresql 15.18`` alone."""
    server = str(await connection.fetchval("SHOW server_version")).partition(" ")[0]
    version = await connection.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    if version is None or not await connection.fetchval(
        "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
        " AND hypertable_name = 'bars'"
    ):
        return f"postgresql {server}"
    return f"timescaledb {version}, postgresql {server}"


def token_row(number: int, token: StoredToken) -> Row:
    """With the id before ``TOKEN_COLUMNS``."""
    info = token.info
    return (
        *(number, info.address, info.symbol, info.name, info.chain, info.supply),
        *(token.source, token.trades, token.now_ms, token.price, token.price_ms),
    )


def token_of(row: Sequence[Any]) -> StoredToken:
    """From the order of ``TOKEN_COLUMNS``."""
    address, symbol, name, chain, supply, source, trades, now_ms, price, price_ms = row
    return StoredToken(TokenInfo(address, symbol, name, chain, supply), source, trades, now_ms, price, price_ms)


def bar_rows(token: int, interval_ms: int, bars: Iterable[Bar]) -> Iterator[Row]:
    """With the key before ``BAR_COLUMNS``."""
    for bar in bars:
        yield (
            *(token, interval_ms, bar.open_ms, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover),
            *(bar.buy_volume, bar.buy_turnover, bar.trades, bar.first_ms, bar.last_ms, bar.revision),
        )


def bar_of(row: Sequence[Any]) -> Bar:
    """From the order of ``BAR_COLUMNS``."""
    return Bar(*row)


def trade_rows(ids: Mapping[str, int], trades: Mapping[str, Sequence[NumberedTrade]]) -> Iterator[Row]:
    """With the token before ``TRADE_COLUMNS``."""
    for address, numbered in trades.items():
        token = ids[address]
        for number, trade in numbered:
            yield token, number, trade.trade_id, trade.price, trade.amount, trade.side.value, trade.time_ms


def trade_of(address: str, row: Sequence[Any]) -> NumberedTrade:
    """From the order of ``TRADE_COLUMNS``."""
    number, trade_id, price, amount, side, time_ms = row
    return NumberedTrade(number, Trade(address, trade_id, price, amount, Side(side), time_ms))
