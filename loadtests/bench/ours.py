"""Our server with a workload as its source: ``python -m loadtests.bench.ours --port P --workload FILE``.

The server is the real one with default settings; only limits (connections, tokens held) and the interval are the
workload's. Prints ``listening``, and ``grid NS`` (CLOCK_MONOTONIC of tick 0) at the first tick. Stops on SIGTERM.
"""

import argparse
import asyncio
import gc
import json
import resource
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from loadtests.bench.workloads import Workload, parse
from tokenwire_schemas import limits
from tokenwire_server.app import running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Sink, Source, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import configure_logging

MAX_CONNECTIONS = 19_000
SPARE_FILES = 500


class Played:
    """A source that states the values of a workload, tick by tick of the server's own grid."""

    name = "bench"
    cadence_ms = 3_600_000

    def __init__(self, workload: Workload) -> None:
        self._tokens = workload.tokens
        self._interval_s = workload.interval_ms / 1000
        now_ms = time.time_ns() // 1_000_000  # one event time for all: ticks come round, and older values are not used
        self._ticks = [[_value(text, now_ms) for _, text in tick] for tick in workload.ticks]
        self._start_s: float | None = None

    async def run(self, sink: Sink) -> None:
        """Every token has a value from the start; then each tick brings the workload's."""
        sink.tokens(self.name, [TokenInfo(address, f"T{n}") for n, address in enumerate(self._tokens)])
        sink.state(self.name, SourceState.LIVE)
        newest: dict[str, TokenValue] = {}
        for tick in self._ticks:
            newest |= {value.address: value for value in tick}
        sink.values(self.name, list(newest.values()))
        sink.before_tick(lambda planned_s: self._speak(sink, planned_s))
        await asyncio.Event().wait()

    def _speak(self, sink: Sink, planned_s: float) -> None:
        if self._start_s is None:  # the first tick is number 1
            self._start_s = planned_s - self._interval_s
            print(f"grid {round(self._start_s * 1e9)}", flush=True)
        number = round((planned_s - self._start_s) / self._interval_s)
        sink.values(self.name, self._ticks[number % len(self._ticks)])


def _value(text: str, time_ms: int) -> TokenValue:
    data = json.loads(text)
    volume = data["volume"]
    return TokenValue(
        address=data["address"],
        price=Decimal(data["price"]),
        market_cap=Decimal(data["marketCap"]),
        h24=Decimal(volume["h24"]),
        h1=Decimal(volume["h1"]),
        m5=Decimal(volume["m5"]),
        time_ms=time_ms,
    )


async def serve(
    port: int, workload: Workload, sources: Sequence[Source] | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Serve until a signal; with other ``sources`` than the workload, and ``more`` settings, if they are given."""
    interval_s = workload.interval_ms / 1000
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    room = min(MAX_CONNECTIONS, files - SPARE_FILES)
    chosen: dict[str, Any] = {"port": port, "max_connections": room, "update_interval_s": interval_s, "drain_s": 0}
    settings = Settings(**{**chosen, **(more or {})})
    config = HubConfig(
        max_connections=settings.max_connections,
        max_subscriptions=max(limits.MAX_SUBSCRIPTIONS, *(len(held) for held in workload.sets)),
        update_interval_ms=workload.interval_ms,
    )
    async with running(settings, sources or [Played(workload)], config, handle_signals=True) as started:
        gc.collect()
        gc.freeze()  # as the command line does
        print("listening", flush=True)
        await started.server.finished.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", type=Path, required=True)
    chosen = parser.parse_args()
    configure_logging("warning")
    import uvloop

    uvloop.run(serve(chosen.port, parse(chosen.workload.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
