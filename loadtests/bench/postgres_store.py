"""Whether the history in PostgreSQL keeps up: ``python -m loadtests.bench.postgres_store`` does one run.

``TIMESCALE_HOST`` and its like name the server. The same trades and bars as of SQLite (``market_store``), into a schema
of their own that is dropped afterwards; beside it the naive way: an INSERT for each row, a transaction for each trade.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import asyncpg

from loadtests.bench.market_feed import INTERVALS_MS
from loadtests.history_speed import generated, measure
from tokenwire_server.history.postgres_place import PostgresPlace, arguments_of, place_of, prepare
from tokenwire_server.history.service import open_history
from tokenwire_server.market.trades import Trade
from tokenwire_server.settings import Settings, load

__all__ = ["naive", "stored"]

SCHEMA: Final = "tokenwire_bench"
TOKENS: Final = 100


async def naive(place: PostgresPlace, trades: Sequence[Trade], seconds: float) -> dict[str, Any]:
    """Each trade is inserted and each of its bars replaced, by a statement each."""
    connection = await asyncpg.connect(**arguments_of(place, writes=True))
    await prepare(connection)
    await connection.execute(f'CREATE SCHEMA "{place.schema}"')
    await connection.execute(
        "CREATE TABLE trades (address text, id text, price numeric, amount numeric, side text, time timestamptz,"
        " PRIMARY KEY (address, id))"
    )
    await connection.execute(
        "CREATE TABLE bars (address text, length_ms bigint, open_time timestamptz, close numeric,"
        " PRIMARY KEY (address, length_ms, open_time))"
    )
    begin, done = time.perf_counter(), 0
    for trade in trades:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO trades VALUES ($1, $2, $3, $4, $5, $6)",
                *(trade.address, trade.trade_id, trade.price, trade.amount, trade.side.value, trade.time_ms),
            )
            for length_ms in INTERVALS_MS:
                await connection.execute(
                    "INSERT INTO bars VALUES ($1, $2, $3, $4) ON CONFLICT (address, length_ms, open_time)"
                    " DO UPDATE SET close = excluded.close",
                    *(trade.address, length_ms, trade.time_ms - trade.time_ms % length_ms, trade.price),
                )
        done += 1
        if time.perf_counter() - begin >= seconds:
            break
    took = time.perf_counter() - begin
    await connection.close()
    return {"run": "naive", "trades": done, "seconds": took, "rate": done / took}


async def stored(settings: Settings, run: str, trades: Sequence[Trade], rate: float | None) -> dict[str, Any]:
    """Our way, at ``rate`` trades a second (None: as fast as possible), with how many rows that made a second."""
    kept = await open_history(settings)
    assert kept is not None
    found = asdict(await measure(run, trades, rate, None, kept))
    connection = await asyncpg.connect(**arguments_of(place_of(settings), writes=True))
    rows = await connection.fetchval("SELECT (SELECT count(*) FROM trades) + (SELECT count(*) FROM bars)")
    await connection.close()
    return {**found, "rows": rows, "rows_per_s": int(rows / found["seconds"]), "engine": kept.history.engine}


async def drop(place: PostgresPlace) -> None:
    """Leave nothing behind."""
    connection = await asyncpg.connect(**arguments_of(place, writes=True))
    await connection.execute(f'DROP SCHEMA IF EXISTS "{place.schema}" CASCADE')
    await connection.close()


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=["fixed", "most", "naive"], default="most")
    parser.add_argument("--rate", type=float, default=20_000.0, help="trades a second of the run fixed")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long the runs fixed and naive take")
    parser.add_argument("--trades", type=int, default=100_000, help="how many the run most stores")
    chosen = parser.parse_args()
    settings = load().model_copy(update={"data": None, "timescale_schema": SCHEMA})
    place = place_of(settings)
    count = int(chosen.rate * chosen.seconds) if chosen.run == "fixed" else chosen.trades
    trades = list(islice(generated(TOKENS, chosen.rate), count))

    async def once() -> dict[str, Any]:
        await drop(place)
        try:
            if chosen.run == "naive":
                return await naive(place, trades, chosen.seconds)
            return await stored(settings, chosen.run, trades, chosen.rate if chosen.run == "fixed" else None)
        finally:
            await drop(place)

    print(json.dumps(asyncio.run(once())), flush=True)


if __name__ == "__main__":
    main()
