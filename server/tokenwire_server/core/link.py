"""Link: one socket with its timers and limits. The session it carries may outlive it."""

from typing import Protocol

from tokenwire_schemas.limits import MAX_OUTBOX_BYTES
from tokenwire_server.core.board import Board
from tokenwire_server.core.compression import Deflater, Encoder
from tokenwire_server.core.grants import NOTHING, Offer
from tokenwire_server.core.limiter import Limiter
from tokenwire_server.core.session import Drained, Session
from tokenwire_server.core.states import LinkState
from tokenwire_server.core.wire import close_frame

__all__ = ["Link", "Socket"]


class Socket(Protocol):
    """What the core hands to its shell, and the one thing it reads of it."""

    def write(self, data: bytes, /) -> None: ...

    def get_write_buffer_size(self) -> int:
        """Bytes written and not yet taken by the kernel."""

    def abort(self) -> None:
        """End the socket at once, with whatever it holds."""


class _Gone:
    """In place of a socket that is no more."""

    def write(self, data: bytes, /) -> None:
        """Nobody is there."""

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        """It has ended already."""


_GONE = _Gone()


class Link:
    """One socket. Times are monotonic milliseconds; ``slot`` is its entry in the timer wheel.

    ``encoder`` is how messages to it are compressed, ``offer`` what its client asked for (until that is answered).
    ``session`` is replaced when another socket takes the session over.
    """

    __slots__ = ("ack_warned_ms", "attempt", "close_due_ms", "close_with", "connection_id", "encoder",
                 "gap_warned", "has_heartbeat", "held_bytes", "inbound_next", "is_rejected", "last_byte_ms",
                 "limiter", "message_due_ms", "offer", "opened_ms", "ping_due_ms", "sent", "sent_ms", "session",
                 "slot", "socket", "stall_bytes", "stall_warning", "stalled_ms", "state", "writable")  # fmt: skip

    def __init__(
        self, socket: Socket, connection_id: str, encoder: Encoder | None, now_ms: int, offer: Offer = NOTHING
    ) -> None:
        self.socket = socket
        self.connection_id = connection_id
        self.encoder = encoder
        self.offer = offer
        self.attempt = offer.attempt
        self.sent = 0  # the last number, once the session is parted from
        self.session = Session()
        self.session.attach(self)
        self.state = LinkState.CONNECTING
        self.writable = True
        self.opened_ms = now_ms
        self.last_byte_ms = now_ms
        self.ping_due_ms = now_ms
        self.is_rejected = False  # told why it is not served
        self.has_heartbeat = False  # the heartbeat message is granted
        self.sent_ms = now_ms  # of the last message outside the tick
        self.slot = -1
        self.stalled_ms: int | None = None
        self.stall_bytes = 0
        self.close_with: tuple[int, str] | None = None
        self.close_due_ms: int | None = None
        self.limiter: Limiter | None = None
        self.inbound_next: int | None = None  # the client's own next sequence, once it gave one
        self.gap_warned = False
        self.ack_warned_ms: int | None = None
        self.stall_warning = False  # due when the socket moves again
        self.held_bytes = 0  # of an unfinished message …
        self.message_due_ms: int | None = None  # … and when it must be complete

    @property
    def is_deflated(self) -> bool:
        """Whether permessage-deflate was negotiated."""
        return isinstance(self.encoder, Deflater)

    @property
    def last_sent_ms(self) -> int:
        """When the last message went out."""
        session = self.session
        cohort = None if session.is_behind else session.tokens.live.get(session.format)
        sent_ms = self.sent_ms if session.is_behind else max(self.sent_ms, session.topics.sent_ms)
        return sent_ms if cohort is None else max(sent_ms, cohort.sent_ms)

    def carry(self, session: Session) -> None:
        """Let ``session`` write here from now on."""
        self.session = session
        session.attach(self)

    def let_go(self) -> None:
        """Forget the socket: the timer wheel holds the link a little longer, and must not hold that as well."""
        self.socket = _GONE
        self.limiter = None
        if self.session.link is self:
            self.session.detach()

    def drop_session(self) -> None:
        """Another link has the session, or nobody: nothing more is delivered here."""
        if self.session.link is self:
            self.session.detach()
        self.sent = self.session.sequence
        self.session = Session()

    def drain(self, board: Board, timestamp: int, stats: Drained) -> bytes:
        """What may be written now, at most about 64 KiB: replies, then values that wait, then a due close."""
        if self.state is LinkState.CLOSED or self.state is LinkState.CLOSING:
            return b""
        if self.close_with is not None:
            code, reason = self.close_with
            words: list[bytes] = []
            if self.may_tell():
                self.session.drain_outbox(words, timestamp, MAX_OUTBOX_BYTES, stats)
            return b"".join((*words, close_frame(code, reason)))
        if not self.writable:
            return b""
        return self.session.drain(board, timestamp, stats)

    def may_tell(self) -> bool:
        """Whether last words may be numbered: not of a resumable session whose reader is behind; they wait for it."""
        session = self.session
        return session.ring is None or (self.writable and session.replay is None)
