"""What a client case works with: a server on a port of its own, the client's attempts to reach it, and its events."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NoReturn

from tokenwire_conformance.client.launch import Event, Launched, Launcher, event_of
from tokenwire_conformance.client.link import Attempt, Link
from tokenwire_conformance.figures import PATH
from tokenwire_conformance.model import NotTestableError, Role, Violation, ViolationError, WireLog
from tokenwire_conformance.registry import Suite
from tokenwire_conformance.wire.log import LogBuilder
from tokenwire_conformance.wire.wire import Clock, SilenceError, cut

__all__ = ["CLIENT", "START_S", "TOKENS", "ClientBench", "ClientFacts"]

START_S: Final = 15.0
"""How long a client may take from its start to its first attempt."""
TOKENS: Final = ("CONFORMANCE-A", "CONFORMANCE-B", "CONFORMANCE-C")
_LATE_S: Final = 0.2
"""A connection that the client opened before it exited may be accepted so much later."""
_MAX_EVENTS: Final = 100_000
_MAX_PRINTED: Final = 16 * 1_048_576
"""Characters of a case's events that are kept."""
_ERROR_LINE: Final = re.compile(r"(?i)\S*(error|exception|panic|fatal|uncaught)\b")
_MAX_ATTEMPTS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What is known of the client before the first case."""

    launcher: Launcher
    events: frozenset[str] = frozenset()
    """Kinds of the events that it printed while the suite looked; empty if it prints none."""
    host: str = "127.0.0.1"
    clock: Clock = field(default_factory=Clock)


CLIENT: Final["Suite[ClientBench]"] = Suite(Role.CLIENT, 120.0)
"""Every client case; a client has to start, and waits before it comes back, so their deadlines are long.

