"""uvicorn's server with our drain in front of its shutdown, and signals that end the process with status 0."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator

from uvicorn.config import Config
from uvicorn.server import HANDLED_SIGNALS, Server

from tokenwire_schemas import limits
from tokenwire_server.gateway.endpoint import Endpoint
from tokenwire_server.gateway.http_protocol import TimedHttpProtocol

__all__ = ["GatewayServer"]


class GatewayServer(Server):
    """Serves until a signal; the first one drains, a second one hurries."""

    def __init__(
        self,
        config: Config,
        endpoint: Endpoint,
        drain_s: float,
        *,
        handle_signals: bool = True,
    ) -> None:
        super().__init__(config)
        self._endpoint = endpoint
        self._drain_s = drain_s
        self.listening = asyncio.Event()
        self.finished = asyncio.Event()
        self._handle_signals = handle_signals
        self.drains: list[Callable[[float, Callable[[], bool]], Awaitable[None]]] = [endpoint.drain]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on ``sockets`` and begin to tick.

        As uvicorn does it, but with the specification's 5 s for a TLS handshake instead of 60.
        """
        config = self.config
        loop = asyncio.get_running_loop()
        self.lifespan = config.lifespan_class(config)
        handshake_s = limits.CONNECTION_TIMEOUT_MS / 1000 if config.ssl else None

        def protocol() -> asyncio.Protocol:
            return TimedHttpProtocol(config=config, server_state=self.server_state, app_state={}, _loop=loop)

        self.servers = [
            await loop.create_server(
                protocol, sock=each, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=handshake_s
            )
            for each in sockets or ()
        ]
        self.started = True
        self._endpoint.requests = lambda: self.server_state.total_requests
        self._endpoint.start()
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell and close every connection within the drain time (``/ready`` says 503 meanwhile), then stop."""
        await asyncio.gather(*(drain(self._drain_s, lambda: self.force_exit) for drain in self.drains))
        self._endpoint.stop()
        await super().shutdown(sockets)
        self.finished.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGINT and SIGTERM while serving, and do not raise them again: a drained exit is a good exit."""
        if not self._handle_signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in HANDLED_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in HANDLED_SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
