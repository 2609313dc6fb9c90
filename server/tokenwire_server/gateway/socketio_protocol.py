"""The socket under a Socket.IO client: uvicorn's WebSocket protocol, with bounds on what a peer makes it hold."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.http11 import Request

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_server.core.limiter import Limiter, Verdict
from tokenwire_server.gateway.socketio_rooms import Peer
from tokenwire_server.gateway.upgraded import limit_unsent, peer_name

if TYPE_CHECKING:
    from tokenwire_server.gateway.socketio_face import SocketIOFace

__all__ = ["MAX_UNREAD_BYTES", "STATE_KEY", "Backlog", "SocketIOProtocol"]

MAX_UNREAD_BYTES: Final = 1_048_576  # that wait to be written: a batch, and pongs to one who does not read them
STATE_KEY: Final = "socketio_socket"
"""Where an ASGI scope's ``state`` has the protocol."""

# What uvicorn says of single connections is said by the face, and a peer's garbage is no error of the server.
_quiet: Final = logging.getLogger(f"{__name__}.uvicorn")
_quiet.setLevel(logging.CRITICAL)


class Backlog(asyncio.Queue[Any]):
    """The library's queue of one client, which counts the packets that were put in."""

    added = 0

    def _put(self, item: Any) -> None:
        if item is not None:
            self.added += 1
        super()._put(item)


class SocketIOProtocol(WebSocketsSansIOProtocol):
    """One client of the face, from its upgrade request to the end of its socket.

    The library's packets and the face's values go the same way: values are written only while no packet waits, so
    an acknowledgement always comes before the values it announces.
    """

    def __init__(
        self, face: "SocketIOFace", config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, {**app_state, STATE_KEY: self})
        self.face = face
        self.app = cast(Any, face)
        self.logger = self.conn.logger = _quiet
        self.is_admitted = False
        self.sid = ""  # the library's id, once the main namespace was entered
        self.peer: Peer | None = None
        self.backlog: Backlog | None = None
        self.heartbeat: asyncio.Task[None] | None = None
        self.limiter = Limiter(self._now())
        self.peer_name = ""
        self.close_reason = ""
        self._packets_sent = 0
        self._patience: asyncio.TimerHandle | None = None  # for a client that enters no namespace
        self._stall: asyncio.TimerHandle | None = None  # for one that does not read
        self._stalled_bytes = 0

    @property
    def is_open(self) -> bool:
        """It can be written to."""
        return self.handshake_complete and not (self.close_sent or self.disconnected or self.transport.is_closing())

    @property
    def takes_values(self) -> bool:
        """The peer reads, and nothing of the library is on its way to it."""
        backlog = self.backlog
        return self.is_open and self.writable.is_set() and backlog is not None and backlog.added == self._packets_sent

    def write(self, data: bytes) -> None:
        """Send finished frames."""
        self.transport.write(data)

    # --- the end ---------------------------------------------------------------------------------------------

    def end(self, code: int, reason: str = "") -> None:
        """Close, with a limit to how long that may take."""
        if not self.is_open:
            if not self.close_sent:
                self.transport.abort()
            return
        self.close_reason = self.close_reason or f"{code} {reason}".rstrip()
        self._stop_timers()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.writable.set()  # whoever waits to write shall see that this is over
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(limits.CLOSE_TIMEOUT_MS / 1000, self.transport.abort)

    def wait_for(self, milliseconds: int) -> None:
        """Give the client this long to enter the main namespace; 0: it has."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if milliseconds:
            late = (CloseCode.POLICY_VIOLATION, "no namespace was entered")
            self._patience = self.loop.call_later(milliseconds / 1000, self.end, *late)

    def cut(self) -> None:
        """End without a farewell, which the peer would not read."""
        self.face.cut += 1
        self.close_reason = self.close_reason or "does not read"
        self.transport.abort()

    # --- asyncio and uvicorn ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The dispatcher hands the socket over."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES)
        limit_unsent(self.transport)
        self.peer_name = peer_name(self.transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the client; too many empty fragments or unread pongs end the connection."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        unread = self.transport.get_write_buffer_size()
        if len(self.frames) > limits.MAX_MESSAGE_FRAGMENTS or unread > MAX_UNREAD_BYTES:
            self.cut()

    def handle_connect(self, event: Request) -> None:
        """The upgrade request is complete."""
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.face.refused(self.response.status_code)

    def handle_ping(self) -> None:
        """Pong, within the rate of control frames."""
        if self.limiter.control(self._now()) is Verdict.ACCEPT and self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_close(self, event: Frame) -> None:
        """The client closes, or answers our close."""
        if not self.close_sent:
            self.close_reason = self.close_reason or "client"
        super().handle_close(event)

    def pause_writing(self) -> None:
        """The peer does not read: it has 30 s to take something."""
        super().pause_writing()
        if not self.close_sent:
            self._watch()

    def resume_writing(self) -> None:
        """The peer reads again."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self.face.flush(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._stop_timers()
        super().connection_lost(exc)
        self.face.lost(self)

    async def send(self, message: Any) -> None:
        """What the library sends; values that waited for it follow."""
        await super().send(message)
        if message["type"] == "websocket.send":
            self._packets_sent += 1
            self.face.flush(self)

    def shutdown(self) -> None:
        """The server ends, and has drained its connections before."""
        self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._patience, self._stall):
            if timer is not None:
                timer.cancel()
        self._patience = self._stall = None

    def _watch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stalled_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.face.stall_ms / 1000, self._check_stall)

    def _check_stall(self) -> None:
        self._stall = None
        if self.transport.get_write_buffer_size() >= self._stalled_bytes:
            self.cut()
        else:
            self._watch()

    def _now(self) -> int:
        return int(self.loop.time() * 1000)
