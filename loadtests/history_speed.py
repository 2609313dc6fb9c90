"""How many trades a second the history stores, and how long the event loop ever waits meanwhile.

``python -m loadtests.history_speed`` feeds a market with five lengths of bars, whose history lies on a real disk,
at a fixed rate, where the longest pause of the event loop counts, and as fast as it goes, where the rate counts at
which everything is stored in the end. The same twice without a history says what the history costs, and what pauses
come from the machine.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import uvloop

from tokenwire_server.history.recorder import Recorder
from tokenwire_server.history.service import DataDirectory, KeptHistory
from tokenwire_server.market.bars import BarChange
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.trades import Side, TokenInfo, Trade

__all__ = ["Measured", "main", "measure"]

STEP_S: Final = 0.01  # how often due trades are fed
PROBE_S: Final = 0.001
SAMPLE_S: Final = 0.5  # of each such time the most rows that waited are told
FASTEST_BURST: Final = 500  # fed at once when it goes as fast as possible
MAX_WAITING_ROWS: Final = 50_000  # then the feed waits for the store
SOURCE: Final = "feed"
BEGIN_MS: Final = 1_700_000_000_000


@dataclass(frozen=True)
class Measured:
    """One run. ``rate`` is of trades that are stored (without a history: applied), a second; pauses are those of the
    event loop beyond what it was asked to sleep, in ms; ``cpu_s`` is of the whole process, ``behind_s`` the time from
    the last trade until everything was stored. ``waiting_max`` is the most rows (trades and bars) that waited for the
    next commit; ``waiting`` the same of each half second, by its end."""

    run: str
    trades: int
    seconds: float
    rate: int
    cpu_s: float
    pause_max_ms: float
    pause_p99_ms: float
    behind_s: float
    commits: int
    disk_mb: float
    waiting_max: int = 0
    waiting: Sequence[tuple[float, int]] = ()


def generated(tokens: int, rate: float, seed: int = 1) -> Iterator[Trade]:
    """Trades of ``rate`` a second of event time, one in a hundred some seconds late."""
    rng = random.Random(seed)
    addresses = [f"venue:T{n}" for n in range(tokens)]
    number = 0
    while True:
        number += 1
        time_ms = BEGIN_MS + int(number * 1_000 / rate)
        if number % 100 == 0:
            time_ms -= rng.randrange(20_000)
        price = Decimal(rng.randrange(10_000, 99_999)).scaleb(-3)
        amount = Decimal(rng.randrange(1, 9_999)).scaleb(-2)
        side = Side.BUY if number & 1 else Side.SELL
        yield Trade(rng.choice(addresses), str(number), price, amount, side, time_ms)


class _Probe:
    """Measures how late the event loop wakes up, and how many rows wait to be stored."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.waiting_max = 0
        self.waiting: list[tuple[float, int]] = []

    async def run(self, recorder: Recorder | None) -> None:
        begin = before = time.perf_counter()
        most = 0
        while True:
            await asyncio.sleep(PROBE_S)
            now = time.perf_counter()
            self.pauses.append(now - before - PROBE_S)
            before = now
            if recorder is not None:
                most = max(most, recorder.builder.rows)
                self.waiting_max = max(self.waiting_max, most)
                if now - begin >= (len(self.waiting) + 1) * SAMPLE_S:
                    self.waiting.append((round(now - begin, 2), most))
                    most = 0


