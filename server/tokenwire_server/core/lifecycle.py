"""The life of links and sessions: admission, resume and take-over, farewell, and what is kept for who comes back.

A session with ``resume`` granted outlives its socket. While it waits nothing is numbered; it costs its ring, and a
place in the registry until the window passes, the client returns, or memory is needed for others.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode, may_reconnect
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.compression import Deflater, Encoder, Zstd
from tokenwire_server.core.grants import NOTHING, Deflate, Grants, Offer, grant
from tokenwire_server.core.holdings import Holdings
from tokenwire_server.core.link import Link
from tokenwire_server.core.registry import Registry
from tokenwire_server.core.replies import Reason, Status, error_data, farewell_data, greeting_data
from tokenwire_server.core.ring import Ledger, Ring
from tokenwire_server.core.session import Session, held_channels
from tokenwire_server.core.states import LinkState, check_step
from tokenwire_server.core.stats import HubStats
from tokenwire_server.core.tokensets import TokenSets
from tokenwire_server.core.topics import NO_TOPICS, Topics, TopicSet
from tokenwire_server.core.wheel import Wheel

__all__ = ["HubConfig", "Lifecycle"]

_CONNECTION: Final = b"connection"
_ERROR: Final = b"error"
_WHEEL_RESOLUTION_MS: Final = 250
_KEPT: Final = frozenset(range(4000, 4500)) - {CloseCode.SESSION_LOST}  # our close codes after which a session waits


class HubConfig(msgspec.Struct, frozen=True):
    """What an operator may set; the specification's numbers by default."""

    max_connections: int = limits.MAX_CONNECTIONS
    max_subscriptions: int = limits.MAX_SUBSCRIPTIONS
    heartbeat_ms: int = limits.HEARTBEAT_INTERVAL_MS
    idle_timeout_ms: int = limits.IDLE_TIMEOUT_MS
    close_timeout_ms: int = limits.CLOSE_TIMEOUT_MS
    stall_warning_ms: int = limits.WRITE_STALL_WARNING_MS
    stall_close_ms: int = limits.WRITE_STALL_CLOSE_MS
    update_interval_ms: int = limits.UPDATE_INTERVAL_MS
    resume_window_ms: int = limits.RESUME_WINDOW_MS
    resume_max_frames: int = limits.RESUME_MAX_FRAMES
    resume_max_bytes: int = limits.RESUME_MAX_BYTES
    resume_instance_bytes: int = limits.RESUME_INSTANCE_BYTES


