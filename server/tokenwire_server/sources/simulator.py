"""The simulator as a source: a clock, a sleep and a sink around the pure generator."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources.simulation import Simulation

__all__ = ["STEP_MS", "Simulator", "wall_ms"]

STEP_MS: Final = 25  # how often due trades are delivered


def wall_ms() -> int:
    """The wall clock, Unix ms."""
    return time.time_ns() // 1_000_000


class Simulator:
    """Delivers a :class:`Simulation` in real time. In its scenario *stalled* it falls silent, yet stays live:
    neither trades nor the clock come any more, as from a feed that is connected and dead."""

    def __init__(
        self,
        simulation: Simulation | None = None,
        *,
        step_ms: int = STEP_MS,
        clock: Callable[[], int] = wall_ms,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        name: str = "simulator",
    ) -> None:
        self._simulation = simulation or Simulation()
        self._step_ms = step_ms
        self._clock = clock
        self._sleep = sleep
        self._name = name

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """The longest pause of any token, and one step."""
        return self._simulation.cadence_ms + self._step_ms

    async def run(self, sink: Sink) -> None:
        """Deliver until cancelled."""
        simulation = self._simulation
        name = self._name
        sink.tokens(name, simulation.tokens())
        sink.state(name, SourceState.LIVE)
        latest_ms = 0
        while True:
            latest_ms = max(latest_ms, self._clock())  # a wall clock set back must not reorder the trades
            trades = simulation.step(latest_ms)
            if not simulation.stalled(latest_ms):
                sink.clock(name, latest_ms)
                if trades:
                    sink.trades(name, trades)
            await self._sleep(self._step_ms / 1_000)
