"""Which protocol serves an upgrade request: ours on the endpoint's path and the plain ones, else an ASGI one.

uvicorn builds the WebSocket class before it knows the path, feeds it the rebuilt request, and then makes it the
transport's protocol. So a dispatcher looks at the request and hands over; it forwards what arrives until the
hand-over is complete, an iteration of the event loop later.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from tokenwire_server.gateway.connection import Connection
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.handshake import ENDPOINT, request_path
from tokenwire_server.gateway.plain_connection import PlainConnection
from tokenwire_server.gateway.plain_paths import PLAIN_PATHS
from tokenwire_server.gateway.plain_streams import PlainStreams
from tokenwire_server.gateway.upgraded import UpgradedProtocol

__all__ = ["dispatcher"]

AsgiProtocol = Callable[..., asyncio.Protocol]
"""Called as uvicorn calls ``Config(ws=…)``."""

_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


class _Dispatcher(asyncio.Protocol):
    def __init__(
        self,
        endpoint: Endpoint,
        asgi: Mapping[str, AsgiProtocol],
        build: Callable[[AsgiProtocol], asyncio.Protocol],
        streams: PlainStreams | None,
    ) -> None:
        self._streams = streams
        self._endpoint = endpoint
        self._asgi = asgi
        self._build = build
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
                self._upgrade(transport, Connection(self._endpoint), data)
            elif self._streams is not None and path.startswith(PLAIN_PATHS):
                self._upgrade(transport, PlainConnection(self._streams), data)
            elif (asgi := self._asgi_protocol(path)) is not None:
                protocol = self._build(asgi)
                self._hand_over(transport, protocol)
                protocol.connection_made(transport)
                protocol.data_received(data)
            else:
                self._endpoint.refused(404)
                body = f"no WebSocket here; the endpoint is {ENDPOINT}\n".encode()
                transport.write(_NOT_FOUND % (len(body), body))
                transport.close()

    def _asgi_protocol(self, path: str) -> AsgiProtocol | None:
        return next((protocol for prefix, protocol in self._asgi.items() if path.startswith(prefix)), None)

    def _upgrade(self, transport: asyncio.Transport, connection: UpgradedProtocol, request: bytes) -> None:
        self._hand_over(transport, connection)
        connection.upgrade(transport, request)

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


def dispatcher(
    endpoint: Endpoint, asgi: Mapping[str, AsgiProtocol] | None = None, streams: PlainStreams | None = None
) -> Callable[..., asyncio.Protocol]:
    """What to give uvicorn as ``Config(ws=…)``; ``asgi`` has the protocol of all paths that begin like its key,
    ``streams`` is what the plain paths lead to."""

    def build(**arguments: Any) -> asyncio.Protocol:
        return _Dispatcher(endpoint, asgi or {}, lambda protocol: protocol(**arguments), streams)

    return build
