"""A TCP proxy on loopback that does to connections what networks do, by plan (:mod:`loadtests.faults.plans`).

It ends by itself: after ``lifetime_s``, or when its ``async with`` block does. It refuses to reach beyond loopback.
"""

import asyncio
import ipaddress
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from loadtests.faults.plans import CALM, Direction, Plan, Planner

__all__ = ["FaultProxy", "Observer"]

_READ_BYTES: Final = 65_536
_MAX_QUEUED_BYTES: Final = 262_144
_LINGER_RST: Final = struct.pack("ii", 1, 0)

Observer = Callable[[int, Direction, bytes], None]
"""Gets the connection's number and the bytes as the sender wrote them, before any fault."""


class FaultProxy:
    """Forwards connections from :attr:`port` to ``target_port``, each as ``planner`` says.

    ``counts`` tells what was done: connections, bytes_down, bytes_up, and one entry for each fault that took place.
    ``observer`` sees what was sent. With ``accepting`` False new connections are reset, as by a dead host.
    """

    def __init__(
        self,
        target_port: int,
        planner: Planner | None = None,
        *,
        host: str = "127.0.0.1",
        observer: Observer | None = None,
        lifetime_s: float = 600,
        max_connections: int = 2000,
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the proxy stays on loopback; {host} is not")
        self.planner: Planner = planner or (lambda number: CALM)
        self.counts: Counter[str] = Counter()
        self.accepting = True
        self.port = 0
        self._host = host
        self._target_port = target_port
        self._observer = observer
        self._lifetime_s = lifetime_s
        self._max_connections = max_connections
        self._connections: dict[int, _Connection] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: asyncio.TimerHandle | None = None

    @property
    def open_connections(self) -> int:
        """How many are being forwarded."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._end = asyncio.get_running_loop().call_later(self._lifetime_s, self._stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.wait_closed()

    def cut_all(self, *, reset: bool = False) -> int:
        """End every connection now; how many there were."""
        connections = list(self._connections.values())
        for connection in connections:
            connection.end(reset=reset)
        return len(connections)

    def change(self, plan: Plan) -> None:
        """Let ``plan`` hold for every open connection from now on, its offsets counted from here."""
        for connection in self._connections.values():
            connection.follow(plan)

    def _stop(self) -> None:
        if self._end is not None:
            self._end.cancel()
        if self._server is not None:
            self._server.close()
        for connection in self._connections.values():
            connection.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.counts["connections"]
        self.counts["connections"] += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not self.accepting or len(self._connections) >= self._max_connections:
            self.counts["refused"] += 1
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._target_port)
        except OSError:
            self.counts["unreachable"] += 1
            _reset(writer)
            return
        connection = _Connection(number, self.planner(number), self.counts, self._observer)
        self._connections[number] = connection
        try:
            await connection.run((reader, writer), (far_reader, far_writer))
        finally:
            del self._connections[number]


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a socket with an RST."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RST)
    writer.transport.abort()


class _Connection:
    """One forwarded connection: a reader and a writer for each direction, and the plan they follow."""

    def __init__(self, number: int, plan: Plan, counts: "Counter[str]", observer: Observer | None) -> None:
        self.number = number
        self.plan = plan
        self.counts = counts
        self.observer = observer
        self.is_ending = False
        self.is_reset = False
        self.swallowing: set[Direction] = set()
        self._offsets: dict[Direction, int] = {"down": 0, "up": 0}
        self._corrupted = False
        self._stalled = False
        self._ended = asyncio.Event()

    def follow(self, plan: Plan) -> None:
        """Another plan from now on."""
        self.plan = plan
        self._offsets = {"down": 0, "up": 0}
        self._corrupted = self._stalled = False

    def end(self, *, reset: bool) -> None:
        """End both sides."""
        if not self.is_ending:
            self.is_ending = True
            self.is_reset = reset
            self.counts["reset" if reset else "cut"] += 1
        self._ended.set()

    def stop(self) -> None:
        """End both sides because the proxy ends, which is no fault."""
        self.is_ending = True
        self._ended.set()

    async def run(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Forward until one side ends or the plan says so."""
        pipes = (_Pipe(self, "up", near[0], far[1]), _Pipe(self, "down", far[0], near[1]))
        tasks = [asyncio.create_task(work) for pipe in pipes for work in (pipe.read(), pipe.write())]
        ending = asyncio.create_task(self._ended.wait())
        forwarding = asyncio.gather(*tasks)
        await asyncio.wait((forwarding, ending), return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, ending):
            task.cancel()
        await asyncio.gather(forwarding, ending, return_exceptions=True)
        for writer in (near[1], far[1]):
            if self.is_reset:
                _reset(writer)
            else:
                writer.close()
        for writer in (near[1], far[1]):
            with suppress(OSError):
                await writer.wait_closed()

    def before_reading(self, direction: Direction) -> int | None:
        """How long to wait before reading on: 0 to go on, None for ever."""
        plan = self.plan
        if plan.stall_after is None or direction != plan.direction or self._offsets[direction] < plan.stall_after:
            return 0
        if self._stalled and plan.stall_ms is not None:
            return 0
        if not self._stalled:
            self._stalled = True
            self.counts["stall"] += 1
        return plan.stall_ms

    def take(self, direction: Direction, data: bytes) -> tuple[bytes, bool]:
        """What is forwarded of ``data``, and whether the connection ends after it."""
        plan = self.plan
        begin = self._offsets[direction]
        self._offsets[direction] = begin + len(data)
        if self.observer is not None:
            self.observer(self.number, direction, data)
        if direction in self.swallowing:
            self.counts["swallowed_bytes"] += len(data)
            return b"", False
        if direction != plan.direction:
            return data, False
        end = begin + len(data)
        if plan.corrupt_at is not None and not self._corrupted and plan.corrupt_at < end:
            self._corrupted = True
            self.counts["corrupt"] += 1
            at = max(plan.corrupt_at - begin, 0)
            data = data[:at] + bytes((data[at] ^ 0xFF,)) + data[at + 1 :]
        if plan.cut_after is not None and plan.cut_after <= end:
            return data[: max(plan.cut_after - begin, 0)], True
        swallow = plan.swallow_after if plan.swallow_after is not None else plan.blackhole_after
        if swallow is not None and swallow <= end:
            kept = data[: max(swallow - begin, 0)]
            self.counts["half_open" if plan.swallow_after is not None else "blackhole"] += 1
            self.counts["swallowed_bytes"] += len(data) - len(kept)
            self.swallowing = {direction} if plan.swallow_after is not None else {"down", "up"}
            return kept, False
        return data, False


class _Pipe:
    """One direction. Reading and writing are two tasks, so that latency delays bytes and does not thin them out."""

    def __init__(
        self,
        connection: _Connection,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._connection = connection
        self._direction: Direction = direction
        self._reader = reader
        self._writer = writer
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._over = False
        self._cut = False
        self._changed = asyncio.Event()

    async def read(self) -> None:
        """From the sender into the queue, as the plan allows."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        while not self._over:
            wait_ms = connection.before_reading(self._direction)
            if wait_ms is None:
                await asyncio.Event().wait()  # until the connection ends
            elif wait_ms:
                await asyncio.sleep(wait_ms / 1000)
            try:
                data = await self._reader.read(self._read_bytes())
            except OSError:
                connection.end(reset=True)
                return
            if data:
                data, self._cut = connection.take(self._direction, data)
            elif self._direction in connection.swallowing:
                await asyncio.Event().wait()  # the end of a swallowed direction is swallowed as well
            else:
                self._over = True
            if self._cut:
                self._over = True
            self._queue.append((loop.time() + connection.plan.latency_ms / 1000, data))
            self._queued += len(data)
            self._changed.set()
            while self._queued > _MAX_QUEUED_BYTES:
                await self._wait()

    async def write(self) -> None:
        """From the queue to the receiver, in time and in slices."""
        connection = self._connection
        loop = asyncio.get_running_loop()
        while self._queue or not self._over:
            if not self._queue:
                await self._wait()
                continue
            due, data = self._queue.popleft()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            try:
                await self._send(data)
            except OSError:
                connection.end(reset=True)
                return
            self._queued -= len(data)
            self._changed.set()
        if self._cut:
            connection.end(reset=connection.plan.reset)
            await asyncio.Event().wait()  # which cancels this
        with suppress(OSError):
            if self._writer.can_write_eof():
                self._writer.write_eof()

    def _read_bytes(self) -> int:
        """Not more at once than the rate allows in a tenth of a second."""
        rate = self._connection.plan.bytes_per_s
        return _READ_BYTES if rate is None else max(min(rate // 10, _READ_BYTES), 1)

    async def _send(self, data: bytes) -> None:
        plan = self._connection.plan
        step = plan.slice_bytes or len(data)
        for start in range(0, len(data), max(step, 1)):
            piece = data[start : start + step]
            if self._direction in self._connection.swallowing and plan.blackhole_after is not None:
                piece = b""  # in flight when the line went dead
            self._writer.write(piece)
            await self._writer.drain()
            self._connection.counts[f"bytes_{self._direction}"] += len(piece)
            if plan.slice_bytes is not None:
                await asyncio.sleep(0)  # let the kernel see it as a write of its own
            if plan.bytes_per_s is not None:
                await asyncio.sleep(len(piece) / plan.bytes_per_s)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()
