"""What is in the database and in the log at the end, as a reader of the history who has everything."""

import json
from collections.abc import Callable, Mapping
from typing import Final

from server.tests.services.postgres import Postgres

from loadtests.distributed.fold import INTERVALS_MS, figures
from loadtests.faults.history import BarDelivered, Entry, Followed, TradeDelivered

__all__ = ["DATABASE_READER", "count_stored", "read_stored"]

DATABASE_READER: Final = "database"


def count_stored(postgres: Postgres, schema: str) -> Mapping[str, int]:
    """Rows of trades and of closed bars; raises ServiceError while the database is away, or has no tables yet."""
    text = postgres.sql(
        f"SELECT (SELECT count(*) FROM {schema}.trades),"
        f" (SELECT count(*) FROM {schema}.bars JOIN {schema}.tokens ON id = token"
        " WHERE extract(epoch FROM open_time) * 1000 + interval_ms <= now_ms);"
    )
    trades, bars = text.split("|")
    return {"trades": int(trades), "bars": int(bars)}


def read_stored(postgres: Postgres, schema: str, addresses: list[str], add: Callable[[Entry], None]) -> None:
    """Tell of all rows: trades in the order of their numbers, bars in that of their beginnings."""
    reader = DATABASE_READER
    for address in addresses:
        for interval_ms in (0, *INTERVALS_MS.values()):
            add(Followed(0, reader, 0, address, interval_ms, True))
    rows = postgres.sql(
        f"SELECT json_build_array(address, number, trade_id) FROM {schema}.trades t JOIN {schema}.tokens ON id = token"
        " ORDER BY token, number, time;"
    )
    for line in rows.splitlines():
        address, number, trade_id = json.loads(line)
        add(TradeDelivered(0, reader, 0, address, number, trade_id))
    rows = postgres.sql(
        "SELECT json_build_object('address', address, 'interval_ms', interval_ms,"
        " 'open_ms', (extract(epoch FROM open_time) * 1000)::bigint, 'open', b.open::text, 'high', high::text,"
        " 'low', low::text, 'close', b.close::text, 'volume', volume::text, 'turnover', turnover::text,"
        " 'buy_volume', buy_volume::text, 'buy_turnover', buy_turnover::text, 'trades', b.trades)"
        f" FROM {schema}.bars b JOIN {schema}.tokens ON id = token"
        " WHERE extract(epoch FROM open_time) * 1000 + interval_ms <= now_ms ORDER BY token, interval_ms, open_time;"
    )
    for line in rows.splitlines():
        row = json.loads(line)
        add(BarDelivered(0, reader, 0, row["address"], row["interval_ms"], row["open_ms"], figures(row)))
