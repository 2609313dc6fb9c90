"""The numbered stream of one client: what is held, what waits, what was sent."""

import json
import secrets
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from conformance.tests.reference.faults import EXTENDED_ONLY, STRICT_ONLY
from conformance.tests.reference.market import Market
from conformance.tests.reference.streams import Streams

if TYPE_CHECKING:
    from conformance.tests.reference.connection import Connection

__all__ = ["Entry", "Session", "encoded"]

_RING_FRAMES: Final = 1024
_BATCH: Final = 1000
_BATCH_BYTES: Final = 500_000


def encoded(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Entry:
    """A numbered message that was sent."""

    number: int
    kind: str
    timestamp: int
    data: bytes


class Shared:
    """What the sessions of a server have in common."""

    def __init__(self, market: Market, faults: frozenset[str]) -> None:
        self.market = market
        self.faults = faults
        self.sequence = 0


class Session:
    """Numbers, subscriptions and queues; ``caps`` are those granted that belong to it."""

    def __init__(self, shared: Shared, caps: frozenset[str], *, every: bool = False, strict: bool = True) -> None:
        self._shared = shared
        self.faults = self._faults = shared.faults - (EXTENDED_ONLY if strict else STRICT_ONLY)
        self.caps = caps
        self.every = every
        self.secret = secrets.token_urlsafe(6 if "secret_short" in self._faults else 24)
        self.sequence = -1 if "sequence_starts_at_zero" in self._faults else 0
        self._by_type: dict[str, int] = {}
        self._timestamp = 0
        self.held: dict[str, dict[str, None]] = {}
        """Address to channels, in the order in which they were taken."""
        self.sets: dict[str, dict[str, None]] = {}
        """Set to channels."""
        self.told: dict[str, tuple[str, ...]] = {}
        """Set to the members that the client knows of."""
        self.progress: dict[tuple[str, str], Any] = {}
        """Address and channel to how far it was sent."""
        self.corrected: dict[tuple[str, str], int] = {}
        """Address and channel to the closed bar that a late trade is to correct."""
        self.outbox: deque[tuple[str, Any, bool]] = deque()
        """Replies: type, data, whether it is numbered."""
        self.pending: dict[str, None] = {}
        """Tokens whose newest value is to be sent."""
        self.stream: deque[tuple[str, dict[str, Any]]] = deque()
        """Type and data of what happened, and of single versions."""
        self.sent_at_s: dict[str, float] = {}
        self.ring: deque[Entry] = deque()
        self.acked = 0
        self.connection: Connection | None = None
        self.attempt = 0
        self.socket_caps: frozenset[str] = frozenset()
        self.attached_s = 0.0
        self.detached_s: float | None = None
        self.dead = False
        self.streams = Streams()
        """What a mistake takes for that of each socket."""

    # --- what is held ------------------------------------------------------------------------------------------
    @property
    def places(self) -> int:
        """Pairs of token and channel."""
        if "channels" not in self.caps:
            return len(self.held)
        if "set_counts_members" in self._faults:
            return sum(len(channels) for channels in self.effective().values())
        return sum(len(channels) for channels in (*self.held.values(), *self.sets.values()))

    def effective(self) -> dict[str, dict[str, None]]:
        """Address to channels, members of sets included."""
        if not self.sets:
            return self.held
        found = {address: dict(channels) for address, channels in self.held.items()}
        for name, channels in self.sets.items():
            for address in self.told.get(name, ()):
                found.setdefault(address, {}).update(channels)
        return found

    def has(self, address: str, channel: str) -> bool:
        """Whether the token is held with this channel."""
        return channel in self.held.get(address, ())

    # --- numbering ---------------------------------------------------------------------------------------------
    def numbered(self, kind: str, data: Any, now_ms: float) -> bytes:
        """The text of the next message."""
        number = self._number(kind)
        timestamp = self._time(kind, now_ms)
        raw = data if isinstance(data, bytes) else encoded(data)
        if "resume" in self.caps and isinstance(number, int):
            self.ring.append(Entry(number, kind, int(timestamp), raw))
            while len(self.ring) > _RING_FRAMES:
                self.ring.popleft()
        return self.text(kind, number, timestamp, raw)

    def unnumbered(self, kind: str, data: Any, now_ms: float) -> bytes:
        """The text of a message that takes no number."""
        if kind == "heartbeat" and "heartbeat_numbered" in self._faults:
            return self.numbered(kind, data, now_ms)
        number = max(1, self.sequence)
        return self.text(kind, number, self._time(kind, now_ms), encoded(data))

    def again(self, entry: Entry, now_ms: float) -> bytes:
        """A replayed message."""
        faults = self._faults
        timestamp = int(now_ms) if "replay_changes_timestamps" in faults else entry.timestamp
        if "resume_renumbers" in faults:
            self.sequence += 1
            return self.text(entry.kind, self.sequence, timestamp, entry.data)
        return self.text(entry.kind, entry.number, timestamp, entry.data)

    def text(self, kind: str, number: Any, timestamp: Any, data: bytes) -> bytes:
        """The envelope."""
        faults = self._faults
        if "timestamp_missing" in faults:
            return b'{"type":"%s","sequence":%s,"data":%s}' % (kind.encode(), encoded(number), data)
        extra = b',"version":"1.0"' if "envelope_extra_key" in faults else b""
        if "greets_with_hello" in faults and kind == "connection":
            kind = "hello"
        return b'{"type":%s,"sequence":%s,"timestamp":%s%s,"data":%s}' % (
            encoded(kind), encoded(number), encoded(timestamp), extra, data,
        )  # fmt: skip

    def _number(self, kind: str) -> Any:
        faults = self._faults
        if "sequence_per_type" in faults:
            self._by_type[kind] = self._by_type.get(kind, 0) + 1
            self.sequence = self._by_type[kind]
            return self.sequence
        if "sequence_shared" in faults:
            self._shared.sequence += 1
            self.sequence = self._shared.sequence
            return self.sequence
        self.sequence += 1
        return str(self.sequence) if "sequence_as_string" in faults else self.sequence

    def _time(self, kind: str, now_ms: float) -> Any:
        faults = self._faults
        now = max(self._timestamp, int(now_ms))
        self._timestamp = now
        if "timestamp_in_seconds" in faults:
            return now // 1000
        if "timestamp_decreases" in faults and kind == "subscription":
            return now - 2000
        return now

    # --- what waits --------------------------------------------------------------------------------------------
    def want(self, address: str) -> None:
        """Send the newest value soon."""
        self.pending[address] = None

    def want_all(self) -> None:
        """Send the newest values of all that is held."""
        for address, channels in self.effective().items():
            if "token" in channels and not ("push_replaces_token" in self._faults and len(channels) > 1):
                self.want(address)

    def forget(self, address: str) -> None:
        """Send nothing of the token any more."""
        self.pending.pop(address, None)
        self.stream = deque(item for item in self.stream if item[1].get("address") != address)
        for key in [key for key in self.progress if key[0] == address]:
            del self.progress[key]

    def waits(self) -> bool:
        """Whether anything is to be sent."""
        return bool(self.outbox or self.pending or self.stream)

    def next_text(self, now_ms: float) -> bytes | None:
        """Number and frame what comes next: replies, then trades and single versions, then values."""
        if self.outbox:
            kind, data, is_numbered = self.outbox.popleft()
            if not is_numbered:
                return self.unnumbered(kind, data, now_ms)
            return self.numbered(kind, data, now_ms)
        if self.stream:
            return self._streamed(now_ms)
        if self.pending:
            return self._values(now_ms)
        return None

    def _streamed(self, now_ms: float) -> bytes:
        kind, data = self.stream.popleft()
        if kind == "transaction" and "batch" in self.caps:
            items = [data]
            while self.stream and self.stream[0][0] == kind and len(items) < _BATCH:
                items.append(self.stream.popleft()[1])
            if len(items) > 1:
                return self.numbered("transaction_batch", {"transactions": items}, now_ms)
        if kind == "token_update" and "batch" in self.caps:
            return self.numbered("token_batch", {"updates": [data]}, now_ms)
        return self.numbered("token_update" if kind == "push" else kind, data, now_ms)

    def _values(self, now_ms: float) -> bytes:
        faults = self._faults
        market, details = self._shared.market, "details" in self.caps
        # Last in, first out would be as good: the order of values is nobody's business.
        if "batch" not in self.caps:
            address = self._take()
            return self.numbered("token_update", market.value(address, now_ms, details=details, faults=faults), now_ms)
        if "batch_grant_ignored" in faults:
            address = self._take()
            return self.numbered("token_update", market.value(address, now_ms, details=details, faults=faults), now_ms)
        most = _BATCH
        items: list[dict[str, Any]] = []
        size = 0
        while self.pending and len(items) < most and (size < _BATCH_BYTES):
            data = market.value(self._take(), now_ms, details=details, faults=faults)
            if "batch_entries_lack_volume" in faults:
                del data["volume"]
            items.append(data)
            size += 200
        if "batch_repeats_first" in faults:
            items.append(items[0])
        return self.numbered("token_batch", {"updates": items}, now_ms)

    def _take(self) -> str:
        address = next(iter(self.pending))
        del self.pending[address]
        return address

    # --- the ring ----------------------------------------------------------------------------------------------
    @property
    def floor(self) -> int:
        """The highest number that is not kept any more."""
        return self.ring[0].number - 1 if self.ring else self.sequence

    def ack(self, number: int) -> None:
        """The client has everything up to there."""
        if "ack_ignored" in self._faults:
            return
        self.acked = max(self.acked, number)
        while self.ring and self.ring[0].number <= number:
            self.ring.popleft()

    def entries(self, first: int, last: int) -> Iterable[Entry]:
        """What is kept of these numbers."""
        return [entry for entry in self.ring if first <= entry.number <= last]


def new_uuid(faults: frozenset[str]) -> str:
    """The connectionId of a socket."""
    if "uuid_reused" in faults:
        return "f30104da-a116-406a-8f0d-b2caf2444da6"
    made = str(uuid.uuid4())
    return made.upper() if "uuid_upper_case" in faults else made
