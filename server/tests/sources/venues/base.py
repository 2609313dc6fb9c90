"""A scripted exchange: a WebSocket and a REST server on loopback."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from aiohttp import web
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

T0_MS = 1_672_304_486_000  # when trade 0 happened

Script = Callable[["Venue", ServerConnection], Awaitable[None]]
"""What happens over one connection after its subscription."""


class Venue:
    """One exchange. Connection number N follows ``scripts[N]``, further ones the last.

    Trade N happened N seconds after ``T0_MS`` at 100.5 + N; takers of odd ones bought. REST knows the trades of
    ``history``; ``rest_script`` may answer instead.
    """

    kind: ClassVar[str]
    symbol: ClassVar[str]
    path: ClassVar[str]
    numbered: ClassVar[bool] = True
    shutdown: ClassVar[str | None] = None
    """The frame that announces the end of a connection."""

    def __init__(self, *scripts: Script, refuse: Sequence[str] = (), status: int = 101) -> None:
        self.scripts = scripts
        self.refuse = refuse
        """What is answered to a subscription instead of granting it."""
        self.status = status
        """Of the handshake."""
        self.history: Sequence[int] = ()
        self.rest_script: Callable[[web.Request], web.Response] | None = None
        self.connections = 0
        self.requests: list[Any] = []
        self.pings = 0
        self.rest_requests: list[str] = []
        self.complaints: list[str] = []
        """What a client did against the rules; a test ends by looking here."""
        self.url = ""
        self.rest_url = ""
        self._server: Server | None = None
        self._runner: web.AppRunner | None = None

    # --- What each exchange defines ----------------------------------------------------------------------------

    def answer(self, request: Any) -> Sequence[str]:
        """The frames that follow a subscription."""
        raise NotImplementedError

    def is_ping(self, text: str) -> str | None:
        """The pong, if this is the venue's ping."""
        return None

    def frame(self, *numbers: int) -> Sequence[str]:
        """These trades, live."""
        raise NotImplementedError

    def spoilt(self) -> Sequence[str]:
        """Frames of trades of which none can be used."""
        raise NotImplementedError

    def page(self, request: web.Request) -> web.Response:
        """The trades of ``history`` that a request asks for."""
        raise NotImplementedError

    # --- The servers -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._server = await serve(self._talk, "127.0.0.1", 0, process_request=self._admit, ping_interval=None)
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._rest)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.rest_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._runner is not None
        self._server.close()
        await self._server.wait_closed()
        await self._runner.cleanup()
        assert not self.complaints, self.complaints

    def complain(self, ok: object, text: object) -> None:
        if not ok:
            self.complaints.append(str(text))

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        self.complain(request.path == self.path, f"path {request.path}")
        if self.status == 101:
            return None
        headers = Headers({"Retry-After": "7", "Content-Length": "0"})
        return Response(self.status, "No", headers)

    async def _talk(self, socket: ServerConnection) -> None:
        number = self.connections
        self.connections += 1
        script: asyncio.Task[None] | None = None
        try:
            async for text in socket:
                assert isinstance(text, str)
                pong = self.is_ping(text)
                if pong is not None:
                    self.pings += 1
                    await socket.send(pong)
                    continue
                request = json.loads(text)
                self.requests.append(request)
                for frame in self.refuse or self.answer(request):
                    await socket.send(frame)
                if script is None and self.scripts and not self.refuse:
                    chosen = self.scripts[min(number, len(self.scripts) - 1)]
                    script = asyncio.create_task(self._play(chosen, socket))
        except ConnectionClosed:
            pass
        finally:
            if script is not None:
                script.cancel()
                await asyncio.gather(script, return_exceptions=True)

    async def _play(self, script: Script, socket: ServerConnection) -> None:
        try:
            await script(self, socket)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.complaints.append(f"the script failed: {error!r}")

    async def _rest(self, request: web.Request) -> web.Response:
        self.rest_requests.append(str(request.rel_url))
        return self.rest_script(request) if self.rest_script is not None else self.page(request)


def price(number: int) -> str:
    return f"{100 + number}.5"


def bought(number: int) -> bool:
    return number % 2 == 1


def time_ms(number: int) -> int:
    return T0_MS + 1_000 * number
