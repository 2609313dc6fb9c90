"""The raw endpoint: one asyncio protocol per WebSocket, a thin shell between a socket and the hub.

It has no task and no timer of its own, and keeps nothing but its link while nothing is under way.
"""

import asyncio
import socket
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from websockets.datastructures import MultipleValuesError
from websockets.exceptions import InvalidHeader
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.grants import Deflate, grant
from tokenwire_server.core.link import Link
from tokenwire_server.core.states import LinkState
from tokenwire_server.gateway.handshake import SUBPROTOCOL, negotiate_deflate, parse_offer
from tokenwire_server.gateway.inbound import Inbound
from tokenwire_server.gateway.outlet import Outlet

if TYPE_CHECKING:
    from tokenwire_server.gateway.endpoint import Endpoint

__all__ = ["Connection"]

_LINGER_S: Final = 0.5
_SLICE_BYTES: Final = 16_384
_SMALL_BYTES: Final = 512  # an ack or a ping is smaller
_PONG: Final = bytes((0x8A,))


class Connection(asyncio.Protocol):
    """One client of the endpoint, from its upgrade request to the end of its socket."""

    __slots__ = ("_backlog", "_ending", "_endpoint", "_inbound", "_is_text", "_link", "_outlet", "_parts", "_transport")

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._link: Link | None = None
        self._inbound: Inbound | None = None
        self._parts: list[bytes] | None = None  # of a message in fragments
        self._is_text = True
        self._backlog: bytearray | None = None  # arrived, and waiting for its turn
        self._ending = False  # what still arrives is discarded

    # --- handshake -------------------------------------------------------------------------------------------

    def upgrade(self, transport: asyncio.Transport, request: bytes) -> None:
        """Answer the upgrade ``request`` (its head, complete) that arrived on ``transport``."""
        endpoint = self._endpoint
        self._transport = transport
        protocol = ServerProtocol(select_subprotocol=_select_subprotocol, max_size=limits.MAX_MESSAGE_BYTES)
        protocol.receive_data(request)
        events = protocol.events_received()
        if not events or not isinstance(events[0], Request):
            transport.write(b"".join(protocol.data_to_send()))
            transport.close()
            return
        try:
            response, deflate = self._response(protocol, events[0])
        except MultipleValuesError as error:
            response, deflate = protocol.reject(400, f"several {error.args[0]!a} headers\n"), None
        protocol.send_response(response)
        transport.write(b"".join(protocol.data_to_send()))
        if response.status_code != 101:
            endpoint.refused(response.status_code)
            transport.close()
            return
        transport.set_write_buffer_limits(limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES)
        _limit_unsent(transport)
        now = endpoint.now()
        offer = parse_offer(events[0].path, events[0].headers)
        outlet = self._outlet = Outlet(transport)
        link = Link(outlet, str(uuid.uuid4()), endpoint.hub.encoder(offer, deflate), now, offer)
        self._link = link
        endpoint.opened(link, _peer(transport))
        endpoint.hub.connect(link, now)
        endpoint.pump_ready()  # whom it took the session from is told as well

    def _response(self, protocol: ServerProtocol, request: Request) -> tuple[Response, Deflate | None]:
        endpoint = self._endpoint
        if not endpoint.origin_allowed(request.headers.get("Origin"), request.headers.get("Host")):
            return protocol.reject(403, "this origin may not connect; see the setting allowed_origins\n"), None
        version = request.headers.get("Sec-WebSocket-Version")
        if version is not None and version.strip() != "13":
            response = protocol.reject(426, f"WebSocket version {version[:16]!a} is not supported; use 13\n")
            response.headers["Sec-WebSocket-Version"] = "13"
            return response, None
        if not endpoint.hub.may_upgrade():
            response = protocol.reject(503, "no more connections now; try again later\n")
            response.headers["Retry-After"] = str(limits.BUSY_RETRY_AFTER_MS // 1000)
            return response, None
        response = protocol.accept(request)
        if response.status_code != 101:
            return response, None
        try:
            offer = parse_offer(request.path, request.headers)
            agreed = None if grant(offer).zstd else negotiate_deflate(request.headers)
        except InvalidHeader:
            return protocol.reject(400, "malformed Sec-WebSocket-Extensions header\n"), None
        if agreed is None:
            return response, None
        response.headers["Sec-WebSocket-Extensions"] = agreed[0]
        return response, agreed[1]

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: frames, parts of frames, or nonsense.

        They are handled in slices with the event loop's other work in between, and reading pauses meanwhile:
        what one client sends must not keep the others waiting.
        """
        link = self._link
        transport = self._transport
        if link is None or transport is None or self._ending:
            return
        link.last_byte_ms = self._endpoint.now()
        self._endpoint.hub.stats.bytes_in += len(data)
        if self._backlog is not None:
            self._backlog += data
        elif len(data) <= _SLICE_BYTES:
            self._take(link, data)
        else:
            self._backlog = bytearray(data)
            transport.pause_reading()
            self._take_slice()

    def _take_slice(self) -> None:
        link, backlog, transport = self._link, self._backlog, self._transport
        if link is None or backlog is None or transport is None:
            return
        data = bytes(backlog[:_SLICE_BYTES])
        del backlog[:_SLICE_BYTES]
        if not self._ending:
            self._take(link, data)
        if transport.is_closing():
            self._backlog = None
        elif backlog and not self._ending:
            asyncio.get_running_loop().call_soon(self._take_slice)
        else:
            self._backlog = None
            transport.resume_reading()

    def _take(self, link: Link, data: bytes) -> None:
        endpoint = self._endpoint
        try:
            self._handle_bytes(link, data, endpoint.now())
        except Exception as error:
            endpoint.defect(link, error)
        endpoint.pump(link)

    def _handle_bytes(self, link: Link, data: bytes, now: int) -> None:
        hub = self._endpoint.hub
        inbound = self._inbound
        if inbound is None:
            inbound = self._inbound = Inbound(link.is_deflated)
        inbound.add(data)
        while (piece := inbound.next_frame()) is not None:
            opcode = piece[0] & 0x0F
            if link.close_with is not None:
                # Our close frame is out: nothing is read any more but the answer to it.
                if opcode == Opcode.CLOSE:
                    self._end(0)
                    return
                continue
            is_whole = opcode in (Opcode.TEXT, Opcode.BINARY) and piece[0] & 0x80 and not inbound.is_in_message
            if is_whole and not hub.admit(link, now, small=len(piece) <= _SMALL_BYTES):
                continue  # dropped before it costs anything, inflating included
            for frame in inbound.parse(piece):
                self._handle(link, frame, now)
            if inbound.has_too_many_fragments():
                hub.fail(
                    link,
                    ErrorCode.MESSAGE_TOO_LARGE,
                    now,
                    f"a message in over {limits.MAX_MESSAGE_FRAGMENTS} fragments",
                )
            self._answer(link, inbound, now)
            self._endpoint.pump(link)
            if self._ending:
                return
        hub.hold(link, inbound.held_bytes, now)
        if inbound.is_idle:
            self._inbound = None

    def eof_received(self) -> bool:
        """The client closed its side; without a close handshake there is nothing more to say."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        if self._outlet is not None:
            self._outlet.ended()
        self._inbound = self._parts = self._backlog = None
        if self._link is not None:
            self._endpoint.lost(self._link, exc)

    def pause_writing(self) -> None:
        """The write buffer reached its high-water mark (called inside ``write``)."""
        if self._link is not None:
            self._endpoint.hub.pause(self._link, self._endpoint.now())

    def resume_writing(self) -> None:
        """The write buffer drained to its low-water mark."""
        link = self._link
        if link is not None and link.state is not LinkState.CLOSED:
            self._endpoint.hub.resume(link, self._endpoint.now())
            self._endpoint.pump(link)

    # --- frames ----------------------------------------------------------------------------------------------

    def _handle(self, link: Link, frame: Frame, now: int) -> None:
        hub = self._endpoint.hub
        if frame.opcode is Opcode.TEXT and frame.fin:
            self._receive(link, bytes(frame.data), now)
        elif frame.opcode is Opcode.PONG:
            hub.receive_control(link, now)
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
            self._parts = [bytes(frame.data)]
            if frame.fin:
                self._finish(link, now)
        elif frame.opcode is Opcode.CONT and self._parts is not None:
            self._parts.append(bytes(frame.data))
            if frame.fin and hub.admit(link, now):
                self._finish(link, now)
            elif frame.fin:
                self._parts = None

    def _finish(self, link: Link, now: int) -> None:
        message = b"".join(self._parts or ())
        self._parts = None
        if self._is_text:
            self._receive(link, message, now)
        else:
            self._endpoint.hub.fail(link, ErrorCode.BINARY_NOT_SUPPORTED, now)

    def _receive(self, link: Link, message: bytes, now: int) -> None:
        hub = self._endpoint.hub
        try:
            text = message.decode()
        except UnicodeDecodeError:
            hub.fail(link, ErrorCode.INVALID_JSON, now, "a text message is not UTF-8", CloseCode.INVALID_PAYLOAD)
        else:
            hub.receive(link, text, now)

    def _answer(self, link: Link, inbound: Inbound, now: int) -> None:
        """Send the parser's pongs; follow a close frame of the client, or an error in what it sent."""
        outlet = self._outlet
        if outlet is None:
            return
        hub = self._endpoint.hub
        close_frame = b""
        for answer in inbound.answers():
            if answer[:1] != _PONG:
                close_frame += answer
            elif hub.receive_control(link, now):
                outlet.write(answer)
        if inbound.close_code is None:
            return
        if inbound.close_code == CloseCode.MESSAGE_TOO_BIG and inbound.failure:
            hub.fail(link, ErrorCode.MESSAGE_TOO_LARGE, now)
        if link.close_with is not None:
            self._endpoint.pump(link)  # ours goes first, with its reasons
        else:
            outlet.write(close_frame)
            hub.closing(link, now, inbound.close_code)
        # After an error, closing at once would reset the connection and lose our close frame.
        self._end(_LINGER_S if inbound.failure else 0)

    def _end(self, linger_s: float) -> None:
        """End the connection; what still arrives is discarded."""
        transport = self._transport
        self._ending = True
        self._inbound = self._parts = None
        if self._outlet is not None:
            self._outlet.ended()
        if transport is not None and linger_s:
            asyncio.get_running_loop().call_later(linger_s, transport.close)
        elif transport is not None:
            transport.close()


def _select_subprotocol(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def _peer(transport: asyncio.Transport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix"


def _limit_unsent(transport: asyncio.Transport) -> None:
    """Keep numbered data out of the kernel: a dead reader would otherwise swallow megabytes of it."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    sock = transport.get_extra_info("socket")
    if option is not None and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, limits.NOTSENT_LOWAT_BYTES)
