"""Which protocol serves an upgrade request: ours on the endpoint's path, uvicorn's ASGI one elsewhere.

uvicorn builds the WebSocket class before it knows the path, feeds it the rebuilt request, and then makes it the
transport's protocol. So a dispatcher looks at the request and hands over; it forwards what arrives until the
hand-over is complete, an iteration of the event loop later.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from tokenwire_server.gateway.connection import Connection
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.handshake import ENDPOINT, request_path

__all__ = ["dispatcher"]

_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


class _Dispatcher(asyncio.Protocol):
    def __init__(
        self, endpoint: Endpoint, asgi_paths: tuple[str, ...], make_asgi: Callable[[], WebSocketsSansIOProtocol]
    ) -> None:
        self._endpoint = endpoint
        self._asgi_paths = asgi_paths
        self._make_asgi = make_asgi
        self._transport: asyncio.Transport | None = None
        self._target: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without deriving from it

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if self._target is not None:
            self._target.data_received(data)
        elif transport is not None:
            path = request_path(data.split(b" ", 2)[1].decode("latin-1"))
            if path == ENDPOINT:
                connection = Connection(self._endpoint)
                self._hand_over(transport, connection)
                connection.upgrade(transport, data)
            elif path.startswith(self._asgi_paths):
                protocol = self._make_asgi()
                self._hand_over(transport, protocol)
                protocol.connection_made(transport)
                protocol.data_received(data)
            else:
                self._endpoint.refused(404)
                body = f"no WebSocket here; the endpoint is {ENDPOINT}\n".encode()
                transport.write(_NOT_FOUND % (len(body), body))
                transport.close()

    def _hand_over(self, transport: asyncio.Transport, target: asyncio.Protocol) -> None:
        """From now on ``target`` is told of everything, a full buffer among it. uvicorn sets its own choice once more
        after this turn."""
        self._target = target
        transport.set_protocol(target)
        asyncio.get_running_loop().call_soon(transport.set_protocol, target)

    def eof_received(self) -> bool | None:
        return self._target.eof_received() if self._target is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._target is not None:
            self._target.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._target is not None:
            self._target.pause_writing()

    def resume_writing(self) -> None:
        if self._target is not None:
            self._target.resume_writing()

    def shutdown(self) -> None:
        """Nothing to do: the endpoint drains its own connections."""


def dispatcher(endpoint: Endpoint, asgi_paths: tuple[str, ...] = ()) -> Callable[..., asyncio.Protocol]:
    """What to give uvicorn as ``Config(ws=…)``; WebSockets under ``asgi_paths`` go to the ASGI application."""

    def build(config: Config, server_state: ServerState, app_state: dict[str, Any]) -> asyncio.Protocol:
        def make_asgi() -> WebSocketsSansIOProtocol:
            return WebSocketsSansIOProtocol(config=config, server_state=server_state, app_state=app_state)

        return _Dispatcher(endpoint, asgi_paths, make_asgi)

    return build
