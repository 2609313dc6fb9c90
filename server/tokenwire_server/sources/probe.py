"""A measuring instrument for load tests: tokens whose price at each tick tells when that tick was planned.

The price is the planned instant in seconds of ``CLOCK_MONOTONIC``, exact to the microsecond. A client **on the same
host** subtracts it from its own reading of that clock (``time.monotonic()``, ``process.hrtime``) and has the whole
delay of the push, a late tick included, which a time of sending would hide. Prices are canonical decimals, so
``12345.6`` is 12,345,600,000 us: read them as numbers. The tokens are called PROBE0, PROBE1 … and all of them change
at every tick. Before its first tick a probe has no value.
"""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Final

from tokenwire_server.market.decimals import ZERO
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.source_spec import DEFAULT_PROBES
from tokenwire_server.sources.base58 import base58

__all__ = ["Probe", "planned_price", "probe_address"]

CADENCE_MS: Final = 3_600_000  # it speaks at every tick, and ticks are at most this far apart


class Probe:
    """The source. ``tokens`` is how many there are, ``wall_ms`` gives the event time of the values (Unix ms)."""

    cadence_ms = CADENCE_MS

    def __init__(
        self,
        tokens: int = DEFAULT_PROBES,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        name: str = "probe",
    ) -> None:
        self._addresses = [probe_address(number) for number in range(tokens)]
        self._wall_ms = wall_ms
        self.name = name
        self._latest_ms = 0

    async def run(self, sink: Sink) -> None:
        """Speak before every tick until cancelled."""

        def speak(planned_s: float) -> None:
            self._latest_ms = max(self._latest_ms, self._wall_ms())  # a clock set back must not make values late
            price = planned_price(planned_s)
            time_ms = self._latest_ms
            values = [TokenValue(address, price, ZERO, ZERO, ZERO, ZERO, time_ms) for address in self._addresses]
            sink.values(self.name, values)

        infos = [TokenInfo(address, f"PROBE{number}") for number, address in enumerate(self._addresses)]
        await sink.room()
        sink.tokens(self.name, infos)
        sink.state(self.name, SourceState.LIVE)
        sink.before_tick(speak)
        await asyncio.Event().wait()


def planned_price(planned_s: float) -> Decimal:
    """The price that tells ``planned_s`` (seconds of the monotonic clock), in whole microseconds."""
    return Decimal(round(planned_s * 1_000_000)).scaleb(-6)


def probe_address(number: int) -> str:
    """The address of PROBE``number``: as long as a real one, the same in every run."""
    return base58(sha256(f"tokenwire:probe:{number}".encode()).digest())
