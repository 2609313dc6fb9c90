"""The server of the market's tasks: trades at a steady pace, and beside them a workload of values, if one is given.

``python -m loadtests.bench.market_server --port P [--workload FILE] [--minutes M] [--tokens N] [--rate R]``. The real
server, without a limit of REST requests. It begins with ``--minutes`` minutes of trades behind it, so that there are
bars. Prints ``listening``, ``trades NS`` (the planned instant of trade 0, CLOCK_MONOTONIC) and what the workload's
source prints. Trade *n* of the steady pace has the id *n*, and a price that tells *n* (:func:`steady_price`).
Stops on SIGTERM.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from loadtests.bench.market_feed import infos
from loadtests.bench.ours import Played, serve
from loadtests.bench.workloads import Workload, parse
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.ports import Sink, Source, SourceState
from tokenwire_server.telemetry.logs import configure_logging

__all__ = ["Steady", "number_of", "steady_price"]

MINUTE_MS: Final = 60_000
PAST_PER_MINUTE: Final = 3  # trades of each token
_START_S: Final = 0.2
_BASE: Final = 1_000
_DIGITS: Final = 6


def steady_price(number: int) -> Decimal:
    """The price of trade ``number``: all are different."""
    return _BASE + Decimal(number).scaleb(-_DIGITS)


def number_of(price: str) -> int:
    """The number of the trade with this price."""
    return int((Decimal(price) - _BASE).scaleb(_DIGITS))


class Steady:
    """A source of ``rate`` trades a second, of one token after the other, after ``minutes`` minutes of the past."""

    name = "venue"
    cadence_ms = 60_000

    def __init__(self, tokens: int, rate: float, minutes: int) -> None:
        self._infos = infos(tokens)
        self._rate = rate
        self._minutes = minutes

    async def run(self, sink: Sink) -> None:
        """Deliver each trade at its planned instant; those that are due together, together."""
        loop = asyncio.get_running_loop()
        sink.tokens(self.name, self._infos)
        sink.state(self.name, SourceState.LIVE)
        for frame in self._past(time.time_ns() // 1_000_000):
            sink.clock(self.name, frame[-1].time_ms)
            sink.trades(self.name, frame)
            await asyncio.sleep(0)
        start_s = loop.time() + _START_S
        print(f"trades {round(start_s * 1e9)}", flush=True)
        sent = 0
        while self._rate:
            due = int((loop.time() - start_s) * self._rate) + 1
            if due > sent:
                now_ms = time.time_ns() // 1_000_000
                sink.clock(self.name, now_ms)
                sink.trades(self.name, [self._trade(number, now_ms) for number in range(sent, due)])
                sent = due
            await asyncio.sleep(max(start_s + sent / self._rate - loop.time(), 0))

    def _trade(self, number: int, now_ms: int) -> Trade:
        info = self._infos[number % len(self._infos)]
        side = Side.BUY if number & 1 else Side.SELL
        return Trade(info.address, str(number), steady_price(number), Decimal("1.5"), side, now_ms)

    def _past(self, now_ms: int) -> Iterator[list[Trade]]:
        begin_ms = now_ms - self._minutes * MINUTE_MS
        for step in range(self._minutes * PAST_PER_MINUTE):
            time_ms = begin_ms + step * MINUTE_MS // PAST_PER_MINUTE
            price = _BASE + Decimal(step % 100 - 200).scaleb(-3)
            yield [
                Trade(info.address, f"p{step}", price, Decimal(1 + which), Side.BUY, time_ms)
                for which, info in enumerate(self._infos)
            ]


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rate", type=float, default=100.0, help="trades a second; 0: only those of the past")
    parser.add_argument("--minutes", type=int, default=0, help="of trades before the first")
    parser.add_argument("--prefix", default="", help="of the keys of its index in REDIS_URL; empty: it has none there")
    chosen = parser.parse_args()
    configure_logging("warning")
    import uvloop

    sources: list[Source] = [Steady(chosen.tokens, chosen.rate, chosen.minutes)]
    workload = Workload("none", 5_000, "batch", [], [[]], [])
    if chosen.workload is not None:
        workload = parse(chosen.workload.read_text(encoding="utf-8"))
        sources.append(Played(workload))
    more: dict[str, Any] = {"rest_rate_limit": "0"}
    if chosen.prefix:
        more |= {"redis_url": os.environ["REDIS_URL"], "redis_prefix": chosen.prefix}
    uvloop.run(serve(chosen.port, workload, sources, more))


def command(port: int, **options: object) -> Sequence[str]:
    """The words after the interpreter that start it."""
    words = [word for name, value in {"port": port, **options}.items() for word in (f"--{name}", str(value))]
    return ["-m", "loadtests.bench.market_server", *words]


if __name__ == "__main__":
    main()
