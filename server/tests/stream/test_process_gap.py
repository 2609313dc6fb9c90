"""``process`` over real Kafka while nobody was there for long: what it needs has expired, and what it needs not."""

import asyncio
import signal
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import Place
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.records import read_logged
from tokenwire_server.stream.topics import Topics

from ..services.kafka import Kafka
from .role_process import RoleProcess, environment, feed, until
from .test_kafka import committed, end
from .test_processor import tape, topics_named

_PATIENCE_S = 30
MISSING = 4  # of each partition


async def delete(
    kafka: Kafka, bus: KafkaBus, topic: str, partitions: int, offsets: dict[int, int] | None = None
) -> None:
    """Delete what stands before these offsets, or everything, as retention does."""
    before = offsets or {number: (await bus.bounds(Place(topic, number)))[1] for number in range(partitions)}
    admin = AdminClient({"bootstrap.servers": kafka.address})
    places = [TopicPartition(topic, number, offset) for number, offset in before.items()]
    for deleted in admin.delete_records(places).values():
        await asyncio.to_thread(deleted.result, _PATIENCE_S)


async def forget_group(kafka: Kafka, topics: Topics) -> None:
    """Have the brokers forget how far the processors have come, as they do after a week."""
    admin = AdminClient({"bootstrap.servers": kafka.address})
    (forgotten,) = admin.delete_consumer_groups([topics.group]).values()
    await asyncio.to_thread(forgotten.result, _PATIENCE_S)


@pytest.mark.proof(only=True)
def test_whatever_has_expired_is_said_or_not_needed(kafka: Kafka, unique: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        topics = topics_named(unique)
        numbers = range(topics.partitions)
        bus = KafkaBus(kafka.address)
        await bus.ensure(topics.specs())
        records = tape(3, 700)
        variables = environment(kafka, topics) | {"BAR_INTERVALS": "1s,1m"}
        process = RoleProcess("process", variables, tmp_path / "log")
        accepting = RoleProcess("process", variables, tmp_path / "accepting", ("--accept-gap",))

        async def is_done() -> bool:
            return await committed(kafka, topics) == {n: await end(bus, Place(topics.raw, n)) for n in numbers}

        try:
            await feed(bus, topics, records[:300], 1)
            await process.start()
            await until(is_done)
            assert await process.end(signal.SIGTERM) == 0

            await delete(kafka, bus, topics.raw, topics.partitions)
            await delete(kafka, bus, topics.log, topics.partitions)
            await forget_group(kafka, topics)
            await feed(bus, topics, records[300:500], 1)
            await process.start()
            await until(is_done)
            assert await process.metric("tokenwire_processor_refolded_total") == 0
            assert await process.metric("tokenwire_processor_missing_records_total") == 0
            assert await process.metric("tokenwire_processor_records_total") == len(records[300:500])
            assert await process.end(signal.SIGTERM) == 0

            offsets = {number: offset + MISSING for number, offset in (await committed(kafka, topics)).items()}
            await feed(bus, topics, records[500:], 1)
            await delete(kafka, bus, topics.raw, topics.partitions, offsets)
            await process.start()
            await until(lambda: says(process, f"{topics.raw}/0: "))
            reason = str((await process.ready())["reason"])
            assert f"({offsets[0] - MISSING} to {offsets[0] - 1}) are gone unprocessed" in reason
            assert reason.endswith("tokenwire-server process --accept-gap")
            assert await process.end(signal.SIGTERM) == 0
            await accepting.start()
            await until(is_done)
            missing = await accepting.metric("tokenwire_processor_missing_records_total")
            assert MISSING * topics.partitions <= missing < 3 * MISSING * topics.partitions
            assert await accepting.end(signal.SIGTERM) == 0
            assert "Traceback" not in process.said() + accepting.said()
            await check(bus, topics)
        finally:
            await process.end()
            await accepting.end()
            await bus.close()

    asyncio.run(scenario())


async def says(process: RoleProcess, text: str) -> bool:
    assert process.alive
    return text in str((await process.ready()).get("reason"))


async def check(bus: KafkaBus, topics: Topics) -> None:
    """Each token has one hole in what is left of the log."""
    gaps: list[str] = []
    for number in range(topics.partitions):
        place = Place(topics.log, number)
        events = [read_logged(record.value).event for record in await bus.read(place, *await bus.bounds(place))]
        gaps += (event.token for event in events if isinstance(event, raw.Gap))
    assert len(gaps) == len(set(gaps)) > 3
