"""A captured tape served as the exchange would serve it, on loopback: for demonstrations and tests.

It answers ``/stream`` (combined frames, also ``?streams=a/b``) and ``/ws`` or ``/ws/a@trade`` (raw frames),
SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS, and sends the captured frames byte for byte. What a client
gets is what it subscribed to, no more. A connection's replay begins with its first subscription, at the
tape's start; with ``follow`` a new connection goes on where the latest one stopped, as a live exchange would.

It shares nothing with the collector but the tape's line format: an error in reading frames must not cancel
itself out.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tokenwire_server.sources.tape_file import TapeError, read_tape
from tokenwire_server.sources.venue_peer import Peer, stream_of

__all__ = ["Faults", "TapeVenue", "serve_tape"]

MAX_REQUEST_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 100
PING_INTERVAL_S: Final = 20.0
PING_TIMEOUT_S: Final = 60.0
SCAN_LINES: Final = 1_000
FRAMES_PER_TURN: Final = 50  # sent without letting others run
_GARBAGE: Final = ('{"stream":"', "\x00\x01", "[]", '{"stream":"x@aggTrade","data":{"e":"aggTrade","p":"NaN"}}')


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, counted in frames of each connection; 0 is never. Raises ValueError below 0."""

    drop_every: int = 0
    """Every Nth frame is left out: a gap in the ids."""
    duplicate_every: int = 0
    """Every Nth frame is sent twice."""
    garbage_every: int = 0
    """After every Nth frame comes one that is no valid frame."""
    disconnect_after: int = 0
    """After N frames the connection is cut, without a closing handshake."""
    stall_after: int = 0
    """After N frames nothing more is sent; the connection stays and answers pings."""
    shutdown_after: int = 0
    """After N frames the serverShutdown event is sent, and the replay goes on."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must be 0 or more")


class TapeVenue:
    """The server. ``speed`` is a factor on the tape's pace, 0 as fast as possible; ``loop`` repeats the tape
    (with the same ids, as the frames are verbatim). Port 0 takes a free one: ``port`` tells it after ``start``.

    Raises TapeError when the file cannot be replayed, ValueError for a speed out of range.
    """

    def __init__(
        self,
        path: str,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        faults: Faults | None = None,
        *,
        loop: bool = False,
        follow: bool = False,
    ) -> None:
        if not math.isfinite(speed) or speed < 0:
            raise ValueError(f"speed must be 0 or more, not {speed}")
        self.host = host
        self.port = port
        self.connections = 0  # accepted so far
        self.frames = 0  # captured frames sent so far
        self._path = path
        self._speed = speed
        self._faults = faults or Faults()
        self._loop = loop
        self._follow = follow
        self._position = 0  # lines of the tape behind the latest connection
        self._server: Server | None = None
        streams = (stream_of(line.frame) for line in islice(read_tape(path), SCAN_LINES))
        # The symbols that the tape's beginning shows, for a person who wants to subscribe.
        self.symbols = tuple(dict.fromkeys(stream[0].partition("@")[0].upper() for stream in streams if stream))
        if not self.symbols:
            raise TapeError(f"tape {path}: it has no Binance-format streams; such tapes alone can be served")

    @property
    def url(self) -> str:
        """The base URL, as a collector takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        self._server = await serve(
            self._serve,
            self.host,
            self.port,
            max_size=MAX_REQUEST_BYTES,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def wait(self) -> None:
        """Serve until stopped or cancelled."""
        if self._server is not None:
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, socket: ServerConnection) -> None:
        server = self._server
        if server is None or len(server.connections) > MAX_CONNECTIONS:
            await socket.close(1008, "too many connections")
            return
        request = socket.request
        assert request is not None
        target = urlsplit(request.path)
        combined = target.path.rstrip("/") == "/stream"
        if not combined and target.path.split("/")[1:2] != ["ws"]:
            await socket.close(1008, "no such path")
            return
        self.connections += 1
        in_query = "/".join(parse_qs(target.query).get("streams", []))
        named = in_query if combined else target.path.removeprefix("/ws")
        peer = Peer(socket, combined, {name for name in named.split("/") if name})
        replay = asyncio.create_task(self._replay(peer))
        try:
            async for message in socket:
                await socket.send(peer.answer(message))
        except ConnectionClosed:
            pass
        finally:
            replay.cancel()
            await asyncio.gather(replay, return_exceptions=True)

    async def _replay(self, peer: Peer) -> None:
        await peer.subscribed.wait()
        sent = 0
        try:
            while True:
                sent = await self._pass(peer, sent)
                if sent < 0 or not self._loop:
                    return
                self._position = 0
                await asyncio.sleep(0)
        except ConnectionClosed:
            return

    async def _pass(self, peer: Peer, sent: int) -> int:
        """Replay the tape once from where this connection begins; frames sent so far, or -1 after an end."""
        loop = asyncio.get_running_loop()
        skip = self._position if self._follow else 0
        start_s = loop.time()
        first_ms: int | None = None
        for number, line in enumerate(read_tape(self._path)):
            if number < skip:
                continue
            first_ms = line.time_ms if first_ms is None else first_ms
            if self._speed:
                due_s = start_s + (line.time_ms - first_ms) / 1_000 / self._speed
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
            if number % FRAMES_PER_TURN == 0:
                await asyncio.sleep(0)
            self._position = number + 1
            text = peer.wants(line)
            if text is None:
                continue
            sent += 1
            if not await self._send(peer, text, sent):
                return -1
        return sent

    async def _send(self, peer: Peer, text: str, count: int) -> bool:
        """Send the connection's ``count``-th frame with the faults due; False ends the replay."""
        faults = self._faults
        socket = peer.socket
        if not _due(count, faults.drop_every):
            self.frames += 1
            await socket.send(text)
            if _due(count, faults.duplicate_every):
                await socket.send(text)
        if _due(count, faults.garbage_every):
            await socket.send(_GARBAGE[count // faults.garbage_every % len(_GARBAGE)])
        if count == faults.shutdown_after:
            await socket.send(json.dumps({"e": "serverShutdown", "E": time.time_ns() // 1_000_000}))
        if count == faults.disconnect_after:
            socket.transport.close()  # after what is buffered has left: an abort could overtake it
            return False
        return count != faults.stall_after


def _due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


async def serve_tape(
    path: str,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: float = 1.0,
    faults: Faults | None = None,
    announce: Callable[[str, Sequence[str]], None] = print,
    *,
    loop: bool = False,
    follow: bool = False,
) -> None:
    """Serve a tape until cancelled; ``announce`` is told the base URL and the symbols once connections are accepted.

    Raises:
        TapeError: the tape cannot be served, or the address cannot be listened on.
        ValueError: the speed is out of range.
    """
    venue = TapeVenue(path, host, port, speed, faults, loop=loop, follow=follow)
    try:
        await venue.start()
    except OSError as error:
        raise TapeError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port") from None
    try:
        announce(venue.url, venue.symbols)
        await venue.wait()
    finally:
        await venue.stop()
