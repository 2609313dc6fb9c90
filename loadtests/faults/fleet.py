"""Real SDK clients, each behind a fault proxy of its own, and everything that happens to them as a history.

What the server wrote is tapped between the server and the faults; what the application saw is taken from its events.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs

from loadtests.faults.history import (
    Closed,
    Converged,
    Entry,
    Opened,
    Overflowed,
    Started,
    Stepped,
    Wanted,
    alias,
)
from loadtests.faults.observer import entry_of
from loadtests.faults.plans import CALM, Direction, Plan, Planner
from loadtests.faults.proxy import FaultProxy
from loadtests.faults.recorder import SocketRecorder
from loadtests.faults.tap import TEXT, HandshakeTap, Tap
from tokenwire import TokenClient
from tokenwire.config import ClientConfig
from tokenwire.errors import ConnectionFailedError
from tokenwire.events import Event
from tokenwire.states import ConnectionState

__all__ = ["Fleet", "Member", "now_ms"]

_HEAD_END: Final = b"\r\n\r\n"


def now_ms() -> int:
    """Milliseconds of the clock that all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000


class _Wire:
    """One connection through the proxy, seen from the server's side of it."""

    def __init__(self, client: str, socket: int, add: Callable[[Entry], None], counts: "Counter[str]") -> None:
        self._client = client
        self._socket = socket
        self._add = add
        self._counts = counts
        self._recorder = SocketRecorder(client, socket, add)
        self._down = HandshakeTap()
        self._up: Tap | None = None
        self._request = b""
        self._seen: set[int] = set()

    def data(self, direction: Direction, data: bytes) -> None:
        if direction == "up":
            self._from_client(data)
            return
        for message in self._down.feed(data):
            if message.opcode == TEXT:
                entry = self._recorder.sent(now_ms(), message.content)
                if entry.numbered:
                    self._counts["frames"] += 1

    def _from_client(self, data: bytes) -> None:
        if self._up is None:
            self._request += data
            end = self._request.find(_HEAD_END)
            if end < 0:
                return
            self._opened(self._request[:end].decode("latin-1"))
            # The server never lets a client keep a window; whether it compresses at all, its answer tells, and a client
            # sends nothing before that.
            data = self._request[end + len(_HEAD_END) :]
            self._up = Tap(deflate=True, takeover=False)
        for message in self._up.feed(data):
            if message.opcode == TEXT:
                self._recorder.received(now_ms(), message.content)

    def _opened(self, head: str) -> None:
        line, *headers = head.split("\r\n")
        query = parse_qs(line.split(" ")[1].partition("?")[2])
        fields = {name.strip().lower(): value.strip() for name, _, value in (row.partition(":") for row in headers)}
        secret = fields.get("x-tokenwire-session")
        position, attempt = query.get("seq"), query.get("attempt")
        self._add(
            Opened(
                now_ms(),
                self._client,
                self._socket,
                None if secret is None else alias(secret),
                None if position is None else int(position[-1]),
                None if attempt is None else int(attempt[-1]),
            )
        )


