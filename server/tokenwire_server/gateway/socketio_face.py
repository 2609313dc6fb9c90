"""Live values for Socket.IO clients: ``io(url, {transports: ["websocket"]})`` joins rooms of tokens.

python-socketio speaks the protocol (Engine.IO 4, Socket.IO 5) behind :meth:`SocketIOFace.__call__`, an ASGI
application. Two things it leaves to others are done here, because it would queue without an end and start a task for
each client and event: packets are read before it gets them (``socketio_packets``), and values are written straight
to the sockets that take them (``socketio_rooms``, ``socketio_protocol``).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import parse_qs

import engineio  # type: ignore[import-untyped]
import socketio  # type: ignore[import-untyped]
from uvicorn.config import Config
from uvicorn.server import ServerState

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_server.core.limiter import Verdict
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.socketio_packets import ACTIONS, CLOSE, INVALID, PONG, read_packet
from tokenwire_server.gateway.socketio_protocol import STATE_KEY, Backlog, SocketIOProtocol
from tokenwire_server.gateway.socketio_rooms import MAX_DETAIL_CHARS, Names, Peer, Refused, Rooms, error_frame
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.validation.messages import RequestError

__all__ = ["SocketIOFace"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_log = get_log(__name__)

PING_INTERVAL_S: Final = 25  # as servers on Node.js have it
PING_TIMEOUT_S: Final = 20
NAMESPACE_TIMEOUT_MS: Final = 20_000  # for a client to enter the main namespace
_MAX_QUERY_FIELDS: Final = 50
_FLUSHED_AT_ONCE: Final = 100  # sockets written to before the event loop does something else
_DRAIN_STEP_S: Final = 0.05
_MAIN: Final = "/"

_current: Final[ContextVar[SocketIOProtocol]] = ContextVar("socketio_socket")

# The library logs single packets, and tracebacks where a peer is at fault.
_quiet: Final = logging.getLogger(f"{__name__}.library")
_quiet.setLevel(logging.ERROR)


class _Engine(engineio.AsyncServer):  # type: ignore[misc]
    """Gives each socket's queue and heartbeat to its protocol, which ends them when it ends."""

    def create_queue(self, *args: Any, **kwargs: Any) -> Backlog:
        queue = Backlog(*args, **kwargs)
        _current.get().backlog = queue
        return queue

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(target(*args, **kwargs))
        _current.get().heartbeat = task
        return task


class _Server(socketio.AsyncServer):  # type: ignore[misc]
    def _engineio_server_class(self) -> type[_Engine]:
        return _Engine


