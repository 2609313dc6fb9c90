"""Session and link: what survives a socket, and the socket.

A *session* owns the numbers: its sequence, its subscriptions and everything that waits to be numbered. A *link*
is one socket with its timers and limits. Numbers are assigned in one place, at the moment of writing.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from tokenwire_schemas.limits import (
    MAX_OUTBOX_BYTES,
    MAX_OUTBOX_FRAMES,
    WRITE_HIGH_WATER_BYTES,
)
from tokenwire_server.core.board import Board, Row
from tokenwire_server.core.limiter import Limiter
from tokenwire_server.core.states import LinkState
from tokenwire_server.core.tokensets import NO_TOKENS, TokenSet
from tokenwire_server.core.wire import Deflater, close_frame, frame

__all__ = ["Link", "Session", "Socket"]

TOKEN_UPDATE = b"token_update"


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
    """One socket. Times are monotonic milliseconds; ``slot`` is its entry in the timer wheel."""

    __slots__ = ("close_due_ms", "close_with", "connection_id", "deflater", "gap_warned", "held_bytes", "inbound_next",
                 "last_byte_ms", "limiter", "message_due_ms", "ping_due_ms", "session", "slot", "socket", "stall_bytes",
                 "stall_warning", "stalled_ms", "state", "writable")  # fmt: skip

    def __init__(self, socket: Socket, connection_id: str, deflater: Deflater | None, now_ms: int) -> None:
        self.socket = socket
        self.connection_id = connection_id
        self.deflater = deflater
        self.session = Session()
        self.session.attach(self)
        self.state = LinkState.CONNECTING
        self.writable = True
        self.last_byte_ms = now_ms
        self.ping_due_ms = now_ms
        self.slot = -1
        self.stalled_ms: int | None = None
        self.stall_bytes = 0
        self.close_with: tuple[int, str] | None = None
        self.close_due_ms: int | None = None
        self.limiter: Limiter | None = None
        self.inbound_next: int | None = None  # the client's own next sequence, once it gave one
        self.gap_warned = False
        self.stall_warning = False  # due when the socket moves again
        self.held_bytes = 0  # of an unfinished message …
        self.message_due_ms: int | None = None  # … and when it must be complete

    def let_go(self) -> None:
        """Forget the socket: the timer wheel holds the link a little longer, and must not hold that as well."""
        self.socket = _GONE
        self.session.write = _GONE.write
        self.limiter = None

    def drain(self, board: Board, timestamp: int, stats: "Drained") -> bytes:
        """What may be written now, at most about 64 KiB: replies, then values that wait, then a due close."""
        if self.state is LinkState.CLOSED or self.state is LinkState.CLOSING:
            return b""
        if self.close_with is not None:
            code, reason = self.close_with
            last_words = self.session.drain_outbox(timestamp, self.deflater, MAX_OUTBOX_BYTES, stats)
            return b"".join((*last_words, close_frame(code, reason)))
        if not self.writable:
            return b""
        return self.session.drain(board, timestamp, self.deflater, stats)


class Drained(Protocol):
    """Counters that draining advances."""

    frames: int
    updates: int
    conflated: int


class Session:
    """The numbered stream of one client.

    ``pending`` maps the rows whose newest value must still be sent to the version that was sent last (-1: none);
    while the session is *behind*, what changed since ``synced_tick`` is added to it only when it drains.
    """

    __slots__ = ("deflated", "is_behind", "link", "outbox", "outbox_bytes", "pending", "sent_versions", "sequence",
                 "stale_warned", "synced_tick", "tokens", "write")  # fmt: skip

    def __init__(self) -> None:
        self.link: Link | None = None
        self.write: Callable[[bytes], None] = _GONE.write  # of the link's socket, kept here for the hot loop
        self.deflated = False
        self.sequence = 0
        self.tokens: TokenSet = NO_TOKENS
        self.outbox: deque[tuple[bytes, bytes]] | None = None
        self.outbox_bytes = 0
        self.pending: dict[Row, int] | None = None
        self.is_behind = False
        self.synced_tick = 0
        self.sent_versions: dict[Row, int] | None = None
        self.stale_warned = False

    def attach(self, link: Link) -> None:
        """Write to ``link`` from now on, in its format."""
        self.link = link
        self.write = link.socket.write
        self.deflated = link.deflater is not None

    @property
    def is_full(self) -> bool:
        """So many replies wait (256 frames or 256 KiB) that no further request is served."""
        return self.outbox is not None and (
            len(self.outbox) >= MAX_OUTBOX_FRAMES or self.outbox_bytes >= MAX_OUTBOX_BYTES
        )

    def enqueue(self, kind: bytes, data: bytes) -> None:
        """Queue a reply, warning or error (encoded ``data``). The bound is asked before a request, not within one:
        its answer is no backlog, however long it is."""
        if self.outbox is None:
            self.outbox = deque()
        self.outbox.append((kind, data))
        self.outbox_bytes += len(data)

    def want(self, row: Row) -> None:
        """Send the row's newest value soon, whether or not it changed."""
        if self.pending is None:
            self.pending = {}
        self.pending.setdefault(row, -1)

    def forget(self, row: Row) -> None:
        """Nothing of this row is to be sent any more."""
        if self.pending is not None:
            self.pending.pop(row, None)
        if self.sent_versions is not None:
            self.sent_versions.pop(row, None)

    def fall_behind(self, board: Board) -> None:
        """The socket takes no more: remember what was sent, so that the rest can be derived later."""
        if not self.is_behind:
            self._place(behind=True)
            self.synced_tick = board.tick
            self.sent_versions = {row: row.sent_version for row in self.tokens.rows}

    def waits(self) -> int:
        """How many frames wait here, derived ones aside."""
        return len(self.outbox or ()) + len(self.pending or ())

    def drain(self, board: Board, timestamp: int, deflater: Deflater | None, stats: Drained) -> bytes:
        """Number and frame what waits, about 64 KiB at most; back to *live* once nothing does."""
        if self.is_behind:
            self._derive(board)
        chunks = self.drain_outbox(timestamp, deflater, WRITE_HIGH_WATER_BYTES, stats)
        room = WRITE_HIGH_WATER_BYTES - sum(map(len, chunks))
        pending = self.pending
        while pending and room > 0:
            row = next(iter(pending))
            version = row.value.version
            number = self.sequence + 1
            chunk = frame(TOKEN_UPDATE, number, timestamp, row.payload(), deflater)
            self.sequence = number
            sent = pending.pop(row)
            if sent >= 0:
                stats.conflated += max(version - sent - 1, 0)
            if self.sent_versions is not None:
                self.sent_versions[row] = version
            chunks.append(chunk)
            room -= len(chunk)
            stats.frames += 1
            stats.updates += 1
        if not self.outbox and not pending:
            self.outbox = self.pending = None
            if self.is_behind:
                self.sent_versions = None
                self._place(behind=False)
        return b"".join(chunks)

    def drain_outbox(self, timestamp: int, deflater: Deflater | None, room: int, stats: Drained) -> list[bytes]:
        """Number and frame queued replies, about ``room`` bytes of them."""
        chunks: list[bytes] = []
        while self.outbox and room > 0:
            kind, data = self.outbox.popleft()
            self.outbox_bytes -= len(data)
            self.sequence += 1
            chunk = frame(kind, self.sequence, timestamp, data, deflater)
            chunks.append(chunk)
            room -= len(chunk)
            stats.frames += 1
        return chunks

    def _derive(self, board: Board) -> None:
        """Turn "changed since the last tick that was sent" into pending rows."""
        if self.synced_tick == board.tick:
            return
        sent_versions = self.sent_versions or {}
        pending = {} if self.pending is None else self.pending
        for row in self.tokens.rows:
            if row.changed_tick > self.synced_tick and row.value.has_value:
                sent = sent_versions.get(row, -1)
                if sent != row.value.version:
                    pending.setdefault(row, sent)
        self.synced_tick = board.tick
        self.pending = pending or None

    def _place(self, *, behind: bool) -> None:
        if self.tokens.rows:
            self.tokens.discard(self)
        self.is_behind = behind
        if self.tokens.rows:
            self.tokens.add(self)
