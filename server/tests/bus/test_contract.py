"""What every bus keeps: one suite over the memory of a process and Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tokenwire_server.bus import kafka as kafka_bus
from tokenwire_server.bus.kafka import KafkaBus
from tokenwire_server.bus.memory import MemoryBus
from tokenwire_server.bus.port import (
    COMPACTION_LAG_MS,
    MAX_PIECE_BYTES,
    MAX_PIECE_RECORDS,
    AbortedError,
    Bus,
    BusError,
    FencedError,
    Outgoing,
    Place,
    Polled,
    Record,
    TopicSpec,
    Worker,
)
from tokenwire_server.stream.state_topic import MAX_READ_S

from ..services.kafka import Kafka

PARTITIONS = 3
_PATIENCE_S = 30


@pytest.fixture(params=["memory", "kafka"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    made: Bus = MemoryBus() if request.param == "memory" else KafkaBus(request.getfixturevalue("kafka").address)
    yield made
    await made.close()


@pytest.fixture
async def topic(bus: Bus, unique: str) -> str:
    await bus.ensure([TopicSpec(unique, PARTITIONS, 3_600_000), TopicSpec(f"{unique}-out", 1, is_compacted=True)])
    return unique


def numbered(topic: str, numbers: Sequence[int], partition: int | None = None) -> list[Outgoing]:
    return [
        Outgoing(Place(topic, number % PARTITIONS if partition is None else partition), b"k", str(number).encode())
        for number in numbers
    ]


async def everything(bus: Bus, topic: str, partitions: int = PARTITIONS) -> list[list[int]]:
    found = []
    for number in range(partitions):
        first, end = await bus.bounds(Place(topic, number))
        found.append([int(record.value) for record in await bus.read(Place(topic, number), first, end)])
    return found


async def until(worker: Worker, enough: Callable[[list[Record]], bool]) -> list[Record]:
    """The records that a worker gets until they are enough."""
    found: list[Record] = []
    async with asyncio.timeout(_PATIENCE_S):
        while not enough(found):
            found += (await worker.poll(100, 0.2)).records
    return found


async def again_and_again(work: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            await work()
            await asyncio.sleep(0.2)


async def joined(*workers: Worker) -> list[Polled]:
    """Poll until all partitions are shared out; what each was told last."""
    told: list[Polled] = [Polled(frozenset(), {}, ()) for _ in workers]
    held: list[set[int]] = [set() for _ in workers]
    async with asyncio.timeout(_PATIENCE_S):
        while sum(map(len, held)) != PARTITIONS or not all(held):
            for number, worker in enumerate(workers):
                polled = await worker.poll(1, 0.1)
                held[number] = (held[number] - polled.revoked) | set(polled.assigned)
                if polled.assigned:
                    told[number] = polled
    return told


async def test_what_is_committed_is_read_in_order(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    first = await writer.commit(numbered(topic, range(30)))
    second = await writer.commit(numbered(topic, range(30, 60)))
    assert await everything(bus, topic) == [list(range(start, 60, 3)) for start in range(3)]
    for number in range(PARTITIONS):
        place = Place(topic, number)
        assert first[place] < second[place] <= (await bus.bounds(place))[1]
        assert [int(each.value) for each in await bus.read(place, first[place], second[place])] == list(
            range(30 + number, 60, 3)
        )
    await writer.close()


async def test_records_carry_what_was_given(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit([Outgoing(Place(topic, 2), b"\x00key", bytes(range(256))), Outgoing(Place(topic, 2), b"", b"")])
    _, end = await bus.bounds(Place(topic, 2))
    one, two = await bus.read(Place(topic, 2), 0, end)
    assert (one.place, one.key, one.value) == (Place(topic, 2), b"\x00key", bytes(range(256)))
    assert (two.key, two.value) == (b"", b"")
    assert one.offset < two.offset
    assert abs(one.time_ms - two.time_ms) < 60_000
    assert one.time_ms > 1_700_000_000_000
    await writer.close()


async def test_the_bounds_hold_whatever_was_committed_before(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    place = Place(topic, 0)
    for count in range(1, 21):
        await writer.commit([Outgoing(place, b"", b"x")])
        first, end = await bus.bounds(place)
        assert first == 0
        assert len(await bus.read(place, first, end)) == count
        assert (await bus.ends([place, Place(topic, 1)])) == {place: end, Place(topic, 1): 0}
    await writer.close()


async def test_what_does_not_fit_into_memory_is_read_in_pieces(bus: Bus, topic: str) -> None:
    writer, place = bus.writer(topic), Place(topic, 0)
    large = MAX_PIECE_BYTES // 4
    values = [str(number).encode() * (large if number % 300 == 7 else 1) for number in range(2 * MAX_PIECE_RECORDS)]
    for at in range(0, len(values), 200):
        await writer.commit([Outgoing(place, b"", value) for value in values[at : at + 200]])
    first, end = await bus.bounds(place)
    pieces = [[record.value for record in piece] async for piece in bus.pieces(place, first, end)]
    assert [value for piece in pieces for value in piece] == values
    assert 2 < len(pieces) < 20
    assert all(0 < len(piece) <= MAX_PIECE_RECORDS for piece in pieces)
    assert all(sum(map(len, piece[:-1])) < MAX_PIECE_BYTES for piece in pieces)
    async with aclosing(bus.pieces(place, first, end)) as some:
        assert len(await anext(some)) > 0
    assert [piece async for piece in bus.pieces(place, end, end)] == []
    await writer.close()


async def delete(bus: Bus, kafka: Kafka | None, place: Place, before: int) -> None:
    """Delete what stands before an offset, as retention does."""
    if isinstance(bus, MemoryBus):
        bus.forget(place, before)
        return
    assert kafka is not None
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for deleted in admin.delete_records([TopicPartition(*place, before)]).values():
        await asyncio.to_thread(deleted.result, _PATIENCE_S)


async def test_what_was_deleted_is_never_passed_over_and_a_worker_hears_first_where_it_was(
    bus: Bus, topic: str, request: pytest.FixtureRequest
) -> None:
    kafka = None if isinstance(bus, MemoryBus) else request.getfixturevalue("kafka")
    writer, place = bus.writer(topic), Place(topic, 0)
    await writer.commit(numbered(topic, range(0, 18, 3)))
    worker = bus.worker(topic, f"{topic}-group", "one")
    await until(worker, lambda found: len(found) == 6)
    await worker.commit([], {0: 1})
    await delete(bus, kafka, place, 3)
    assert await bus.firsts([place, Place(topic, 1)]) == {place: 3, Place(topic, 1): 0}
    assert (await bus.bounds(place))[0] == 3
    with pytest.raises(BusError):
        await bus.read(place, 1, 5)
    worker.reset()
    assigned: dict[int, int | None] = {}

    async def poll() -> None:
        polled = await worker.poll(100, 0.2)
        assert not polled.records
        assigned.update(polled.assigned)

    with pytest.raises(BusError):
        await again_and_again(poll)
    assert assigned == {0: 1, 1: None, 2: None}
    await worker.commit([], {0: 3})
    worker.reset()
    assert [int(each.value) for each in await until(worker, lambda found: len(found) >= 3)] == [9, 12, 15]
    await worker.close()
    await writer.close()


async def test_a_reader_follows_from_where_it_likes(bus: Bus, topic: str) -> None:
    writer, reader = bus.writer(topic), bus.reader()
    await writer.commit(numbered(topic, range(10), 0))
    await reader.assign({Place(topic, 0): 4, Place(topic, 1): 0})
    found: list[int] = []

    async def read(count: int) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while len(found) < count:
                found.extend(int(record.value) for record in await reader.poll(3, 0.2))

    await read(6)
    await writer.commit(numbered(topic, (100, 101), 1))
    await read(8)
    assert found == [4, 5, 6, 7, 8, 9, 100, 101]
    assert not await reader.poll(3, 0.2)
    async with asyncio.timeout(_PATIENCE_S):
        while await reader.ends() != {Place(topic, 0): 10, Place(topic, 1): 2}:
            await reader.poll(3, 0.2)
    await reader.close()
    await writer.close()


async def test_what_is_not_there_is_said(bus: Bus, topic: str) -> None:
    with pytest.raises(BusError, match="partitions"):
        await bus.ensure([TopicSpec(topic, PARTITIONS + 1)])
    await bus.ensure([TopicSpec(topic, PARTITIONS)])
    writer = bus.writer(topic)
    with pytest.raises(BusError):
        await writer.commit([*numbered(topic, (1,)), Outgoing(Place(topic, PARTITIONS), b"", b"")])
    await writer.close()
    assert await everything(bus, topic) == [[], [], []]


async def test_a_topic_has_a_lineage_of_its_own(bus: Bus, topic: str) -> None:
    assert await bus.lineage(topic) == await bus.lineage(topic) != await bus.lineage(f"{topic}-out")


async def test_a_second_writer_of_a_name_ends_the_first(bus: Bus, topic: str) -> None:
    first = bus.writer(topic)
    await first.commit(numbered(topic, (0,)))
    second = bus.writer(topic)
    await second.commit(numbered(topic, (3,)))
    with pytest.raises(FencedError):
        await first.commit(numbered(topic, (6,)))
    await second.commit(numbered(topic, (9,)))
    assert await everything(bus, topic) == [[0, 3, 9], [], []]
    await first.close()
    await second.close()


async def test_what_a_worker_makes_is_there_together_with_how_far_it_came(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(9)))
    worker = bus.worker(topic, f"{topic}-group", "one")
    records = await until(worker, lambda found: len(found) == 9)
    out = Place(f"{topic}-out", 0)
    done = [record for record in records if record.place.partition != 2]
    offsets = {record.place.partition: record.offset + 1 for record in done}
    await worker.commit([Outgoing(out, b"", record.value) for record in done], offsets)
    await worker.close()
    assert sorted((await everything(bus, out.topic, 1))[0]) == [0, 1, 3, 4, 6, 7]
    again = bus.worker(topic, f"{topic}-group", "one")
    records = await until(again, lambda found: len(found) == 3)
    assert [int(record.value) for record in records] == [2, 5, 8]
    await again.close()
    await writer.close()


async def test_assignments_come_before_what_they_are_of_and_say_what_was_committed(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(9)))
    worker = bus.worker(topic, f"{topic}-group", "one")
    seen: set[int] = set()
    records = 0
    async with asyncio.timeout(_PATIENCE_S):
        while records < 9:
            polled = await worker.poll(2, 0.2)
            assert not polled.revoked
            assert set(polled.assigned.values()) <= {None}
            seen |= set(polled.assigned)
            assert {record.place.partition for record in polled.records} <= seen
            records += len(polled.records)
    assert seen == set(range(PARTITIONS))
    await worker.close()
    await writer.close()


async def test_who_resets_begins_at_what_was_committed(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(6)))
    worker = bus.worker(topic, f"{topic}-group", "one")
    first = await until(worker, lambda found: len(found) == 6)
    offset = next(record.offset for record in first if int(record.value) == 0) + 1
    await worker.commit([], {0: offset})
    worker.reset()
    assigned: dict[int, int | None] = {}
    values: list[int] = []
    async with asyncio.timeout(_PATIENCE_S):
        while len(values) < 5:
            polled = await worker.poll(100, 0.2)
            assigned |= polled.assigned
            values += (int(record.value) for record in polled.records)
    assert assigned == {0: offset, 1: None, 2: None}
    assert sorted(values) == [1, 2, 3, 4, 5]
    await worker.close()
    await writer.close()


async def test_two_share_and_one_takes_over(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(30)))
    one, two = (bus.worker(topic, f"{topic}-group", name) for name in ("one", "two"))
    told = await joined(one, two)
    assert sorted((*told[0].assigned, *told[1].assigned)) == [0, 1, 2]
    await one.close()
    held = set(told[1].assigned)
    async with asyncio.timeout(_PATIENCE_S):
        while len(held) < PARTITIONS:
            polled = await two.poll(1, 0.1)
            held = (held - polled.revoked) | set(polled.assigned)
    await two.close()
    await writer.close()


async def test_what_belongs_to_somebody_else_by_now_can_not_be_committed(
    bus: Bus, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_bus, "MAX_SILENCE_MS", kafka_bus.SESSION_TIMEOUT_MS)
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(30)))
    one = bus.worker(topic, f"{topic}-group", "one")
    await joined(one)
    two = bus.worker(topic, f"{topic}-group", "two")
    polling = asyncio.create_task(until(two, lambda found: len(found) > 0))
    out = Outgoing(Place(f"{topic}-out", 0), b"", b"1")
    # As long as the group has not noticed, it is allowed.
    with pytest.raises(AbortedError):
        await again_and_again(lambda: one.commit([out], {0: 1, 1: 1, 2: 1}))
    await one.close()
    await polling
    await two.close()
    await writer.close()


async def test_a_worker_of_the_same_name_ends_the_first(bus: Bus, topic: str) -> None:
    writer = bus.writer(topic)
    await writer.commit(numbered(topic, range(9)))
    one = bus.worker(topic, f"{topic}-group", "one")
    await until(one, lambda found: len(found) == 9)
    again = bus.worker(topic, f"{topic}-group", "one")
    polling = asyncio.create_task(until(again, lambda found: len(found) == 9))
    out = Outgoing(Place(f"{topic}-out", 0), b"", b"1")
    with pytest.raises(FencedError):
        await again_and_again(lambda: one.commit([out], {}))
    await one.close()
    await polling
    await again.close()
    await writer.close()


async def test_records_have_the_time_of_the_brokers(kafka: Kafka, unique: str) -> None:
    bus = KafkaBus(kafka.address)
    await bus.ensure([TopicSpec(unique, 1, 3_600_000)])
    producer = Producer({"bootstrap.servers": kafka.address})
    producer.produce(unique, b"long ago", partition=0, timestamp=1_000_000_000_000)
    producer.flush(_PATIENCE_S)
    place = Place(unique, 0)
    (record,) = await bus.read(place, *await bus.bounds(place))
    assert abs(record.time_ms - time.time() * 1_000) < 600_000
    await bus.close()


async def test_a_compacted_topic_is_compacted_soon_but_not_while_it_is_read(kafka: Kafka, unique: str) -> None:
    bus = KafkaBus(kafka.address)
    await bus.ensure([TopicSpec(unique, 1, is_compacted=True)])
    topic = ConfigResource(ResourceType.TOPIC, unique)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    found = await asyncio.to_thread(admin.describe_configs([topic])[topic].result, _PATIENCE_S)
    told_ms = {name: int(found[name].value) for name in found if name.endswith((".lag.ms", "segment.ms"))}
    assert told_ms["min.compaction.lag.ms"] == COMPACTION_LAG_MS > MAX_READ_S * 1_000
    assert COMPACTION_LAG_MS <= told_ms["max.compaction.lag.ms"] <= 300_000
    assert told_ms["segment.ms"] <= 300_000
    assert found["cleanup.policy"].value == "compact"
    await bus.close()
