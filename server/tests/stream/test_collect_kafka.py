"""``collect`` as a process that writes to real Kafka, and whatever can end it: each trade is there once, in order.

``make proof`` kills it six times at each of two paces, and stops it for longer than a transaction may take.
"""

import asyncio
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from confluent_kafka import Consumer, TopicPartition

from tokenwire_server.bus import kafka_transactions
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Place
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream import collector
from tokenwire_server.stream.collector import BusSink
from tokenwire_server.stream.records import read_raw
from tokenwire_server.stream.topics import Topics

from ..services.kafka import Kafka
from ..sources.conftest import agg_trade, write_tape
from .test_processor import topics_named

KILLS, STOPPED_S = 6, 12.0
SYMBOLS = ("BTCUSDT", "ETHUSDT", "XRPUSDT", "DOGEUSDT")
REPLACED = 3
_PATIENCE_S = 60


class Collector:
    """One process; ``url`` is its role port, ``lines`` what it logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.lines: list[str] = []
        self.listening = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            if self.lines[-1].startswith("collecting "):
                self.url = self.lines[-1].partition("; ")[2].partition("health")[0]
                self.listening.set()

    async def ready(self) -> tuple[int, dict[str, Any]]:
        async with aiohttp.request("GET", f"{self.url}ready") as reply:
            return reply.status, await reply.json()

    async def until_ready(self) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            await self.listening.wait()
            while (await self.ready())[0] != 200:
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        async with aiohttp.request("GET", f"{self.url}metrics") as reply:
            found = re.search(rf"^{re.escape(name)} (\S+)$", await reply.text(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said."""
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE_S):
            said = (await self.process.stdout.read()).decode()
            code = await self.process.wait()
            await self._reading
        assert not any("Traceback" in line for line in self.lines), "".join(self.lines)
        return code, said

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def collecting(
    servers: str, prefix: str, source: str, speed: str = "max", name: str = "one"
) -> AsyncIterator[Collector]:
    topics = topics_named(prefix)
    named = ";".join(f"{field}={getattr(topics, field)}" for field in Topics._fields if field != "partitions")
    words = ["-W", "error", "-m", "tokenwire_server", "collect", "--source", source, "--tape-speed", speed]
    words += ["--kafka", servers, "--instance", name, "--role-port", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TOKENWIRE_KAFKA_TOPICS": named, "TOKENWIRE_KAFKA_PARTITIONS": str(topics.partitions)},
    )  # fmt: skip
    collector = Collector(process)
    try:
        yield collector
    finally:
        if process.returncode is None:
            await collector.kill()
        collector._reading.cancel()
        await asyncio.gather(collector._reading, return_exceptions=True)


async def written(servers: str, prefix: str) -> tuple[dict[str, list[int]], int]:
    """The ids of each token's trades, in the order that they are read in, and how many records were committed."""
    topics = topics_named(prefix)
    bus = KafkaBus(servers)
    found: dict[str, list[int]] = {}
    records = 0
    for number in range(topics.partitions):
        place = Place(topics.raw, number)
        for record in await bus.read(place, *await bus.bounds(place)):
            records += 1
            event = read_raw(record.value)
            for trade in event.trades if isinstance(event, raw.Trades) else ():
                found.setdefault(trade.address, []).append(int(trade.trade_id))
    await bus.close()
    return found, records


