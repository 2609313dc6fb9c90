"""A simulated connection: bytes down, whole messages up, each in order, with whatever faults it suffers."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from loadtests.faults.engine import Scheduler
from loadtests.faults.history import Entry
from loadtests.faults.recorder import SocketRecorder
from loadtests.faults.tap import TEXT, Tap, WireMessage

if TYPE_CHECKING:
    from loadtests.faults.sim_client import SimClient
    from loadtests.faults.sim_server import SimServer
    from tokenwire_server.core.link import Link

__all__ = ["SimSocket"]


class SimSocket:
    """One TCP connection with a WebSocket on it; the server's core takes it for its socket.

    Server to client it carries bytes, so that it can end anywhere within a frame; a message counts as received when
    its last byte is. What the server wrote while the client reads nothing stays in its buffer.
    """

    __slots__ = ("_add", "_down_ms", "_frames", "_scheduler", "_up_ms", "client", "client_open", "cut_at", "delivered",
                 "high_water", "late_ms", "latency_ms", "link", "notice_ms", "number", "opened", "recorder", "server",
                 "server_open", "stalled", "swallow_down", "swallow_up", "taken", "tap", "written")  # fmt: skip

    def __init__(
        self,
        number: int,
        client: "SimClient",
        server: "SimServer",
        scheduler: Scheduler,
        add: Callable[[Entry], None],
        latency_ms: int,
        high_water: int,
    ) -> None:
        self.number = number
        self.client = client
        self.server = server
        self.link: Link | None = None
        self.latency_ms = latency_ms
        self.high_water = high_water
        self.recorder = SocketRecorder(client.name, number, add)
        self.tap = Tap()
        self.client_open = True
        self.server_open = False
        self.opened = False  # the client knows that the handshake succeeded
        self.stalled = False
        self.swallow_down = False
        self.swallow_up = False
        self.late_ms = 0  # what is under way up takes so much longer, and outlives the socket
        self.cut_at: int | None = None  # what comes behind this byte never arrives
        self.notice_ms: int | None = 0  # how long after a cut the server is told; None: never
        self.written = self.taken = self.delivered = 0
        self._add = add
        self._frames: deque[WireMessage] = deque()
        self._scheduler = scheduler
        self._down_ms = self._up_ms = 0  # when the last thing sent arrives: order is kept

    # --- the server's end ------------------------------------------------------------------------------------

    def write(self, data: bytes, /) -> None:
        """Whole frames."""
        if not self.server_open:
            return
        now = self._scheduler.now
        for message in self.tap.feed(data):
            if message.opcode == TEXT:
                self.recorder.sent(now, message.content)
            self._frames.append(message)
        self.written += len(data)
        if not self.stalled:
            self._carry()
        elif self.written - self.taken > self.high_water and self.link is not None and self.link.writable:
            self.server.hub.pause(self.link, self.server.now())

    def get_write_buffer_size(self) -> int:
        """Bytes that a client which reads nothing leaves here."""
        return self.written - self.taken

    def abort(self) -> None:
        """The server ends it at once; what is under way may still arrive."""
        if self.server_open:
            self._scheduler.after(0, self.server.lost, self)
            self.tell_client(1006)

    def tell_client(self, code: int) -> None:
        """The client's end learns that this is over, unless the line is dead."""
        self._scheduler.at(self._down(), self._ended, code)

    def stall(self, ms: int) -> None:
        """The client's host reads nothing for ``ms``."""
        self.stalled = True
        self._scheduler.after(ms, self.flow)

    def flow(self) -> None:
        """It reads again."""
        if self.stalled:
            self.stalled = False
            if self.server_open:
                self._carry()
                self.server.writable(self)

    def _carry(self) -> None:
        self.taken = self.written
        self._scheduler.at(self._down(), self._arrive, self.written)

    def _down(self) -> int:
        self._down_ms = max(self._down_ms, self._scheduler.now + self.latency_ms)
        return self._down_ms

    # --- what happens on the way -----------------------------------------------------------------------------

    def greet(self) -> None:
        """The server's answer to the handshake is under way."""
        self._scheduler.at(self._down(), self._greeted)

    def _greeted(self) -> None:
        if self.client_open and not self.swallow_down:
            self.opened = True
            self.client.on_opened(self)

    def _arrive(self, upto: int) -> None:
        """The bytes up to offset ``upto`` are at the client."""
        if self.swallow_down:
            return
        if self.cut_at is not None and upto >= self.cut_at:
            upto = self.cut_at
        self.delivered = max(self.delivered, upto)
        frames = self._frames
        while self.client_open and frames and frames[0].end <= upto:
            self.client.on_frame(self, frames.popleft())
        if upto == self.cut_at:
            self.cut()

    def _ended(self, code: int) -> None:
        if self.client_open and not self.swallow_down:
            self.client_open = False
            self.client.on_closed(self, code, "")

    def cut(self) -> None:
        """The line breaks here and now. The client notices, the server when ``notice_ms`` says."""
        if not self.client_open:
            return
        self.client_open = False
        notice = self.notice_ms
        if notice is not None:
            self._scheduler.at(max(self._up_ms, self._scheduler.now + notice), self.server.lost, self)
        if self.opened:
            self.client.on_closed(self, 1006, "cut")
        else:
            self.client.on_refused(self, None, None, "cut while opening")

    # --- the client's end ------------------------------------------------------------------------------------

    def up(self, delay_ms: int, call: Callable[..., object], *args: object) -> None:
        """Let ``call(*args)`` happen at the server, after everything sent before it."""
        if not self.swallow_up:
            self._up_ms = max(self._up_ms, self._scheduler.now + self.latency_ms + delay_ms)
            self._scheduler.at(self._up_ms, self._at_server, call, args)

    def _at_server(self, call: Callable[..., object], args: tuple[object, ...], *, is_late: bool = False) -> None:
        if self.late_ms and not is_late:
            self._scheduler.after(self.late_ms, partial(self._at_server, call, args, is_late=True))
        elif not self.swallow_up:
            call(*args)

    def drop(self) -> None:
        """The client ends it at once, without a word; the server is told by TCP."""
        if self.client_open:
            self.client_open = False
            self.up(0, self.server.lost, self)
