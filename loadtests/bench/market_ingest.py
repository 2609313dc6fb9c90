"""M1: how many trades a second one core takes in, nothing stored. ``python -m loadtests.bench.market_ingest``.

The server is the real one, put together as always and listening, with nobody connected; trades are handed to its
pipeline as a source hands them over, in frames of ten. Counted is the CPU time of these calls alone. The naive program
is handed the same trades; at the end both must have the same open bars.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtests.bench.market_feed import SOURCE, NaiveMarket, frames, infos, trades
from loadtests.bench.market_rows import Figure, MarketRow
from tokenwire_server.app import running
from tokenwire_server.market.trades import Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import configure_logging

__all__ = ["Ingest", "ingest_row"]

TOKENS: Final = 100
WARM_TRADES: Final = 10_000
CHUNK_TRADES: Final = 10_000  # made between two counted stretches
PER_S: Final = {"busy": 2_000.0, "sparse": 50.0}
"""Trades a second of event time: 20 of each token; or one of each in two seconds, so that nearly all open a bar."""


@dataclass(frozen=True)
class Ingest:
    """One run. ``bars`` is how many bars were closed, ``versions`` how many were made; ``fault`` says what is wrong
    with the outcome."""

    trades: int
    cpu_s: float
    wall_s: float
    bars: int = 0
    versions: int = 0
    fault: str = ""


def _feed(take: Callable[[Sequence[Trade]], None], count: int, per_s: float) -> Ingest:
    source = trades(TOKENS, per_s)
    for frame in frames(source, WARM_TRADES):
        take(frame)
    cpu = wall = 0
    fed = 0
    while fed < count:
        chunk = frames(source, min(CHUNK_TRADES, count - fed))
        cpu_mark, wall_mark = time.thread_time_ns(), time.perf_counter_ns()
        for frame in chunk:
            take(frame)
        cpu += time.thread_time_ns() - cpu_mark
        wall += time.perf_counter_ns() - wall_mark
        fed += sum(map(len, chunk))
    return Ingest(fed, cpu / 1e9, wall / 1e9)


def naive(count: int, per_s: float) -> tuple[Ingest, NaiveMarket]:
    """The straightforward program."""
    market = NaiveMarket()

    def take(frame: Sequence[Trade]) -> None:
        for trade in frame:
            market.take(trade)

    return _feed(take, count, per_s), market


async def ours(count: int, per_s: float) -> Ingest:
    """The pipeline of a running server."""
    quiet: dict[str, Any] = {"port": 0, "drain_s": 0}
    async with running(Settings(**quiet), []) as started:
        pipeline = started.pipeline
        pipeline.tokens(SOURCE, infos(TOKENS))
        closed = 0

        def count_bar(*_: object) -> None:
            nonlocal closed
            closed += 1

        pipeline.bar_listeners.append(count_bar)

        def take(frame: Sequence[Trade]) -> None:
            pipeline.clock(SOURCE, frame[-1].time_ms)
            pipeline.trades(SOURCE, frame)

        gc.collect()
        gc.freeze()  # as the command line does
        found = _feed(take, count, per_s)
        _, oracle = naive(count, per_s)  # the same trades again
        fault = "" if closed else "no bar was closed"
        if pipeline.market.trades != found.trades + WARM_TRADES:
            fault = f"{pipeline.market.trades} of {found.trades + WARM_TRADES} trades were applied"
        return Ingest(
            found.trades, found.cpu_s, found.wall_s, closed, pipeline.market.changes, fault or differs(pipeline, oracle)
        )


def differs(pipeline: Pipeline, oracle: NaiveMarket) -> str:
    """Which open bar is not what the straightforward program has; empty: none is."""
    compared = 0
    for token in pipeline.market:
        for interval in pipeline.bar_plan.intervals:
            bar = pipeline.open_bar(token.address, interval)
            if bar is None:  # none of the running interval's trades has come yet
                continue
            compared += 1
            theirs = oracle.bars.get((token.address, interval.ms, bar.open_ms), {"trades": 0})
            if any(getattr(bar, name) != value for name, value in theirs.items()):
                return f"the open {interval.text} bar of {token.symbol} is not what it should be"
    return "" if compared >= len(pipeline.market) else "hardly a bar is open"


def ingest_row(which: str, load: str, found: Ingest) -> MarketRow:
    """A run as a row."""
    what = {
        "ours": "CPU time of handing trades to the pipeline of a running server without clients: validation, market, "
        "rolling windows, bars of 1s, 1m, 5m, 15m and 1h, numbers and versions, who is to be told; storage and "
        "decoding excluded",
        "naive": "the same trades into a straightforward program of dicts and Decimals, which keeps bars, windows and "
        "versions and tells nobody",
    }[which]
    pace = f"{TOKENS} tokens, {PER_S[load] / TOKENS:g} trades of each a second of event time, 1 % late"
    rate = found.trades / found.cpu_s
    figures = [
        Figure("trades/s of CPU time", rate),
        Figure("us per trade", 1e6 / rate, "us", 2),
        Figure("trades/s of wall time, one core", found.trades / found.wall_s),
        Figure("trades", found.trades),
    ]
    if which == "ours":
        figures += [Figure("bars closed or corrected", found.bars), Figure("versions", found.versions)]
    label = {"ours": f"tokenwire, {load}", "naive": f"naive fold, {load}"}[which]
    return MarketRow("M1", label, "ours" if which == "ours" else "peer", f"{what}; {pace}", figures, {}, found.fault)


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=["ours", "naive"], default="ours")
    parser.add_argument("--load", choices=list(PER_S), default="busy")
    parser.add_argument("--trades", type=int, default=200_000)
    chosen = parser.parse_args()
    configure_logging("error")
    if chosen.program == "naive":
        found, _ = naive(chosen.trades, PER_S[chosen.load])
    else:
        import uvloop

        found = uvloop.run(ours(chosen.trades, PER_S[chosen.load]))
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
