"""The market's tasks M1 to M9: how large each is in which plan, how it is run, and what we promise of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from loadtests.bench.engine_tasks import (
    LatencyLoad,
    LoaderLoad,
    PagesLoad,
    ProcessorLoad,
    latency_rows,
    loader_rows,
    page_rows,
    processor_rows,
)
from loadtests.bench.market_fanout import FORMS, FanoutLoad, fanout_rows
from loadtests.bench.market_ingest import Ingest, ingest_row
from loadtests.bench.market_processes import said
from loadtests.bench.market_replay import FULL_TRADES, MAX_GROWTH, Replayed, replay_row
from loadtests.bench.market_rest import MEASURED, RestLoad, rest_rows
from loadtests.bench.market_rows import MarketRow, beside, median_row
from loadtests.bench.market_store import HELD_SHARE, MAX_BEHIND_S, StoreLoad, store_row
from loadtests.bench.plan import in_turn
from loadtests.bench.targets import Target

__all__ = [
    "COMMANDS",
    "MARKET_TASKS",
    "TITLES",
    "MarketTask",
    "Size",
    "market_estimate_s",
    "market_targets",
    "run_task",
]

Size = Literal["tiny", "daily", "full"]


@dataclass(frozen=True)
class IngestLoad:
    """Trades of each round of the busy load, and of the only one of the sparse load."""

    busy: int = 100_000
    rounds: int = 2
    sparse: int = 50_000


@dataclass(frozen=True)
class ReplayLoad:
    """Trades on the tape."""

    trades: int = 150_000


Load = (
    IngestLoad | RestLoad | StoreLoad | ReplayLoad | FanoutLoad | ProcessorLoad | LatencyLoad | LoaderLoad | PagesLoad
)


@dataclass(frozen=True)
class MarketTask:
    """One task. ``loads`` is its size by plan, ``seconds`` about how long that takes."""

    name: str
    title: str
    loads: Mapping[Size, Load]
    seconds: Mapping[Size, float]
    run: Callable[[Any], list[MarketRow]]


def _ingest(load: IngestLoad) -> list[MarketRow]:
    rounds: dict[tuple[str, str], list[MarketRow]] = {}
    for number in range(load.rounds):
        for program in in_turn(["ours", "naive"], number):
            rounds.setdefault((program, "busy"), []).append(_ingested(program, "busy", load.busy))
    for program in ("ours", "naive"):
        rounds[program, "sparse"] = [_ingested(program, "sparse", load.sparse)]
    order = [(program, pace) for pace in ("busy", "sparse") for program in ("ours", "naive")]
    rows = [median_row(rounds[each]) for each in order]
    return [
        beside(row, rows[at | 1], "trades/s of CPU time", "x naive fold") if at % 2 == 0 else row
        for at, row in enumerate(rows)
    ]


def _ingested(program: str, pace: str, trades: int) -> MarketRow:
    words = ["--program", program, "--load", pace, "--trades", str(trades)]
    found, fault = said("market_ingest", words, 60 + trades / 5_000)
    run = Ingest(**found) if found else Ingest(1, 1.0, 1.0, fault=fault)
    return ingest_row(program, pace, run)


def _store(load: StoreLoad) -> list[MarketRow]:
    runs: list[tuple[str, list[str]]] = [
        ("fixed", ["--rate", str(load.rate), "--seconds", str(load.seconds)]),
        ("most", ["--trades", str(load.most)]),
        ("naive", ["--trades", "100000", "--seconds", str(load.naive_s)]),
    ]
    rows: list[MarketRow] = []
    for run, words in runs:
        found, fault = said("market_store", ["--run", run, *words], 120 + load.seconds)
        if found:
            rows.append(store_row(run, load, found))
        else:
            rows.append(MarketRow("M3", f"history, {run}", "ours", "", invalid=fault))
    return [*(beside(row, rows[-1], "trades/s stored", "x one INSERT per trade") for row in rows[:-1]), rows[-1]]


def _replay(load: ReplayLoad) -> list[MarketRow]:
    found, fault = said("market_replay", ["--trades", str(load.trades)], 120 + load.trades / 5_000)
    if not found:
        return [MarketRow("M4", "tokenwire replay", "ours", "", invalid=fault)]
    return [replay_row(Replayed(**found))]


MARKET_TASKS: Final[Mapping[str, MarketTask]] = {
    task.name: task
    for task in (
        MarketTask(
            "M1", "trades into the market, one core, nothing stored",
            {"tiny": IngestLoad(2_000, 1, 2_000), "daily": IngestLoad(), "full": IngestLoad(500_000, 3, 200_000)},
            {"tiny": 8, "daily": 20, "full": 110}, _ingest,
        ),
        MarketTask(
            "M2", "REST at 500 requests a second while W2 runs",
            {"tiny": RestLoad(0.5, 100, 20, 101, 1), "daily": RestLoad(), "full": RestLoad(seconds=20.0)},
            {"tiny": 8, "daily": 26, "full": 45}, rest_rows,
        ),
        MarketTask(
            "M3", "SQLite at 20,000 trades a second",
            {"tiny": StoreLoad(2_000, 0.5, 2_000, 0.2), "daily": StoreLoad(most=200_000, naive_s=1.0),
             "full": StoreLoad(seconds=60.0, most=2_000_000, naive_s=5.0)},
            {"tiny": 5, "daily": 19, "full": 120}, _store,
        ),
        MarketTask(
            "M4", "a tape at full speed",
            {"tiny": ReplayLoad(3_000), "daily": ReplayLoad(), "full": ReplayLoad(FULL_TRADES)},
            {"tiny": 3, "daily": 8, "full": 420}, _replay,
        ),
        MarketTask(
            "M5", "one token's trades to 1000 connections",
            {"tiny": FanoutLoad(20, 50, 0.5, 0.2), "daily": FanoutLoad(seconds=3.0), "full": FanoutLoad(seconds=15.0)},
            {"tiny": 8, "daily": 27, "full": 75}, fanout_rows,
        ),
        MarketTask(
            "M6", "trades through Kafka, exactly once",
            {"tiny": ProcessorLoad(2_000), "daily": ProcessorLoad(), "full": ProcessorLoad(1_000_000)},
            {"tiny": 8, "daily": 30, "full": 110}, processor_rows,
        ),
        MarketTask(
            "M7", "from a source to a client, past one machine and in one process",
            {"tiny": LatencyLoad(100, 1.0), "daily": LatencyLoad(), "full": LatencyLoad(seconds=30.0)},
            {"tiny": 14, "daily": 35, "full": 80}, latency_rows,
        ),
        MarketTask(
            "M8", "from Kafka into PostgreSQL",
            {"tiny": LoaderLoad(2_000, 0.2), "daily": LoaderLoad(), "full": LoaderLoad(1_000_000, 5.0)},
            {"tiny": 10, "daily": 35, "full": 150}, loader_rows,
        ),
        MarketTask(
            "M9", "pages of tokens at 500 requests a second, from Redis and without",
            {"tiny": PagesLoad(200, 100, 0.5), "daily": PagesLoad(), "full": PagesLoad(seconds=20.0)},
            {"tiny": 8, "daily": 30, "full": 60}, page_rows,
        ),
    )
}  # fmt: skip
TITLES: Final = {name: task.title for name, task in MARKET_TASKS.items()}
COMMANDS: Final = {name: f"python -m loadtests.bench --workloads {name}" for name in MARKET_TASKS}


def run_task(name: str, size: Size) -> list[MarketRow]:
    """Run one task."""
    task = MARKET_TASKS[name]
    return task.run(task.loads[size])


def market_estimate_s(names: Sequence[str], size: Size) -> float:
    """About how long these take."""
    return sum(MARKET_TASKS[name].seconds[size] for name in names)


def market_targets(rows: Sequence[MarketRow]) -> list[Target]:
    """What we promise, held against the rows."""
    found = {(row.task, row.label): row for row in rows}

    def value(task: str, label: str, name: str) -> float | None:
        row = found.get((task, label))
        return None if row is None else row.value(name)

    def judged(task: str, text: str, measured: float | None, limit: float, unit: str, *, least: bool = False) -> Target:
        if measured is None:
            return Target(task, text, None, "")
        is_met = measured >= limit if least else measured <= limit
        return Target(task, text, is_met, f"{measured:,.{0 if measured >= 1000 else 2}f}{unit}")

    rate = value("M1", "tokenwire, busy", "trades/s of CPU time")
    text = "at least 100,000 trades/s on one core, nothing stored"
    targets = [judged("M1", text, rate, 100_000, "/s", least=True)]
    for kind in MEASURED:
        for name, limit in (("p50", 1.0), ("p99", 5.0)):
            measured = value("M2", "tokenwire while W2 runs", f"{kind} {name}")
            targets.append(judged("M2", f"{kind}: {name} at most {limit:g} ms while W2 runs", measured, limit, " ms"))
    targets.append(_held(next((row for row in rows if row.task == "M3" and " at " in row.label), None)))
    targets += _replayed(found.get(("M4", "tokenwire replay")))
    for form in FORMS:
        short = form.label.partition(", ")[2]
        ratio = value("M5", form.label, "x floor")
        targets.append(judged("M5", f"{short}: at most 1.6 x floor", ratio, 1.6, ""))
        delay = value("M5", form.label, "delay p99")
        targets.append(judged("M5", f"{short}: p99 at most 100 ms from the plan", delay, 100, " ms"))
    return targets


def _held(row: MarketRow | None) -> Target:
    planned = StoreLoad.rate
    text = f"{planned:,.0f} trades/s stored without falling behind"
    rate, behind = (row.value("trades/s stored"), row.value("behind at the end")) if row else (None, None)
    if rate is None or behind is None:
        return Target("M3", text, None, "")
    return Target("M3", text, rate >= HELD_SHARE * planned and behind <= MAX_BEHIND_S, f"{rate:,.0f}/s, {behind:.2f} s")


def _replayed(row: MarketRow | None) -> list[Target]:
    text = f"{FULL_TRADES:,} trades: memory grows by at most {MAX_GROWTH:.0%} in the second half"
    growth = row.value("memory's growth in the second half") if row else None
    if row is None or growth is None:
        return [Target("M4", text, None, "only with --full" if row else "")]
    rate, peak = row.value("trades/s of wall time") or 0, row.value("peak memory") or 0
    return [Target("M4", text, growth <= 100 * MAX_GROWTH, f"{growth:.1f} %, peak {peak:.0f} MB, {rate:,.0f} trades/s")]