class Member:
    """One client: its proxy, its application, and what that saw."""

    def __init__(self, name: str, fleet: "Fleet", config: ClientConfig, tokens: dict[str, str]) -> None:
        self.name = name
        self.tokens = tokens  # address by the name that is subscribed
        self.proxy = FaultProxy(fleet.port, fleet.planner_for(name), observer=self._observe)
        self.failed: ConnectionFailedError | None = None
        self._fleet = fleet
        self._config = config
        self._wires: dict[int, _Wire] = {}
        self._sockets: list[int] = []
        self._state = ConnectionState.CONNECTING
        self.client: TokenClient | None = None

    async def run(self) -> None:
        """Be an application: subscribe, and take every event until the client is closed."""
        add = self._fleet.add
        add(Started(now_ms(), self.name, 0, every=self._config.delivery == "every"))
        self.client = TokenClient(f"ws://127.0.0.1:{self.proxy.port}", config=self._config, max_retries=None)
        self.client.on_state(self._step)
        try:
            async with self.client as client:
                for address in self.tokens.values():
                    add(Wanted(now_ms(), self.name, 0, address, True))
                await client.subscribe(list(self.tokens), wait=False)
                async for event in client:
                    self._take(event)
        except ConnectionFailedError as error:
            self.failed = error

    def converged(self) -> Converged:
        """How it stands."""
        latest = self.client.latest if self.client is not None else {}
        values = {quote.address: quote.price for quote in latest.values()}
        return Converged(now_ms(), self.name, 0, tuple(self.tokens.values()), None, values)

    def close_wires(self) -> None:
        """All sockets but the last are over."""
        for socket in self._sockets[:-1]:
            self._fleet.add(Closed(now_ms(), self.name, socket))

    def _observe(self, number: int, direction: Direction, data: bytes) -> None:
        wire = self._wires.get(number)
        if wire is None:
            socket = self._fleet.next_socket()
            self._sockets.append(socket)
            wire = self._wires[number] = _Wire(self.name, socket, self._fleet.add, self._fleet.counts)
        wire.data(direction, data)

    def _step(self, state: ConnectionState) -> None:
        self._fleet.add(Stepped(now_ms(), self.name, 0, self._state, state))
        self._state = state

    def _take(self, event: Event) -> None:
        entry = entry_of(event, now_ms(), self.name, 0)
        if entry is not None:
            self._fleet.add(entry)


class Fleet:
    """``size`` clients with three of ``tokens`` each (name to address), through proxies to ``port``.

    ``planner`` gives each member's connections their faults. Use it as a context manager.
    """

    def __init__(
        self,
        port: int,
        size: int,
        tokens: dict[str, str],
        config: Callable[[int], ClientConfig],
        planner: Callable[[str], Planner],
        *,
        tokens_each: int = 5,
    ) -> None:
        self.port = port
        self.history: list[Entry] = []
        self.counts: Counter[str] = Counter()
        self.planner_for = planner
        self._sockets = 0
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        names = list(tokens)
        self.members: list[Member] = []
        for number in range(size):
            mine = {names[(number + step) % len(names)] for step in range(tokens_each)}
            self.members.append(Member(f"c{number}", self, config(number), {name: tokens[name] for name in mine}))

    def add(self, entry: Entry) -> None:
        """Write the history."""
        self.history.append(entry)

    def next_socket(self) -> int:
        """Number the sockets."""
        self._sockets += 1
        return self._sockets

    def calm(self) -> None:
        """No more faults, for open connections and new ones."""
        for member in self.members:
            member.proxy.planner = lambda number: CALM
            member.proxy.accepting = True
            member.proxy.change(CALM)

    def all(self, plan: Plan) -> None:
        """One plan for everything that is open."""
        for member in self.members:
            member.proxy.change(plan)

    def cut(self, *, reset: bool) -> int:
        """End all connections; how many there were."""
        return sum(member.proxy.cut_all(reset=reset) for member in self.members)

    def states(self) -> "Counter[ConnectionState]":
        """How many clients are in which state."""
        return Counter(member.client.state for member in self.members if member.client is not None)

    def finish(self) -> None:
        """Close the history: what every client holds in the end, and what its queue left out."""
        for member in self.members:
            if member.client is not None:
                conflated = member.client.metrics.conflated_in_client
                if conflated:
                    self.add(Overflowed(now_ms(), member.name, 0, conflated))
            member.close_wires()
            self.add(member.converged())

    async def __aenter__(self) -> Self:
        for member in self.members:
            await self._stack.enter_async_context(member.proxy)
        self._tasks = [asyncio.create_task(member.run(), name=member.name) for member in self.members]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = [member.client.close() for member in self.members if member.client is not None]
        await asyncio.gather(*closing)
        await asyncio.gather(*self._tasks)
        await self._stack.aclose()
