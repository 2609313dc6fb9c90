"""M4: a long tape through the whole intake, as fast as it goes. ``python -m loadtests.bench.market_replay`` does one.

The tape is made first, in another process, as an exchange's frames would be captured; then the tape source reads it at
full speed into the pipeline of a running server without clients: gzip, frames, normaliser, gaps, validation, market,
bars, versions. Memory is the process's own, looked at every twentieth of the tape.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from isal import igzip

from loadtests.bench.market_rows import Figure, MarketRow
from loadtests.bench.processes import rss_bytes
from tokenwire_server.app import running
from tokenwire_server.settings import Settings
from tokenwire_server.sources.tape import Tape
from tokenwire_server.telemetry.logs import configure_logging

__all__ = ["MAX_GROWTH", "Replayed", "replay_row", "write_tape"]

TOKENS: Final = 20
PER_S: Final = 100.0
"""Trades a second of the tape's time: 10 million are 28 hours, so that every window and ring is full before the end."""
BEGIN_MS: Final = 1_700_000_000_000
FULL_TRADES: Final = 10_000_000
MAX_GROWTH: Final = 0.1
"""Of memory in the second half of a tape of ``FULL_TRADES``: what is bounded stays where it was."""
_SAMPLES: Final = 20
_LINE: Final = (
    '%d.%03d000: {"stream":"t%dusdt@aggTrade","data":{"e":"aggTrade","E":%d,"s":"T%dUSDT","a":%d,"p":"%d.%05d000",'
    '"q":"%d.%03d00000","f":%d,"l":%d,"T":%d,"m":%s,"M":true}}\n'
)
_LINES_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class Replayed:
    """One run. Memory in bytes; ``memory`` are shares of the tape with what was resident by then."""

    trades: int
    wall_s: float
    cpu_s: float
    start_bytes: int
    peak_bytes: int
    tape_bytes: int
    bars: int
    gaps: int
    fault: str = ""
    memory: Sequence[tuple[float, int]] = field(default_factory=list)


def write_tape(path: Path, trades: int, tokens: int = TOKENS, seed: int = 1) -> None:
    """A gzip tape of Binance frames, always the same for the same numbers."""
    rng = random.Random(f"{trades}:{tokens}:{seed}")
    prices = [rng.randrange(10_000_000, 99_999_999) for _ in range(tokens)]
    ids = [0] * tokens
    lines: list[str] = []
    with igzip.open(path, "wb", compresslevel=1) as tape:  # type: ignore[no-untyped-call]
        for number in range(trades):
            time_ms = BEGIN_MS + int(number * 1_000 / PER_S)
            which = rng.randrange(tokens)
            ids[which] += 1
            price = prices[which] = max(1_000_000, prices[which] + rng.randint(-500, 500))
            amount = rng.randrange(1, 999_999)
            last = ids[which]
            lines.append(
                _LINE
                % (
                    *(time_ms // 1000, time_ms % 1000, which, time_ms, which, last, price // 100_000, price % 100_000),
                    *(amount // 1000, amount % 1000, last, last, time_ms, "true" if number & 1 else "false"),
                )
            )
            if len(lines) == _LINES_AT_ONCE:
                tape.write("".join(lines).encode())
                lines.clear()
        tape.write("".join(lines).encode())


async def replay(path: Path, trades: int) -> Replayed:
    """Read the tape into a server."""
    own = [os.getpid()]
    octets = os.stat(path).st_size
    quiet: dict[str, Any] = {"port": 0, "drain_s": 0}
    async with running(Settings(**quiet), []) as started:
        pipeline = started.pipeline
        closed = 0

        def count_bar(*_: object) -> None:
            nonlocal closed
            closed += 1

        pipeline.bar_listeners.append(count_bar)
        tape = Tape(str(path), speed=0)
        pipeline.add_source(tape)
        gc.collect()
        gc.freeze()
        memory: list[tuple[float, int]] = []
        start = rss_bytes(own)
        reading = asyncio.create_task(tape.run(pipeline))
        begin, cpu = time.perf_counter(), time.process_time()
        step = max(trades // _SAMPLES, 1)
        while not reading.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), 0.01)
            if pipeline.market.trades >= (len(memory) + 1) * step:
                memory.append((100 * pipeline.market.trades / trades, rss_bytes(own)))
        await reading
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        applied = pipeline.market.trades
        fault = "" if applied == trades else f"{applied} of {trades} trades were applied: {pipeline.rejections}"
        gaps = sum(count for count, _ in pipeline.gaps.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Replayed(applied, wall, cpu, start, peak, octets, closed, gaps, fault, memory)


def replay_row(found: Replayed) -> MarketRow:
    """A run as a row."""
    hours = found.trades / PER_S / 3600
    what = (
        f"a gzip tape of {found.trades:,} Binance frames of {TOKENS} tokens ({hours:.1f} hours of trading, "
        f"{PER_S:g} a second) read at full speed into a running server without clients or history: from the file to "
        "bars and versions; one core; "
    )
    is_full = found.trades >= FULL_TRADES
    what += "the tape fills every window" if is_full else f"--full reads {FULL_TRADES:,}: here memory still fills up"
    figures = [
        Figure("trades", found.trades),
        Figure("trades/s of wall time", found.trades / found.wall_s),
        Figure("trades/s of CPU time", found.trades / found.cpu_s),
        Figure("memory at the start", found.start_bytes / 1e6, "MB", 1),
        Figure("peak memory", found.peak_bytes / 1e6, "MB", 1),
        Figure("tape", found.tape_bytes / 1e6, "MB", 1),
        Figure("bars closed", found.bars),
    ]
    growth = _growth(found.memory)
    if is_full and growth is not None:
        figures.append(Figure("memory's growth in the second half", 100 * growth, "%", 1))
    series = {"MB resident, by % of the tape": [(at, octets / 1e6) for at, octets in found.memory]}
    fault = found.fault or (f"{found.gaps} gaps in a tape that has none" if found.gaps else "")
    return MarketRow("M4", "tokenwire replay", "ours", what, figures, series, fault)


def _growth(memory: Sequence[tuple[float, int]]) -> float | None:
    half = [octets for share, octets in memory if share >= 50]
    return max(half) / half[0] - 1 if half else None


def main() -> None:
    """One run, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where the tape is written: 45 bytes a trade")
    chosen = parser.parse_args()
    configure_logging("error")
    import uvloop

    with tempfile.TemporaryDirectory(dir=chosen.folder) as scratch:
        path = Path(scratch) / "tape.gz"
        writing = get_context("spawn").Process(target=write_tape, args=(path, chosen.trades))
        writing.start()
        writing.join()
        found = uvloop.run(replay(path, chosen.trades))
    print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
