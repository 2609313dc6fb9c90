"""A broker that goes away in the middle of a transaction: nothing hangs, and the records are there once."""

import asyncio

import pytest

from tokenwire_server.bus import kafka as kafka_bus
from tokenwire_server.bus import kafka_transactions
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.port import BusError, Outgoing, Place, TopicSpec, Worker

from ..services.kafka import Kafka

_PATIENCE_S = 60


@pytest.mark.proof(only=True)
async def test_a_worker_whose_broker_dies_before_it_commits_goes_on_with_the_next(
    own_kafka: Kafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_transactions, "LOST_CALL_S", 3.0)
    for module in (kafka_bus, kafka_transactions):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 2.0)
    bus = KafkaBus(own_kafka.address)
    raw, out = Place(unique, 0), Place(f"{unique}-out", 0)
    await bus.ensure([TopicSpec(raw.topic, 1), TopicSpec(out.topic, 1)])
    writer, worker = bus.writer("source"), bus.worker(raw.topic, unique, "one")
    await writer.commit([Outgoing(raw, b"", b"1")])
    assert await committed(worker, out) == 1

    await writer.commit([Outgoing(raw, b"", b"2")])
    while not (polled := await worker.poll(10, 0.2)).records:
        pass
    own_kafka.kill()
    with pytest.raises(BusError):
        async with asyncio.timeout(_PATIENCE_S):
            await worker.commit([Outgoing(out, b"", b"2")], {0: polled.records[-1].offset + 1})
    await asyncio.to_thread(own_kafka.start)
    worker.reset()
    assert await committed(worker, out) == 1, "what was not committed comes again"
    first, end = await bus.bounds(out)
    assert [record.value for record in await bus.read(out, first, end)] == [b"1", b"2"]
    await worker.close()
    await writer.close()
    await bus.close()


@pytest.mark.proof(only=True)
async def test_where_a_log_ends_is_never_made_up(
    own_kafka: Kafka, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that says nothing: librdkafka then gives numbers that are none, and no error."""
    bus, place = KafkaBus(own_kafka.address), Place(unique, 0)
    await bus.ensure([TopicSpec(unique, 1)])
    writer = bus.writer("one")
    await writer.commit([Outgoing(place, b"", b"1")])
    assert (await bus.bounds(place))[0] == 0
    own_kafka.stop()
    monkeypatch.setattr(kafka_bus, "REQUEST_TIMEOUT_S", 0.5)
    with pytest.raises(BusError):
        await bus.ends([place])
    with pytest.raises(BusError):
        await bus.bounds(place)
    own_kafka.cont()
    await writer.close()
    await bus.close()


async def committed(worker: Worker, out: Place) -> int:
    """How many records come next; each is written to ``out`` once."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                records = (await worker.poll(10, 0.2)).records
                if records:
                    outgoing = [Outgoing(out, b"", record.value) for record in records]
                    await worker.commit(outgoing, {0: records[-1].offset + 1})
                    return len(records)
            except BusError:
                worker.reset()
                await asyncio.sleep(0.2)