async def measure(
    run: str, trades: Sequence[Trade], rate: float | None, folder: Path | None, opened: KeptHistory | None = None
) -> Measured:
    """Feed ``trades`` at ``rate`` a second (None: as fast as possible), stored in ``folder``, or in what was ``opened``
    (None of both: nowhere), which is closed."""
    kept = opened if folder is None else await DataDirectory.open(folder)
    recorder = None

    def traded(token: TokenState, number: int, trade: Trade) -> None:
        if recorder is not None:
            recorder.builder.traded(token, number, trade)

    def bar_changed(address: str, change: BarChange) -> None:
        if recorder is not None:
            recorder.builder.bar_changed(address, change)

    market = Market(lambda token: None, BEGIN_MS, bars=MarketBars(tell=bar_changed), on_trade=traded)
    if kept is not None:
        recorder, _ = await kept.attach(market, {SOURCE})
    market.add_tokens(SOURCE, [TokenInfo(each, each) for each in dict.fromkeys(trade.address for trade in trades)])
    probe = _Probe()
    probing = asyncio.create_task(probe.run(recorder))
    gc.collect()
    gc.freeze()
    cpu, begin = time.process_time(), time.perf_counter()
    fed = 0
    while fed < len(trades):
        if rate is None:
            due = fed + FASTEST_BURST
            if recorder is not None and recorder.builder.rows > MAX_WAITING_ROWS:
                await recorder.settled()
        else:
            due = int((time.perf_counter() - begin) * rate)
        for trade in trades[fed:due]:
            market.advance(SOURCE, trade.time_ms)
            market.apply(SOURCE, trade)
        fed = max(fed, min(due, len(trades)))
        await asyncio.sleep(0 if rate is None else STEP_S)
    fed_at = time.perf_counter()
    if recorder is not None:
        await recorder.settled()
    end = time.perf_counter()
    cpu = time.process_time() - cpu
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing
    commits = 0 if recorder is None else recorder.commits
    if kept is not None:
        await kept.close()
    size = 0 if folder is None else _octets(folder)
    pauses = sorted(probe.pauses) or [0.0]
    return Measured(
        run=run,
        trades=len(trades),
        seconds=round(end - begin, 2),
        rate=int(len(trades) / (end - begin)),
        cpu_s=round(cpu, 2),
        pause_max_ms=round(pauses[-1] * 1_000, 1),
        pause_p99_ms=round(pauses[int(len(pauses) * 0.99)] * 1_000, 1),
        behind_s=round(end - fed_at, 2),
        commits=commits,
        disk_mb=round(size / 1e6, 1),
        waiting_max=probe.waiting_max,
        waiting=probe.waiting,
    )


def _octets(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 if the fixed rate was not held."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.history_speed", description=__doc__)
    parser.add_argument("--rate", type=float, default=20_000, help="trades a second of the fixed-rate run (20000)")
    parser.add_argument("--seconds", type=float, default=10, help="how long that run takes (10)")
    parser.add_argument("--trades", type=int, default=200_000, help="trades of the other runs (200000)")
    parser.add_argument("--tokens", type=int, default=100, help="among how many tokens (100)")
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk that is to be measured")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args(argv)
    source = generated(given.tokens, given.rate)
    most = max(int(given.rate * given.seconds), given.trades)
    trades = [next(source) for _ in range(most)]
    runs: list[tuple[str, int, float | None, bool]] = [
        ("fixed rate", int(given.rate * given.seconds), given.rate, True),
        ("… nothing stored", int(given.rate * given.seconds), given.rate, False),
        ("as fast as possible", given.trades, None, True),
        ("… nothing stored", given.trades, None, False),
    ]
    held = True
    for name, count, rate, stored in runs:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            folder = Path(scratch) / "data" if stored else None
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                measured = runner.run(measure(name, trades[:count], rate, folder))
        if rate is not None and stored:
            held = measured.behind_s < 1 and measured.rate > 0.95 * rate
        if given.json:
            print(json.dumps(asdict(measured)), flush=True)
        else:
            print(
                f"{measured.run:20} {measured.rate:>9,} trades/s  pause max {measured.pause_max_ms} ms, p99 "
                f"{measured.pause_p99_ms} ms  behind {measured.behind_s} s  CPU {measured.cpu_s} s of "
                f"{measured.seconds} s  {measured.commits} commits, {measured.disk_mb} MB",
                flush=True,
            )
    if not held:
        print(f"the history does not keep up with {given.rate:,.0f} trades/s on this machine ({os.cpu_count()} CPUs)")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
