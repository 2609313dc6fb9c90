"""What of a PostgreSQL history is older than it is kept, and how it is deleted: a piece at a time."""

from typing import Any, Final

from tokenwire_server.history.postgres_schema import timescale_schema
from tokenwire_server.market.retention import Retention

__all__ = ["PRUNED_AT_ONCE", "drop_chunks", "prune_bars", "prune_trades"]

PRUNED_AT_ONCE: Final = 5_000  # rows

_BACK: Final = "timestamptz 'epoch' + (tokens.now_ms - {kept}) * interval '1 millisecond'"

_OLD_BARS: Final = (
    "WITH old AS MATERIALIZED (SELECT found.* FROM tokens"  # noqa: S608 - of constants alone
    " CROSS JOIN unnest($1::bigint[], $2::bigint[]) AS kept (interval_ms, ms) CROSS JOIN LATERAL"
    " (SELECT token, bars.interval_ms, open_time FROM bars WHERE token = tokens.id"
    f" AND bars.interval_ms = kept.interval_ms AND open_time < {_BACK.format(kept='kept.ms')}"
    " ORDER BY open_time LIMIT $3) AS found LIMIT $3)"
    " DELETE FROM bars USING old WHERE bars.token = old.token AND bars.interval_ms = old.interval_ms"
    " AND bars.open_time = old.open_time"
)
# In order of arrival, of which the times are nearly an order: up to the first that is kept.
_OLD_TRADES: Final = (
    "WITH old AS MATERIALIZED (SELECT found.* FROM tokens CROSS JOIN LATERAL"  # noqa: S608
    " (SELECT token, number, time FROM trades WHERE token = tokens.id AND number < coalesce("
    "(SELECT number FROM trades WHERE token = tokens.id"
    f" AND time >= {_BACK.format(kept='$1::bigint')} ORDER BY number LIMIT 1), 9223372036854775807)"
    " ORDER BY number LIMIT $2) AS found LIMIT $2)"
    " DELETE FROM trades USING old WHERE trades.token = old.token AND trades.number = old.number"
    " AND trades.time = old.time"
)
_OLDEST_KEPT: Final = f"SELECT min({_BACK.format(kept='$1::bigint')}) FROM tokens"  # noqa: S608


async def prune_bars(connection: Any, retention: Retention) -> int:
    """Delete at most ``PRUNED_AT_ONCE`` old bars; how many that were."""
    kept = retention.bars_ms
    return _count(await connection.execute(_OLD_BARS, list(kept), list(kept.values()), PRUNED_AT_ONCE))


async def prune_trades(connection: Any, retention: Retention) -> int:
    """Likewise trades."""
    if retention.trades_ms is None:
        return 0
    return _count(await connection.execute(_OLD_TRADES, retention.trades_ms, PRUNED_AT_ONCE))


async def drop_chunks(connection: Any, retention: Retention) -> int:
    """In TimescaleDB, drop the parts of the trades that are old for every token, which costs next to nothing; how many
    rows that were. Not so of the bars: each part holds all lengths, and they are kept for different times."""
    schema = await timescale_schema(connection)
    if schema is None or retention.trades_ms is None:
        return 0
    kept_from = await connection.fetchval(_OLDEST_KEPT, retention.trades_ms)
    if kept_from is None or not await connection.fetchval(
        "SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"
        " AND hypertable_name = 'trades'"
    ):
        return 0
    found = await connection.fetch(
        "SELECT format('%I.%I', chunk_schema, chunk_name), range_end FROM timescaledb_information.chunks"
        " WHERE hypertable_schema = current_schema() AND hypertable_name = 'trades' AND range_end <= $1",
        kept_from,
    )
    if not found:
        return 0
    rows = 0
    for chunk, _ in found:
        rows += await connection.fetchval(f"SELECT count(*) FROM {chunk}")  # noqa: S608 - quoted by format
    await connection.execute(f"SELECT {schema}.drop_chunks('trades', older_than => $1::timestamptz)", kept_from)
    return rows


def _count(tag: str) -> int:
    """Of what PostgreSQL answers: ``DELETE 5``."""
    return int(tag.rpartition(" ")[2])
