"""Which tokens go where, and how several sessions look as one. Pure.

A server limits the tokens of a connection (``maxSubscriptions``). :class:`Placement` decides which connection, or
shard, a token goes to. A token stays where it is while it is subscribed to, so its values are always in order;
between tokens of different shards there is none.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from tokenwire.checkpoint import Checkpoint
from tokenwire.errors import CheckpointError
from tokenwire.metrics import ClientMetrics
from tokenwire.states import ConnectionState
from tokenwire_schemas import limits

__all__ = ["ClientCheckpoint", "Placement", "merged_metrics", "worst_state"]

_FORMAT: Final = 1
_WORST_FIRST: Final = (ConnectionState.FAILED, ConnectionState.RECONNECTING, ConnectionState.CONNECTING)
_LARGEST: Final = frozenset(
    {"state_since_ms", "queued_max", "rtt_ms", "latency_ms", "latency_max_ms", "latency_ewma_ms", "clock_offset_ms"}
)


class ClientCheckpoint(msgspec.Struct, frozen=True):
    """Where a client stands: one part for each connection. It holds secrets; keep it like a password."""

    shards: tuple[Checkpoint, ...] = ()
    format: int = _FORMAT

    def to_json(self) -> str:
        """As text, to be saved."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def parse(cls, saved: "ClientCheckpoint | str | bytes") -> "ClientCheckpoint":
        """What :meth:`to_json` wrote; a checkpoint itself is returned as it is.

        Raises:
            CheckpointError: the text is none, or of a later format.
        """
        if isinstance(saved, ClientCheckpoint):
            return saved
        remedy = "Start without a checkpoint; current values follow"
        try:
            found = msgspec.json.decode(saved, type=_Parts)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise CheckpointError("INVALID_CHECKPOINT", f"not a checkpoint: {error}", remedy) from None
        if found.format != _FORMAT:
            raise CheckpointError("INVALID_CHECKPOINT", f"format {found.format} is not known here", remedy)
        return cls(tuple(Checkpoint.from_json(bytes(part)) for part in found.shards))


class _Parts(msgspec.Struct):
    """The outer shape; each part is read, and checked, by :class:`Checkpoint`."""

    shards: list[msgspec.Raw]
    format: int


def worst_state(states: Iterable[ConnectionState]) -> ConnectionState:
    """FAILED, RECONNECTING, CONNECTING in this order, and CONNECTED only if all are."""
    found = set(states)
    return next((state for state in _WORST_FIRST if state in found), ConnectionState.CONNECTED)


def merged_metrics(parts: Iterable[ClientMetrics]) -> ClientMetrics:
    """Counters added up; of times and maxima the largest, of states the worst. A copy."""
    total = ClientMetrics(state=ConnectionState.CONNECTED)
    for part in parts:
        for name in ClientMetrics.__struct_fields__:
            mine, other = getattr(total, name), getattr(part, name)
            if name == "state":
                value: object = worst_state((mine, other))
            elif isinstance(other, dict):
                value = {key: mine.get(key, 0) + other.get(key, 0) for key in {**mine, **other}}
            elif mine is None or other is None:
                value = other if mine is None else mine
            else:
                value = max(mine, other) if name in _LARGEST else mine + other
            setattr(total, name, value)
    return total


class Placement:
    """Which shard holds which name. Shards are numbered from 0 and come into being by being used."""

    def __init__(self, max_shards: int, capacity: int = limits.MAX_SUBSCRIPTIONS) -> None:
        self._max_shards = max_shards
        self._default = capacity
        self._capacity: dict[int, int] = {}
        self._names: list[dict[str, None]] = []
        self._shard: dict[str, int] = {}
        self._by_address: dict[str, int] = {}

    def shard_of(self, name: str) -> int | None:
        """The shard of a name (or of an address learned for one), None if there is none."""
        return self._shard.get(name, self._by_address.get(name))

    def assign(self, names: Iterable[str]) -> tuple[dict[int, list[str]], list[str]]:
        """The names for each shard, and those that no shard has room for. Known names stay where they are."""
        placed: dict[int, list[str]] = {}
        left_over = []
        for name in names:
            shard = self.shard_of(name)
            if shard is None:
                shard = self._with_room()
            if shard is None:
                left_over.append(name)
                continue
            while shard >= len(self._names):
                self._names.append({})
            self._names[shard][name] = None
            self._shard[name] = shard
            placed.setdefault(shard, []).append(name)
        return placed, left_over

    def adopt(self, shard: int, names: Iterable[str]) -> None:
        """Take over what a restored session holds already."""
        while shard >= len(self._names):
            self._names.append({})
        for name in names:
            self._names[shard][name] = None
            self._shard[name] = shard

    def release(self, names: Iterable[str]) -> None:
        """Forget names; their places are free again."""
        for name in names:
            shard = self._shard.pop(name, None)
            if shard is not None:
                self._names[shard].pop(name, None)

    def vacate(self, names: Iterable[str]) -> None:
        """Names that were refused for now: they take no place, but the shard that still wants them keeps them."""
        for name in names:
            shard = self._shard.get(name)
            if shard is not None:
                self._names[shard].pop(name, None)

    def learn(self, name: str, address: str) -> None:
        """``name`` means ``address``: the same token under another name belongs to the same shard."""
        shard = self._shard.get(name)
        if shard is not None:
            self._by_address[address] = shard

    def limit(self, shard: int, capacity: int) -> None:
        """The server allows ``shard`` that many tokens; shards not opened yet are expected to be alike."""
        self._capacity[shard] = capacity
        self._default = capacity

    def is_full(self, shard: int) -> None:
        """The server refused more than ``shard`` holds now."""
        self._capacity[shard] = len(self._names[shard])

    def _with_room(self) -> int | None:
        for shard, names in enumerate(self._names):
            if len(names) < self._capacity.get(shard, self._default):
                return shard
        return len(self._names) if len(self._names) < self._max_shards else None
