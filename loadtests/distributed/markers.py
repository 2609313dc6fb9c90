"""How many transactions the broker ended with an abort, by its own files."""

import contextlib
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from server.tests.services.kafka import Kafka

__all__ = ["aborted_in", "count_aborted"]

_FILE: Final = "Dumping "
_BATCH: Final = re.compile(r"producerId: (\d+) producerEpoch: (\d+) .*isControl: true")
_ABORT: Final = "endTxnMarker: ABORT"


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
