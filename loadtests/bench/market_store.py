"""M3: whether the embedded history keeps up. ``python -m loadtests.bench.market_store`` does one run.

Built on ``loadtests.history_speed``, which feeds a market whose history lies on a real disk. Beside it the naive way:
one transaction for each trade, durable as ours are.
"""

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from loadtests.bench.market_feed import INTERVALS_MS
from loadtests.bench.market_rows import Figure, MarketRow
from loadtests.history_speed import generated, measure
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.trades import Trade

__all__ = ["HELD_SHARE", "MAX_BEHIND_S", "StoreLoad", "store_row"]

TOKENS: Final = 100
HELD_SHARE: Final = 0.97
"""Of the planned rate: what is measured includes the last commit."""
MAX_BEHIND_S: Final = 1.0


@dataclass(frozen=True)
class StoreLoad:
    """``seconds`` at ``rate`` trades a second; ``most`` trades as fast as they go; the naive way for ``naive_s``."""

    rate: float = 20_000.0
    seconds: float = 10.0
    most: int = 300_000
    naive_s: float = 2.0


def naive(folder: Path, trades: Sequence[Trade], seconds: float) -> dict[str, Any]:
    """Each trade is inserted and each of its bars replaced, in a transaction of its own that survives a power cut."""
    connection = sqlite3.connect(folder / "naive.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE trades (address TEXT, id TEXT, price TEXT, amount TEXT, side TEXT, time_ms INTEGER)"
    )
    connection.execute(
        "CREATE TABLE bars (address TEXT, length_ms INTEGER, open_ms INTEGER, close TEXT, "
        "PRIMARY KEY (address, length_ms, open_ms))"
    )
    begin, stored = time.perf_counter(), 0
    for trade in trades:
        price, time_ms = canonical(trade.price), trade.time_ms
        connection.execute("BEGIN")
        row = (trade.address, trade.trade_id, price, canonical(trade.amount), trade.side, time_ms)
        connection.execute("INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?)", row)
        for length_ms in INTERVALS_MS:
            bar = (trade.address, length_ms, time_ms - time_ms % length_ms, price)
            connection.execute("INSERT OR REPLACE INTO bars VALUES (?, ?, ?, ?)", bar)
        connection.execute("COMMIT")
        stored += 1
        if time.perf_counter() - begin >= seconds:
            break
    took = time.perf_counter() - begin
    connection.close()
    return {"run": "naive", "trades": stored, "seconds": took, "rate": stored / took}


def store_row(run: str, load: StoreLoad, found: dict[str, Any]) -> MarketRow:
    """A run as a row."""
    how = (
        "trades and their five lengths of bars, numbers and offsets go into SQLite (WAL, synchronous=FULL) on a disk; "
        f"{TOKENS} tokens, server and writer thread on one core"
    )
    if run == "naive":
        what = "each trade inserted and its five bars replaced in a transaction of its own, WAL, synchronous=FULL"
        return MarketRow("M3", "one INSERT per trade", "peer", what, [Figure("trades/s stored", found["rate"])])
    figures = [
        Figure("trades/s stored", found["rate"]),
        Figure("behind at the end", found["behind_s"], "s", 2),
        Figure("most rows that waited", found["waiting_max"]),
        Figure("loop's longest pause", found["pause_max_ms"], "ms", 1),
        Figure("loop's pause p99", found["pause_p99_ms"], "ms", 1),
        Figure("share of the core", 100 * found["cpu_s"] / max(found["seconds"], 1e-9), "%"),
        Figure("commits", found["commits"]),
        Figure("octets per trade on disk", 1e6 * found["disk_mb"] / max(found["trades"], 1)),
    ]
    series = {"rows that wait, by seconds": [(float(at), float(rows)) for at, rows in found["waiting"]]}
    if run == "fixed":
        what = f"{load.rate:,.0f} trades a second for {load.seconds:g} s: {how}"
        return MarketRow("M3", f"tokenwire at {load.rate:,.0f}/s", "ours", what, figures, series)
    what = f"{load.most:,} trades as fast as they are stored (the feed waits while 50,000 rows do): {how}"
    return MarketRow("M3", "tokenwire, as fast as it goes", "ours", what, figures, series)


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=["fixed", "most", "naive"], default="fixed")
    parser.add_argument("--rate", type=float, default=StoreLoad.rate)
    parser.add_argument("--seconds", type=float, default=StoreLoad.seconds)
    parser.add_argument("--trades", type=int, default=StoreLoad.most)
    parser.add_argument("--folder", type=Path, help="a folder on the disk that is to be measured")
    chosen = parser.parse_args()
    count = int(chosen.rate * chosen.seconds) if chosen.run == "fixed" else chosen.trades
    trades = list(islice(generated(TOKENS, chosen.rate), count))
    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        if chosen.run == "naive":
            found = naive(Path(scratch), trades, chosen.seconds)
        else:
            import uvloop

            rate = chosen.rate if chosen.run == "fixed" else None
            found = asdict(uvloop.run(measure(chosen.run, trades, rate, Path(scratch) / "data")))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