class Lifecycle:
    """Who is connected, who may come back, and how either ends.

    ``new_secret`` makes a session's secret (at least 128 bits of randomness, base64url); ``stream`` names the lineage
    of the versions' writer.
    """

    def __init__(self, now: int, config: HubConfig | None, new_secret: Callable[[], str], stream: str) -> None:
        self.config = config or HubConfig()
        self.stream = stream
        self.board = Board()
        self.sets = TokenSets()
        self.topics = Topics()
        self.followers: dict[Session, None] = {}  # sessions that follow sets of tokens
        self._deflaters: dict[Deflate, Deflater] = {}  # at most one for each of the few ways to agree
        self._zstd = Zstd()
        self.stats = HubStats()
        self.ledger = Ledger()
        self.registry = Registry()
        self.links: dict[Link, None] = {}
        self.rejected = 0
        self.guests = 0  # sockets of the other faces; they take places of max_connections
        self.parting: dict[Link, None] = {}  # sockets that lost their session to another one
        self.held_bytes = 0  # of unfinished messages
        self.streaming = 0  # sessions that get every version
        self.draining = False
        self.is_loading: Callable[[], bool] = lambda: False
        """Whether what is to be served is still being read: until then nobody is, since names would mean nothing."""
        self._new_secret = new_secret
        self._wheel: Wheel[Link] = Wheel(now, _WHEEL_RESOLUTION_MS)
        self._ready: dict[Link, None] = {}
        self._now = now

    # --- admission -------------------------------------------------------------------------------------------

    def may_upgrade(self) -> bool:
        """False when not even a refusal can be told over a WebSocket: loading, draining, or 50 others are told."""
        if self.draining or self.is_loading():
            return False
        full = len(self.links) + self.guests >= self.config.max_connections
        return not (full and self.rejected >= limits.MAX_REJECTED_SOCKETS)

    def admit_guest(self) -> bool:
        """Take a place for a socket that another face serves; False when there is none, while loading or draining.

        Whoever took one gives it back by :meth:`release_guest` when the socket is gone.
        """
        if self.draining or self.is_loading() or len(self.links) + self.guests >= self.config.max_connections:
            return False
        self.guests += 1
        return True

    def release_guest(self) -> None:
        """The socket of a guest is gone."""
        self.guests -= 1

    def encoder(self, offer: Offer, deflate: Deflate | None) -> Encoder | None:
        """How to compress for a client that offers this, and agreed on ``deflate``: zstd goes first (I-64)."""
        if grant(offer).zstd:
            return self._zstd
        if deflate is None:
            return None
        if deflate not in self._deflaters:
            self._deflaters[deflate] = Deflater(deflate.window_bits, shares=deflate.takeover)
        return self._deflaters[deflate]

    def connect(self, link: Link, now: int) -> bool:
        """A socket finished its handshake: greet it, or tell it why it is not served (then False)."""
        self._now = now
        self.stats.opened += 1
        link.opened_ms = now
        link.ping_due_ms = now + self.config.heartbeat_ms
        self._touch_timer(link, now)
        offer, link.offer = link.offer, NOTHING  # what it holds is not needed once it is answered
        grants = grant(offer)
        former = self._former_session(offer, grants)
        holder = None if former is None else former.link
        if holder is not None and self._loses_race(link, holder, now):
            self.stats.resume("lost_race")
            self._step(link, LinkState.REJECTED)
            self._see_off(link, "a later attempt has the session", now)
            return False
        if len(self.links) + self.guests - (holder in self.links) >= self.config.max_connections:
            self._reject(link)
            self.fail(link, ErrorCode.MAX_CONNECTIONS, now)
            return False
        self._step(link, LinkState.CONNECTED)
        self.links[link] = None
        link.has_heartbeat = grants.heartbeat
        if holder is not None:
            self._supersede(holder, now)
        self._begin(link, offer, grants, former)
        self._ready[link] = None
        return True

    def _former_session(self, offer: Offer, grants: Grants) -> Session | None:
        return self.registry.find(offer.session) if offer.session is not None and grants.resume else None

    def _loses_race(self, link: Link, holder: Link, now: int) -> bool:
        """Of two tries under way at once the one that began later wins, whichever arrives first."""
        return now - holder.opened_ms < limits.RESUME_RACE_MS and link.attempt < holder.attempt

    def _supersede(self, holder: Link, now: int) -> None:
        """Its client is here again: the old socket gives up its slot and its session at once."""
        holder.session.fall_behind(self.board)
        holder.drop_session()
        self.links.pop(holder, None)
        self._ready.pop(holder, None)
        self._see_off(holder, "another socket took over the session", now)

    def _see_off(self, link: Link, reason: str, now: int) -> None:
        """Close a socket that has no session and no slot. Of more than 50 such the oldest is cut at once."""
        self.close(link, CloseCode.SUPERSEDED, reason, now)
        self.parting[link] = None
        if len(self.parting) > limits.MAX_REJECTED_SOCKETS:
            oldest = next(iter(self.parting))
            del self.parting[oldest]
            oldest.socket.abort()

    def _begin(self, link: Link, offer: Offer, grants: Grants, former: Session | None) -> None:
        """Go on with the ``former`` session if that is possible, or start a new one."""
        if former is None:
            reason: Reason | None = "unknown_session" if offer.session is not None and grants.resume else None
            self._start(link, grants, reason)
            return
        ring = former.ring
        position = offer.position
        if ring is None or not grants.fits(former.grants):
            self.destroy(former)
            self._start(link, grants, "caps_changed")
        elif position is None or not ring.floor <= position <= former.sequence:
            behind = position is not None and position < ring.floor
            cause: Reason = "position_evicted" if behind else "position_ahead"
            # Before the other ends, so that no topic gets idle.
            self._start(link, grants, cause, former.tokens.rows, former.topics, former.holdings)
            self.destroy(former)
        else:
            self.stats.resume("resumed")
            self.registry.attach(former)
            self._charge(former, 0)
            former.grants = grants
            link.carry(former)
            former.resume(position, self._greeting(link, former, replay_from=position + 1, reason=None))

    def _start(
        self,
        link: Link,
        grants: Grants,
        reason: Reason | None,
        rows: tuple[Row, ...] = (),
        topics: TopicSet = NO_TOPICS,
        holdings: Holdings | None = None,
    ) -> None:
        session = link.session
        if grants.capabilities:
            ring = None
            secret = ""
            if grants.resume:
                secret = self._new_secret()
                ring = Ring(self.ledger, self.config.resume_max_frames, self.config.resume_max_bytes)
            session = Session(grants, secret, ring)
            link.carry(session)
            if ring is not None:
                self.registry.add(session)
                self.streaming += grants.every
        if rows:
            self.sets.enter(session, rows)
            session.stream_seen = self.board.logged  # the newest values follow, so nothing older may
        self.topics.enter(session, topics.topics)
        if holdings is not None:
            session.holdings = holdings.anew()
            self.followers[session] = None
        session.enqueue(_CONNECTION, self._greeting(link, session, replay_from=None, reason=reason))
        if reason is not None:
            self.stats.resume(reason)
            self._error(link, ErrorCode.RESUME_FAILED, f"a new session has started: {reason}")
        session.want_all()

    def _greeting(self, link: Link, session: Session, *, replay_from: int | None, reason: Reason | None) -> bytes:
        config = self.config
        return greeting_data(
            link.connection_id,
            config.max_subscriptions,
            session.grants,
            session=session.secret,
            replay_from=replay_from,
            reason=reason,
            held=held_channels(session),
            stream=self.stream,
            limits_ms=(
                config.heartbeat_ms,
                config.idle_timeout_ms,
                config.resume_window_ms,
                config.update_interval_ms,
            ),
        )

    # --- the end of a link -----------------------------------------------------------------------------------

    def disconnect(self, link: Link) -> None:
        """The socket is gone, for whatever reason; what was held for it alone is released."""
        if link.state is LinkState.CLOSED:
            return
        self.links.pop(link, None)
        self.parting.pop(link, None)
        if link.is_rejected:
            self.rejected -= 1
        self._step(link, LinkState.CLOSED)
        self.held_bytes -= link.held_bytes
        self._part(link)
        self._ready.pop(link, None)
        self.stats.closed += 1
        link.let_go()

    def fail(
        self,
        link: Link,
        code: ErrorCode,
        now: int,
        message: str | None = None,
        close_code: int | None = None,
    ) -> None:
        """End a connection and say why: error (fatal), connection, close, in this order."""
        if link.close_with is not None or link.state in (LinkState.CLOSING, LinkState.CLOSED):
            return
        entry = CATALOGUE[code]
        session = link.session
        final = close_code or entry.close_code or CloseCode.INTERNAL_ERROR
        if not link.writable and not self._keeps(session, final):
            session.drop_replies()
        # Numbers are not given to what can't be read now and will be read later, nor in the middle of a replay.
        if session.replay is None and (link.writable or not self._keeps(session, final)):
            text = entry.meaning if message is None else message
            status: Status = "disconnected" if code is ErrorCode.SERVER_SHUTDOWN else "error"
            session.enqueue(_ERROR, error_data(code, text, "fatal", details=session.grants.details))
            session.enqueue(_CONNECTION, farewell_data(status, link.connection_id, self.config.max_subscriptions))
        self.stats.error(code)
        self.close(link, final, code, now)

    def close(self, link: Link, code: int, reason: str, now: int) -> None:
        """Close without further words; the socket is aborted if that takes more than 5 s."""
        if link.close_with is not None or link.state in (LinkState.CLOSING, LinkState.CLOSED):
            return
        link.close_with = (code, reason)
        if link.session.replay is not None and not self._keeps(link.session, code):
            link.session.drop_replies()  # no number is given in the middle of a replay, and there is no other time
        link.close_due_ms = now + self.config.close_timeout_ms
        if self._keeps(link.session, code):
            link.session.fall_behind(self.board)
        else:
            self.destroy(link.session)
        self.stats.closes[code] = self.stats.closes.get(code, 0) + 1
        self._ready[link] = None
        self._touch_timer(link, now)

    def closing(self, link: Link, now: int, code: int = CloseCode.NORMAL) -> None:
        """A close frame was sent or answered by the shell's own protocol layer, with ``code``."""
        if link.state in (LinkState.CONNECTED, LinkState.REJECTED):
            if link.close_due_ms is None:
                link.close_due_ms = now + self.config.close_timeout_ms
            if not may_reconnect(code):
                self.destroy(link.session)
            self._part(link)
            self._step(link, LinkState.CLOSING)
            self._touch_timer(link, now)

    # --- the end of a session --------------------------------------------------------------------------------

    def destroy(self, session: Session) -> None:
        """Nothing more is delivered, and nobody can resume it. Queued replies may still be said."""
        self.registry.remove(session)
        self.sets.leave(session)
        self.topics.leave(session)
        self.followers.pop(session, None)
        self._charge(session, 0)
        if session.ring is not None:
            session.ring.clear(session.sequence)
            session.ring = None
            self.streaming -= session.grants.every
        session.pending = session.touched = session.stream = session.replay = session.preface = None
        session.stream_bytes = 0

    def forget_detached(self, now: int) -> None:
        """Give up sessions whose clients stay away, and the oldest ones when there are too many or too large."""
        self._now = now
        registry = self.registry
        for session in registry.expired(now, self.config.resume_window_ms):
            self._evict(session, "expired")
        while len(registry.detached) > self.config.max_connections:
            self._evict_oldest("count")
        self.make_room()

    def make_room(self) -> None:
        """Keep what all rings hold below the instance's limit: sessions that wait longest go first."""
        limit = self.config.resume_instance_bytes
        if self.ledger.octets <= limit:
            return
        while self.ledger.octets > limit and self.registry.detached:
            self._evict_oldest("memory")
        rings = [session.ring for session in self.registry if session.ring is not None]
        while self.ledger.octets > limit and any(ring.octets for ring in rings):
            rings.sort(key=lambda ring: ring.octets, reverse=True)
            rings[0].halve()

    def _evict_oldest(self, cause: str) -> None:
        session = self.registry.oldest()
        if session is not None:
            self._evict(session, cause)

    def _evict(self, session: Session, cause: str) -> None:
        self.stats.evict(cause)
        self.destroy(session)

    def _part(self, link: Link) -> None:
        """The link's session goes on without it, or ends with it."""
        session = link.session
        if session.link is not link:
            return
        if session.ring is None:
            self.destroy(session)
            return
        session.fall_behind(self.board)
        link.drop_session()
        self.registry.detach(session, self._now)
        self._charge(session, session.queued_bytes)
        if session.outbox_bytes > limits.MAX_OUTBOX_BYTES:
            self._evict(session, "replies")

    def _charge(self, session: Session, octets: int) -> None:
        """Count the queues of a session without a socket; with one they are bounded by its rate and its buffer."""
        self.ledger.octets += octets - session.charged
        session.charged = octets

    @staticmethod
    def _keeps(session: Session, code: int) -> bool:
        return session.ring is not None and code in _KEPT

    # --- helpers ---------------------------------------------------------------------------------------------

    def _reject(self, link: Link) -> None:
        self._step(link, LinkState.REJECTED)
        link.is_rejected = True
        self.rejected += 1

    def _step(self, link: Link, state: LinkState) -> None:
        check_step(link.state, state)
        self.stats.step(link.state, state)
        link.state = state

    def _error(
        self, link: Link, code: ErrorCode, message: str, request_id: str | None = None, tokens: Sequence[str] = ()
    ) -> None:
        self.stats.error(code)
        details = link.session.grants.details
        level = CATALOGUE[code].level
        data = error_data(code, message, level.value, details=details, request_id=request_id, tokens=tokens)
        self._enqueue(link, _ERROR, data)

    def _enqueue(self, link: Link, kind: bytes, data: bytes, *, numbered: bool = True) -> None:
        link.session.enqueue(kind, data, numbered=numbered)
        self._ready[link] = None

    def _touch_timer(self, link: Link, now: int) -> None:
        """Have the link looked at when its next deadline passes; an earlier entry wins, a later one is kept."""
        if link.close_due_ms is not None:
            due = link.close_due_ms
        else:
            due = min(link.ping_due_ms, link.last_byte_ms + self.config.idle_timeout_ms)
            if link.has_heartbeat:
                due = min(due, link.last_sent_ms + self.config.heartbeat_ms)
            if link.message_due_ms is not None:
                due = min(due, link.message_due_ms)
            if link.stalled_ms is not None:
                warned = link.stall_warning
                patience = self.config.stall_close_ms if warned else self.config.stall_warning_ms
                due = min(due, link.stalled_ms + patience)
        slot = self._wheel.slot(max(due, now))
        if link.slot == -1 or slot < link.slot:
            link.slot = slot
            self._wheel.add(slot, link)
