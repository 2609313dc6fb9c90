"""The server's side of the simulation: the pure hub, its market, its clocks and its deaths."""

import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from loadtests.faults.engine import Scheduler
from loadtests.faults.history import Closed, Entry, Opened, Produced, alias
from loadtests.faults.setup import Setup
from tokenwire_schemas.errors import ErrorCode
from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.core.grants import Deflate, Offer
from tokenwire_server.core.hub import Hub, HubConfig
from tokenwire_server.core.link import Link
from tokenwire_server.core.states import LinkState

if TYPE_CHECKING:
    from loadtests.faults.sim_socket import SimSocket

__all__ = ["WALL_MS", "SimServer", "SimToken"]

WALL_MS: Final = 1_764_547_200_000
_CLOCK_MS: Final = 50_000_000  # the server's monotonic clock at the beginning
_TIMERS_MS: Final = 500
_IDLE_TIMERS_MS: Final = 5_000
_PONG: Final = b"\x8a\x00"
_VOLUME: Final = Volume("3", "2", "1")


class SimToken:
    """A token as its writer keeps it. Every price it ever has is a new one, whatever its versions do."""

    __slots__ = ("address", "price", "version")

    source: Final = "simulated"
    source_time_ms: Final = WALL_MS

    def __init__(self, address: str) -> None:
        self.address = address
        self.version = 0
        self.price = 0

    @property
    def has_value(self) -> bool:
        return self.price > 0

    def data(self) -> TokenUpdateData:
        return TokenUpdateData(self.address, str(self.price), "0", _VOLUME)


