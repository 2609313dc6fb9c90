"""The hub: admission, requests, ticks and time-outs of all connections. Pure: time, ids and secrets are arguments.

The shell calls a method, then writes what :meth:`Hub.pump` returns for each link of :meth:`Hub.take_ready`, until
it returns nothing. ``now`` is monotonic milliseconds, ``wall`` Unix milliseconds.

It is one object in four parts: who is connected (``lifecycle``), what they send (``requests``), where the data comes
from (``upstream``), and here what they are sent, and when.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.limits import RESUME_MAX_BYTES
from tokenwire_server.core.board import Row
from tokenwire_server.core.delivery import Delivery
from tokenwire_server.core.lifecycle import HubConfig
from tokenwire_server.core.link import Link
from tokenwire_server.core.numbering import Tally, Write
from tokenwire_server.core.replies import heartbeat_data
from tokenwire_server.core.requests import Requests
from tokenwire_server.core.session import Session
from tokenwire_server.core.staleness import Staleness
from tokenwire_server.core.states import LinkState
from tokenwire_server.core.subscribing import Directory, Subscriber
from tokenwire_server.core.tokensets import Format
from tokenwire_server.core.topic_delivery import Due, TopicDelivery, due_to
from tokenwire_server.core.topics import Change, Topic
from tokenwire_server.core.wire import ping_frame

__all__ = ["Hub", "HubConfig"]

_HEARTBEAT: Final = b"heartbeat"
_PING: Final = ping_frame()


class Hub(Requests):
    """Everything that is connected, and the board it is served from.

    ``directory`` tells what names mean, ``new_secret`` makes the secret of a session that can be resumed (at least
    128 bits of randomness in base64url), ``stream`` names the lineage of the versions' writer.
    """

    def __init__(
        self,
        directory: Directory,
        now: int,
        config: HubConfig | None = None,
        *,
        new_secret: Callable[[], str],
        stream: str,
    ) -> None:
        super().__init__(now, config, new_secret, stream)
        self.staleness = Staleness()
        limit = self.config.max_subscriptions
        self._subscriber = Subscriber(self.board, directory, self.sets, self.topics, limit, stream)
        self._source_lost = {}
        self._halted: list[Link] = []
        self._ticking = False
        self._timestamp = 0

    # --- delivery --------------------------------------------------------------------------------------------

    def tick(self, now: int, wall: int) -> Iterator[tuple[Write, bytes]]:
        """Send what changed since the last tick: yields a write and its bytes for each client.

        Every pair is to be written, in this order, also those yielded before an exception; not necessarily at once.
        """
        self._now = now
        self.flush_stream()
        rows = self._sendable(self.board.commit())
        self.stats.ticks += 1
        if not rows:
            return
        sent = [row.sent_version for row in rows]
        delivery = Delivery(self.board, self.sets, self.ledger, rows, self._stamp(wall), now)
        for row in rows:
            self.stats.latency.observe(now - row.changed_ms)
        self._ticking = True
        complete = False
        windows = self.sets.windows
        windows.sweep()
        try:
            for tokens in self.sets.occupied():
                yield from delivery.to(tokens)
            complete = True
        finally:
            if not complete:  # a defect: who was not reached yet gets these rows next time
                for row, version in zip(rows, sent, strict=True):
                    self.board.unsent(row, version)
                windows.clear()  # what entered one may not have been sent to all who share it
            self.stats.updates += delivery.updates
            self.stats.conflated += delivery.conflated
            self._after_sending(delivery)

    def flush_topics(self, now: int, wall: int) -> Iterator[tuple[Write, bytes]]:
        """Send what happened in topics since the last flush; otherwise as :meth:`tick`."""
        self._now = now
        changes = {change.topic: change for change in self.topics.take(now)}
        if not changes:
            return
        delivery = TopicDelivery(self.ledger, self._stamp(wall))
        live = self._queue_or_plan(changes, now)
        self._ticking = True
        served = 0
        try:
            while live:
                members, due, form = live[0]
                for served, pair in enumerate(delivery.to(members, due, form), 1):  # noqa: B007 - used if it breaks
                    yield pair
                del live[0]
                served = 0
                if delivery.is_compressed(due, form):
                    for session in members:
                        session.leave_window()
        finally:
            for members, due, _ in live:  # a defect: who was not reached yet has it queued
                for session in list(members)[:served]:
                    session.leave_window()
                self._queue(list(members)[served:], due)
                served = 0
            self.stats.events += delivery.events
            self.stats.bad_rows += delivery.bad_states
            self._after_sending(delivery)

    def _queue_or_plan(
        self, changes: Mapping[Topic, Change], now: int
    ) -> deque[tuple[dict[Session, Write], Due, Format]]:
        """Queue what can't be written at once; the rest, by set and format."""
        for change in changes.values():
            for session in change.newcomers:
                session.want_state(change.topic)
                if session.link is not None:
                    self._ready[session.link] = None
        live: deque[tuple[dict[Session, Write], Due, Format]] = deque()
        for held in {held: None for topic in changes for held in topic.sets}:
            due = due_to(held, changes)
            if due.events or due.states:
                held.sent_ms = now
            self._queue(tuple(held.waiting), due)
            for form, members in list(held.live.items()):
                is_much = due.is_torn or due.octets(form.details) > RESUME_MAX_BYTES
                waiting = {session: None for session in members if is_much or session.waits()}
                self._queue(waiting, due)  # what they wait for must not be overtaken
                ready = {session: write for session, write in members.items() if session not in waiting}
                live.append((ready, due, form))
        return live

    def _queue(self, sessions: Iterable[Session], due: Due) -> None:
        """Have ``sessions`` sent this when they can be written to."""
        for session in sessions:
            details = session.format.details
            items = [(event.topic, event.data(details)) for event in due.events]
            for topic in due.states:
                session.want_state(topic)
            self._stream_to(session, items, sum(len(payload) for _, payload in items), lost=due.is_torn)

    def _after_sending(self, tally: Tally) -> None:
        """What pauses, counters and memory ask for once everything was yielded."""
        self._ticking = False
        self.stats.frames += tally.frames
        self.stats.bytes_out += tally.octets
        halted, self._halted = self._halted, []
        for link in halted:
            link.session.fall_behind(self.board)
        self.make_room()

    def _sendable(self, changed: list[Row]) -> list[Row]:
        """Of the changed rows those that somebody holds; one whose value can't be encoded must not spoil the rest."""
        rows: list[Row] = []
        for row in changed:
            if not row.holders or not row.value.has_value:
                row.sent_version = row.value.version
                continue
            try:
                row.payload(details=True)  # the plain form among it
            except Exception:  # a defect of the token's writer
                self.stats.bad_rows += 1
            else:
                rows.append(row)
        return rows

    def take_ready(self) -> list[Link]:
        """The links for which :meth:`pump` may have something."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def pump(self, link: Link, wall: int) -> bytes:
        """Bytes to write to ``link`` now; call again after writing them until there are none."""
        if link.session.format.every and link.session.replay is not None:
            link.session.catch_up(self.board)
        self._ready.pop(link, None)
        data = link.drain(self.board, self._stamp(wall), self.stats)
        if data:
            link.sent_ms = self._now
            if link.close_with is not None:
                self._part(link)
                self._step(link, LinkState.CLOSING)
        self.stats.bytes_out += len(data)
        return data

    def pause(self, link: Link, now: int) -> None:
        """The socket's buffer is full. May be called while a tick's bytes are being written."""
        link.writable = False
        link.stalled_ms = now
        link.stall_bytes = link.socket.get_write_buffer_size()
        self.stats.pauses += 1
        if link.state is LinkState.CONNECTED and link.close_with is None:
            if self._ticking:
                self._halted.append(link)
            else:
                link.session.fall_behind(self.board)
            self._touch_timer(link, now)

    def resume(self, link: Link, now: int) -> None:
        """The socket takes bytes again."""
        link.writable = True
        link.stalled_ms = None
        if link.stall_warning and link.close_with is None:
            link.stall_warning = False
            self._error(link, ErrorCode.SLOW_CONSUMER, CATALOGUE[ErrorCode.SLOW_CONSUMER].meaning)
        self._ready[link] = None

    # --- time ------------------------------------------------------------------------------------------------

    def timers(self, now: int) -> tuple[list[Link], list[Link]]:
        """Handle what is due: links to ping and links to abort."""
        self.forget_detached(now)
        pings: list[Link] = []
        aborts: list[Link] = []
        for slot, link in self._wheel.advance(now):
            if link.state is LinkState.CLOSED or slot != link.slot:
                continue  # gone, or this entry was overtaken by an earlier one
            link.slot = -1
            if link.close_due_ms is not None:
                if now >= link.close_due_ms:
                    aborts.append(link)
                    link.close_due_ms = now + self.config.close_timeout_ms
            elif now - link.last_byte_ms >= self.config.idle_timeout_ms:
                self.close(link, CloseCode.HEARTBEAT_TIMEOUT, "heartbeat time-out", now)
            elif link.message_due_ms is not None and now >= link.message_due_ms:
                text = f"a message was not complete within {limits.MESSAGE_TIMEOUT_MS // 1000} s"
                self.fail(link, ErrorCode.INVALID_MESSAGE, now, text, CloseCode.POLICY_VIOLATION)
            elif link.stalled_ms is not None:
                self._check_stall(link, link.stalled_ms, now)
            if link.has_heartbeat and link.close_due_ms is None and link.writable:
                self._beat(link, now)
            if link.close_due_ms is None and now >= link.ping_due_ms:
                next_due = link.ping_due_ms + self.config.heartbeat_ms
                link.ping_due_ms = next_due if next_due > now else now + self.config.heartbeat_ms
                if link.writable:
                    pings.append(link)
            self._touch_timer(link, now)
        return pings, aborts

    def _beat(self, link: Link, now: int) -> None:
        """A page can't see ping frames: after 15 s without a message it gets one (I-57)."""
        if now - link.last_sent_ms >= self.config.heartbeat_ms:
            link.sent_ms = now
            self.stats.heartbeats += 1
            self._enqueue(link, _HEARTBEAT, heartbeat_data(link.session.tokens_due(self.board)), numbered=False)

    @property
    def ping(self) -> bytes:
        """The frame to send to links that :meth:`timers` wants pinged."""
        return _PING

    def _check_stall(self, link: Link, since: int, now: int) -> None:
        waiting = link.socket.get_write_buffer_size()
        if waiting < link.stall_bytes:
            link.stall_bytes = waiting
            link.stalled_ms = now
        elif now - since >= self.config.stall_close_ms:
            self.stats.error(ErrorCode.SLOW_CONSUMER)
            self.close(link, CloseCode.SLOW_CONSUMER, ErrorCode.SLOW_CONSUMER, now)
        elif now - since >= self.config.stall_warning_ms and not link.stall_warning:
            link.stall_warning = True
            self.stats.stalls += 1

    def _stamp(self, wall: int) -> int:
        self._timestamp = max(self._timestamp, wall)
        return self._timestamp
