"""What is asked of a bus: topics in partitions, read in order, and written in transactions.

The embedded default is the memory of one process (``bus.memory``), which is what tests run on; past one machine it is
Kafka (``bus.kafka``). Both pass one contract suite.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

__all__ = [
    "COMPACTION_LAG_MS",
    "MAX_PIECE_BYTES",
    "MAX_PIECE_RECORDS",
    "AbortedError",
    "Bus",
    "BusError",
    "FencedError",
    "Outgoing",
    "Place",
    "Polled",
    "Reader",
    "Record",
    "Right",
    "TopicSpec",
    "Worker",
    "Writer",
]

COMPACTION_LAG_MS: Final = 60_000  # a record leaves its compacted topic so long after a newer one of its key at least
MAX_PIECE_RECORDS: Final = 500
MAX_PIECE_BYTES: Final = 1_048_576  # of values, but for the last record


class BusError(Exception):
    """The bus can't be reached, or refuses; the message says why. Trying again may help."""


class AbortedError(BusError):
    """A transaction was not committed, and nothing of it will ever be read."""


class FencedError(BusError):
    """Another process goes by the same name, and has taken over; this one must end."""


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Right(StrEnum):
    """What somebody may do with a topic."""

    READ = "Read"
    WRITE = "Write"


class TopicSpec(NamedTuple):
    """A topic as it is to be. ``retention_ms``: how long records stay at least; ``is_compacted``: instead, the newest
    record of each key stays for good, and older ones leave a few minutes later. ``rights`` are those that whoever
    asks for it needs."""

    name: str
    partitions: int
    retention_ms: int | None = None
    is_compacted: bool = False
    rights: frozenset[Right] = frozenset()


class Outgoing(NamedTuple):
    """A record to write."""

    place: Place
    key: bytes
    value: bytes


class Record(NamedTuple):
    """A record that was read; ``time_ms`` (Unix ms) is when it was written."""

    place: Place
    offset: int
    key: bytes
    value: bytes
    time_ms: int


class Writer(Protocol):
    """Writes records in transactions."""

    async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        """Write ``records``: all of them, durably, or none. The offset after the last one written to each place.

        Raises:
            AbortedError: nothing was written; the same may be tried again.
            FencedError: another process goes by the name of this one.
        """

    async def close(self) -> None:
        """Let go of it."""


class Reader(Protocol):
    """Reads what was committed, from places of its own choice."""

    async def assign(self, offsets: Mapping[Place, int]) -> None:
        """Read these from now on, each from this offset on; nothing else."""

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        """At most ``most`` further records, in the order of each partition; none after ``timeout_s``. Raises
        BusError, also when what would come next was deleted before it was read."""

    async def ends(self) -> Mapping[Place, int]:
        """The offset after the last record of each place that is read, as far as it was heard of: nobody is asked."""

    async def close(self) -> None:
        """Let go of it."""


class Polled(NamedTuple):
    """``revoked`` partitions belong to others now, ``assigned`` ones to this member. Both are to be seen to before the
    ``records``, which come from the next time on: they begin at what was committed."""

    revoked: frozenset[int]
    assigned: Mapping[int, int | None]
    """Committed offset by partition; None where nothing was: the records begin with the first one there is then."""
    records: Sequence[Record]


class Worker(Protocol):
    """One member of a group that shares the partitions of a topic, and writes what it makes of them exactly once."""

    @property
    def is_member(self) -> bool:
        """Whether the group has let it in, and nothing that it is to read was refused since. (The partitions that it
        was given may be none.)"""

    async def poll(self, most: int, timeout_s: float) -> Polled:
        """At most ``most`` further records, and what became of the partitions. Raises BusError, again and again as
        long as the group refuses it, and when what would come next was deleted before it was read."""

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        """Write ``records`` and that everything before ``offsets`` (by partition) is done: all of it or nothing. The
        offset after the last record written to each place.

        Raises:
            AbortedError: nothing was written, and what was committed before holds; see :meth:`reset`.
            FencedError: likewise, and this one is shut out: either another process goes by its name, or the
                transaction took too long (``stream.claim`` tells). Whoever commits again takes the name back.
        """

    def reset(self) -> None:
        """Go back to what was committed: the next :meth:`poll` assigns every partition anew."""

    async def close(self) -> None:
        """Leave the group."""


class Bus(Protocol):
    """Topics. All names are those of one installation."""

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Make those that are missing. Raises BusError if that can't be, if one has other partitions, or if not all
        rights on them are granted (it names each that is not)."""

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        """The same, and makes none."""

    def writer(self, instance: str) -> Writer:
        """Somebody who writes. ``instance`` is the name, which nobody else may have at a time and which is kept over
        restarts: what the one before had not finished is not written then."""

    def reader(self) -> Reader:
        """Somebody who reads on and on."""

    def worker(self, topic: str, group: str, instance: str) -> Worker:
        """A member of ``group``, which shares the partitions of ``topic``. ``instance`` is its name, which nobody else
        may have and which it keeps over restarts."""

    async def bounds(self, place: Place) -> tuple[int, int]:
        """The offset of the first record there is, and that after the last one that was committed: whatever was
        committed before stands before it."""

    async def firsts(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """The offset of the first record there is, of each place: what stood before it was deleted."""

    async def ends(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """About where records end, to tell how far behind somebody is: what is not committed yet may be among them."""

    async def read(self, place: Place, first: int, end: int) -> Sequence[Record]:
        """Every record that was committed from offset ``first`` on and stands before ``end``, which is no later than
        the end was when it was asked for. Of a compacted topic, older records of one key may be left out. Raises
        BusError, also when one of them was deleted."""

    def pieces(self, place: Place, first: int, end: int) -> AsyncGenerator[Sequence[Record], None]:
        """What :meth:`read` reads, some of it at a time, so that it need not fit into memory: at most
        ``MAX_PIECE_RECORDS`` or about ``MAX_PIECE_BYTES``. Others have their turn in between. Whoever stops early
        closes it (``contextlib.aclosing``)."""

    async def lineage(self, topic: str) -> str:
        """Names this very topic: another one of that name, made after it was deleted, has another."""

    async def close(self) -> None:
        """Let go of everything."""
