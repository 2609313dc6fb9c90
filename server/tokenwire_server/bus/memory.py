"""The bus within one process, for tests and for whoever tries all roles at once. Nothing outlives it."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

from tokenwire_server.bus.port import (
    MAX_PIECE_BYTES,
    MAX_PIECE_RECORDS,
    AbortedError,
    BusError,
    FencedError,
    Outgoing,
    Place,
    Polled,
    Reader,
    Record,
    TopicSpec,
    Worker,
    Writer,
)

__all__ = ["MemoryBus"]

_NONE: Final = Polled(frozenset(), {}, ())


class MemoryBus:
    """Topics in memory, for one event loop. ``wall_ms`` is Unix time. Compacted topics keep every record."""

    def __init__(self, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._wall_ms = wall_ms
        self._partitions: dict[Place, list[Record]] = {}
        self._first: dict[Place, int] = {}
        self._lineages: dict[str, str] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self.writers: dict[str, _Writer] = {}
        self._written = asyncio.Condition()

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """As of ``Bus``."""
        for topic in topics:
            there = sum(place.topic == topic.name for place in self._partitions)
            if there not in (0, topic.partitions):
                raise BusError(f"topic {topic.name} has {there} partitions, not {topic.partitions}")
            for partition in range(there, topic.partitions):
                self._partitions[Place(topic.name, partition)] = []
            self._lineages.setdefault(topic.name, secrets.token_urlsafe(9))

    async def check(self, topics: Sequence[TopicSpec]) -> None:
        """As of ``Bus``."""
        for topic in topics:
            self.records(Place(topic.name, topic.partitions - 1))

    def writer(self, instance: str) -> Writer:
        """As of ``Bus``."""
        return _Writer(self, instance)

    def reader(self) -> Reader:
        """As of ``Bus``."""
        return _Reader(self)

    def worker(self, topic: str, group: str, instance: str) -> Worker:
        """As of ``Bus``."""
        shared = self._groups.setdefault((topic, group), _Group(sorted(self._of(topic))))
        return _Worker(self, shared, topic, instance)

    async def bounds(self, place: Place) -> tuple[int, int]:
        """As of ``Bus``."""
        return self.first(place), len(self.records(place))

    async def firsts(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """As of ``Bus``."""
        return {place: self.first(place) for place in places}

    async def ends(self, places: Sequence[Place]) -> Mapping[Place, int]:
        """As of ``Bus``."""
        return {place: len(self.records(place)) for place in places}

    async def read(self, place: Place, first: int, end: int) -> Sequence[Record]:
        """As of ``Bus``."""
        cursor = _Cursor(self)
        cursor.offsets[place] = first
        return cursor.take(max(0, end - first))

    async def pieces(self, place: Place, first: int, end: int) -> AsyncGenerator[Sequence[Record], None]:
        """As of ``Bus``."""
        while first < end:
            piece = await self.read(place, first, min(end, first + MAX_PIECE_RECORDS))
            octets = 0
            for at, record in enumerate(piece, 1):
                octets += len(record.value)
                if octets >= MAX_PIECE_BYTES:
                    piece = piece[:at]
                    break
            if not piece:
                return
            yield piece
            first = piece[-1].offset + 1
            await asyncio.sleep(0)

    async def lineage(self, topic: str) -> str:
        """As of ``Bus``."""
        return self._lineages[topic]

    async def close(self) -> None:
        """As of ``Bus``."""

    def forget(self, place: Place, before: int) -> None:
        """Delete the records before an offset, as retention does."""
        self._first[place] = before

    # --- for the others of this module -------------------------------------------------------------------------

    def first(self, place: Place) -> int:
        return self._first.get(place, 0)

    def records(self, place: Place) -> list[Record]:
        try:
            return self._partitions[place]
        except KeyError:
            raise BusError(f"there is no partition {place.partition} of a topic {place.topic}") from None

    async def write(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        for place, _, _ in records:
            self.records(place)  # all or nothing
        now_ms = self._wall_ms()
        after = {}
        for place, key, value in records:
            partition = self.records(place)
            partition.append(Record(place, len(partition), key, value, now_ms))
            after[place] = len(partition)
        async with self._written:
            self._written.notify_all()
        return after

    async def wait(self, timeout_s: float) -> bool:
        """Whether something was written within the time."""
        try:
            async with asyncio.timeout(timeout_s), self._written:
                await self._written.wait()
        except TimeoutError:
            return False
        return True

    def _of(self, topic: str) -> list[int]:
        return [place.partition for place in self._partitions if place.topic == topic]


class _Writer:
    def __init__(self, bus: MemoryBus, instance: str) -> None:
        self._bus = bus
        self._instance = instance
        bus.writers[instance] = self

    async def commit(self, records: Sequence[Outgoing]) -> Mapping[Place, int]:
        if self._bus.writers.get(self._instance) is not self:
            raise FencedError(f"another process goes by the name {self._instance}")
        return await self._bus.write(records)

    async def close(self) -> None:
        if self._bus.writers.get(self._instance) is self:
            del self._bus.writers[self._instance]


class _Cursor:
    """Where somebody has come to in some partitions."""

    def __init__(self, bus: MemoryBus) -> None:
        self.offsets: dict[Place, int] = {}
        self._bus = bus

    def take(self, most: int) -> list[Record]:
        found: list[Record] = []
        for place, offset in self.offsets.items():
            first = self._bus.first(place)
            if offset < first:
                raise BusError(f"records {offset} to {first - 1} of {place.topic}/{place.partition} were deleted")
            records = self._bus.records(place)[offset : offset + most - len(found)]
            self.offsets[place] = offset + len(records)
            found += records
        return found


class _Reader:
    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self._cursor = _Cursor(bus)

    async def assign(self, offsets: Mapping[Place, int]) -> None:
        for place in offsets:
            self._bus.records(place)
        self._cursor.offsets = dict(offsets)

    async def poll(self, most: int, timeout_s: float) -> Sequence[Record]:
        return self._cursor.take(most) or (await self._bus.wait(timeout_s) and self._cursor.take(most)) or ()

    async def ends(self) -> Mapping[Place, int]:
        return {place: len(self._bus.records(place)) for place in self._cursor.offsets}

    async def close(self) -> None:
        self._cursor.offsets = {}


class _Group:
    """Who has which partition. Whoever joins or leaves makes all share anew."""

    def __init__(self, partitions: list[int]) -> None:
        self.committed: dict[int, int] = {}
        self.members: dict[str, _Worker] = {}
        self._partitions = partitions

    def join(self, member: "_Worker") -> None:
        self.members[member.instance] = member
        self._share()

    def leave(self, member: "_Worker") -> None:
        if self.members.get(member.instance) is member:
            del self.members[member.instance]
            self._share()

    def _share(self) -> None:
        members = [self.members[name] for name in sorted(self.members)]
        for number, member in enumerate(members):
            member.share = frozenset(self._partitions[number :: len(members)])


class _Worker:
    def __init__(self, bus: MemoryBus, group: _Group, topic: str, instance: str) -> None:
        self.instance = instance
        self.share: frozenset[int] = frozenset()  # what it is to have
        self._bus = bus
        self._group = group
        self._topic = topic
        self._cursor = _Cursor(bus)
        self._held: frozenset[int] = frozenset()  # what it knows it has
        group.join(self)

    @property
    def is_member(self) -> bool:
        return self._held == self.share

    async def poll(self, most: int, timeout_s: float) -> Polled:
        self._check()
        if self.share != self._held:
            revoked, new = self._held - self.share, self.share - self._held
            self._held = self.share
            assigned = {partition: self._group.committed.get(partition) for partition in sorted(new)}
            for partition in revoked:
                self._cursor.offsets.pop(Place(self._topic, partition), None)
            for partition in assigned:
                place = Place(self._topic, partition)
                self._cursor.offsets[place] = self._group.committed.get(partition, self._bus.first(place))
            return Polled(revoked, assigned, ())
        records = self._cursor.take(most) or (await self._bus.wait(timeout_s) and self._cursor.take(most)) or ()
        return _NONE._replace(records=records)

    async def commit(self, records: Sequence[Outgoing], offsets: Mapping[int, int]) -> Mapping[Place, int]:
        self._check()
        if not self.share.issuperset(offsets):
            raise AbortedError("partitions were given to others")
        after = await self._bus.write(records)
        self._group.committed.update(offsets)
        return after

    def reset(self) -> None:
        self._held = frozenset()
        self._cursor.offsets.clear()

    async def close(self) -> None:
        self._group.leave(self)

    def _check(self) -> None:
        if self._group.members.get(self.instance) is not self:
            raise FencedError(f"another process goes by the name {self.instance}")
