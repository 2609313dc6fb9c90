"""How fast a loader catches up: ``python -m loadtests.bench.loader_store`` does one run, from Kafka into PostgreSQL.

``KAFKA_BOOTSTRAP_SERVERS``, ``TIMESCALE_HOST`` and their like name the engines. What a processor makes of generated
trades is written to topics of their own before the clock starts; topics and schema are dropped afterwards.
"""

import argparse
import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import uvloop
from confluent_kafka.admin import AdminClient

from loadtests.bench.postgres_store import drop
from loadtests.history_speed import SOURCE, generated
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.history.postgres import PostgresHistory
from tokenwire_server.history.postgres_place import place_of
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.roles import open_bus
from tokenwire_server.settings import Settings, load
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.loader import Loader
from tokenwire_server.stream.records import encode
from tokenwire_server.stream.topics import Topics, partition_of

__all__ = ["loaded", "measure_loader"]

SCHEMA: Final = "tokenwire_bench"
TOKENS: Final = 100
TRANSACTION: Final = 2_000  # trades
_LOOK_S: Final = 0.01


def topics_of_a_run(partitions: int) -> Topics:
    """Names that nobody else has."""
    run = f"bench-{secrets.token_hex(4)}-"
    names = Topics()
    return Topics(
        raw=run + names.raw,
        log=run + names.log,
        bars=run + names.bars,
        tokens=run + names.tokens,
        positions=run + names.positions,
        rejects=run + names.rejects,
        partitions=partitions,
    )


async def written(bus: KafkaBus, topics: Topics, trades: Sequence[Trade], settings: Settings) -> int:
    """Have the log and the bars of these trades in the topics; how many records that are."""
    await bus.ensure(topics.specs())
    plan = BarPlan(parse_intervals(settings.bar_intervals), settings.max_history)
    folds = [Fold(plan, settings.max_tokens) for _ in range(topics.partitions)]
    for address in dict.fromkeys(trade.address for trade in trades):
        fold = folds[partition_of(address, topics.partitions)]
        fold.feed(raw.Tokens(SOURCE, (TokenInfo(address, address),)), trades[-1].time_ms)
    writer = bus.writer(topics.log)
    records = 0
    for at in range(0, len(trades), TRANSACTION):
        piece = trades[at : at + TRANSACTION]
        for trade in piece:
            fold = folds[partition_of(trade.address, topics.partitions)]
            fold.feed(raw.Trades(SOURCE, (trade,)), trade.time_ms)
        outgoing: list[Outgoing] = []
        for number, fold in enumerate(folds):
            fold.feed(raw.Clock(SOURCE, piece[-1].time_ms), piece[-1].time_ms)
            output = fold.take()
            log, bars = Place(topics.log, number), Place(topics.bars, number)
            outgoing += (Outgoing(log, key.encode(), encode(logged)) for key, logged in output.log)
            outgoing += (Outgoing(bars, key.encode(), encode(bar)) for key, bar in output.bars)
        await writer.commit(outgoing)
        records += len(outgoing)
    await writer.close()
    return records


async def measure_loader(bus: KafkaBus, topics: Topics, settings: Settings) -> dict[str, Any]:
    """Load all there is; rows a second from the start of the loader to its last commit."""
    place = place_of(settings)
    loader = Loader(bus, topics, lambda: PostgresHistory.open(place, settings.retention))
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    loading = asyncio.create_task(loader.run())
    try:
        while not loading.done() and not ((lags := loader.lags()) and loader.batches and not any(lags.values())):
            await asyncio.sleep(_LOOK_S)
        seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    finally:
        loader.close()
        await loading
    rows = loader.rows["trades"] + loader.rows["bars"]
    return {
        "run": "loader",
        "rows": rows,
        "seconds": seconds,
        "rows_per_s": int(rows / seconds),
        "trades_per_s": int(loader.rows["trades"] / seconds),
        "records": sum(loader.records.values()),
        "batches": loader.batches,
        "cpu_s": cpu_s,
    }


async def loaded(settings: Settings, count: int, rate: float) -> dict[str, Any]:
    """Write ``count`` trades of ``rate`` a second of event time, then load them."""
    bus = open_bus(settings, "the bench")
    topics = topics_of_a_run(settings.kafka_partitions)
    place = place_of(settings)
    await drop(place)
    try:
        await written(bus, topics, list(islice(generated(TOKENS, rate), count)), settings)
        return await measure_loader(bus, topics, settings)
    finally:
        await drop(place)
        admin = AdminClient({"bootstrap.servers": str(settings.kafka_bootstrap_servers), **settings.kafka_options})
        admin.delete_topics([topic.name for topic in topics.specs()])
        admin.poll(1)
        await bus.close()


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=100_000, help="how many are loaded")
    parser.add_argument("--rate", type=float, default=20_000.0, help="trades a second of event time")
    chosen = parser.parse_args()
    settings = load().model_copy(update={"data": None, "timescale_schema": SCHEMA})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(loaded(settings, chosen.trades, chosen.rate))), flush=True)


if __name__ == "__main__":
    main()
