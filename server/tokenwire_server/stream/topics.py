"""Names and shapes of the topics, and which partition a token belongs to."""

import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from tokenwire_server.bus.port import Place, Right, TopicSpec
from tokenwire_server.settings import Settings
from tokenwire_server.settings_engines import PARTITIONS, TOPIC_NAMES

__all__ = ["COLLECTOR", "GATEWAY", "LOADER", "PROCESSOR", "Needs", "Topics", "partition_of", "topics_of"]

_HOUR_MS: Final = 3_600_000
_READ: Final = frozenset({Right.READ})
_WRITE: Final = frozenset({Right.WRITE})

Needs = Mapping[str, frozenset[Right]]
"""What a role does with which topics, by the names of ``Topics``."""

COLLECTOR: Final[Needs] = {"raw": _WRITE, "positions": _READ | _WRITE}
PROCESSOR: Final[Needs] = {
    "raw": _READ, "log": _READ | _WRITE, "bars": _WRITE, "tokens": _READ | _WRITE, "positions": _READ | _WRITE,
    "rejects": _WRITE,
}  # fmt: skip
GATEWAY: Final[Needs] = {"log": _READ, "tokens": _READ}
LOADER: Final[Needs] = {"log": _READ, "bars": _READ}


def partition_of(address: str, partitions: int) -> int:
    """Where the events of a token belong, however its address is spelled (some are told in mixed case)."""
    return zlib.crc32(address.lower().encode()) % partitions


class Topics(NamedTuple):
    """The names; see ``stream.records`` for what stands in them."""

    raw: str = TOPIC_NAMES["raw"]
    log: str = TOPIC_NAMES["log"]
    bars: str = TOPIC_NAMES["bars"]
    tokens: str = TOPIC_NAMES["tokens"]
    positions: str = TOPIC_NAMES["positions"]
    rejects: str = TOPIC_NAMES["rejects"]
    partitions: int = PARTITIONS

    @property
    def group(self) -> str:
        """The processors, who share the raw events."""
        return f"{self.raw}.processor"

    def specs(self, needs: Needs | None = None) -> tuple[TopicSpec, ...]:
        """All of them, as they are to be; or those that somebody needs, with the rights for it."""
        every = {
            "raw": TopicSpec(self.raw, self.partitions, _HOUR_MS),
            "log": TopicSpec(self.log, self.partitions, 7 * 24 * _HOUR_MS),
            "bars": TopicSpec(self.bars, self.partitions, 7 * 24 * _HOUR_MS),
            "tokens": TopicSpec(self.tokens, self.partitions, is_compacted=True),
            "positions": TopicSpec(self.positions, 1, is_compacted=True),
            "rejects": TopicSpec(self.rejects, 1, 7 * 24 * _HOUR_MS),
        }
        if needs is None:
            return tuple(every.values())
        return tuple(every[name]._replace(rights=rights) for name, rights in needs.items())

    def place(self, topic: str, address: str) -> Place:
        """Where a record of this token belongs."""
        return Place(topic, partition_of(address, self.partitions))


def topics_of(settings: Settings) -> Topics:
    """The topics that the settings name."""
    return Topics(**settings.topic_names, partitions=settings.kafka_partitions)