def in_all(servers: str, topics: Topics) -> int:
    """How many records there are, those of aborted transactions among them."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "all", "isolation.level": "read_uncommitted",
         "enable.partition.eof": True, "enable.auto.commit": False}
    )  # fmt: skip
    consumer.assign([TopicPartition(topics.raw, number, 0) for number in range(topics.partitions)])
    count, open_ = 0, topics.partitions
    while open_:
        for message in consumer.consume(1_000, 1.0):
            count, open_ = (count + 1, open_) if message.error() is None else (count, open_ - 1)
    consumer.close()
    return count


def tape(path: Path, trades: int, step_ms: int) -> tuple[str, dict[str, list[int]]]:
    """A tape of so many trades, and which ids each token has."""
    several = len(SYMBOLS)
    name = write_tape(path, [agg_trade(n // several, SYMBOLS[n % several]) for n in range(trades)], step_ms)
    return name, {f"binance:{symbol}": list(range(trades // several)) for symbol in SYMBOLS}


def ids(of: Sequence[int]) -> str:
    return f"{len(of)}, {len(set(of))} of them different, {'' if sorted(of) == list(of) else 'not '}in order"


@pytest.mark.proof(only=True)
@pytest.mark.parametrize("speed", ["max", "1"])
async def test_a_collector_killed_again_and_again_writes_every_trade_once(
    speed: str, own_kafka: Kafka, unique: str, tmp_path: Path
) -> None:
    chance = random.Random(int(speed != "max"))
    trades, step_ms = (600 * KILLS, 5) if speed == "1" else (40_000 * KILLS, 1)
    path, expected = tape(tmp_path / "tape", trades, step_ms)
    kills = stops = 0
    while True:
        async with collecting(own_kafka.address, unique, f"tape:{path}", speed) as one:
            if kills < KILLS:
                async with asyncio.timeout(_PATIENCE_S):
                    await one.listening.wait()
                if kills:  # the first one may come before it has begun
                    await one.until_ready()
                await asyncio.sleep(chance.random() * (3 if speed == "1" else 0.6))
                if kills % 2 and one.process.returncode is None:
                    stops += 1
                    one.process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(STOPPED_S if kills < 4 else 0.5)
                    one.process.send_signal(signal.SIGCONT)
                    await asyncio.sleep(chance.random())
                if kills == 2:
                    own_kafka.kill()
                    await asyncio.sleep(chance.random())
                    await asyncio.to_thread(own_kafka.start)
                if one.process.returncode is None:
                    kills += 1
                    await one.kill()
                    continue
            code, said = await one.ended()
            assert code == 0, "".join(one.lines)
            break
    found, records = await written(own_kafka.address, unique)
    aborted = await asyncio.to_thread(in_all, own_kafka.address, topics_named(unique)) - records
    print(f"{kills} kills, {stops} stops; {records} records committed, {aborted} aborted; at last: {said.strip()}")
    assert {name: ids(of) for name, of in found.items()} == {name: ids(of) for name, of in expected.items()}
    assert found == expected
    assert kills >= 3


async def test_a_transaction_that_took_too_long_is_not_taken_for_another_collector(
    kafka: Kafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_transactions, "TRANSACTION_TIMEOUT_MS", 1_000)
    insist, pauses = kafka_transactions._insist, []

    def slowly(work: Callable[[], object]) -> None:
        if pauses:
            time.sleep(pauses.pop())
        insist(work)

    monkeypatch.setattr(kafka_transactions, "_insist", slowly)
    bus = KafkaBus(kafka.address)
    sink = BusSink(bus, topics_named(unique), "one")
    await sink.begin()
    writing = asyncio.create_task(sink.run())
    for number in range(3):
        pauses[:] = [3.0] if number == 1 else []
        sink.trades("s", [Trade("x:A", str(number), Decimal(1), Decimal(1), Side.BUY, 1_774_089_400_000)])
        async with asyncio.timeout(_PATIENCE_S):
            while sink.waiting:
                await asyncio.sleep(0.05)
    sink.close()
    await writing
    await bus.close()
    assert sink.writer.aborted >= 1
    assert (await written(kafka.address, unique))[0] == {"x:A": [0, 1, 2]}


async def test_of_two_by_one_name_the_older_ends_and_says_so(kafka: Kafka, unique: str, tmp_path: Path) -> None:
    path, _ = tape(tmp_path / "tape", 40_000, 5)
    async with collecting(kafka.address, unique, f"tape:{path}", "1") as older:
        await older.until_ready()
        async with collecting(kafka.address, unique, f"tape:{path}", "1") as newer:
            await newer.until_ready()
            code, said = await older.ended()
            assert code == REPLACED
            assert said == ""
            assert re.search(r"^tokenwire-server: another collector goes by the name one now.*--instance$",
                             older.lines[-1].rstrip(), re.MULTILINE)  # fmt: skip
            before = await newer.metric('tokenwire_collector_transactions_total{outcome="committed"}')
            async with asyncio.timeout(_PATIENCE_S):
                while await newer.metric('tokenwire_collector_transactions_total{outcome="committed"}') < before + 20:
                    await asyncio.sleep(0.1)
            assert await newer.metric('tokenwire_collector_transactions_total{outcome="aborted"}') == 0
            newer.process.send_signal(signal.SIGTERM)
            assert (await newer.ended())[0] == 0
    found, _ = await written(kafka.address, unique)
    assert {name: of == list(range(len(of))) for name, of in found.items()} == {f"binance:{s}": True for s in SYMBOLS}


@pytest.mark.proof(only=True)
async def test_brokers_that_are_away_at_the_start_are_waited_for(own_kafka: Kafka, unique: str, tmp_path: Path) -> None:
    path, expected = tape(tmp_path / "tape", 2_000, 1)
    address = own_kafka.address
    own_kafka.kill()
    async with collecting(address, unique, f"tape:{path}") as one:
        async with asyncio.timeout(_PATIENCE_S):
            await one.listening.wait()
            while (answer := await one.ready())[1]["kafka"]["state"] != "failing":
                await asyncio.sleep(0.1)
        assert answer[0] == 503
        assert answer[1]["kafka"]["reason"]
        assert (answer[1]["role"], answer[1]["instance"]) == ("collect", "one")
        assert await one.metric("tokenwire_role_ready") == 0
        await asyncio.to_thread(own_kafka.start)
        assert own_kafka.address == address
        code, said = await one.ended()
    assert code == 0
    assert said.startswith("2000 trades in Kafka, ")
    assert sum("kafka failing" in line for line in one.lines) == 1, one.lines
    assert sum("kafka ok" in line for line in one.lines) == 1
    assert (await written(address, unique))[0] == expected


@pytest.mark.proof(only=True)
async def test_while_brokers_are_away_sources_wait_and_the_end_is_told(own_kafka: Kafka, unique: str) -> None:
    async with collecting(own_kafka.address, unique, "simulator") as one:
        await one.until_ready()
        assert await one.metric("tokenwire_role_ready") == 1
        assert await one.metric('tokenwire_source_state{source="simulator",state="live"}') == 1
        assert await one.metric('tokenwire_trades_accepted_total{source="simulator"}') >= 300
        own_kafka.kill()
        async with asyncio.timeout(_PATIENCE_S):
            while (answer := await one.ready())[0] == 200:
                await asyncio.sleep(0.1)
        assert answer[1]["sources"] == {"simulator": "live"}
        one.process.send_signal(signal.SIGTERM)
        code, said = await one.ended()
        assert code == 1
        assert "records could not be written any more" in one.lines[-1]
        assert "trades in Kafka" in said


async def test_sigterm_writes_everything_before_the_end(kafka: Kafka, unique: str) -> None:
    async with collecting(kafka.address, unique, "simulator") as one:
        await one.until_ready()
        await asyncio.sleep(0.5)
        one.process.send_signal(signal.SIGTERM)
        code, said = await one.ended()
    assert code == 0
    found, _ = await written(kafka.address, unique)
    assert sum(map(len, found.values())) == int(said.partition(" ")[0]) >= 300


async def test_who_has_nothing_to_write_notices_that_brokers_fell_silent(
    own_kafka: Kafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "CHECK_INTERVAL_S", 0.2)
    monkeypatch.setattr(collector, "CHECK_TIMEOUT_S", 1.0)
    bus = KafkaBus(own_kafka.address)
    sink = BusSink(bus, topics_named(unique), "one")
    await sink.begin()
    writing = asyncio.create_task(sink.run())
    own_kafka.stop()
    async with asyncio.timeout(_PATIENCE_S):
        while sink.failure is None:
            await asyncio.sleep(0.05)
        own_kafka.cont()
        while sink.failure is not None:
            await asyncio.sleep(0.05)
    sink.close()
    await writing
    await bus.close()
    assert sink.writer.transactions == 0