class SocketIOFace:
    """All Socket.IO clients of a server. They take places of the hub's ``max_connections``."""

    def __init__(self, endpoint: Endpoint, names: Names) -> None:
        self.stall_ms = limits.WRITE_STALL_CLOSE_MS
        self.sockets: dict[SocketIOProtocol, None] = {}
        self.cut = 0  # sockets that were ended because they did not read
        self._endpoint = endpoint
        self._hub = endpoint.hub
        self._rooms = Rooms(endpoint.hub.board, names, endpoint.hub.config.max_subscriptions)
        self._loop = asyncio.get_running_loop()
        self._peers: dict[str, SocketIOProtocol] = {}  # by the library's id
        self._ready: dict[SocketIOProtocol, None] = {}
        self._owners: dict[Peer, SocketIOProtocol] = {}
        self._ticking: asyncio.Handle | None = None
        self._server = _Server(
            async_mode="asgi",
            transports=["websocket"],
            async_handlers=False,  # requests of a client are answered in their order
            monitor_clients=False,  # whoever says nothing is given up by its own reader
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            cors_allowed_origins=[],  # asked before, as for the raw endpoint
            logger=_quiet,
            engineio_logger=_quiet,
        )
        self._server.on("connect", self._entered)
        self._server.on("disconnect", self._left)
        self._server.on(INVALID, self._invalid)
        for event, action in ACTIONS.items():
            self._server.on(event, self._join if action == "join" else self._leave)

    def protocol(self, *, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> SocketIOProtocol:
        """The protocol of one more socket, for the dispatcher."""
        return SocketIOProtocol(self, config, server_state, app_state)

    # --- ASGI ------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket, or say why not."""
        socket: SocketIOProtocol = scope["state"][STATE_KEY]
        refusal = self._refusal(scope)
        if refusal is not None:
            await receive()
            await _refuse(send, *refusal)
            self.refused(refusal[0])
            return
        socket.is_admitted = True
        self.sockets[socket] = None
        socket.wait_for(NAMESPACE_TIMEOUT_MS)
        _current.set(socket)

        async def checked() -> Event:
            while True:
                event = await receive()
                if event["type"] != "websocket.receive":
                    return event
                # Nothing is taken from one who does not read: answers can't pile up.
                await socket.writable.wait()
                if self._check(socket, event):
                    return event

        try:
            await self._server.handle_request(scope, checked, send)
        except Exception as error:
            self._endpoint.defects += 1
            _log.error("connection failed", exc_info=error, peer=socket.peer_name)
        finally:
            self._peers.pop(socket.sid, None)
            if socket.heartbeat is not None:
                socket.heartbeat.cancel()

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._endpoint.origin_allowed(headers.get(b"origin"), headers.get(b"host")):
            return 403, "this origin may not connect; see the setting allowed_origins"
        try:
            query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            query = {}
        if query.get("EIO") != ["4"]:
            return 400, "this is Socket.IO with Engine.IO 4; use a client of version 3 or 4"
        if query.get("transport") != ["websocket"] or "sid" in query:
            return 400, 'only the transport websocket is served: io(url, {transports: ["websocket"]})'
        if not self._hub.admit_guest():
            return 503, "no more connections now; try again later"
        return None

    def refused(self, status: int) -> None:
        """A handshake was answered with an HTTP error."""
        self._endpoint.refused(status)

    def _check(self, socket: SocketIOProtocol, event: Event) -> bool:
        """Read what arrived; whether the library shall have it. The text may have been written anew."""
        text = event.get("text")
        size = len(text) if isinstance(text, str) else len(event.get("bytes") or b"")
        now = self._endpoint.now()
        limiter = socket.limiter
        is_pong = isinstance(text, str) and text.startswith(PONG)
        verdict = limiter.control(now) if is_pong else limiter.message(now)
        if verdict is not Verdict.ACCEPT:
            if verdict is Verdict.CUT:
                socket.end(CloseCode.RATE_LIMITED, ErrorCode.RATE_LIMITED)
            elif verdict is Verdict.NOTIFY:
                said = f"{limiter.dropped} messages dropped; at most {limits.INBOUND_RATE_PER_S} a second are read"
                limiter.dropped = 0
                self._tell(socket, ErrorCode.RATE_LIMITED, said)
            return False
        limiter.charge(size // limits.INBOUND_SHARE_BYTES)
        try:
            if not isinstance(text, str):
                raise RequestError(ErrorCode.BINARY_NOT_SUPPORTED, "binary messages are not accepted")
            event["text"] = packet = read_packet(text)
        except RequestError as error:
            if socket.peer is None or limiter.protocol_error(now):
                socket.end(CloseCode.PROTOCOL_ERRORS, error.code)
            else:
                self._tell(socket, error.code, str(error))
            return False
        if packet == CLOSE:
            socket.close_reason = "client"
            socket.end(CloseCode.NORMAL)
        return packet not in ("", CLOSE)

    # --- the library's events --------------------------------------------------------------------------------

    def _entered(self, sid: str, *_: object) -> None:
        socket = _current.get()
        socket.wait_for(0)
        socket.sid = sid
        peer = socket.peer = Peer()
        self._peers[sid] = socket
        self._owners[peer] = socket
        _log.info("connection opened", id=sid, peer=socket.peer_name, face="socket.io")

    def _left(self, sid: str, reason: str) -> None:
        socket = self._peers.pop(sid, None)
        if socket is not None:
            self._forget(socket)
            _log.info("connection closed", id=sid, face="socket.io", reason=socket.close_reason or reason)
            if socket.is_open:
                socket.wait_for(NAMESPACE_TIMEOUT_MS)

    def _join(self, sid: str, names: list[str | None]) -> dict[str, object]:
        return self._apply(sid, names, self._rooms.join)

    def _leave(self, sid: str, names: list[str | None]) -> dict[str, object]:
        return self._apply(sid, names, self._rooms.leave)

    def _apply(
        self,
        sid: str,
        names: list[str | None],
        apply: Callable[[Peer, list[str | None]], tuple[list[str], list[Refused]]],
    ) -> dict[str, object]:
        socket = self._peers.get(sid)
        if socket is None or socket.peer is None:
            return {}
        accepted, refused = apply(socket.peer, names)
        for code in dict.fromkeys(each.code for each in refused):
            concerned = ", ".join(each.token for each in refused if each.code is code)
            self._tell(socket, code, f"{CATALOGUE[code].meaning.rstrip('.')}: {concerned}"[:MAX_DETAIL_CHARS])
        self._loop.call_soon(self.flush, socket)  # after the acknowledgement
        return {"accepted": accepted, "rejected": [each._asdict() for each in refused]}

    def _invalid(self, sid: str, code: str, message: str) -> dict[str, object]:
        socket = self._peers.get(sid)
        if socket is not None:
            self._tell(socket, ErrorCode(code), message)
        return {"accepted": [], "rejected": [], "error": {"code": code, "message": message}}

    def _tell(self, socket: SocketIOProtocol, code: ErrorCode, message: str) -> None:
        """An ``error`` event, before all values."""
        self._hub.stats.error(code)
        if socket.peer is not None:
            socket.peer.notify(error_frame(code, message))
            self._loop.call_soon(self.flush, socket)

    # --- delivery --------------------------------------------------------------------------------------------

    def tick(self, _: float) -> None:
        """Have what changed sent, after the raw endpoint's clients got theirs. To be called before each tick."""
        if len(self._rooms) and self._ticking is None:
            self._ticking = self._loop.call_soon(self._after_tick)

    def _after_tick(self) -> None:
        self._ticking = None
        touched = self._rooms.tick()
        if touched:
            _log.debug("broadcast to rooms", rooms=len(self._rooms), sockets=len(touched))
            begun = bool(self._ready)
            self._ready |= {self._owners[peer]: None for peer in touched}
            if not begun:
                self._flush_some()

    def _flush_some(self) -> None:
        for socket in tuple(self._ready)[:_FLUSHED_AT_ONCE]:
            del self._ready[socket]
            self.flush(socket)
        if self._ready:
            self._loop.call_soon(self._flush_some)

    def flush(self, socket: SocketIOProtocol) -> None:
        """Write what waits for the client as long as its socket takes it."""
        peer = socket.peer
        if peer is None or not peer.waits:
            return
        try:
            while socket.takes_values and (data := peer.take()):
                socket.write(data)
        except Exception as error:  # a defect, which must not cost others their turn
            self._endpoint.defects += 1
            _log.error("writing failed", exc_info=error, peer=socket.peer_name)
            socket.transport.abort()

    # --- the end ---------------------------------------------------------------------------------------------

    def lost(self, socket: SocketIOProtocol) -> None:
        """A socket is gone, for whatever reason."""
        self.sockets.pop(socket, None)
        self._forget(socket)
        if socket.is_admitted:
            socket.is_admitted = False
            self._hub.release_guest()

    def _forget(self, socket: SocketIOProtocol) -> None:
        peer, socket.peer = socket.peer, None
        self._ready.pop(socket, None)
        if peer is not None:
            self._rooms.remove(peer)
            self._owners.pop(peer, None)

    async def drain(self, seconds: float, hurry: Callable[[], bool]) -> None:
        """Tell everybody SERVER_SHUTDOWN and close 1012, spread over ``seconds``: clients come back by themselves.

        ``hurry`` is asked between the steps: once true, the rest is closed at once.
        """
        waiting = list(self.sockets)
        total = len(waiting)
        begin = self._loop.time()
        while waiting:
            share = (self._loop.time() - begin + _DRAIN_STEP_S) / max(seconds, _DRAIN_STEP_S)
            keep = 0 if hurry() or share >= 1.0 else total - math.ceil(total * share)
            while len(waiting) > keep:
                socket = waiting.pop()
                self._tell(socket, ErrorCode.SERVER_SHUTDOWN, CATALOGUE[ErrorCode.SERVER_SHUTDOWN].meaning)
                self.flush(socket)
                socket.end(CloseCode.SERVICE_RESTART, ErrorCode.SERVER_SHUTDOWN)
            if waiting:
                await asyncio.sleep(_DRAIN_STEP_S)
        patience = self._loop.time() + self._hub.config.close_timeout_ms / 1000
        while self.sockets and self._loop.time() < patience and not hurry():
            await asyncio.sleep(_DRAIN_STEP_S)
        for socket in tuple(self.sockets):
            socket.transport.abort()


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = f"{detail}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 503:
        headers.append((b"retry-after", str(limits.BUSY_RETRY_AFTER_MS // 1000).encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
