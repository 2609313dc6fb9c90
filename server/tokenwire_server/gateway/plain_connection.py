"""One socket of a plain path: a thin shell between it and the streams."""

from typing import TYPE_CHECKING, Final

from websockets.frames import Opcode
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from tokenwire_schemas.close_codes import CloseCode
from tokenwire_server.core.grants import Deflate
from tokenwire_server.core.limiter import Verdict
from tokenwire_server.core.plain_room import Consumer, RoomKey
from tokenwire_server.gateway.handshake import request_path
from tokenwire_server.gateway.http import problem
from tokenwire_server.gateway.inbound import Inbound
from tokenwire_server.gateway.outlet import Outlet
from tokenwire_server.gateway.plain_paths import PathError, find_room
from tokenwire_server.gateway.upgraded import LINGER_S, UpgradedProtocol, peer_name

if TYPE_CHECKING:
    from tokenwire_server.gateway.plain_streams import PlainStreams

__all__ = ["MAX_PLAIN_MESSAGE_BYTES", "PlainConnection"]

MAX_PLAIN_MESSAGE_BYTES: Final = 65_536  # what a client may send at once; nobody reads it
_MAX_INSTANCE_CHARS: Final = 300
_PONG: Final = bytes((0x8A,))


class PlainConnection(UpgradedProtocol):
    """One client of a plain path, from its upgrade request to the end of its socket."""

    __slots__ = ("_consumer", "_key", "_streams")

    def __init__(self, streams: "PlainStreams") -> None:
        super().__init__(streams.endpoint)
        self._streams = streams
        self._consumer: Consumer | None = None
        self._key: RoomKey | None = None

    # --- handshake -------------------------------------------------------------------------------------------

    def _response(self, protocol: ServerProtocol, request: Request) -> tuple[Response, Deflate | None]:
        path = request_path(request.path)
        try:
            key = find_room(path, self._streams.market)
        except PathError as error:
            return _problem(protocol, error, path), None
        response = protocol.accept(request)
        if response.status_code == 101:
            if not self._endpoint.hub.admit_guest():
                return self._busy(protocol), None
            self._key = key
        return response, None

    def _opened(self, outlet: Outlet, request: Request, deflate: Deflate | None) -> None:
        if self._key is not None:
            self._consumer = self._streams.opened(outlet, self._key, peer_name(self._transport))

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        super().connection_lost(exc)
        if self._key is not None:
            self._key = None
            self._endpoint.hub.release_guest()
        if self._consumer is not None:
            self._streams.lost(self._consumer, exc)

    def pause_writing(self) -> None:
        """The write buffer reached its high-water mark (called inside ``write``)."""
        if self._consumer is not None:
            self._streams.hub.pause(self._consumer)

    def resume_writing(self) -> None:
        """The write buffer drained to its low-water mark."""
        if self._consumer is not None:
            self._streams.resumed(self._consumer)

    # --- what the client sends -------------------------------------------------------------------------------

    def _noticed(self, octets: int) -> bool:
        if self._consumer is None:
            return False
        self._streams.hub.received(self._consumer, octets, self._endpoint.now())
        return True

    def _take(self, data: bytes) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        try:
            self._handle_bytes(consumer, data)
        except Exception as error:  # a defect, which costs this client its connection, and nobody else anything
            self._streams.defect("connection failed", error)
            self._streams.close(consumer, CloseCode.INTERNAL_ERROR, "the server failed")

    def _handle_bytes(self, consumer: Consumer, data: bytes) -> None:
        """Messages are looked at no further than the protocol asks for."""
        inbound = self._inbound
        if inbound is None:
            inbound = self._inbound = Inbound(deflated=False, max_bytes=MAX_PLAIN_MESSAGE_BYTES)
        inbound.add(data)
        while (piece := inbound.next_frame()) is not None:
            opcode = piece[0] & 0x0F
            if consumer.close_with is not None:
                # Our close frame is out: nothing is read any more but the answer to it.
                if opcode == Opcode.CLOSE:
                    self._end(0)
                    return
                continue
            is_last = opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and piece[0] & 0x80
            if is_last and not self._accepts(consumer, is_control=False) and not inbound.is_in_message:
                continue  # dropped before it costs anything
            for frame in inbound.parse(piece):
                if frame.opcode is Opcode.PONG:
                    self._accepts(consumer, is_control=True)
            if inbound.has_too_many_fragments():
                self._streams.close(consumer, CloseCode.MESSAGE_TOO_BIG, "a message in too many fragments")
            self._answer(consumer, inbound)
            if self._ending:
                return
        if inbound.is_idle:
            self._inbound = None

    def _accepts(self, consumer: Consumer, *, is_control: bool) -> bool:
        """Whether a frame is within the client's rate; who floods for long is closed."""
        verdict = self._streams.hub.judge(consumer, self._endpoint.now(), is_control=is_control)
        if verdict is Verdict.CUT:
            self._streams.close(consumer, CloseCode.RATE_LIMITED, "too many messages")
        return verdict is Verdict.ACCEPT

    def _answer(self, consumer: Consumer, inbound: Inbound) -> None:
        """Send the parser's pongs; follow a close frame of the client, or an error in what it sent."""
        outlet = self._outlet
        if outlet is None:
            return
        close_frame = b""
        for answer in inbound.answers():
            if answer[:1] != _PONG:
                close_frame += answer
            elif self._accepts(consumer, is_control=True):
                outlet.write(answer)
        if inbound.close_code is None:
            return
        if consumer.close_with is None:
            outlet.write(close_frame)
            self._streams.hub.closing(consumer, inbound.close_code, self._endpoint.now())
        self._end(LINGER_S if inbound.failure else 0)


def _problem(protocol: ServerProtocol, error: PathError, path: str) -> Response:
    """As ``application/problem+json``."""
    _, body, headers = problem(error.status, error.detail, path[:_MAX_INSTANCE_CHARS])
    response = protocol.reject(error.status, body.decode())
    for name, value in headers.items():
        del response.headers[name]
        response.headers[name] = value
    return response
