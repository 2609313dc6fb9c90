"""All consumers of the plain paths: rooms, heartbeats, limits of lag, and the ends. Pure: time is an argument.

Whatever a method returns or yields is to be written before the next one is called. ``now`` is monotonic milliseconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.limits import CLOSE_TIMEOUT_MS
from tokenwire_server.core.limiter import Limiter, Verdict
from tokenwire_server.core.plain_pace import Pace
from tokenwire_server.core.plain_room import Consumer, Deliveries, Room, RoomKey, Write
from tokenwire_server.core.wheel import Wheel
from tokenwire_server.core.wire import close_frame, ping_frame

__all__ = ["PlainConfig", "PlainHub", "PlainStats"]

CHANNEL_MESSAGES: Final = 1_000
MAX_LAG_BYTES: Final = 4_194_304  # of one consumer
MAX_HELD_BYTES: Final = 67_108_864  # of all rooms' logs
MAX_PENDING_BYTES: Final = 65_536  # of one room: then it is flushed without delay
PING_INTERVAL_MS: Final = 5_000
IDLE_TIMEOUT_MS: Final = 10_000
FLUSH_MS: Final = 40  # together with a turn of the event loop less than 50 ms
BAR_GAP_MS: Final = 250

_WHEEL_RESOLUTION_MS: Final = 250
_PING: Final = ping_frame()


class PlainConfig(msgspec.Struct, frozen=True):
    """The limits of the plain paths.

    A consumer may lag ``channel_messages`` messages of together ``lag_bytes`` behind what was handed to others.
    """

    channel_messages: int = CHANNEL_MESSAGES
    lag_bytes: int = MAX_LAG_BYTES
    held_bytes: int = MAX_HELD_BYTES
    pending_bytes: int = MAX_PENDING_BYTES
    ping_interval_ms: int = PING_INTERVAL_MS
    idle_timeout_ms: int = IDLE_TIMEOUT_MS
    close_timeout_ms: int = CLOSE_TIMEOUT_MS
    flush_ms: int = FLUSH_MS
    bar_gap_ms: int = BAR_GAP_MS


@dataclass(slots=True)
class PlainStats:
    """Counters of what happened."""

    opened: int = 0
    closed: int = 0
    published: int = 0  # messages, once for each room
    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    dropped_in: int = 0  # beyond a client's rate
    closes: dict[int, int] = field(default_factory=dict)  # by us, by code
    cuts: dict[str, int] = field(default_factory=dict)  # of slow consumers: for messages, bytes or memory


class PlainHub:
    """Everybody who is connected to a plain path. ``vacated`` is told of a room that nobody listens to any more."""

    def __init__(
        self, now: int, config: PlainConfig | None = None, vacated: Callable[[Room], object] = lambda room: None
    ) -> None:
        self.config = config or PlainConfig()
        self.stats = PlainStats()
        self.consumers: dict[Consumer, None] = {}
        self.rooms: dict[RoomKey, Room] = {}
        self.pace = Pace(self.config.bar_gap_ms)
        self._vacated = vacated
        self._dirty: dict[Room, None] = {}
        self._flushed_ms = now - self.config.flush_ms
        self._wheel: Wheel[Consumer] = Wheel(now, _WHEEL_RESOLUTION_MS)

    # --- consumers -------------------------------------------------------------------------------------------

    def join(self, consumer: Consumer, key: RoomKey, now: int) -> Room:
        """A socket finished its handshake: it gets what is published in the room ``key`` from now on."""
        room = self.rooms.get(key)
        if room is None:
            room = self.rooms[key] = Room(key)
        self.stats.opened += 1
        self.consumers[consumer] = None
        room.join(consumer)
        consumer.ping_due_ms = now + self.config.ping_interval_ms
        self._touch_timer(consumer, now)
        return room

    def disconnect(self, consumer: Consumer) -> None:
        """The socket is gone, for whatever reason."""
        if consumer not in self.consumers:
            return
        del self.consumers[consumer]
        self.stats.closed += 1
        self._leave(consumer)
        consumer.let_go()

    def pause(self, consumer: Consumer) -> None:
        """The socket's buffer is full. May be called while something is being written."""
        if consumer.room is not None:
            consumer.room.pause(consumer)

    def resume(self, consumer: Consumer) -> Iterator[bytes]:
        """The socket takes bytes again: what to write to it."""
        if consumer.room is not None:
            for data in consumer.room.resume(consumer):
                self.stats.bytes_out += len(data)
                yield data

    def close(self, consumer: Consumer, code: int, reason: str, now: int) -> bytes:
        """Part with a consumer: the frame to write. It is aborted if it does not answer within the close time-out."""
        if consumer.close_with is not None:
            return b""
        self.stats.closes[code] = self.stats.closes.get(code, 0) + 1
        self.closing(consumer, code, now, reason)
        return close_frame(code, reason)

    def closing(self, consumer: Consumer, code: int, now: int, reason: str = "") -> None:
        """A close frame was sent, or answered by the shell's own protocol layer: it gets no more messages."""
        if consumer.close_with is None:
            consumer.close_with = (code, reason)
            consumer.close_due_ms = now + self.config.close_timeout_ms
            self._leave(consumer)
            self._touch_timer(consumer, now)

    # --- what clients send -----------------------------------------------------------------------------------

    def received(self, consumer: Consumer, octets: int, now: int) -> None:
        """Bytes came: whatever they are, somebody lives there."""
        consumer.last_byte_ms = now
        self.stats.bytes_in += octets

    def judge(self, consumer: Consumer, now: int, *, is_control: bool) -> Verdict:
        """What becomes of a message, which nobody reads, or of a control frame: it may come too often."""
        limiter = consumer.limiter
        if limiter is None:
            limiter = consumer.limiter = Limiter(now)
        verdict = limiter.control(now) if is_control else limiter.message(now)
        self.stats.messages_in += not is_control
        self.stats.dropped_in += verdict is not Verdict.ACCEPT
        return verdict

    # --- delivery --------------------------------------------------------------------------------------------

    def publish(self, room: Room, frame: bytes) -> bool:
        """One message for everybody in ``room``. True: so much is pending that it is to be flushed at once."""
        room.publish(frame)
        self.stats.published += 1
        self._dirty[room] = None
        return room.pending_octets >= self.config.pending_bytes

    @property
    def flush_due_ms(self) -> int | None:
        """When to flush next, if anything is pending: it may have passed."""
        return self._flushed_ms + self.config.flush_ms if self._dirty else None

    def flush(self, now: int) -> Deliveries:
        """Hand out what is pending, then cut who lags too far."""
        self._flushed_ms = now
        dirty, self._dirty = self._dirty, {}
        stats = self.stats
        for room in dirty:
            for writes, data in room.flush():
                stats.bytes_out += len(data) * len(writes)
                yield writes, data
        for room in dirty:
            if room.behind:
                yield from self._cut_slow(room, now)
        if any(room.log_octets for room in dirty):
            yield from self._make_room(now)

    def _cut_slow(self, room: Room, now: int) -> Deliveries:
        config = self.config
        for consumer in list(room.behind):
            messages, octets = room.lag(consumer)
            if messages > config.channel_messages:
                yield self._cut(consumer, "messages", now)
            elif octets > config.lag_bytes:
                yield self._cut(consumer, "bytes", now)
        if room.behind:
            room.trim()

    def _make_room(self, now: int) -> Deliveries:
        """Keep all logs together below their limit: the farthest behind of the largest one goes first."""
        logs = [room for room in self.rooms.values() if room.log_octets]
        held = sum(room.log_octets for room in logs)
        while held > self.config.held_bytes and logs:
            largest = max(logs, key=lambda room: room.log_octets)
            held -= largest.log_octets
            yield self._cut(min(largest.behind, key=lambda each: each.position), "memory", now)
            if largest.behind:
                largest.trim()
            held += largest.log_octets

    def _cut(self, consumer: Consumer, cause: str, now: int) -> tuple[tuple[Write], bytes]:
        self.stats.cuts[cause] = self.stats.cuts.get(cause, 0) + 1
        frame = self.close(consumer, CloseCode.SLOW_CONSUMER, f"slow consumer: too far behind ({cause})", now)
        return (consumer.write,), frame

    # --- time ------------------------------------------------------------------------------------------------

    def timers(self, now: int) -> tuple[list[tuple[Consumer, bytes]], list[Consumer]]:
        """What is due: pings and close frames to write, and sockets to abort."""
        frames: list[tuple[Consumer, bytes]] = []
        aborts: list[Consumer] = []
        for slot, consumer in self._wheel.advance(now):
            if consumer not in self.consumers or slot != consumer.slot:
                continue  # gone, or this entry was overtaken by an earlier one
            consumer.slot = -1
            if consumer.close_due_ms is not None:
                if now >= consumer.close_due_ms:
                    aborts.append(consumer)
                    consumer.close_due_ms = now + self.config.close_timeout_ms
            elif now - consumer.last_byte_ms >= self.config.idle_timeout_ms:
                frames.append((consumer, self.close(consumer, CloseCode.HEARTBEAT_TIMEOUT, "heartbeat time-out", now)))
            elif now >= consumer.ping_due_ms:
                following = consumer.ping_due_ms + self.config.ping_interval_ms
                consumer.ping_due_ms = following if following > now else now + self.config.ping_interval_ms
                frames.append((consumer, _PING))
            self._touch_timer(consumer, now)
        return frames, aborts

    def _touch_timer(self, consumer: Consumer, now: int) -> None:
        """Have the consumer looked at when its next deadline passes; an earlier entry wins, a later one is kept."""
        due = consumer.close_due_ms
        if due is None:
            due = min(consumer.ping_due_ms, consumer.last_byte_ms + self.config.idle_timeout_ms)
        slot = self._wheel.slot(max(due, now))
        if consumer.slot == -1 or slot < consumer.slot:
            consumer.slot = slot
            self._wheel.add(slot, consumer)

    def _leave(self, consumer: Consumer) -> None:
        room = consumer.room
        if room is None:
            return
        room.leave(consumer)
        if room.is_vacant:
            del self.rooms[room.key]
            self._dirty.pop(room, None)
            self.pace.forget(room)
            self._vacated(room)