class SimServer:
    """One server over all its lives. ``symbols`` maps the names it knows to addresses."""

    def __init__(self, setup: Setup, scheduler: Scheduler, add: Callable[[Entry], None]) -> None:
        self.setup = setup
        self.wall_skew_ms = 0
        self.is_up = True
        self.is_idle = False  # everybody has left: time may pass in larger steps
        self.tokens = {f"t{number}": SimToken(f"t{number}") for number in range(setup.tokens)}
        self.symbols = {f"SYM{number}": f"t{number}" for number in range(setup.tokens)}
        self.stream = "stream-0"
        self.totals: Counter[str] = Counter()
        self.refusals: list[tuple[int, int | None]] = []  # HTTP status and Retry-After of the next handshakes
        self.sockets: dict[Link, SimSocket] = {}
        self._lives = 0
        self._add = add
        self._scheduler = scheduler
        self._random = random.Random(f"server {setup.seed}")
        self._connections = 0
        self.hub = self._new_hub()

    def now(self) -> int:
        """The server's monotonic clock."""
        return _CLOCK_MS + self._scheduler.now

    def wall(self) -> int:
        """The server's wall clock."""
        return WALL_MS + self._scheduler.now + self.wall_skew_ms

    # --- the directory ---------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Any:
        """What a name means."""
        address = name if name in self.tokens else self.symbols.get(name)
        return SimpleNamespace(address=address, code=None if address else "TOKEN_NOT_FOUND", candidates=())

    def value(self, address: str) -> SimToken | None:
        """The token at this address."""
        return self.tokens.get(address)

    def channel(self, name: str) -> None:
        """There are values only."""

    def channel_names(self) -> str:
        """Likewise."""
        return "token"

    def set_names(self) -> str:
        """Likewise."""
        return "none"

    def members(self, name: str) -> None:
        """Likewise."""

    def topic(self, address: str, channel: str, topics: object) -> None:
        """Likewise."""

    # --- the market ------------------------------------------------------------------------------------------

    def change(self, address: str, times: int = 1) -> None:
        """New versions of a token."""
        token = self.tokens[address]
        for _ in range(times):
            token.version += 1
            token.price += 1
            self._add(Produced(self._scheduler.now, self.stream, address, token.version, str(token.price)))
            self.hub.board.changed(self.hub.board.row(token), self.now())

    def market(self) -> None:
        """Something changes, now and again."""
        draw = self._random
        if self.is_up:
            for address in draw.sample(sorted(self.tokens), draw.randint(1, len(self.tokens))):
                self.change(address, draw.choice((1, 1, 1, 2, 4)))

    def tick(self) -> None:
        """Once every interval."""
        if self.is_up:
            for write, data in self.hub.tick(self.now(), self.wall()):
                write(data)
            self.flush()
        if not self.is_idle:
            self._scheduler.after(self.setup.interval_ms, self.tick)

    def timers(self) -> None:
        """Several times a second."""
        if self.is_up:
            pings, aborts = self.hub.timers(self.now())
            for link in pings:
                link.socket.write(self.hub.ping)
            for link in aborts:
                link.socket.abort()
            self.flush()
        self._scheduler.after(_IDLE_TIMERS_MS if self.is_idle else _TIMERS_MS, self.timers)

    def flush(self) -> None:
        """Write what the hub has."""
        hub = self.hub
        while ready := hub.take_ready():
            for link in ready:
                while data := hub.pump(link, self.wall()):
                    link.socket.write(data)
                    if link.state is LinkState.CLOSED:
                        break

    # --- sockets ---------------------------------------------------------------------------------------------

    def handshake(self, socket: "SimSocket", offer: Offer, deflate: bool, reply_ms: int) -> None:
        """An upgrade request arrived; the answer takes ``reply_ms`` longer than usual."""
        now = self._scheduler.now
        refuse = socket.client.on_refused
        if not self.is_up:
            self._scheduler.after(socket.latency_ms, refuse, socket, None, None, "connection refused")
            return
        if self.refusals:
            status, retry_after = self.refusals.pop()
            self._scheduler.after(socket.latency_ms, refuse, socket, status, retry_after, f"HTTP {status}")
            return
        if not self.hub.may_upgrade():
            self._scheduler.after(socket.latency_ms, refuse, socket, 503, 2000, "HTTP 503")
            return
        self._connections += 1
        encoder = self.hub.encoder(offer, Deflate() if deflate else None)
        connection_id = f"00000000-0000-4000-8000-{self._connections:012d}"
        link = socket.link = Link(socket, connection_id, encoder, self.now(), offer)
        socket.tap = type(socket.tap)(deflate=link.is_deflated)
        socket.server_open = True
        socket.latency_ms += reply_ms
        socket.greet()
        socket.latency_ms -= reply_ms
        self.sockets[link] = socket
        secret = None if offer.session is None else alias(offer.session)
        self._add(Opened(now, socket.client.name, socket.number, secret, offer.position, offer.attempt))
        self.hub.connect(link, self.now())
        self.flush()

    def receive(self, socket: "SimSocket", text: str) -> None:
        """A text message arrived."""
        link = socket.link
        if link is None or not socket.server_open:
            return
        link.last_byte_ms = self.now()
        if link.close_with is not None:
            self.totals["late_message"] += 1  # of a socket that lost its session meanwhile
            return
        if self.hub.admit(link, self.now()):
            socket.recorder.received(self._scheduler.now, text)
            self.hub.receive(link, text, self.now())
        self.flush()

    def control(self, socket: "SimSocket", ping: bool) -> None:
        """A ping or pong arrived."""
        link = socket.link
        if link is None or not socket.server_open:
            return
        link.last_byte_ms = self.now()
        if self.hub.receive_control(link, self.now()) and ping:
            socket.write(_PONG)
        self.flush()

    def peer_closes(self, socket: "SimSocket", code: int) -> None:
        """A close frame arrived: it is answered, if it is not an answer itself, and the socket ends."""
        link = socket.link
        if link is None or not socket.server_open:
            return
        if link.close_with is None:
            socket.write(b"\x88\x02" + code.to_bytes(2, "big"))
            self.hub.closing(link, self.now(), code)
        self.flush()
        self.lost(socket)
        socket.tell_client(1006)

    def writable(self, socket: "SimSocket") -> None:
        """The socket's buffer is empty again."""
        link = socket.link
        if link is not None and not link.writable and link.state is not LinkState.CLOSED:
            self.hub.resume(link, self.now())
            self.flush()

    def lost(self, socket: "SimSocket") -> None:
        """The server's end of a socket is gone."""
        link = socket.link
        if link is None or not socket.server_open:
            return
        socket.server_open = False
        code = link.close_with[0] if link.close_with is not None else None
        self._add(Closed(self._scheduler.now, socket.client.name, socket.number, code))
        self.sockets.pop(link, None)
        self.hub.disconnect(link)
        self.flush()

    # --- lives -----------------------------------------------------------------------------------------------

    def die(self, *, tell: bool, keep: bool, down_ms: int) -> None:
        """The process ends; ``tell``: the sockets are closed by its host; ``keep``: its state outlives it."""
        if not self.is_up:
            return
        self.is_up = False
        self._count()
        for socket in list(self.sockets.values()):
            socket.server_open = False
            self._add(Closed(self._scheduler.now, socket.client.name, socket.number))
            if tell:
                socket.tell_client(1006)
            else:
                socket.swallow_down = socket.swallow_up = True
        self.sockets.clear()
        self._scheduler.after(down_ms, self._revive, keep)

    def drain(self, down_ms: int) -> None:
        """Everybody is told SERVER_SHUTDOWN; then the process ends, and a new one begins."""
        self.hub.draining = True
        for link in [link for link in self.hub.links if link.state is LinkState.CONNECTED]:
            self.hub.fail(link, ErrorCode.SERVER_SHUTDOWN, self.now())
        self.flush()
        self._scheduler.after(1_500, lambda: self.die(tell=True, keep=True, down_ms=down_ms))

    def _revive(self, keep: bool) -> None:
        self.is_up = True
        self._lives += 1
        if not keep:
            # Another lineage of versions, which may begin above the old one or below it.
            self.stream = f"stream-{self._lives}"
            for token in self.tokens.values():
                token.version = self._random.choice((0, token.version + 1000))
        self.hub = self._new_hub()
        if not keep:
            for address in self.tokens:
                self.change(address)

    def _new_hub(self) -> Hub:
        setup = self.setup
        pace = setup.pace
        config = HubConfig(
            max_connections=setup.max_connections,
            heartbeat_ms=15_000 // pace,
            idle_timeout_ms=20_000 // pace,
            close_timeout_ms=5_000 // pace,
            stall_warning_ms=5_000 // pace,
            stall_close_ms=30_000 // pace,
            update_interval_ms=setup.interval_ms,
            resume_window_ms=setup.resume_window_ms,
            resume_max_frames=setup.resume_max_frames,
            resume_max_bytes=setup.resume_max_bytes,
            resume_instance_bytes=setup.resume_instance_bytes,
        )
        hub = Hub(self, self.now(), config, new_secret=self._secret, stream=self.stream)
        for token in self.tokens.values():
            hub.board.row(token)
        return hub

    def _secret(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def count(self) -> "Counter[str]":
        """What all lives of the server counted."""
        self._count()
        return self.totals

    def _count(self) -> None:
        stats = self.hub.stats
        for outcome, times in stats.resumes.items():
            self.totals[f"resume_{outcome}"] += times
        for code, times in stats.closes.items():
            self.totals[f"close_{code}"] += times
        for cause, times in stats.evicted.items():
            self.totals[f"evicted_{cause}"] += times
        self.totals["replays"] += stats.replays
        self.totals["replayed"] += stats.replayed
        self.totals["frames"] += stats.frames
        self.totals["conflated"] += stats.conflated
        self.totals["pauses"] += stats.pauses
        self.totals["acks"] += stats.acks
