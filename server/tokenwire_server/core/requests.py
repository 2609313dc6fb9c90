"""What clients send: rates, subscriptions, acks, replays and pings, and the answers."""

from typing import Final

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.codec import CodecError, decode_client_message, encode_data
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.lifecycle import Lifecycle
from tokenwire_server.core.limiter import Limiter, Verdict
from tokenwire_server.core.link import Link
from tokenwire_server.core.replies import heartbeat_data
from tokenwire_server.core.session import GAP
from tokenwire_server.core.states import LinkState
from tokenwire_server.core.subscribing import Subscriber
from tokenwire_server.core.upstream import Upstream
from tokenwire_server.validation.messages import (
    AckRequest,
    PingRequest,
    ReplayRequest,
    RequestError,
    SubscriptionRequest,
    check_request,
)

__all__ = ["Requests"]

_SUBSCRIPTION: Final = b"subscription"
_HEARTBEAT: Final = b"heartbeat"
_SET: Final = b"set"


class Requests(Upstream, Lifecycle):
    """The inbound side of the hub; ``_subscriber`` tells what a client's names mean."""

    _subscriber: Subscriber

    def admit(self, link: Link, now: int, *, small: bool = False) -> bool:
        """A message is about to be read; whether it may be, by the client's rate. ``small``: it may be an ack."""
        if link.state is not LinkState.CONNECTED or link.close_with is not None:
            return False
        self.stats.messages_in += 1
        if link.limiter is None:
            link.limiter = Limiter(now)
        return link.limiter.may_read(now, small=small) or self._admit(link, link.limiter.message(now), now)

    def receive(self, link: Link, text: str, now: int) -> None:
        """One text message that was admitted. A long one counts as several, so that size is no way round the rate."""
        limiter = link.limiter
        if link.state is not LinkState.CONNECTED or link.close_with is not None or limiter is None:
            return
        session = link.session
        try:
            message = decode_client_message(text)
            request = check_request(message, session.grants)
        except (CodecError, RequestError) as error:
            if self._account(link, limiter, len(text), now):
                self._refuse(link, limiter, error.code, str(error), now)
            return
        if isinstance(request, AckRequest | PingRequest):  # they have the ceiling of control frames
            limiter.charge(len(text) // limits.INBOUND_SHARE_BYTES)
            accepted = self._admit(link, limiter.control(now), now)
        else:
            accepted = self._account(link, limiter, len(text), now)
        if not accepted:
            return
        if request.sequence is not None:
            self._check_sequence(link, request.sequence)
        if isinstance(request, AckRequest):
            self._ack(link, request, now)
        elif session.is_full:
            self.stats.error(ErrorCode.SLOW_CONSUMER)
            self.close(link, CloseCode.SLOW_CONSUMER, ErrorCode.SLOW_CONSUMER, now)
        elif isinstance(request, SubscriptionRequest):
            self._subscription(link, request, now)
        elif isinstance(request, PingRequest):
            self.stats.heartbeats += 1
            data = heartbeat_data(session.tokens_due(self.board), request.echo)
            self._enqueue(link, _HEARTBEAT, data, numbered=False)
        else:
            self._replay(link, request)

    def _account(self, link: Link, limiter: Limiter, length: int, now: int) -> bool:
        """Charge a message for its size; False if it is dropped after all."""
        accepted = self._admit(link, limiter.message(now), now)
        if accepted:
            limiter.charge(length // limits.INBOUND_SHARE_BYTES)
        return accepted

    def _subscription(self, link: Link, request: SubscriptionRequest, now: int) -> None:
        session = link.session
        if session.format.every:  # what changed before is not for tokens that are subscribed only now
            session.catch_up(self.board)
        waiting = session.stream_bytes
        replies, refusals, changes = self._subscriber.apply(request, session, now)
        for reply in replies:
            self._enqueue(link, _SUBSCRIPTION, encode_data(reply))
        for refusal in refusals:
            self._error(link, refusal.code, refusal.message, request.request_id, refusal.names)
        if link.limiter is not None:  # what it makes the server send counts as much as sending it
            link.limiter.charge((session.stream_bytes - waiting) // limits.INBOUND_SHARE_BYTES)
        for change in changes:
            self._enqueue(link, _SET, encode_data(change))
        if session.holdings is not None:
            self.followers[session] = None
        if session.stale_warned and not self._held(session) & self.staleness.stale:
            session.stale_warned = False
        self._warn_if_stale(session)
        self._ready[link] = None

    def follow_sets(self, now: int) -> None:
        """Have who follows sets hold what they hold now; to be pumped before the next tick.

        Who has something to read first is told when it has read.
        """
        for session in list(self.followers):
            link = session.link
            if session.holdings is None:
                del self.followers[session]
            elif link is not None and link.close_with is None and not session.is_behind and not session.waits():
                try:
                    self._tell_sets(link, now)
                except Exception:  # a defect of who knows the members; the others needn't suffer
                    self.stats.bad_rows += 1

    def connect(self, link: Link, now: int) -> bool:
        """As of :class:`Lifecycle`; a session that begins with sets is told of their members before their values."""
        admitted = super().connect(link, now)
        if admitted and link.session.replay is None and link.session.preface is None:
            self._tell_sets(link, now)
        return admitted

    def _tell_sets(self, link: Link, now: int) -> None:
        if not self._subscriber.is_up_to_date(link.session):
            for change in self._subscriber.follow(link.session, now):
                self._enqueue(link, _SET, encode_data(change))
            self._ready[link] = None

    def _ack(self, link: Link, request: AckRequest, now: int) -> None:
        session = link.session
        if request.number > session.sequence:
            if link.ack_warned_ms is not None and now - link.ack_warned_ms < limits.RATE_NOTICE_INTERVAL_MS:
                return
            link.ack_warned_ms = now
            text = f"{request.number} was never sent; the last number is {session.sequence}"
            self._error(link, ErrorCode.ACK_OUT_OF_RANGE, text)
        elif session.ring is not None:
            self.stats.acks += 1
            session.ring.ack(request.number)

    def _replay(self, link: Link, request: ReplayRequest) -> None:
        session = link.session
        ring = session.ring
        if session.replay is not None or session.preface is not None or ring is None:
            self._error(link, ErrorCode.REPLAY_UNAVAILABLE, "a replay is under way; wait for its end")
            return
        if request.last > session.sequence:
            text = f"{request.last} was never sent; the last number is {session.sequence}"
            self._error(link, ErrorCode.REPLAY_UNAVAILABLE, text)
            return
        self.stats.replays += 1
        if link.limiter is not None:  # what it makes the server send counts as much as sending it
            link.limiter.charge(ring.octets_between(request.first, request.last) // limits.INBOUND_SHARE_BYTES)
        if session.format.every:
            session.catch_up(self.board)
        first = max(request.first, ring.floor + 1)
        if request.first < first:
            last = min(request.last, ring.floor)
            self.stats.replay_missed += last - request.first + 1
            session.preface = [(GAP, session.gap_data(request.first, last))]
            session.want_all()
        if first <= request.last:
            session.fall_behind(self.board)
            session.replay = (first, request.last)
        self._ready[link] = None

    def receive_control(self, link: Link, now: int) -> bool:
        """One ping or pong; whether it may be answered."""
        if link.state is not LinkState.CONNECTED or link.close_with is not None:
            return False
        if link.limiter is None:
            link.limiter = Limiter(now)
        return self._admit(link, link.limiter.control(now), now) and link.writable

    def hold(self, link: Link, held_bytes: int, now: int) -> None:
        """How much of an unfinished message is kept for ``link``; bounded in time, and for all clients together."""
        self.held_bytes += held_bytes - link.held_bytes
        link.held_bytes = held_bytes
        if not held_bytes:
            link.message_due_ms = None
        elif link.message_due_ms is None:
            link.message_due_ms = now + limits.MESSAGE_TIMEOUT_MS
            self._touch_timer(link, now)
        if held_bytes and self.held_bytes > limits.MAX_UNFINISHED_BYTES:
            self.fail(link, ErrorCode.MESSAGE_TOO_LARGE, now, "the server holds too many unfinished messages")

    def _admit(self, link: Link, verdict: Verdict, now: int) -> bool:
        if verdict is Verdict.ACCEPT:
            return True
        limiter = link.limiter
        self.stats.dropped_in += 1
        if limiter is not None and verdict is Verdict.NOTIFY:
            text = (
                f"{limiter.dropped} messages dropped; at most {limits.INBOUND_RATE_PER_S} messages and "
                f"{limits.INBOUND_CONTROL_RATE_PER_S} pings, pongs or acks a second are read"
            )
            limiter.dropped = 0
            self._error(link, ErrorCode.RATE_LIMITED, text)
        elif verdict is Verdict.CUT:
            self.fail(link, ErrorCode.RATE_LIMITED, now, "the flood went on for 10 s")
        return False

    def _refuse(self, link: Link, limiter: Limiter, code: ErrorCode, message: str, now: int) -> None:
        if limiter.protocol_error(now):
            self.fail(link, code, now, message, CloseCode.PROTOCOL_ERRORS)
        else:
            self._error(link, code, message)

    def _check_sequence(self, link: Link, sequence: int) -> None:
        expected = link.inbound_next
        if expected is not None and sequence > expected and not link.gap_warned:
            link.gap_warned = True
            text = f"expected sequence {expected}, got {sequence}; said once per connection"
            self._error(link, ErrorCode.SEQUENCE_GAP, text)
        link.inbound_next = sequence + 1
