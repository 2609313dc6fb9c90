"""The raw endpoint: one asyncio protocol per WebSocket, a thin shell between a socket and the hub.

It has no task and no timer of its own, and keeps nothing but its link while nothing is under way.
"""

import uuid
from typing import TYPE_CHECKING, Final

from websockets.exceptions import InvalidHeader
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from tokenwire_schemas import limits
from tokenwire_schemas.close_codes import CloseCode
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.grants import Deflate, grant
from tokenwire_server.core.link import Link
from tokenwire_server.core.states import LinkState
from tokenwire_server.gateway.handshake import SUBPROTOCOL, negotiate_deflate, parse_offer
from tokenwire_server.gateway.inbound import Inbound
from tokenwire_server.gateway.outlet import Outlet
from tokenwire_server.gateway.upgraded import LINGER_S, UpgradedProtocol, limit_unsent, peer_name

if TYPE_CHECKING:
    from tokenwire_server.gateway.endpoint import Endpoint

__all__ = ["Connection", "limit_unsent"]

_SMALL_BYTES: Final = 512  # an ack or a ping is smaller
_PONG: Final = bytes((0x8A,))


class Connection(UpgradedProtocol):
    """One client of the endpoint, from its upgrade request to the end of its socket."""

    __slots__ = ("_is_text", "_link", "_parts")

    subprotocol = SUBPROTOCOL

    def __init__(self, endpoint: "Endpoint") -> None:
        super().__init__(endpoint)
        self._link: Link | None = None
        self._parts: list[bytes] | None = None  # of a message in fragments
        self._is_text = True

    # --- handshake -------------------------------------------------------------------------------------------

    def _response(self, protocol: ServerProtocol, request: Request) -> tuple[Response, Deflate | None]:
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

    def _opened(self, outlet: Outlet, request: Request, deflate: Deflate | None) -> None:
        endpoint = self._endpoint
        now = endpoint.now()
        offer = parse_offer(request.path, request.headers)
        link = Link(outlet, str(uuid.uuid4()), endpoint.hub.encoder(offer, deflate), now, offer)
        self._link = link
        endpoint.opened(link, peer_name(self._transport))
        endpoint.hub.connect(link, now)
        endpoint.pump_ready()  # whom it took the session from is told as well

    # --- what the client sends -------------------------------------------------------------------------------

    def _noticed(self, octets: int) -> bool:
        link = self._link
        if link is None:
            return False
        link.last_byte_ms = self._endpoint.now()
        self._endpoint.hub.stats.bytes_in += octets
        return True

    def _take(self, data: bytes) -> None:
        link = self._link
        if link is None:
            return
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

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        super().connection_lost(exc)
        self._parts = None
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
        self._end(LINGER_S if inbound.failure else 0)

    def _end(self, linger_s: float) -> None:
        super()._end(linger_s)
        self._parts = None
