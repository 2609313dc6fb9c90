"""Kafka as the bus (confluent-kafka). Everything that waits for the network does so in a thread of its own."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)

from tokenwire_server.bus.kafka_client import (
    ANSWER_S,
    FORBIDDEN,
    GRANT_IT,
    REQUEST_TIMEOUT_S,
    Complaints,
    Thread,
    client_config,
    is_end,
    is_refused_by_group,
    reading_config,
    record_of,
)
from tokenwire_server.bus.kafka_transactions import TRANSACTION_TIMEOUT_MS, Transactions, bounded
from tokenwire_server.bus.port import (
    COMPACTION_LAG_MS,
    MAX_PIECE_BYTES,
    MAX_PIECE_RECORDS,
    BusError,
    Outgoing,
    Place,
    Polled,
    Reader,
    Record,
    Right,
    TopicSpec,
    Worker,
    Writer,
)

__all__ = ["KafkaBus"]

MAX_READS: Final = 8  # of whole partitions, at the same time
SESSION_TIMEOUT_MS: Final = 6_000  # after which the partitions of a dead member go to others
MAX_SILENCE_MS: Final = 30_000  # … and those of one that lives and does not ask for more
_EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_MOVED: Final = frozenset(  # what is known of the brokers is out of date, and is asked for again
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)
_MARKS_S: Final = 0.02  # between two looks at whether a transaction has ended
_COMPACTED: Final = {
    "cleanup.policy": "compact",
    # Only what is not written to any more is compacted: so what is read from the beginning stays small.
    "segment.ms": "60000",
    "min.cleanable.dirty.ratio": "0.1",
    "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
    "max.compaction.lag.ms": str(2 * COMPACTION_LAG_MS),
    "delete.retention.ms": str(COMPACTION_LAG_MS),  # of the marks of transactions, which are many
}
_PREFETCHED_KB: Final = 8_192  # of a partition that is read to its end; several may be at a time

T = TypeVar("T")


class KafkaBus:
    """The brokers at ``servers`` (``host:port``, separated by commas). ``options`` are further settings of librdkafka,
    such as those of SASL and TLS; they may hold secrets and are never told."""

    def __init__(self, servers: str, options: Mapping[str, str | int] | None = None, replicas: int = -1) -> None:
        complaints = Complaints(servers)
        self._config = client_config(servers, options or {}, complaints)
        self._complaints = complaints
        self._replicas = replicas
        self._thread = Thread("kafka-admin", complaints)
        self._readers = Thread("kafka-read", complaints, MAX_READS)
        self._admin = AdminClient(self._config)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """As of ``Bus``."""
        await self._thread.call(lambda: self._ensure(topics))

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        """As of ``Bus``."""
        await self._thread.call(lambda: self._check(topics, self._described(topics)))

    def _ensure(self, topics: Sequence[TopicSpec]) -> None:
        found = self._described(topics)
        missing = [topic for topic in topics if topic.name not in found]
        for topic in missing:
            self._make(topic)
        until_s = time.monotonic() + REQUEST_TIMEOUT_S
        while missing and time.monotonic() < until_s:  # not every broker knows of them yet
            time.sleep(ANSWER_S)
            found |= self._described(missing)
            missing = [topic for topic in missing if topic.name not in found]
        self._check(topics, found)

    def _make(self, topic: TopicSpec) -> None:
        new = NewTopic(topic.name, topic.partitions, self._replicas, config=_topic_config(topic))
        try:
            self._answered(self._admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_S)[topic.name])
        except KafkaException as error:
            code = error.args[0].code()
            if code in FORBIDDEN:
                raise BusError(
                    f"the topic {topic.name} is not there, and may not be made (Create): make it, or {GRANT_IT}"
                ) from None
            if code != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was as quick
                raise

    def _check(self, topics: Sequence[TopicSpec], found: Mapping[str, TopicDescription | None]) -> None:
        lacking = []
        for topic in topics:
            if topic.name not in found:
                raise BusError(f"there is no topic {topic.name}")
            description = found[topic.name]
            missing = topic.rights if description is None else topic.rights - _rights(description)
            if missing or description is None:
                lacking.append(f"{' and '.join(sorted(missing)) or 'Describe'} on {topic.name}")
            elif len(description.partitions) != topic.partitions:
                there = len(description.partitions)
                raise BusError(f"topic {topic.name} has {there} partitions, not {topic.partitions}")
        if lacking:
            raise BusError(f"the brokers refuse {', '.join(lacking)}: {GRANT_IT}")

    def _described(self, topics: Sequence[TopicSpec]) -> dict[str, TopicDescription | None]:
        """Those that are there, by name; None: it may not be seen, if it is there."""
        answers = (
            self._admin.describe_topics(
                TopicCollection([topic.name for topic in topics]),
                include_authorized_operations=True,
                request_timeout=REQUEST_TIMEOUT_S,
            )
            if topics
            else {}
        )
        found: dict[str, TopicDescription | None] = {}
        for name, future in answers.items():
            try:
                found[name] = self._answered(future)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    found[name] = None
                elif code != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return found

    def _answered(self, future: "Future[T]") -> T:
        """What the brokers say; not waited for once it is known that none of them takes us."""
        asked_s = time.monotonic()
        while True:
            try:
                return future.result(ANSWER_S)
            except TimeoutError:
                self._admin.poll(0)  # which is when it complains
                if self._complaints.is_hopeless_since(asked_s):
                    raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)) from None

    async def lineage(self, topic: str) -> str:
        """As of ``Bus``."""

        def ask() -> str:
            answers = self._admin.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
            return str(answers[topic].result().topic_id)

        return await self._thread.call(ask)

    async def bounds(self, place: Place) -> tuple[int, int]:
        """As of ``Bus``."""

        first = (await self._offsets([place], _EARLIEST))[place]
        # What was committed before is not to be read before its marks are there, which come after the commit returned.
        written = (await self._offsets([place], _LATEST))[place]
        until_s = time.monotonic() + REQUEST_TIMEOUT_S + TRANSACTION_TIMEOUT_MS / 1_000
        while True:
            end = (await self._offsets([place], _LATEST, IsolationLevel.READ_COMMITTED))[place]
            if end >= written:
                return first, end
            if time.monotonic() > until_s:
                raise BusError(f"{place.topic}/{place.partition}: a transaction does not end")
            await asyncio.sleep(_MARKS_S)

    async def firsts(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """As of ``Bus``."""
        return await self._offsets(places, _EARLIEST)

    async def ends(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """As of ``Bus``."""
        return await self._offsets(places, _LATEST)

    async def _offsets(
        self, places: Sequence[Place], which: OffsetSpec, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> Mapping[Place, int]:
        def ask() -> Mapping[Place, int]:
            asked = {TopicPartition(*place): which for place in places}
            until_s = time.monotonic() + REQUEST_TIMEOUT_S
            while True:
                answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=REQUEST_TIMEOUT_S)
                try:
                    found = {Place(each.topic, each.partition): int(of.result().offset) for each, of in answers.items()}
                    if min(found.values(), default=0) < 0:  # librdkafka 2.16 gives -1001 where no answer came in time
                        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
                    return found
                except KafkaException as error:
                    if error.args[0].code() not in _MOVED or time.monotonic() > until_s:
                        raise BusError(
                            f"{', '.join(sorted({place.topic for place in places}))}: "
                            f"{self._complaints.explain(error.args[0])}"
                        ) from None
                for topic in {place.topic for place in places}:
                    self._admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S)  # what was known stands corrected by this
                time.sleep(ANSWER_S)

        return await self._thread.call(ask)

    async def read(self, place: Place, first: int, end: int) -> Sequence[Record]:
        """As of ``Bus``."""
        return [record async for piece in self.pieces(place, first, end) for record in piece]

    async def pieces(self, place: Place, first: int, end: int) -> AsyncGenerator[Sequence[Record], None]:
        """As of ``Bus``."""
        if first >= end:
            return
        found = await self._readers.call(lambda: _Reading(self._config, place, first, end))
        try:
            while not found.is_done:
                piece = await self._readers.call(found.piece)
                if piece:
                    yield piece
        finally:
            await self._readers.call(found.close)

    def reader(self) -> Reader:
        """As of ``Bus``."""
        return _Reader(self._config, self._complaints)

    def writer(self, instance: str) -> Writer:
        """As of ``Bus``."""
        return _Writer(self._config, self._complaints, instance)

    def worker(self, topic: str, group: str, instance: str) -> Worker:
        """As of ``Bus``."""
        return _Worker(self._config, self._complaints, topic, group, instance)

    async def close(self) -> None:
        """As of ``Bus``."""
        self._thread.close()
        self._readers.close()


def _rights(description: TopicDescription) -> frozenset[Right]:
    """All, where the brokers do not say: they are older than 2.3."""
    told = description.authorized_operations
    return frozenset(right for right in Right if told is None or AclOperation[right.name] in told)


def _topic_config(topic: TopicSpec) -> dict[str, str]:
    # The brokers' clock alone: a writer's may be wrong, and records would be refused or deleted at once for it.
    config = {"message.timestamp.type": "LogAppendTime"}
    if topic.is_compacted:
        return config | _COMPACTED
    return config if topic.retention_ms is None else config | {"retention.ms": str(topic.retention_ms)}


class _Reading:
    """Reads what stands between two offsets; ``piece`` and ``close`` may be called by different threads."""

    def __init__(self, config: Mapping[str, Any], place: Place, first: int, end: int) -> None:
        self.is_done = False
        self._place = place
        self._end = end
        self._lock = threading.Lock()  # whoever stopped waiting for a piece closes while it is being read
        prefetch = {"enable.partition.eof": True, "queued.max.messages.kbytes": _PREFETCHED_KB}
        self._consumer = Consumer({**reading_config(config), **prefetch})
        self._consumer.assign([TopicPartition(*place, first)])

    def piece(self) -> Sequence[Record]:
        found: list[Record] = []
        octets = 0
        until_s = time.monotonic() + REQUEST_TIMEOUT_S
        with self._lock:
            while not self.is_done and len(found) < MAX_PIECE_RECORDS and octets < MAX_PIECE_BYTES:
                message = self._consumer.poll(ANSWER_S)
                if message is None:
                    if time.monotonic() > until_s:
                        raise BusError(f"{self._place.topic}/{self._place.partition} can't be read: no answer")
                    continue
                if is_refused_by_group(message):
                    continue
                until_s = time.monotonic() + REQUEST_TIMEOUT_S
                if is_end(message):
                    self.is_done = True
                    break
                record = record_of(message)
                self.is_done = record.offset >= self._end - 1
                if record.offset < self._end:
                    found.append(record)
                    octets += len(record.value)
        return found

    def close(self) -> None:
        with self._lock:
            self.is_done = True
            self._consumer.close()


class _Reader:
    def __init__(self, config: Mapping[str, Any], complaints: Complaints) -> None:
        self._consumer = Consumer(reading_config(config))
        self._thread = Thread("kafka-reader", complaints)

    async def assign(self, offsets: Mapping[Place, int]) -> None:
        places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        await self._thread.call(lambda: self._consumer.assign(places))

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        def poll() -> Sequence[Record]:
            messages = self._consumer.consume(most, timeout_s)
            return [record_of(each) for each in messages if not is_refused_by_group(each)]

        return await self._thread.call(poll)

    async def ends(self) -> Mapping[Place, int]:
        return await self._thread.call(self._ends)

    def _ends(self) -> Mapping[Place, int]:
        found = {}
        for place in self._consumer.assignment():
            bounds = self._consumer.get_watermark_offsets(place, cached=True)
            if bounds is not None and bounds[1] >= 0:
                # Behind the last record stands the mark of its transaction.
                found[Place(place.topic, place.partition)] = max(0, bounds[1] - 1)
        return found

    async def close(self) -> None:
        await self._thread.call(self._consumer.close)
        self._thread.close()


class _Writer:
    def __init__(self, config: Mapping[str, Any], complaints: Complaints, instance: str) -> None:
        self._transactions = Transactions(config, complaints, f"tokenwire-writer-{instance}")
        self._thread = Thread("kafka-writer", complaints)

    async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        return await self._thread.call(lambda: self._transactions.commit(records))

    async def close(self) -> None:
        await self._thread.call(self._transactions.close)
        self._thread.close()


class _Worker:
    def __init__(
        self, config: Mapping[str, Any], complaints: Complaints, topic: str, group: str, instance: str
    ) -> None:
        self._topic = topic
        self._group = group
        self._transactions = Transactions(config, complaints, f"tokenwire-{group}-{instance}")
        self._thread = Thread("kafka-worker", complaints)
        limits = {"session.timeout.ms": SESSION_TIMEOUT_MS, "max.poll.interval.ms": MAX_SILENCE_MS}
        self._consumer = Consumer({**reading_config(config), "group.id": group, **limits})
        self._held: set[int] = set()  # given to this member
        self._revoked: set[int] = set()
        self._assigned: dict[int, int | None] = {}
        self._is_subscribed = False
        self._is_reset = False
        self._joined = 0  # times that the group let us in
        self._is_refused = False  # by the group since, which says so once

    @property
    def is_member(self) -> bool:
        return self._joined > 0 and not self._is_reset and not self._is_refused

    async def poll(self, most: int, timeout_s: float) -> Polled:
        return await self._thread.call(lambda: self._poll(most, timeout_s))

    def _poll(self, most: int, timeout_s: float) -> Polled:
        if not self._is_subscribed:
            self._transactions.begun()  # whoever had this name before is out
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            self._is_subscribed = True
        messages: list[Message] = []
        if self._is_reset:
            try:
                self._begin()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    raise self._refusal() from None
                raise
            self._is_reset = False
        else:
            joined = self._joined
            messages = self._consumer.consume(most, timeout_s)
            self._is_refused |= self._joined == joined and any(map(is_refused_by_group, messages))
            if self._is_refused:
                raise self._refusal()
            if self._is_reset:  # what was read before the partitions changed hands is read again
                messages = []
        revoked, assigned = frozenset(self._revoked), dict(self._assigned)
        self._revoked.clear()
        self._assigned.clear()
        records = [record_of(each) for each in messages if not is_refused_by_group(each)]
        return Polled(revoked, assigned, records)

    def _refusal(self) -> BusError:
        return BusError(f"the group {self._group} refuses this member (Read): {GRANT_IT}")

    def _begin(self) -> None:
        """Begin at what was committed; where nothing was, at the first record there is."""
        consumer, held = self._consumer, [TopicPartition(self._topic, number) for number in sorted(self._held)]
        places = consumer.committed(held, timeout=REQUEST_TIMEOUT_S) if held else []
        self._assigned = {each.partition: None if each.offset == OFFSET_INVALID else each.offset for each in places}
        for place in places:
            if place.offset == OFFSET_INVALID:
                place.offset = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)[0]
        consumer.assign(places)

    # What a callback raises can't be caught where it arrives: so these ask nobody, and the next poll does.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._joined += 1
        self._is_refused = False
        self._held.update(place.partition for place in partitions)
        consumer.assign([])
        self._is_reset = True

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        revoked = {place.partition for place in partitions}
        self._held -= revoked
        self._revoked |= revoked
        self._assigned = {number: offset for number, offset in self._assigned.items() if number not in revoked}
        consumer.unassign()
        self._is_reset = True

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]

        def mark(producer: Producer) -> None:
            if places:
                metadata = self._consumer.consumer_group_metadata()
                bounded(lambda: producer.send_offsets_to_transaction(places, metadata, REQUEST_TIMEOUT_S))

        return await self._thread.call(lambda: self._transactions.commit(records, mark))

    def reset(self) -> None:
        self._is_reset = True

    async def close(self) -> None:
        await self._thread.call(self._consumer.close)
        await self._thread.call(self._transactions.close)
        self._thread.close()
