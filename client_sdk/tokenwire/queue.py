"""What waits for the application: bounded, in order, and honest about what it leaves out.

The queue is a plain FIFO as long as its reader keeps up. When it is full, or its oldest event waited too long, under
the policy ``latest`` it turns into an ordered map in which a token occurs once: a newer value takes the older one's
place at the end. It turns back once half of it was taken, or all of it when it was the waiting. That costs one pass
over the queue, at most once for each time that the reader fell behind.
"""

from collections import OrderedDict, deque

from tokenwire.events import Event, Gap, Reconnecting, Snapshot, Update

__all__ = ["Entry", "EventQueue", "Lineage"]


class Lineage:
    """The session that events belong to: its secret (None: it cannot be resumed) and its stream of versions."""

    __slots__ = ("secret", "stream")

    def __init__(self, secret: str | None, stream: str | None) -> None:
        self.secret = secret
        self.stream = stream


class Entry:
    """A waiting event that is no value. ``floor``: the position may not pass this number before it was taken.

    ``lineage`` is set on the event that begins a new session.
    """

    __slots__ = ("event", "floor", "lineage")

    def __init__(self, event: Event, floor: int, lineage: Lineage | None = None) -> None:
        self.event = event
        self.floor = floor
        self.lineage = lineage


_Waiting = Snapshot | Update | Entry


