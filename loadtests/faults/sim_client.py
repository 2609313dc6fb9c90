"""The client's side of the simulation: the pure session, its shell, its application and its processes."""

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from loadtests.faults.engine import Scheduler
from loadtests.faults.history import (
    Checkpointed,
    Entry,
    Overflowed,
    Started,
    Stepped,
    Stopped,
    Wanted,
    alias,
)
from loadtests.faults.observer import entry_of
from loadtests.faults.setup import ClientSetup, Setup
from loadtests.faults.sim_server import WALL_MS
from loadtests.faults.sim_socket import SimSocket
from loadtests.faults.tap import CLOSE, PING, TEXT, WireMessage
from tokenwire.actions import Close, Connect, Ping, Send
from tokenwire.checkpoint import Checkpoint
from tokenwire.config import ClientConfig
from tokenwire.events import Error, Event, Gap, Reconnecting, Stale
from tokenwire.session import ClientSession
from tokenwire.states import ConnectionState
from tokenwire_server.core.grants import Offer

if TYPE_CHECKING:
    from loadtests.faults.sim_server import SimServer

__all__ = ["SimClient"]

_CLOCK_MS: Final = 7_000_000  # the client's monotonic clock at the beginning


class SimClient:
    """One client over the lives of its process. ``session_type`` is replaced where a mistake is made on purpose."""

    session_type: type[ClientSession] = ClientSession

    def __init__(
        self,
        setup: Setup,
        own: ClientSetup,
        server: "SimServer",
        scheduler: Scheduler,
        add: Callable[[Entry], None],
        next_socket: Callable[[], int],
    ) -> None:
        self.name = own.name
        self.own = own
        self.run = 0
        self.desired: dict[str, str] = {}  # name by address, as the application wants it
        self.totals: Counter[str] = Counter()
        self.wall_skew_ms = 0
        self.socket: SimSocket | None = None
        self.stopped = False
        self.slow: deque[tuple[int, int]] = deque()  # delays of the next handshakes, there and back
        self.mischief: deque[str] = deque()  # what an intermediary does to the next messages
        self.checkpoints: list[tuple[Checkpoint, dict[str, str]]] = []
        self._setup = setup
        self._server = server
        self._scheduler = scheduler
        self._add = add
        self._next_socket = next_socket
        self._random = random.Random(f"client {setup.seed} {own.name}")
        self._is_damaged = False  # it began from a damaged checkpoint, and no server has said so yet
        self._held_back: WireMessage | None = None
        self._reading_again = 0
        self._reading_planned = False
        self._retry_after: deque[int | None] = deque()
        self._timer: int | None = None
        self._conflated = 0
        self._state = ConnectionState.CONNECTING
        pace = setup.pace
        self._config = ClientConfig(
            url="ws://simulated/api/v1/ws/token-data",
            capabilities=own.capabilities,
            delivery=own.delivery,
            max_retries=own.max_retries,
            backoff_cap_ms=30_000 // pace,
            stable_ms=30_000 // pace,
            idle_timeout_ms=own.idle_timeout_ms // pace,
            ping_interval_ms=10_000 // pace,
            reply_timeout_ms=10_000 // pace,
            ack_interval_ms=own.ack_interval_ms,
            ack_frames=own.ack_frames,
            ack=own.ack,
            queue_events=own.queue_events,
        )
        self.session = self.session_type(self._config, self._random.random)

    def now(self) -> int:
        """The client's monotonic clock."""
        return _CLOCK_MS + self._scheduler.now

    def wall(self) -> int:
        """The client's wall clock."""
        return WALL_MS + self._scheduler.now + self.wall_skew_ms

    # --- the process -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The process begins."""
        self._add(Started(self._scheduler.now, self.name, self.run, every=self.own.delivery == "every"))
        self.session.start(self.now())
        self.settle()

    def kill(self, which: int, *, vanish: bool, twist: int = 0) -> None:
        """The process dies, and starts again from checkpoint ``which`` from the end (none there: from nothing).

        ``twist`` 6: with other capabilities than before; 7: with a checkpoint that is damaged, its position never was.
        """
        if self.stopped:
            return
        self._count()
        self._add(Stopped(self._scheduler.now, self.name, self.run))
        if self.socket is not None:
            if vanish:
                self.socket.swallow_down = self.socket.swallow_up = True
            self.socket.drop()
            self.socket = None
        self.run += 1
        self._is_damaged = twist == 7
        config = self._config
        if twist == 6 and "resume" in config.capabilities:
            others = {*config.capabilities} ^ {"batch"}
            self._config = msgspec.structs.replace(config, capabilities=tuple(sorted(others)))
        checkpoint = None
        self.desired = {}
        if which < len(self.checkpoints):
            checkpoint, self.desired = self.checkpoints[-1 - which]
            self.desired = dict(self.desired)
            del self.checkpoints[len(self.checkpoints) - which :]
            self.totals["checkpoint_resume"] += checkpoint.session is not None
        session = None if checkpoint is None or checkpoint.session is None else alias(checkpoint.session)
        position = None if checkpoint is None else checkpoint.position
        self._add(Started(self._scheduler.now, self.name, self.run, session, position, self.own.delivery == "every"))
        for address in self.desired:
            self._add(Wanted(self._scheduler.now, self.name, self.run, address, True))
        self._retry_after.clear()
        self._held_back = None
        self._conflated = 0
        self._state = ConnectionState.CONNECTING
        self._timer = None
        if checkpoint is not None:
            checkpoint = Checkpoint.from_json(checkpoint.to_json())
            if self._is_damaged:
                checkpoint = msgspec.structs.replace(checkpoint, position=checkpoint.position + 1_000_000)
        self.session = self.session_type(self._config, self._random.random, checkpoint)
        self.session.start(self.now())
        self.settle()

    def close(self) -> None:
        """The application is done."""
        if not self.stopped and self.session.failure is None:
            self.session.close(self.now())
            self.settle()
        self.stopped = True

    # --- the application -------------------------------------------------------------------------------------

    def want(self, names: list[str]) -> None:
        """Subscribe."""
        if self.session.failure is not None or self.stopped:
            return
        for name in names:
            address = self._server.resolve(name).address
            if address is not None:
                self.desired[address] = name
                self._add(Wanted(self._scheduler.now, self.name, self.run, address, True))
        self.session.subscribe(names, self.now())
        self.settle()

    def unwant(self, addresses: list[str]) -> None:
        """Unsubscribe, by the names that were used to subscribe."""
        names = [self.desired.pop(address) for address in addresses if address in self.desired]
        if self.session.failure is not None or self.stopped or not names:
            return
        for name in names:
            address = self._server.resolve(name).address
            self._add(Wanted(self._scheduler.now, self.name, self.run, address, False))
        self.session.unsubscribe(names, self.now())
        self.settle()

    def save(self) -> None:
        """Take a checkpoint."""
        if self.session.failure is not None or self.stopped or self._is_damaged:
            return
        checkpoint = self.session.checkpoint()
        self.checkpoints.append((checkpoint, dict(self.desired)))
        session = None if checkpoint.session is None else alias(checkpoint.session)
        self._add(Checkpointed(self._scheduler.now, self.name, self.run, session, checkpoint.position))
        self.settle()

    def pause(self, ms: int) -> None:
        """Read no events for ``ms``."""
        self._reading_again = max(self._reading_again, self._scheduler.now + ms)
        self._scheduler.at(self._reading_again, self.settle)

    def _read(self) -> None:
        if self._scheduler.now < self._reading_again:
            return
        next_event = self.session.next_event
        left = self.own.reads_at_once
        while left is None or left > 0:
            event = next_event()
            if event is None:
                return
            self._take(event)
            if left is not None:
                left -= 1
        if not self._reading_planned:
            self._reading_planned = True
            self._scheduler.after(40, self._read_on)

    def _read_on(self) -> None:
        self._reading_planned = False
        self.settle()

    def _take(self, event: Event) -> None:
        asked = isinstance(event, Reconnecting) and event.status is not None and self._retry_after
        retry_after = self._retry_after.popleft() if asked else None
        entry = entry_of(event, self._scheduler.now, self.name, self.run, retry_after)
        if entry is not None:
            self._add(entry)
        if isinstance(event, Gap):
            self.totals["gaps"] += 1
        elif isinstance(event, Reconnecting):
            self.totals["watchdog"] += event.cause.startswith("nothing received")
        elif isinstance(event, Error):
            self.totals[f"error_{event.code}"] += 1
        elif isinstance(event, Stale):
            self.totals["stale"] += 1

    # --- the shell -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """After every call into the session: do what it asks for, let the application read, set the timer."""
        session = self.session
        while actions := session.take_actions():
            for action in actions:
                if isinstance(action, Send):
                    if self.socket is not None and self.socket.opened and self.socket.client_open:
                        self.socket.up(0, self._server.receive, self.socket, action.text)
                elif isinstance(action, Ping):
                    if self.socket is not None and self.socket.client_open:
                        self.socket.up(0, self._server.control, self.socket, True)
                elif isinstance(action, Connect):
                    self._connect(action)
                else:
                    self._close(action)
        if session.state is not self._state:
            self._add(Stepped(self._scheduler.now, self.name, self.run, self._state, session.state))
            self._state = session.state
        conflated = session.metrics.conflated_in_client
        if conflated != self._conflated:
            self._add(Overflowed(self._scheduler.now, self.name, self.run, conflated - self._conflated))
            self._conflated = conflated
        self._read()
        deadline = None if session.is_closed else session.next_deadline()
        if deadline is not None and (self._timer is None or deadline < self._timer):
            self._timer = deadline
            self._scheduler.at(deadline - _CLOCK_MS, self._alarm, self.run, deadline)

    def _alarm(self, run: int, deadline: int) -> None:
        if run != self.run or deadline != self._timer:
            return  # of a former life, or overtaken by an earlier one
        self._timer = None
        if not self.session.is_closed:
            self.session.handle_timer(self.now(), self.wall())
            self.settle()

    def _connect(self, action: Connect) -> None:
        if self.socket is not None:
            self.socket.drop()
        socket = SimSocket(
            self._next_socket(),
            self,
            self._server,
            self._scheduler,
            self._add,
            self.own.latency_ms,
            self.own.high_water_bytes,
        )
        self.socket = socket
        self._held_back = None
        there, back = self.slow.popleft() if self.slow else (0, 0)
        offer = _offer(action)
        deflate = action.deflate and self.own.deflate and "zstd" not in offer.capabilities
        socket.up(there, self._server.handshake, socket, offer, deflate, back)
        self._scheduler.after(action.timeout_ms, self._time_out, socket)

    def _time_out(self, socket: SimSocket) -> None:
        if not socket.opened and socket.client_open:
            socket.drop()
            self.on_refused(socket, None, None, "no WebSocket in time", dropped=True)

    def _close(self, action: Close) -> None:
        socket = self.socket
        if socket is None or not socket.client_open:
            return
        if action.code is None or not socket.opened:
            socket.drop()
            self._scheduler.after(0, self._report_closed, socket, 1006, "aborted")
            return
        socket.up(0, self._server.peer_closes, socket, action.code)
        self._scheduler.after(5_000, self._close_timeout, socket)

    def _close_timeout(self, socket: SimSocket) -> None:
        if socket.client_open:
            socket.drop()
            self._report_closed(socket, 1006, "no answer to the close frame")

    def _report_closed(self, socket: SimSocket, code: int, reason: str) -> None:
        if socket is self.socket:
            self.socket = None
            self.session.closed(code, reason, self.now(), self.wall())
            self.settle()

    # --- called by sockets -----------------------------------------------------------------------------------

    def on_opened(self, socket: SimSocket) -> None:
        """The handshake succeeded."""
        if socket is self.socket:
            self.session.opened(self.now())
            self.settle()

    def on_refused(
        self, socket: SimSocket, status: int | None, retry_after_ms: int | None, text: str, *, dropped: bool = False
    ) -> None:
        """No WebSocket came about."""
        if socket is not self.socket or not (socket.client_open or dropped or status is None):
            return
        socket.client_open = False
        self.socket = None
        if status is not None:
            self._retry_after.append(retry_after_ms)
        self.session.refused(status, retry_after_ms, text, self.now(), self.wall())
        self.settle()

    def on_closed(self, socket: SimSocket, code: int, reason: str) -> None:
        """The socket ended."""
        self._report_closed(socket, code, reason)

    def on_frame(self, socket: SimSocket, frame: WireMessage) -> None:
        """A frame is complete."""
        if socket is not self.socket:
            return
        session = self.session
        if frame.opcode == TEXT:
            frames: tuple[WireMessage, ...] = (frame,)
            if (self.mischief and self._state is ConnectionState.CONNECTED) or self._held_back is not None:
                frames = self._interfere(frame)
            for message in frames:
                content = message.content.decode() if message.binary is None else message.binary
                if socket is self.socket:
                    session.received(content, self.now(), self.wall())
                    self.settle()
            return
        if frame.opcode == CLOSE:
            socket.client_open = False
            code = int.from_bytes(frame.content[:2], "big") if frame.content else 1005
            socket.client_open = False
            socket.up(0, self._server.peer_closes, socket, code)
            self._report_closed(socket, code, frame.content[2:].decode())
            return
        session.alive(self.now())
        if frame.opcode == PING:
            socket.up(0, self._server.control, socket, False)
        self.settle()

    def _interfere(self, frame: WireMessage) -> tuple[WireMessage, ...]:
        """What a broken intermediary makes of a message."""
        if self._held_back is not None:
            held, self._held_back = self._held_back, None
            return (frame, held)
        act = self.mischief.popleft()
        self.totals[f"mischief_{act}"] += 1
        if act == "drop":
            return ()
        if act == "repeat":
            return (frame, frame)
        self._held_back = frame
        return ()

    def count(self) -> "Counter[str]":
        """What all lives of the client counted."""
        self._count()
        return self.totals

    def _count(self) -> None:
        metrics = self.session.metrics
        self.totals["duplicates"] += metrics.duplicates
        self.totals["client_holds"] += metrics.reordered
        self.totals["replays_asked"] += metrics.replays_asked
        self.totals["queue_overflow"] += metrics.conflated_in_client
        self.totals["conflated_by_server"] += metrics.conflated_by_server
        self.totals["reconnects"] += metrics.reconnects
        self.totals["invalid_messages"] += metrics.invalid_messages
        self.totals["retry_cap"] += self.session.failure is not None
        for outcome, times in metrics.resumes.items():
            self.totals[f"client_resume_{outcome}"] += times


def _offer(action: Connect) -> Offer:
    """What the server's handshake reads in the request."""
    query = parse_qs(urlsplit(action.url).query)
    secret = next((value for name, value in action.headers if name.lower() == "x-tokenwire-session"), None)
    position = query.get("seq", [None])[-1]
    return Offer(
        frozenset(query.get("caps", [""])[-1].split(",")),
        "every" if query.get("delivery", [""])[-1] == "every" else "latest",
        secret,
        int(position) if position is not None else None,
        int(query.get("attempt", ["0"])[-1]),
    )
