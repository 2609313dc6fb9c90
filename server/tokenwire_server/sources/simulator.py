"""The simulator as a source: a clock, a sleep and a sink around the pure generator."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tokenwire_server.ports import BookSink, Sink, SourceState
from tokenwire_server.sources.simulation import Simulation

__all__ = ["STEP_MS", "Simulator", "wall_ms"]

STEP_MS: Final = 25  # how often due trades are delivered
SKIPPED_IDS: Final = 1_000_000  # more than a crash leaves unknown
_POSITION: Final = re.compile(r"([0-9]{1,20}) ([0-9]{1,15})")
BOOK_INTERVAL_MS: Final = 100  # how often the books that somebody wants follow them


def wall_ms() -> int:
    """The wall clock, Unix ms."""
    return time.time_ns() // 1_000_000


class Simulator:
    """Delivers a :class:`Simulation` in real time. While there is no room nobody trades; a short pause is made up for.
    In its scenario *stalled* it falls silent, yet stays live: neither trades nor the clock come any more, as from a
    feed that is connected and dead."""

    def __init__(
        self,
        simulation: Simulation | None = None,
        *,
        step_ms: int = STEP_MS,
        clock: Callable[[], int] = wall_ms,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        name: str = "simulator",
        reseed: Callable[[int], Simulation] | None = None,
    ) -> None:
        self._simulation = simulation or Simulation()
        self._step_ms = step_ms
        self._clock = clock
        self._sleep = sleep
        self._name = name
        self._reseed = reseed
        self._books: BookSink | None = None
        self._delivered: dict[str, int] = {}  # by address: the count of trades after which the book was delivered
        self._books_ms = 0

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """The longest pause of any token, and one step."""
        return self._simulation.cadence_ms + self._step_ms

    def use_books(self, books: BookSink) -> None:
        """Deliver the books that are wanted there."""
        self._books = books

    def resume(self, positions: Sequence[str]) -> None:
        """Go on with the tokens of the furthest, unless a seed was asked for; no trade's id comes twice."""
        found = [(int(match[2]), int(match[1])) for match in map(_POSITION.fullmatch, positions) if match is not None]
        if found:
            made, seed = max(found)
            if self._reseed is not None:
                self._simulation = self._reseed(seed)
            self._simulation.skip(made + SKIPPED_IDS)

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled."""
        simulation = self._simulation
        name = self._name
        sink.tokens(name, simulation.tokens())
        if self._books is not None:
            self._books.offer(name, [info.address for info in simulation.tokens()])
        sink.state(name, SourceState.LIVE)
        latest_ms = 0
        while True:
            await sink.room()
            latest_ms = max(latest_ms, self._clock())  # a wall clock set back must not reorder the trades
            trades = simulation.step(latest_ms)
            if not simulation.stalled(latest_ms):
                sink.clock(name, latest_ms)
                if trades:
                    sink.trades(name, trades)
                    seed, made = simulation.position
                    sink.offset(name, f"{seed} {made}")
                if self._books is not None:
                    self._deliver_books(self._books, latest_ms)
            await self._sleep(self._step_ms / 1_000)

    def _deliver_books(self, books: BookSink, now_ms: int) -> None:
        """Stale books (a new one is) at once, the others at their interval, and only if the token traded."""
        wanted = books.wanted(self._name)
        if not wanted:
            self._delivered.clear()
            return
        is_due = now_ms - self._books_ms >= BOOK_INTERVAL_MS
        if is_due:
            self._books_ms = now_ms
        simulation, before = self._simulation, self._delivered
        after: dict[str, int] = {}
        for address, book in list(wanted.items()):
            delivered, traded = before.get(address, 0), simulation.traded(address)
            if book.is_stale or (is_due and delivered != traded):
                books.apply(self._name, address, simulation.book(address, now_ms))
                delivered = traded
            after[address] = delivered
        self._delivered = after
