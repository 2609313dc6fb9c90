"""Processors as processes over real Kafka, killed again and again: the log is, to the record, that of one which lived.

A test run kills one, ``make proof`` (``TOKENWIRE_PROOF=full``) five.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Outgoing, Place
from tokenwire_server.stream.topics import Topics

from ..services.kafka import Kafka
from .test_processor import TOPICS, fed, made, result, running, tape, topics_named
from .virtual import run_virtual

ROOT = Path(__file__).parents[3]
FULL = os.environ.get("TOKENWIRE_PROOF") == "full"
TRADES, KILLS = (3_000, 5) if FULL else (900, 1)
_PATIENCE_S = 120


@pytest.mark.proof
def test_killed_processors_write_what_one_that_lives_writes(kafka: Kafka, unique: str) -> None:
    records = tape(7, TRADES)
    expected: list[object] = []

    async def undisturbed() -> None:
        bus = await made([])
        async with running(bus, "only"):
            await fed(bus, records)
        expected.append(await result(bus))

    run_virtual(undisturbed)
    assert asyncio.run(disturbed(kafka, unique, records)) == expected[0]


async def disturbed(kafka: Kafka, prefix: str, records: list[Outgoing]) -> object:
    topics = topics_named(prefix)
    bus = KafkaBus(kafka.address)
    await bus.ensure(topics.specs())
    feeding = asyncio.create_task(feed(bus, prefix, records))
    chance = random.Random(7)
    processes = {name: await start(kafka, prefix, name) for name in ("one", "two")}
    try:
        for _ in range(KILLS):
            await asyncio.sleep(1 + chance.random() * 2)
            name = chance.choice(("one", "two"))
            processes[name].kill()
            await processes[name].wait()
            processes[name] = await start(kafka, prefix, name)
        await feeding
        async with asyncio.timeout(_PATIENCE_S):
            ends = {number: await end(bus, Place(topics.raw, number)) for number in range(topics.partitions)}
            while await committed(kafka, topics) != ends:
                assert all(process.returncode is None for process in processes.values())
                await asyncio.sleep(0.5)
    finally:
        feeding.cancel()
        for process in processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()
    found = await result(bus, topics)
    await bus.close()
    return found


async def feed(bus: KafkaBus, prefix: str, records: list[Outgoing]) -> None:
    writer = bus.writer(prefix)
    for at in range(0, len(records), 60):
        await writer.commit(
            [each._replace(place=each.place._replace(topic=f"{prefix}-{TOPICS.raw}")) for each in records[at : at + 60]]
        )
        await asyncio.sleep(0.2)
    await writer.close()


async def start(kafka: Kafka, prefix: str, name: str) -> asyncio.subprocess.Process:
    words = ("-m", "server.tests.stream.processor_process", kafka.address, prefix, name)
    quiet = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=quiet, stderr=quiet)


async def end(bus: KafkaBus, place: Place) -> int:
    """The offset after the last record; that of its transaction's mark comes behind it."""
    return (await bus.read(place, *await bus.bounds(place)))[-1].offset + 1


async def committed(kafka: Kafka, topics: Topics) -> dict[int, int]:
    """How far the processors have come."""

    def ask() -> dict[int, int]:
        consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": topics.group})
        try:
            places = [TopicPartition(topics.raw, number) for number in range(topics.partitions)]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=10)}
        finally:
            consumer.close()

    return await asyncio.to_thread(ask)
