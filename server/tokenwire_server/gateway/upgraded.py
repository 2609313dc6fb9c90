"""What all our own WebSockets share: the answer to the upgrade request, bytes in slices, and the end.

A socket has no task and no timer of its own, and keeps no parser while nothing is under way. What it says and hears
is up to the class derived from this one.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tokenwire_schemas import limits
from tokenwire_server.core.grants import Deflate
from tokenwire_server.gateway.http import LOADING_RETRY_AFTER_S
from tokenwire_server.gateway.inbound import Inbound
from tokenwire_server.gateway.outlet import Outlet

if TYPE_CHECKING:
    from tokenwire_server.gateway.endpoint import Endpoint

__all__ = ["LINGER_S", "UpgradedProtocol", "limit_unsent", "peer_name"]

LINGER_S: Final = 0.5
"""After an error, closing at once would reset the connection and lose our close frame."""

_SLICE_BYTES: Final = 16_384


class UpgradedProtocol(asyncio.Protocol):
    """One client, from its upgrade request to the end of its socket."""

    __slots__ = ("_backlog", "_ending", "_endpoint", "_inbound", "_outlet", "_transport")

    subprotocol: ClassVar[Subprotocol | None] = None  # selected if the client offers it

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._inbound: Inbound | None = None
        self._backlog: bytearray | None = None  # arrived, and waiting for its turn
        self._ending = False  # what still arrives is discarded

    # --- for the derived class -------------------------------------------------------------------------------

    def _response(self, protocol: ServerProtocol, request: Request) -> tuple[Response, Deflate | None]:
        """The answer to a request that :meth:`_refusal` did not refuse, and the compression agreed on."""
        raise NotImplementedError

    def _opened(self, outlet: Outlet, request: Request, deflate: Deflate | None) -> None:
        """The handshake succeeded."""
        raise NotImplementedError

    def _noticed(self, octets: int) -> bool:
        """Bytes arrived: somebody lives there. False: nobody is served here (any more)."""
        raise NotImplementedError

    def _take(self, data: bytes) -> None:
        """Handle a slice of what arrived."""
        raise NotImplementedError

    # --- handshake -------------------------------------------------------------------------------------------

    def upgrade(self, transport: asyncio.Transport, request: bytes) -> None:
        """Answer the upgrade ``request`` (its head, complete) that arrived on ``transport``."""
        self._transport = transport
        ours = self.subprotocol

        def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            return ours if ours in offered else None

        protocol = ServerProtocol(select_subprotocol=select, max_size=limits.MAX_MESSAGE_BYTES)
        protocol.receive_data(request)
        events = protocol.events_received()
        if not events or not isinstance(events[0], Request):
            transport.write(b"".join(protocol.data_to_send()))
            transport.close()
            return
        deflate = None
        try:
            response = self._refusal(protocol, events[0])
            if response is None:
                response, deflate = self._response(protocol, events[0])
        except MultipleValuesError as error:
            response = protocol.reject(400, f"several {error.args[0]!a} headers\n")
        protocol.send_response(response)
        transport.write(b"".join(protocol.data_to_send()))
        if response.status_code != 101:
            self._endpoint.refused(response.status_code)
            transport.close()
            return
        transport.set_write_buffer_limits(limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES)
        limit_unsent(transport)
        outlet = self._outlet = Outlet(transport)
        self._opened(outlet, events[0], deflate)

    def _refusal(self, protocol: ServerProtocol, request: Request) -> Response | None:
        """Why this request is refused whatever it asks for."""
        endpoint = self._endpoint
        if not endpoint.origin_allowed(request.headers.get("Origin"), request.headers.get("Host")):
            return protocol.reject(403, "this origin may not connect; see the setting allowed_origins\n")
        version = request.headers.get("Sec-WebSocket-Version")
        if version is not None and version.strip() != "13":
            response = protocol.reject(426, f"WebSocket version {version[:16]!a} is not supported; use 13\n")
            response.headers["Sec-WebSocket-Version"] = "13"
            return response
        if not endpoint.hub.may_upgrade():
            return self._busy(protocol)
        return None

    def _busy(self, protocol: ServerProtocol) -> Response:
        is_loading = self._endpoint.hub.is_loading()
        text = "the log is being read" if is_loading else "no more connections now"
        response = protocol.reject(503, f"{text}; try again later\n")
        response.headers["Retry-After"] = str(
            LOADING_RETRY_AFTER_S if is_loading else limits.BUSY_RETRY_AFTER_MS // 1000
        )
        return response

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: frames, parts of frames, or nonsense.

        They are handled in slices with the event loop's other work in between, and reading pauses meanwhile:
        what one client sends must not keep the others waiting.
        """
        transport = self._transport
        if transport is None or self._ending or not self._noticed(len(data)):
            return
        if self._backlog is not None:
            self._backlog += data
        elif len(data) <= _SLICE_BYTES:
            self._take(data)
        else:
            self._backlog = bytearray(data)
            transport.pause_reading()
            self._take_slice()

    def _take_slice(self) -> None:
        backlog, transport = self._backlog, self._transport
        if backlog is None or transport is None:
            return
        data = bytes(backlog[:_SLICE_BYTES])
        del backlog[:_SLICE_BYTES]
        if not self._ending:
            self._take(data)
        if transport.is_closing():
            self._backlog = None
        elif backlog and not self._ending:
            asyncio.get_running_loop().call_soon(self._take_slice)
        else:
            self._backlog = None
            transport.resume_reading()

    def eof_received(self) -> bool:
        """The client closed its side; without a close handshake there is nothing more to say."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        if self._outlet is not None:
            self._outlet.ended()
        self._inbound = self._backlog = None

    def _end(self, linger_s: float) -> None:
        """End the connection; what still arrives is discarded."""
        transport = self._transport
        self._ending = True
        self._inbound = None
        if self._outlet is not None:
            self._outlet.ended()
        if transport is not None and linger_s:
            asyncio.get_running_loop().call_later(linger_s, transport.close)
        elif transport is not None:
            transport.close()


def peer_name(transport: asyncio.Transport | None) -> str:
    """The other end's address, for the log."""
    name = None if transport is None else transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unix"


def limit_unsent(transport: asyncio.Transport) -> None:
    """Keep numbered data out of the kernel: a dead reader would otherwise swallow megabytes of it."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    sock = transport.get_extra_info("socket")
    if option is not None and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, limits.NOTSENT_LOWAT_BYTES)
