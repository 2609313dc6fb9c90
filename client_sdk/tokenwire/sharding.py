"""Which tokens go where, and how several sessions look as one. Pure.

A server limits the tokens of a connection (``maxSubscriptions``). :class:`Placement` decides which connection, or
shard, a token goes to. A token stays where it is while it is subscribed to, so its values are always in order;
between tokens of different shards there is none.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
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
        self._address: dict[str, str] = {}
        self._meant_by: dict[str, dict[str, None]] = {}

    def shard_of(self, name: str) -> int | None:
        """The shard of a name (or of an address that a placed name means), None if there is none."""
        shard = self._shard.get(name)
        if shard is None and (names := self._meant_by.get(name)):
            shard = self._shard[next(iter(names))]
        return shard

    def placed(self, name: str) -> int | None:
        """The shard of exactly this name."""
        return self._shard.get(name)

    def assign(
        self, names: Iterable[str], tried: Mapping[str, Collection[int]] = MappingProxyType({})
    ) -> tuple[dict[int, list[str]], list[str]]:
        """The names for each shard, and those that no shard has room for. Known names stay where they are.

        ``tried`` says which shards have refused a name: it goes to none of them.
        """
        placed: dict[int, list[str]] = {}
        left_over = []
        for name in names:
            excluded = tried.get(name, ())
            shard = self.shard_of(name)
            if shard is None or shard in excluded:
                shard = self._with_room(excluded)
            if shard is None:
                left_over.append(name)
                continue
            self._put(name, shard)
            placed.setdefault(shard, []).append(name)
        return placed, left_over

    def adopt(self, shard: int, names: Iterable[str]) -> None:
        """Take over what a restored session holds already."""
        self._grow(shard)
        for name in names:
            self._put(name, shard)

    def release(self, names: Iterable[str]) -> None:
        """Forget names and what they mean; their places are free again."""
        for name in names:
            shard = self._shard.pop(name, None)
            if shard is not None:
                self._names[shard].pop(name, None)
                self._forget_address(name)

    def vacate(self, names: Iterable[str]) -> None:
        """Names that were refused for now: they take no place, but the shard that still wants them keeps them."""
        for name in names:
            shard = self._shard.get(name)
            if shard is not None:
                self._names[shard].pop(name, None)

    def learn(self, name: str, address: str) -> None:
        """``name`` means ``address``: the same token under another name belongs to the same shard."""
        if name in self._shard and self._address.get(name) != address:
            self._forget_address(name)
            self._address[name] = address
            self._meant_by.setdefault(address, {})[name] = None

    def limit(self, shard: int, capacity: int) -> None:
        """The server allows ``shard`` that many tokens; shards not opened yet are expected to be alike."""
        self._capacity[shard] = capacity
        self._default = capacity

    def is_full(self, shard: int) -> None:
        """The server refused more than ``shard`` holds now."""
        self._capacity[shard] = len(self._names[shard])

    def surplus(self, shard: int, capacity: int) -> tuple[list[str], list[str]]:
        """The names of ``shard`` that still fit if it holds only ``capacity``, and those that do not."""
        names = list(self._names[shard]) if shard < len(self._names) else []
        return names[:capacity], names[capacity:]

    def _put(self, name: str, shard: int) -> None:
        if self._shard.get(name, shard) != shard:
            self.release([name])
        self._grow(shard)
        self._names[shard][name] = None
        self._shard[name] = shard

    def _grow(self, shard: int) -> None:
        while shard >= len(self._names):
            self._names.append({})

    def _forget_address(self, name: str) -> None:
        address = self._address.pop(name, None)
        if address is not None:
            names = self._meant_by[address]
            names.pop(name)
            if not names:
                del self._meant_by[address]

    def _with_room(self, excluded: Collection[int]) -> int | None:
        for shard, names in enumerate(self._names):
            if shard not in excluded and len(names) < self._capacity.get(shard, self._default):
                return shard
        return len(self._names) if len(self._names) < self._max_shards else None