``client.cases`` imports the modules that fill it."""


class ClientBench:
    """One case's view of the client under test."""

    def __init__(self, facts: ClientFacts, case_id: str) -> None:
        self.facts: Final = facts
        self.case_id: Final = case_id
        self.violations: list[Violation] = []
        self.notes: list[str] = []
        self.events: list[Event] = []
        """Everything the client printed, in order."""
        self.attempts: list[Attempt] = []
        """Every TCP connection that the client opened, in order, also those nobody asked for yet."""
        self.wanted: tuple[str, ...] = TOKENS
        """What the client is to subscribe to."""
        self._prices = 0
        self._pending: deque[Attempt] = deque()
        self._logs: list[LogBuilder] = []
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._client: Launched | None = None
        self._watch: asyncio.Task[None] | None = None
        self._over = False
        self._blamed = False
        self._printed_chars = 0
        self._loop = asyncio.get_running_loop()
        self.started_s = self._loop.time()

    # --- the client ----------------------------------------------------------------------------------------
    async def start(self, tokens: tuple[str, ...] = TOKENS) -> None:
        """Listen, and start the client with the URL.

        Raises:
            NotTestableError: The case needs other tokens, and the client cannot be told which.
        """
        if tokens != TOKENS and not self.facts.launcher.names_tokens:
            raise NotTestableError("the command has no {tokens}, so the client cannot be told what to subscribe to")
        self.wanted = tokens
        self._server = await asyncio.start_server(self._accepted, self.facts.host, 0)
        port = self._server.sockets[0].getsockname()[1]
        self.started_s = self._loop.time()
        self._client = await self.facts.launcher(
            f"ws://{self.facts.host}:{port}{PATH}", tokens, self.case_id, self._printed
        )
        self._watch = asyncio.create_task(self._watched(self._client))

    @property
    def exit_status(self) -> int | None:
        """What the client exited with; ``None`` while it runs."""
        return None if self._client is None else self._client.exit_status

    # --- connections ---------------------------------------------------------------------------------------
    async def attempt(self, timeout_s: float = START_S) -> Attempt:
        """The next TCP connection of the client.

        Raises:
            SilenceError: There is none in time, or the client has exited and there will be none.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._pending and not self._over:
                    await self._wait()
        except TimeoutError:
            raise SilenceError(f"the client did not connect within {timeout_s:g} s{self._why()}") from None
        if not self._pending:
            await asyncio.sleep(min(timeout_s, 0.1))  # who asks again and again does not keep the loop busy
            what = "made no further attempt" if self.attempts else "did not connect"
            raise SilenceError(f"the client {what}{self._why()}")
        return self._pending.popleft()

    async def link(self, timeout_s: float = START_S, *, greeting: bool = True, **options: Any) -> Link:
        """Accept the client's next connection and send the connection message.

        Raises:
            SilenceError, EndedError: The client does not come, or leaves.
        """
        attempt = await self.attempt(timeout_s)
        link = await attempt.accept(**options)
        if greeting:
            await link.greet()
        return link

    async def session(self, timeout_s: float = START_S, **options: Any) -> Link:
        """As ``link``, and the client has subscribed to what it wants.

        Raises:
            SilenceError: It does not subscribe.
        """
        link = await self.link(timeout_s, **options)
        if not await link.first_request():
            raise SilenceError("the client did not subscribe to anything within 5 s of the connection message")
        if self.facts.launcher.names_tokens:
            await link.subscribed(self.wanted)
        else:
            await asyncio.sleep(0.5)
            self.wanted = tuple(link.held)
        return link

    def waits(self) -> list[float]:
        """Seconds from each attempt to the next."""
        times = [attempt.at_s for attempt in self.attempts]
        return [later - earlier for earlier, later in pairwise(times)]

    # --- events --------------------------------------------------------------------------------------------
    def need_events(self, *kinds: str) -> None:
        """Skip the case unless the client prints events of these kinds.

        A kind that the suite did not see while it looked counts as printed if the client prints events at all, except
        ``update``: a gap or an error does not happen every day.
        """
        if not self.facts.events:
            raise NotTestableError("the client prints no events; `tokenwire-conformance client --help` tells which")
        if "update" in kinds and "update" not in self.facts.events:
            raise NotTestableError("the client prints no update events")
        if "state" in kinds and "state" not in self.facts.events:
            raise NotTestableError("the client prints no state events")

    async def event(
        self, kind: str, timeout_s: float, fits: Callable[[dict[str, Any]], bool] = lambda _: True, *, after: int = 0
    ) -> Event:
        """The first event of that kind that fits, from the ``after``-th on.

        Raises:
            SilenceError: There is none in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for event in self.events[after:]:
                        if event.kind == kind and fits(event.fields):
                            return event
                    await self._wait()
        except TimeoutError:
            raise SilenceError(f"the client printed no such {kind} event within {timeout_s:g} s{self._why()}") from None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The fields of all events of that kind."""
        return [event.fields for event in self.events if event.kind == kind]

    def fresh_price(self) -> str:
        """A price that was not used before in this case, and that a binary double holds exactly."""
        self._prices += 1
        return f"{7000 + self._prices}.125"

    def states(self) -> list[str]:
        """The states told so far, repetitions in a row collapsed."""
        told: list[str] = []
        for fields in self.of("state"):
            name = str(fields.get("state"))
            if not told or told[-1] != name:
                told.append(name)
        return told

    # --- verdicts ------------------------------------------------------------------------------------------
    def fail(self, clause: str, message: str, connection: int | None = None) -> NoReturn:
        """End the case with a violation of ``clause``."""
        self._blamed = True
        raise ViolationError(Violation(clause, message, connection))

    def require(self, holds: object, clause: str, message: str, connection: int | None = None) -> None:
        """End the case with a violation unless ``holds``."""
        if not holds:
            self.fail(clause, message, connection)

    def expect(self, holds: object, clause: str, message: str, connection: int | None = None) -> bool:
        """Note a violation unless ``holds``, and go on."""
        if not holds:
            self._blamed = True
            self.violations.append(Violation(clause, message, connection))
        return bool(holds)

    def note(self, text: str) -> None:
        """Something the reader of the report should know that is no violation."""
        self.notes.append(text)

    # --- the end -------------------------------------------------------------------------------------------
    async def close(self) -> None:
        """Stop the client and end every connection."""
        if self._watch is not None:
            self._watch.cancel()
        if self._client is not None:
            status = self._client.exit_status
            await self._client.stop()
            if (self._blamed or status) and (complaint := self._client.complaint()):
                exited = "" if status is None else f"the client exited with status {status}; "
                self.notes.append(f"{exited}the end of its standard error:\n{complaint}")
        if self._server is not None:
            self._server.close()
        for attempt in self.attempts:
            await attempt.drop()
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1)

    def logs(self) -> tuple[WireLog, ...]:
        """The wire logs of the case's connections."""
        return tuple(log.build() for log in self._logs)

    # --- inside --------------------------------------------------------------------------------------------
    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.attempts) >= _MAX_ATTEMPTS:
            cut(writer)
            return
        number = len(self.attempts) + 1
        log = LogBuilder(number, f"attempt {number}, {self._loop.time() - self.started_s:.2f} s", self._loop.time())
        self._logs.append(log)
        attempt = Attempt(number, reader, writer, log, self.facts.clock)
        self.attempts.append(attempt)
        self._pending.append(attempt)
        self._news.set()

    def _printed(self, line: str) -> None:
        if self._printed_chars + len(line) > _MAX_PRINTED or len(self.events) >= _MAX_EVENTS:
            return
        event = event_of(line, self._loop.time())
        if event is not None:
            self._printed_chars += len(line)
            self.events.append(event)
        self._news.set()

    async def _watched(self, client: Launched) -> None:
        await client.over()
        await asyncio.sleep(_LATE_S)
        self._over = True
        self._news.set()

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _why(self) -> str:
        status = self.exit_status
        if status is None:
            return ""
        complaint = self._client.complaint() if self._client is not None else ""
        lines = [line.strip() for line in complaint.splitlines() if line.strip()]
        telling = [line for line in lines if _ERROR_LINE.match(line)]
        last = (telling[:1] or lines[-1:] or ["nothing on its standard error"])[0]
        return f": it exited with status {status} ({last[:200]})"
