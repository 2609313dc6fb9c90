"""The real server as a process that a campaign may stop and kill, fed with known values.

``python -m loadtests.faults.served --port 9000 --truth FILE`` serves ``T0``, ``T1`` … and writes every version it makes
to ``FILE`` as history entries (``produced``), each before it can be sent. SIGUSR1 ends the changes: from then on the
values stand still, so that it can be seen who has them. Heartbeats and time-outs are ``--pace`` times as fast as the
specification's.
"""

import argparse
import asyncio
import os
import random
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import uvloop

from loadtests.faults.history import Produced, dump_entry
from tokenwire_schemas import limits
from tokenwire_server.app import running
from tokenwire_server.core.hub import HubConfig
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.telemetry.logs import configure_logging

__all__ = ["address", "main", "symbol"]

_CHANGES_PER_S: Final = 100
_LIFETIME_S: Final = 600


def symbol(number: int) -> str:
    """What clients call the token."""
    return f"T{number}"


def address(number: int) -> str:
    """The token's address."""
    return f"token-{number}"


class CountedSource:
    """Trades at prices that never repeat, at random times, until it is told to stop."""

    name = "counted"
    cadence_ms = 600_000

    def __init__(self, tokens: int, seed: int) -> None:
        self.stopped = asyncio.Event()
        self._tokens = tokens
        self._random = random.Random(seed)
        self._trades = 0

    async def run(self, sink: Sink) -> None:
        """As of the port: announce, trade, and stay alive."""
        sink.tokens(self.name, [TokenInfo(address(number), symbol(number)) for number in range(self._tokens)])
        for number in range(self._tokens):
            self._trade(sink, number)
        sink.state(self.name, SourceState.LIVE)
        while not self.stopped.is_set():
            await asyncio.sleep(self._random.expovariate(_CHANGES_PER_S))
            self._trade(sink, self._random.randrange(self._tokens))
        while True:
            sink.clock(self.name, 0)
            await asyncio.sleep(1)

    def _trade(self, sink: Sink, number: int) -> None:
        # No clock but the wall's: within a run no window of turnover expires, so only trades make versions. The
        # process's start is part of the price, so that no two lives produce the same one.
        self._trades += 1
        price = Decimal(os.getpid() * 10_000_000 + self._trades)
        trade = Trade(address(number), str(self._trades), price, Decimal(1), Side.BUY, time.time_ns() // 1_000_000)
        sink.trades(self.name, [trade])


async def _serve(options: argparse.Namespace) -> None:
    pace: int = options.pace
    config = HubConfig(
        max_connections=options.max_connections,
        heartbeat_ms=limits.HEARTBEAT_INTERVAL_MS // pace,
        idle_timeout_ms=limits.IDLE_TIMEOUT_MS // pace,
        stall_warning_ms=limits.WRITE_STALL_WARNING_MS // pace,
        stall_close_ms=limits.WRITE_STALL_CLOSE_MS // pace,
        update_interval_ms=options.interval_ms,
    )
    chosen: dict[str, Any] = {"port": options.port, "update_interval_s": options.interval_ms / 1000, "drain_s": 0}
    settings = Settings(**chosen)
    source = CountedSource(options.tokens, options.seed)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, source.stopped.set)
    truth = os.open(options.truth, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _record_changes(truth)
    async with running(settings, [source], config, handle_signals=True) as server:
        print(server.port, flush=True)
        finished = asyncio.create_task(server.server.finished.wait())
        await asyncio.wait((finished, server.serving), timeout=_LIFETIME_S, return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
    os.close(truth)


def _record_changes(truth: int) -> None:
    """Write every version before the hub gets to know it."""
    changed = Pipeline._changed

    def recorded(pipeline: Pipeline, token: TokenState) -> None:
        entry = Produced(_now_ms(), pipeline.hub.stream, token.address, token.version, token.data().price)
        os.write(truth, f"{dump_entry(entry)}\n".encode())
        changed(pipeline, token)

    Pipeline._changed = recorded  # type: ignore[method-assign,assignment]


def _now_ms() -> int:
    """Milliseconds of the clock that all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000


def main() -> None:
    """Serve until a signal ends it, ten minutes at most."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", type=int, default=8)
    parser.add_argument("--interval-ms", type=int, default=200)
    parser.add_argument("--max-connections", type=int, default=limits.MAX_CONNECTIONS)
    options = parser.parse_args()
    configure_logging("error", "text", access_log=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options))


if __name__ == "__main__":
    main()