class EventQueue:
    """At most ``limit`` events; of more tokens than that, one value each and one event of each other kind.

    ``max_wait_ms``: with an event that waited longer than this, older values give way as if the queue were full (not
    under the policy ``fail``; None: never). ``conflated`` counts the events that gave way to newer ones.
    """

    __slots__ = ("_controls", "_fail", "_fifo", "_is_late", "_map", "_max_wait_ms", "_serial", "conflated", "limit",
                 "refused", "severed")  # fmt: skip

    def __init__(self, limit: int, *, fail: bool = False, max_wait_ms: int | None = None) -> None:
        self.limit = max(limit, 1)
        self._max_wait_ms = None if fail else max_wait_ms
        self._is_late = False  # it became a map because of its age, not of its length
        self.conflated = 0
        self.refused: _Waiting | None = None
        """The first event that found no room under the policy ``fail``; nothing is taken in after it."""
        self.severed = False
        """The beginning of a session gave way: what follows cannot be told apart until the next beginning."""
        self._fail = fail
        self._fifo: deque[_Waiting] = deque()
        self._map: OrderedDict[str | int, _Waiting] | None = None
        self._controls: dict[type, deque[int]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._fifo) if self._map is None else len(self._map)

    @property
    def overflowed(self) -> bool:
        """An event was refused."""
        return self.refused is not None

    @property
    def next(self) -> Snapshot | Update | Entry | None:
        """The first event that was not taken, also when it never will be."""
        return self.refused if self.head is None else self.head

    @property
    def head(self) -> Snapshot | Update | Entry | None:
        """What :meth:`take` returns next."""
        if self._map is None:
            return self._fifo[0] if self._fifo else None
        return next(iter(self._map.values()), None)

    def put(self, event: _Waiting) -> None:
        """Appends ``event``; under the policy ``fail`` a full queue refuses it and is ``overflowed``."""
        if self._map is not None:
            self._conflate(self._map, event)
        elif self.refused is not None:
            return
        elif len(self._fifo) < self.limit and not self._waits_too_long(event):
            self._fifo.append(event)
        elif self._fail:
            self.refused = event
        else:
            self._is_late = len(self._fifo) < self.limit
            waiting: OrderedDict[str | int, _Waiting] = OrderedDict()
            self._map = waiting
            for older in self._fifo:
                self._insert(waiting, older)
            self._fifo.clear()
            self._conflate(waiting, event)

    def put_values(self, values: "list[Snapshot | Update]") -> None:
        """Appends the values of one message, which were received at the same time."""
        fifo = self._fifo
        if (
            self._map is None
            and self.refused is None
            and len(fifo) + len(values) <= self.limit
            and not (values and self._waits_too_long(values[0]))
        ):
            fifo.extend(values)
        else:
            for value in values:
                self.put(value)

    def take(self) -> Snapshot | Update | Entry | None:
        """Removes and returns the oldest event, None when there is none."""
        if self._map is None:
            return self._fifo.popleft() if self._fifo else None
        key, event = self._map.popitem(last=False)
        if isinstance(key, int) and isinstance(event, Entry):
            self._controls[type(event.event)].popleft()  # of a kind the oldest is first in both
        if not self._map or (len(self._map) <= self.limit // 2 and not self._is_late):
            self._fifo.extend(self._map.values())
            self._map = None
            self._controls.clear()
        return event

    def _waits_too_long(self, event: _Waiting) -> bool:
        """Whether the oldest event is so old that its reader is behind (by the clock that events are stamped with)."""
        if self._max_wait_ms is None or not self._fifo:
            return False
        return _time_of(event) - _time_of(self._fifo[0]) > self._max_wait_ms

    def _conflate(self, waiting: OrderedDict[str | int, _Waiting], event: _Waiting) -> None:
        self._insert(waiting, event)
        if len(waiting) > self.limit:
            self._shorten(waiting)

    def _insert(self, waiting: OrderedDict[str | int, _Waiting], event: _Waiting) -> None:
        if isinstance(event, Entry):
            self._insert_control(waiting, event)
            return
        address = event.quote.address
        older = waiting.pop(address, None)
        if older is not None:
            self.conflated += 1
            assert not isinstance(older, Entry)
            event = _newest(older, event)
        waiting[address] = event

    def _insert_control(self, waiting: OrderedDict[str | int, _Waiting], entry: Entry) -> None:
        if waiting:
            last_key = next(reversed(waiting))
            last = waiting[last_key]
            if isinstance(last, Entry):
                merged = _adjacent(last.event, entry.event)
                if merged is not None:
                    self.conflated += 1
                    waiting[last_key] = Entry(merged, last.floor, entry.lineage or last.lineage)
                    return
        self._serial += 1
        waiting[self._serial] = entry
        self._controls.setdefault(type(entry.event), deque()).append(self._serial)

    def _shorten(self, waiting: OrderedDict[str | int, _Waiting]) -> None:
        """The queue is full although every token occurs once: of the commonest other kind the oldest gives way."""
        keys = max(self._controls.values(), key=len, default=None)
        if keys is None or len(keys) < 2:
            return
        oldest = waiting.pop(keys.popleft())
        assert isinstance(oldest, Entry)
        self.conflated += 1
        if oldest.lineage is not None:
            self.severed = True
        if isinstance(oldest.event, Gap):
            heir = waiting[keys[0]]
            assert isinstance(heir, Entry)
            assert isinstance(heir.event, Gap)
            waiting[keys[0]] = Entry(_union(oldest.event, heir.event), min(oldest.floor, heir.floor), heir.lineage)


def _time_of(event: _Waiting) -> int:
    return event.event.received_ms if isinstance(event, Entry) else event.received_ms


def _newest(older: Snapshot | Update, newer: Snapshot | Update) -> Snapshot | Update:
    """The newer value in place of both; a snapshot stays one, and the older one is counted as missed."""
    quote = newer.quote
    missed = None if newer.missed is None else newer.missed + 1 + (older.missed or 0)
    if isinstance(older, Snapshot) or isinstance(newer, Snapshot):
        return Snapshot(quote, newer.sequence, newer.received_ms, missed)
    return Update(quote, newer.sequence, newer.received_ms, missed, newer.replayed)


def _adjacent(older: Event, newer: Event) -> Event | None:
    """One event in place of two neighbours, None when both must stay."""
    if isinstance(older, Reconnecting) and isinstance(newer, Reconnecting):
        return newer
    if isinstance(older, Gap) and isinstance(newer, Gap):
        unknown = older.first is None and newer.first is None
        follows = older.last is not None and newer.first == older.last + 1
        if (unknown or follows) and older.cause == newer.cause and older.repair == newer.repair:
            return _union(older, newer)
    return None


def _union(older: Gap, newer: Gap) -> Gap:
    """A gap that covers both; what the ends cannot say any more is None."""
    first = older.first if newer.first is None or older.first is None else min(older.first, newer.first)
    last = None if older.last is None or newer.last is None else max(older.last, newer.last)
    cause = newer.cause if older.cause == newer.cause else "several"
    repair = "rest" if "rest" in {older.repair, newer.repair} else newer.repair
    return Gap(first, last, cause, repair, newer.received_ms)
