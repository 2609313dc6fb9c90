"""The path through Kafka: ``python -m loadtests.bench.stream_path --run processor|embedded|latency`` does one run.

``processor``: raw trades that are in Kafka already, through one processor, exactly once; trades a second from its first
transaction to its last. ``embedded``: the same records through the same fold without a bus. ``latency``: trades at a
steady rate from a collector's sink through a processor into a gateway's market: from the trade until it is there.

``KAFKA_BOOTSTRAP_SERVERS`` names the brokers; topics are those of one run, and are deleted afterwards.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import uvloop
from confluent_kafka.admin import AdminClient

from loadtests.bench.loader_store import topics_of_a_run
from loadtests.history_speed import SOURCE, generated
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import BusError, Outgoing, Place
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.roles import open_bus
from tokenwire_server.settings import Settings, load
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.follower import Follower
from tokenwire_server.stream.processor import Processor
from tokenwire_server.stream.records import RawEvent, encode, read_raw
from tokenwire_server.stream.topics import Topics

__all__ = ["embedded", "latency", "processed"]

TOKENS: Final = 100
RUN_TRADES: Final = 20  # that a record holds at most: what a busy exchange sends of one token between two commits
COMMIT_RECORDS: Final = 2_000
_LOOK_S: Final = 0.01
_STEP_S: Final = 0.01
_WARM_SHARE: Final = 0.1  # of the trades, at the beginning, are not measured


def records_of(trades: Sequence[Trade], topics: Topics) -> list[Outgoing]:
    """The trades as a collector writes them: runs of one token, in the order of their last trade."""
    found = [
        _outgoing(topics, address, raw.Tokens(SOURCE, (TokenInfo(address, address),)))
        for address in dict.fromkeys(trade.address for trade in trades)
    ]
    runs: dict[str, list[Trade]] = {}
    for trade in trades:
        run = runs.setdefault(trade.address, [])
        run.append(trade)
        if len(run) == RUN_TRADES:
            found.append(_outgoing(topics, trade.address, raw.Trades(SOURCE, tuple(run), run[-1].time_ms)))
            run.clear()
    found += (_outgoing(topics, address, raw.Trades(SOURCE, tuple(run))) for address, run in runs.items() if run)
    return found


def _outgoing(topics: Topics, address: str, event: RawEvent) -> Outgoing:
    return Outgoing(topics.place(topics.raw, address), address.encode(), encode(event))


def plan_of(settings: Settings) -> BarPlan:
    """The lengths of bars that there are."""
    return BarPlan(parse_intervals(settings.bar_intervals), settings.max_history)


async def processed(settings: Settings, count: int) -> dict[str, Any]:
    """One processor over what is in Kafka already."""
    bus, topics = open_bus(settings, "the bench"), topics_of_a_run(settings.kafka_partitions)
    try:
        await bus.ensure(topics.specs())
        records = records_of(list(islice(generated(TOKENS, 20_000.0), count)), topics)
        writer = bus.writer(topics.raw)
        for at in range(0, len(records), COMMIT_RECORDS):
            await writer.commit(records[at : at + COMMIT_RECORDS])
        await writer.close()
        processor = Processor(bus, topics, "bench", plan_of(settings), settings.max_tokens)
        working = asyncio.create_task(processor.run())
        try:
            while not processor.transactions:
                await asyncio.sleep(_LOOK_S)
            begin_s, cpu_s, begun = time.perf_counter(), time.process_time(), processor.raw_records
            while processor.raw_records < len(records) and not working.done():
                await asyncio.sleep(_LOOK_S)
            seconds, cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        trades = count * (len(records) - begun) / len(records)
        return {
            "run": "processor", "trades": int(trades), "seconds": seconds, "trades_per_s": int(trades / seconds),
            "cpu_s": cpu_s, "transactions": processor.transactions, "aborted": processor.aborted,
        }  # fmt: skip
    finally:
        await _delete(bus, topics, settings)


def embedded(settings: Settings, count: int) -> dict[str, Any]:
    """The same records through the same fold, and what it would write is made, without a bus."""
    topics = topics_of_a_run(settings.kafka_partitions)
    records = records_of(list(islice(generated(TOKENS, 20_000.0), count)), topics)
    plan = plan_of(settings)
    folds = [Fold(plan, settings.max_tokens) for _ in range(topics.partitions)]
    now_ms = time.time_ns() // 1_000_000
    begin_s = time.perf_counter()
    written = 0
    for at in range(0, len(records), COMMIT_RECORDS):
        for record in records[at : at + COMMIT_RECORDS]:
            folds[record.place.partition].feed(read_raw(record.value), now_ms)
        for fold in folds:
            output = fold.take()
            written += sum(len(encode(logged)) for _, logged in output.log)
            written += sum(len(encode(bar)) for _, bar in output.bars)
    seconds = time.perf_counter() - begin_s
    return {
        "run": "embedded", "trades": count, "seconds": seconds, "trades_per_s": int(count / seconds), "bytes": written
    }  # fmt: skip


async def latency(settings: Settings, rate: float, seconds: float) -> dict[str, Any]:
    """Trades at ``rate`` a second, from a collector's sink to a gateway's market; milliseconds."""
    bus, topics = open_bus(settings, "the bench"), topics_of_a_run(settings.kafka_partitions)
    loop = asyncio.get_running_loop()
    try:
        await bus.ensure(topics.specs())
        pipeline = Pipeline(
            settings.max_tokens, lambda: int(loop.time() * 1_000), lambda: time.time_ns() // 1_000_000,
            bar_plan=plan_of(settings), is_replica=True,
        )  # fmt: skip
        count = int(rate * seconds)
        delays: list[float] = []
        sent: dict[str, float] = {}
        pipeline.trade_listeners.append(
            lambda token, number, trade: delays.append((loop.time() - sent.pop(trade.trade_id)) * 1_000)
        )
        sink = BusSink(bus, topics, "bench")
        follower = Follower(bus, topics, await bus.lineage(topics.log), pipeline.market, pipeline)
        processor = Processor(bus, topics, "bench", plan_of(settings), settings.max_tokens)
        await _lead(bus, topics)
        await sink.writer.open()
        tasks = [asyncio.create_task(each.run()) for each in (sink, follower, processor)]
        try:
            trades = generated(TOKENS, rate)
            sink.state(SOURCE, SourceState.LIVE)
            sink.tokens(SOURCE, [TokenInfo(f"venue:T{n}", f"T{n}") for n in range(TOKENS)])
            while len(pipeline.market) < TOKENS:
                await asyncio.sleep(_LOOK_S)
            begin_s = loop.time()
            fed = 0
            while fed < count:
                await asyncio.sleep(_STEP_S)
                now_s = loop.time()
                due = min(count, int((now_s - begin_s) * rate))
                run = [_now(trade) for trade in islice(trades, due - fed)]
                sent.update((trade.trade_id, now_s) for trade in run)
                sink.trades(SOURCE, run)
                fed = due
            while sent and loop.time() < begin_s + seconds + 30:
                await asyncio.sleep(_LOOK_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        measured = sorted(delays[int(len(delays) * _WARM_SHARE) :])
        return {
            "run": "latency", "rate": rate, "trades": len(delays), "missing": len(sent),
            "p50_ms": measured[len(measured) // 2], "p99_ms": measured[int(len(measured) * 0.99)],
        }  # fmt: skip
    finally:
        await _delete(bus, topics, settings)


async def _lead(bus: KafkaBus, topics: Topics) -> None:
    """Return when the brokers know who leads the new partitions."""
    async with asyncio.timeout(30):
        for topic in topics.specs():
            for number in range(topic.partitions):
                while True:
                    try:
                        await bus.bounds(Place(topic.name, number))
                        break
                    except BusError:
                        await asyncio.sleep(_LOOK_S)


def _now(trade: Trade) -> Trade:
    return msgspec.structs.replace(trade, time_ms=time.time_ns() // 1_000_000)


async def _delete(bus: KafkaBus, topics: Topics, settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": str(settings.kafka_bootstrap_servers), **settings.kafka_options})
    admin.delete_topics([topic.name for topic in topics.specs()])
    admin.poll(1)
    await bus.close()


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=("processor", "embedded", "latency"), default="processor")
    parser.add_argument("--trades", type=int, default=200_000, help="of processor and embedded")
    parser.add_argument("--rate", type=float, default=1_000.0, help="trades a second of latency")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which latency runs")
    chosen = parser.parse_args()
    settings = load()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if chosen.run == "embedded":
            found = embedded(settings, chosen.trades)
        elif chosen.run == "processor":
            found = runner.run(processed(settings, chosen.trades))
        else:
            found = runner.run(latency(settings, chosen.rate, chosen.seconds))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
