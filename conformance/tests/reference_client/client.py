"""The reference client: its states, its retries, and what it comes back from."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final
from urllib.parse import quote

from tokenwire_conformance.figures import BACKOFF_BASE_S, BACKOFF_CAP_S, STABLE_S
from tokenwire_conformance.wire.wire import Clock

from .connection import Connection, Ending, Session
from .delivery import told
from .faults import FAULTS
from .opening import ClientWire, OpenFailedError, offer, open_wire

__all__ = ["MAX_RETRIES", "ReferenceClient", "comes_back", "wait_s"]

MAX_RETRIES: Final = 10
_CAPABILITIES: Final = "caps=batch,resume,heartbeat,zstd"
_FINAL_HTTP: Final = frozenset({401, 403, 404})
_TRANSIENT: Final = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014})
_FLOOR: Final = frozenset({1001, 1012, 1013, 4001, 4005})
"""Codes of slowness, rate, capacity and restart: no return below one second."""
_TABLED: Final = frozenset({4000, 4001, 4002, 4003, 4005, 4500, 4501, 4502, 4503})


def comes_back(code: int, faults: frozenset[str]) -> bool:
    """Whether a close code lets the client try again (I-44)."""
    again = 4000 <= code <= 4499 or code in _TRANSIENT
    kind = f"{code}" if code < 4000 or code in _TABLED else "unknown" if code < 4500 else "unknown-final"
    if again:
        return f"stays-away-{kind}" not in faults
    return f"returns-after-{kind}" in faults


def wait_s(tries: int, random: Random, faults: frozenset[str]) -> float:
    """Seconds before the next try, after ``tries`` since the last stable connection."""
    cap_s = float("inf") if "uncapped" in faults else BACKOFF_CAP_S
    bound_s = min(cap_s, BACKOFF_BASE_S * 2.0**tries)
    if "no-wait" in faults:
        return 0.01
    if "storms" in faults:
        return 0.05
    if "uncapped" in faults:
        return bound_s * (0.7 + 0.3 * random.random())
    if "constant-wait" in faults:
        bound_s = BACKOFF_BASE_S
    if "linear-backoff" in faults:
        bound_s = BACKOFF_BASE_S * (tries + 1)
    if "base-5s" in faults:
        return min(cap_s, 5.0 * 2.0**tries) * (0.7 + 0.3 * random.random())
    if "no-jitter" in faults:
        return bound_s
    return bound_s * random.random()


class ReferenceClient:
    """A client of the Token Data WebSocket; ``emit`` gets the line of each event."""

    def __init__(
        self, url: str, tokens: tuple[str, ...], emit: Callable[[str], None], *, clock: Clock, random: Random,
        faults: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        if unknown := faults - set(FAULTS):
            raise ValueError(f"no such flags: {sorted(unknown)}")
        self._url = url
        self._tokens = tokens
        self._emit = emit
        self._clock = clock
        self._random = random
        self._faults = faults
        self._session = Session()
        self._wires: list[ClientWire] = []
        self._writers: list[Any] = []
        self._tries = 0

    async def run(self) -> None:
        """Connect, come back as often as it has to, and return when there is nothing left to try."""
        self._state("CONNECTING", "no-connecting")
        try:
            while True:
                wait = await self._once()
                if wait is None and "retries-after-failed" not in self._faults:
                    break
                if wait is None:
                    self._state("FAILED", "no-failed")
                    wait = BACKOFF_CAP_S
                else:
                    if "fifth-state" in self._faults:
                        self._state("DISCONNECTED")
                    self._state("RECONNECTING", "no-reconnecting")
                await asyncio.sleep(wait)
            self._state("FAILED", "no-failed")
        finally:
            for wire in self._wires:
                await wire.abort()
            for writer in self._writers:
                writer.transport.abort()

    async def _once(self) -> float | None:
        """One connection and its end; seconds to wait before the next, or ``None`` if there is to be none."""
        loop = asyncio.get_running_loop()
        try:
            wire = await self._open()
        except OpenFailedError as error:
            final = error.status in _FINAL_HTTP and f"retries-{error.status}" not in self._faults
            if final or (error.status == 503 and "ends-on-503" in self._faults):
                return None
            wait = self._next_wait()
            after_s = 0.0 if "ignores-retry-after" in self._faults else error.retry_after_s
            return None if wait is None else max(wait, after_s)
        self._session.connections += 1
        if "resets-at-once" in self._faults:
            self._tries = 0
        if "connected-early" not in self._faults:
            again = self._session.connections > 1
            self._state("CONNECTED", "no-connected-again" if again else "")
        connection = Connection(wire, self._session, self._tokens, self._emit, self._clock, self._faults)
        ending = await connection.run()
        if loop.time() - wire.opened_s >= STABLE_S and "no-reset" not in self._faults:
            self._tries = 0
        return self._after(ending)

    async def _open(self) -> ClientWire:
        query, headers = self._invitation()

        def opened(writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            if "connected-early" in self._faults:
                self._state("CONNECTED")

        wire = await open_wire(self._url, self._clock, self._faults, query, headers, opened)
        self._wires.append(wire)
        return wire

    def _invitation(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Query and headers of the next handshake."""
        session = self._session
        query, headers = _CAPABILITIES, offer()
        if session.secret is None or "resumes-nothing" in self._faults:
            session.attempt = 0
            return query, headers
        if session.attempt == 0 or "attempt-constant" not in self._faults:
            session.attempt += 1
        last = session.last + ("resumes-next" in self._faults)
        query += f"&seq={last}&attempt={session.attempt}"
        if "secret-in-url" in self._faults:
            return f"{query}&session={quote(session.secret, safe='')}", headers
        return query, (*headers, ("X-Tokenwire-Session", session.secret))

    def _after(self, ending: Ending) -> float | None:
        if not ending.own and not comes_back(ending.code, self._faults):
            return None
        wait = self._next_wait()
        if wait is None:
            return None
        polite = ending.code in _FLOOR and not self._faults & {"no-wait", "storms"}
        return max(wait, BACKOFF_BASE_S) if polite and not ending.own else wait

    def _next_wait(self) -> float | None:
        if "never-returns" in self._faults:
            return None
        if self._tries >= MAX_RETRIES and not self._faults & {"retries-for-ever", "storms"}:
            return None
        self._tries += 1
        return wait_s(self._tries - 1, self._random, self._faults)

    def _state(self, name: str, hidden_by: str = "") -> None:
        if hidden_by not in self._faults:
            self._emit(told("state", state=name))
