"""One symbol's book out of a stream of events and snapshots that were taken beside it: pure, time is an argument.

The procedure that the venue documents: keep the events from the moment they are subscribed to; fetch a snapshot; leave
out the events that it already holds (``last`` <= its ``last``); the first of the others must begin no later than one
behind the snapshot (``first`` <= its ``last`` + 1), else it was taken too early, and another one is fetched; from then
on each event must begin where the book ends (repeated ones are left out). A hole: the book is lost, and everything
begins anew.

Two things are added to it. A snapshot that no event has been held against yet is believed after ``quiet_ms`` without
one, since a market that does not move would have no book otherwise. And a book that became shallow (the price left the
range of its snapshot) is *refreshed*: it goes on while a new snapshot is fetched and spliced in.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tokenwire_server.market.book import BookDelta, BookSnapshot, BookUpdate
from tokenwire_server.sources.binance_depth import SNAPSHOT_LEVELS, DepthEvent, DepthSnapshot

__all__ = ["DepthSplice", "Lost", "SpliceState", "SpliceTimes"]

MAX_KEPT_EVENTS: Final = 600  # one minute of them; the oldest give way
_MAX_DOUBLINGS: Final = 16


class SpliceState(StrEnum):
    """Where a book stands. Only a live one is current."""

    IDLE = "idle"  # not subscribed
    SPLICING = "splicing"  # events come; a snapshot is missing
    UNPROVEN = "unproven"  # there is a snapshot, and no event yet to hold against it
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class SpliceTimes:
    """The times of a splice, in ms."""

    answer_ms: int = 15_000
    """A snapshot that did not come by then is not waited for any more."""
    retry_ms: int = 1_000
    """Before another snapshot is asked for, doubled with each that did not help …"""
    max_retry_ms: int = 30_000
    """… up to this."""
    quiet_ms: int = 3_000
    """A market that is silent for so long did not change: events come every 100 ms while there are any."""


class Lost:
    """An effect: what is known of the book is not current any more."""


LOST: Final = Lost()

Effects = Sequence[BookUpdate | Lost]


class DepthSplice:
    """The state of one symbol's book. What its methods return is to be applied to the book, in that order.

    ``wants_snapshot(now)`` says when to fetch one, :meth:`asked` that it is under way; its outcome goes to
    :meth:`snapshot` or :meth:`failed` with the number that :meth:`asked` gave. Times are of one monotonic clock, in ms.
    """

    def __init__(self, times: SpliceTimes | None = None) -> None:
        self.state = SpliceState.IDLE
        self.breaks = 0
        """Times that a live book was lost by a hole, or because its sides crossed."""
        self._times = times or SpliceTimes()
        self._kept: deque[DepthEvent] = deque(maxlen=MAX_KEPT_EVENTS)  # contiguous, up to _last
        self._last: int | None = None  # the last update that came, or that the snapshot holds
        self._unproven: DepthSnapshot | None = None
        self._believed_at_ms = 0
        self._is_refreshing = False
        self._asked = 0  # number of the newest request
        self._waits_until_ms: int | None = None  # for its answer; None: nothing is under way
        self._ask_at_ms = 0
        self._fruitless = 0  # requests in a row that brought nothing

    @property
    def last_update(self) -> int | None:
        """The last update that the book holds, while it is live."""
        return self._last if self.state is SpliceState.LIVE else None

    # --- the stream ------------------------------------------------------------------------------------------

    def subscribed(self, now_ms: int) -> None:
        """Events come from now on."""
        self._begin(now_ms)

    def stopped(self) -> Effects:
        """No events come any more: the connection is gone, or the subscription."""
        was_live = self.state is SpliceState.LIVE
        self.state = SpliceState.IDLE
        self._forget()
        return (LOST,) if was_live else ()

    def event(self, event: DepthEvent, now_ms: int) -> Effects:
        """An event came."""
        if self.state is SpliceState.IDLE:
            return ()
        if self.state is SpliceState.UNPROVEN:
            return self._prove(event, now_ms)
        last = self._last
        if last is not None and event.last <= last:
            return ()  # repeated, or held by the snapshot
        if last is not None and event.first > last + 1:
            was_live = self.state is SpliceState.LIVE
            if was_live:
                self.breaks += 1
                self._begin(now_ms)
            # What came before the hole leads nowhere; a snapshot that is under way may still fit what follows.
            self._kept.clear()
            self._keep(event)
            return (LOST,) if was_live else ()
        if self.state is SpliceState.LIVE:
            self._last = event.last
            if self._is_refreshing:
                self._kept.append(event)
            return (_delta(event),)
        self._keep(event)
        return ()

    # --- snapshots -------------------------------------------------------------------------------------------

    def wants_snapshot(self, now_ms: int) -> bool:
        """Whether one is to be fetched now."""
        is_wanted = self.state is SpliceState.SPLICING or self._is_refreshing
        return is_wanted and self._waits_until_ms is None and now_ms >= self._ask_at_ms

    def asked(self, now_ms: int) -> int:
        """One is being fetched; the number of this request."""
        self._asked += 1
        self._waits_until_ms = now_ms + self._times.answer_ms
        self._ask_at_ms = now_ms + self._times.retry_ms  # however soon a hole follows
        return self._asked

    def failed(self, request: int, now_ms: int, least_wait_ms: int = 0) -> None:
        """The request brought nothing; the next one waits at least ``least_wait_ms``."""
        if request == self._asked and self._waits_until_ms is not None:
            self._try_later(now_ms, least_wait_ms)

    def snapshot(self, request: int, snapshot: DepthSnapshot, now_ms: int) -> Effects:
        """The request brought a snapshot. One that nobody waits for any more is left out: it may be from a time
        before the subscription, when events were missed."""
        if request != self._asked or self._waits_until_ms is None:
            return ()
        kept = self._kept
        while kept and kept[0].last <= snapshot.last:
            kept.popleft()
        newest = snapshot.last if self._last is None else self._last
        if kept[0].first > snapshot.last + 1 if kept else newest > snapshot.last:  # taken too early
            self._try_later(now_ms)
            return ()
        self._waits_until_ms = None
        if self._last is None:
            self._unproven = snapshot
            self._believed_at_ms = now_ms + self._times.quiet_ms
            self.state = SpliceState.UNPROVEN
            return ()
        return self._spliced(snapshot)

    def refresh(self, now_ms: int) -> None:
        """A new snapshot would help the live book."""
        if self.state is SpliceState.LIVE and not self._is_refreshing:
            self._is_refreshing = True
            self._ask_at_ms = max(self._ask_at_ms, now_ms)

    def disbelieved(self, now_ms: int) -> None:
        """The book cannot be right, as it was found from outside: begin anew."""
        if self.state is SpliceState.LIVE:
            self.breaks += 1
            last = self._last
            self._begin(now_ms)
            self._last = last

    # --- time ------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> Effects:
        """Time passed."""
        if self._waits_until_ms is not None and now_ms >= self._waits_until_ms:
            self._try_later(now_ms)
        if self._unproven is not None and now_ms >= self._believed_at_ms:
            return self._spliced(self._unproven)
        return ()

    # ---------------------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> None:
        self.state = SpliceState.SPLICING
        self._forget()
        self._ask_at_ms = max(self._ask_at_ms, now_ms)

    def _forget(self) -> None:
        self._kept.clear()
        self._last = None
        self._unproven = None
        self._is_refreshing = False
        self._waits_until_ms = None

    def _keep(self, event: DepthEvent) -> None:
        self._kept.append(event)
        self._last = event.last

    def _try_later(self, now_ms: int, least_wait_ms: int = 0) -> None:
        times = self._times
        wait_ms = min(times.retry_ms * 2 ** min(self._fruitless, _MAX_DOUBLINGS), times.max_retry_ms)
        self._fruitless += 1
        self._waits_until_ms = None
        self._ask_at_ms = now_ms + max(wait_ms, least_wait_ms)

    def _prove(self, event: DepthEvent, now_ms: int) -> Effects:
        """Hold the first event against the snapshot that waits for it."""
        snapshot = self._unproven
        assert snapshot is not None
        self._keep(event)
        if event.first > snapshot.last + 1:
            self.state = SpliceState.SPLICING
            self._unproven = None
            self._try_later(now_ms)
            return ()
        if event.last <= snapshot.last:
            self._kept.clear()
        return self._spliced(snapshot)

    def _spliced(self, snapshot: DepthSnapshot) -> Effects:
        events = tuple(self._kept)
        self._kept.clear()
        self._unproven = None
        self._is_refreshing = False
        self._fruitless = 0
        self._last = events[-1].last if events else snapshot.last
        self.state = SpliceState.LIVE
        time_ms = events[0].time_ms if events else snapshot.time_ms  # the venue's own time is better
        return (BookSnapshot(snapshot.bids, snapshot.asks, time_ms, SNAPSHOT_LEVELS), *map(_delta, events))


def _delta(event: DepthEvent) -> BookDelta:
    return BookDelta(event.bids, event.asks, event.time_ms)
