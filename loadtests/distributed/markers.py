"""What the broker knows of transactions: how many it ended with an abort, by its own files, and which are open."""

import contextlib
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from server.tests.services.kafka import Kafka

__all__ = ["OpenTransactions", "aborted_in", "count_aborted"]

_FILE: Final = "Dumping "
_BATCH: Final = re.compile(r"producerId: (\d+) producerEpoch: (\d+) .*isControl: true")
_ABORT: Final = "endTxnMarker: ABORT"
_ASK_S: Final = 2.0
"""Seconds that a question to the broker may take."""


def aborted_in(dump: str) -> int:
    """How many transactions a dump of segments says were aborted, at least: a transaction has one mark in each
    partition that it wrote to, so of one producer and epoch those of the partition with most are counted."""
    found: Counter[tuple[int, int, str]] = Counter()
    producer, partition = (0, 0), ""
    for line in dump.splitlines():
        if line.startswith(_FILE):
            partition = line.rsplit("/", 2)[-2]
        batch = _BATCH.search(line)
        if batch is not None:
            producer = int(batch[1]), int(batch[2])
        if _ABORT in line:
            found[*producer, partition] += 1
    most: Counter[tuple[int, int]] = Counter()
    for (number, epoch, _), count in found.items():
        most[number, epoch] = max(most[number, epoch], count)
    return most.total()


def count_aborted(kafka: Kafka) -> int:
    """Of all topics but the broker's own; raises ServiceError."""
    with tempfile.TemporaryDirectory(dir=kafka.data.parent) as name:
        kept = Path(name)  # the broker removes segments that it has compacted while they are being read
        for path in sorted(kafka.data.glob("*/*.log")):
            if not path.parent.name.startswith("__"):
                link = kept / path.parent.name / path.name
                link.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    link.hardlink_to(path)
        return aborted_in(kafka.dumped(map(str, sorted(kept.glob("*/*.log")))))


class OpenTransactions:
    """Where records lie whose transaction has not ended."""

    def __init__(self, kafka: Kafka) -> None:
        self._admin = kafka.admin()

    def places(self) -> frozenset[tuple[str, int, int]]:
        """Topic, partition, and the offset at which the oldest open transaction begins; empty as well while nobody
        answers. What is found in two looks is of a writer that has stopped between them, or is slow."""
        from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
        from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        try:
            asked = {
                TopicPartition(name, number): latest
                for name, topic in self._admin.list_topics(timeout=_ASK_S).topics.items()
                if not name.startswith("__")
                for number in topic.partitions
            }
            found = []
            for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
                answers = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=_ASK_S)
                found.append({(each.topic, each.partition): answers[each].result(_ASK_S).offset for each in answers})
        except (KafkaException, TimeoutError):
            return frozenset()
        stable, written = found
        return frozenset((*place, offset) for place, offset in stable.items() if 0 <= offset < written[place])
