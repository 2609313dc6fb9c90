"""A room of a plain path: one stream of messages, and the consumers that get every one of them or are cut.

A message is framed once, and whoever keeps up is handed the very same bytes. A consumer whose socket takes no more is
*behind*: it keeps a position, and what it has not got stays in the room's log, which all who are behind share and
which exists only while there are any. A consumer of a room is thus always at one position of one stream: what it gets
is contiguous from its first message on.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from tokenwire_server.core.limiter import Limiter

__all__ = ["Consumer", "Deliveries", "Room", "RoomKey", "StreamForm", "Write"]

_CHUNK_BYTES: Final = 65_536  # handed at once to a consumer that catches up

Write = Callable[[bytes], object]
Deliveries = Iterator[tuple[Sequence[Write], bytes]]
"""Bytes, and all the sockets they are to be written to, in this order."""


def _nobody(*_: object) -> None:
    """In place of a socket that is no more."""


class StreamForm(StrEnum):
    """What a stream carries, and in which form."""

    TRANSACTIONS = "transactions"
    KLINES = "klines"
    TRADES = "trades"


class RoomKey(NamedTuple):
    """A stream of the token at ``address``; ``interval`` is that of klines, in its only spelling."""

    form: StreamForm
    address: str
    interval: str = ""


class Consumer:
    """One socket of a plain path. Times are monotonic milliseconds; ``slot`` is its entry in the timer wheel.

    ``position`` and ``octets`` count the room's messages and bytes up to the last that it was handed; they are kept
    while it is behind only, since all others are where the room is.
    """

    __slots__ = ("abort", "close_due_ms", "close_with", "consumer_id", "last_byte_ms", "limiter", "octets",
                 "ping_due_ms", "position", "room", "slot", "writable", "write")  # fmt: skip

    def __init__(self, write: Write, abort: Callable[[], object], consumer_id: str, now_ms: int) -> None:
        self.write = write
        self.abort = abort
        self.consumer_id = consumer_id
        self.room: Room | None = None
        self.writable = True
        self.position = 0
        self.octets = 0
        self.last_byte_ms = now_ms
        self.ping_due_ms = now_ms
        self.slot = -1
        self.close_with: tuple[int, str] | None = None  # of our close frame, or of the one we answered
        self.close_due_ms: int | None = None
        self.limiter: Limiter | None = None

    def let_go(self) -> None:
        """Forget the socket: the timer wheel holds the consumer a little longer, and must not hold that as well."""
        self.write = self.abort = _nobody
        self.limiter = None


class Room:
    """One stream. ``head`` messages have been published in it, of which ``flushed`` were handed out."""

    __slots__ = ("_log", "_log_first", "_pending", "behind", "flushed", "flushed_octets", "head", "head_octets", "key",
                 "live", "log_octets", "paced_ms")  # fmt: skip

    def __init__(self, key: RoomKey) -> None:
        self.key = key
        self.live: dict[Consumer, Write] = {}
        self.behind: dict[Consumer, None] = {}
        self.head = self.head_octets = 0
        self.flushed = self.flushed_octets = 0
        self.log_octets = 0
        self.paced_ms = 0  # see plain_pace
        self._pending: list[bytes] = []
        self._log: list[bytes] = []
        self._log_first = 0  # position before the first message of the log

    @property
    def is_vacant(self) -> bool:
        """Nobody listens."""
        return not (self.live or self.behind)

    @property
    def pending_octets(self) -> int:
        """What was published and not handed out yet."""
        return self.head_octets - self.flushed_octets

    def publish(self, frame: bytes) -> None:
        """One more message, as a finished frame."""
        self._pending.append(frame)
        self.head += 1
        self.head_octets += len(frame)

    def join(self, consumer: Consumer) -> None:
        """``consumer`` gets what is published from now on."""
        consumer.room = self
        consumer.position, consumer.octets = self.head, self.head_octets
        if self._pending:
            self.behind[consumer] = None  # what is pending is not for it
        else:
            self.live[consumer] = consumer.write

    def leave(self, consumer: Consumer) -> None:
        """Nothing more for ``consumer``; without effect for one that left before."""
        consumer.room = None
        self.live.pop(consumer, None)
        if consumer in self.behind:
            del self.behind[consumer]
            self._free_log()

    def pause(self, consumer: Consumer) -> None:
        """The socket takes no more. May be called while a delivery is being written: that one counts as handed."""
        consumer.writable = False
        if self.live.pop(consumer, None) is not None:
            consumer.position, consumer.octets = self.flushed, self.flushed_octets
            self.behind[consumer] = None

    def resume(self, consumer: Consumer) -> Iterator[bytes]:
        """The socket takes bytes again: what it has missed, until it is full again or has everything."""
        consumer.writable = True
        while consumer.writable and consumer in self.behind and consumer.position <= self.flushed:
            data = self._next(consumer)
            if data:
                yield data

    def lag(self, consumer: Consumer) -> tuple[int, int]:
        """How many messages, and bytes, that were handed to others ``consumer`` has not got."""
        if consumer not in self.behind:
            return 0, 0
        return max(0, self.flushed - consumer.position), max(0, self.flushed_octets - consumer.octets)

    def flush(self) -> Deliveries:
        """Hand out what is pending. All is to be written before anything else happens to the room's consumers."""
        pending = self._pending
        if not pending:
            return
        self._pending = []
        if self.behind:
            if not self._log:
                self._log_first = self.flushed
            self._log += pending
            self.log_octets += self.pending_octets
        self.flushed, self.flushed_octets = self.head, self.head_octets
        if self.live:
            yield tuple(self.live.values()), b"".join(pending)
        for consumer in [each for each in self.behind if each.writable]:
            for data in self.resume(consumer):
                yield (consumer.write,), data
        self.trim()

    def trim(self) -> None:
        """Forget what nobody lacks."""
        if not self._free_log():
            floor = min(consumer.position for consumer in self.behind)
            surplus = max(0, floor - self._log_first)
            self.log_octets -= sum(map(len, self._log[:surplus]))
            del self._log[:surplus]
            self._log_first += surplus

    def _free_log(self) -> bool:
        if self.behind:
            return False
        self._log = []
        self.log_octets = 0
        return True

    def _next(self, consumer: Consumer) -> bytes:
        """About 64 KiB of what it lacks; with the last of it, it keeps up again."""
        frames: list[bytes] = []
        size = 0
        start = consumer.position - self._log_first
        while size < _CHUNK_BYTES and consumer.position + len(frames) < self.flushed:
            frame = self._log[start + len(frames)]
            frames.append(frame)
            size += len(frame)
        consumer.position += len(frames)
        consumer.octets += size
        if consumer.position == self.flushed:
            del self.behind[consumer]
            self.live[consumer] = consumer.write
            self._free_log()
        return b"".join(frames)
