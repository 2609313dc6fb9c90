"""M2: how soon REST answers while 1000 WebSocket clients are served, and what the same server does without them."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from loadtests.bench import market_server
from loadtests.bench.market_feed import SOURCE
from loadtests.bench.market_processes import Cast, event, subscriptions, told
from loadtests.bench.market_rows import Figure, MarketRow
from loadtests.bench.processes import cpu_ns, tree
from loadtests.bench.subjects import OURS
from loadtests.bench.tools import BenchError
from loadtests.bench.validity import MAX_SINK_CPU, MIN_REACH
from loadtests.bench.workloads import SHAPES, Shape, Workload, make, subscribe_text
from loadtests.machine import free_port

__all__ = ["MEASURED", "RestLoad", "percentile", "rest_rows"]

MEASURED: Final = {
    "klines": "/api/v1/klines/{symbol}?interval=1m&limit=100",
    "tokens": "/api/v1/tokens?limit=50",
}
CONNECTIONS: Final = 16
TOKENS: Final = 100
MINUTES: Final = 130
TRADES_PER_S: Final = 100.0
_LEAD_S: Final = 0.2
_FLOOR: Final = "/health"


@dataclass(frozen=True)
class RestLoad:
    """How long and how much: requests a second (half of them klines), and connections of W2 beside them."""

    seconds: float = 6.0
    rate: float = 500.0
    sockets: int = 1000
    minutes: int = MINUTES
    warm_ticks: int = 6  # of W2, until the windows of its compression are full


def rest_rows(load: RestLoad) -> list[MarketRow]:
    """While W2 runs, without it, and ``/health`` at the same rate."""
    quiet = replace(load, seconds=min(load.seconds, 4.0), sockets=0)
    pages = [path.format(symbol=f"{SOURCE}:T{n}") for n in range(TOKENS) for path in MEASURED.values()]
    rows = []
    about = f"{load.rate:g} GET a second over {CONNECTIONS} kept connections"
    for label, family, each, targets, what in (
        (
            "tokenwire while W2 runs",
            "ours",
            load,
            pages,
            f"{about}, half of them 100 bars of 1m of one of {TOKENS} tokens, half pages of 50 of {2 * TOKENS} tokens "
            f"by volume, while W2 ({load.sockets} WebSocket clients, 100 tokens, 30 change twice a second, compressed) "
            f"and {TRADES_PER_S:g} trades a second go on; from the planned instant to the last byte, the client's own "
            "time included",
        ),
        ("tokenwire, no W2", "ours", quiet, pages, "the same without a WebSocket client"),
        ("/health, no W2", "floor", quiet, [_FLOOR], f"{about}, an answer of some bytes: what HTTP and client cost"),
    ):
        try:
            rows.append(_row(label, family, each, targets, what))
        except BenchError as error:
            rows.append(MarketRow("M2", label, family, what, invalid=str(error)))
    return rows


def _row(label: str, family: str, load: RestLoad, targets: Sequence[str], what: str) -> MarketRow:
    shape = replace(SHAPES["W2"], connections=load.sockets)
    workload = make(shape)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tokenwire-bench-") as name, Cast() as cast:
        folder = Path(name)
        (folder / "w2.json").write_text(workload.to_json(), encoding="utf-8")
        options = {"workload": folder / "w2.json", "tokens": TOKENS, "rate": TRADES_PER_S, "minutes": load.minutes}
        server = cast.python("the server", market_server.command(port, **options))
        said = told(server, ("listening", "trades", "grid"))
        sink = _sink(cast, port, shape, workload, folder) if load.sockets else None
        words = ["-m", "loadtests.bench.market_client", "--port", port, "--rate", load.rate]
        client = cast.python("the client", [str(w) for w in [*words, "--connections", CONNECTIONS]], reads=True)
        for target in (*targets, ""):
            client.tell(target)
        told(client, ("ready",), 60)
        first_ns = _begin(said["grid"], shape, load.warm_ticks if sink is not None else 0)
        if sink is not None:
            ticks = int(load.seconds * shape.ticks_per_s)
            sink.tell(f"measure {first_ns} {shape.interval_ms * 1_000_000} {ticks}")
        client.tell(f"measure {first_ns} {load.seconds}")
        pids = tree(server.pid)
        time.sleep(max(first_ns - time.monotonic_ns(), 0) / 1e9)
        begin_ns, begin_cpu = time.monotonic_ns(), cpu_ns(pids)
        found: dict[str, Any] = json.loads(client.line(load.seconds + 20))
        busy = (cpu_ns(pids) - begin_cpu) / (time.monotonic_ns() - begin_ns)
        result = event(sink, "result", 10) if sink is not None else {}
    delays = _by_kind(targets, found["delays_us"])
    return MarketRow(
        "M2", label, family, what, _figures(delays, found, busy, result), _plot(delays), _fault(found, result)
    )


def _sink(cast: Cast, port: int, shape: Shape, workload: Workload, folder: Path) -> Any:
    subject = OURS["deflate"]
    texts = [subscribe_text(workload, which) for which in range(len(workload.sets))]
    options: dict[str, Any] = {
        "--port": port,
        "--connections": shape.connections,
        "--subscribe": subscriptions(folder, texts),
        "--target": f"/api/v1/ws/token-data{subject.query}",
        "--deflate": 1,
        "--first": subject.first_messages,
        "--limit": 180,
    }
    sink = cast.program("sink", options, reads=True)
    event(sink, "ready", 60)
    return sink


def _begin(grid_ns: int, shape: Shape, ticks: int) -> int:
    """The instant of a tick, so many ticks ahead."""
    interval_ns = shape.interval_ms * 1_000_000
    ahead_ns = ticks * interval_ns + int(_LEAD_S * 1e9)
    return grid_ns + ((time.monotonic_ns() + ahead_ns - grid_ns) // interval_ns + 1) * interval_ns


def _by_kind(targets: Sequence[str], delays_us: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for target, delays in zip(targets, delays_us, strict=True):
        kind = "klines" if "klines" in target else "tokens" if "tokens" in target else "health"
        found.setdefault(kind, []).extend(delays)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all is not above; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def _figures(
    delays: Mapping[str, Sequence[int]], found: Mapping[str, Any], busy: float, result: Mapping[str, Any]
) -> list[Figure]:
    figures: list[Figure] = []
    for kind, each in delays.items():
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
            figures.append(Figure(f"{kind} {name}", percentile(each, share) / 1000, "ms", 2))
        figures.append(Figure(f"{kind} requests", len(each)))
    answers = sum(map(len, delays.values()))
    figures += [
        Figure("slowest first answer, before", found["first_us"] / 1000, "ms", 1),
        Figure("octets per answer", sum(found["octets"]) / max(answers, 1)),
        Figure("server's share of its core", busy * 100, "%"),
        Figure("client's CPU per request", found["us_per_request"], "us"),
        Figure("client's share of its core", found["cpu"] * 100, "%"),
    ]
    if result:
        figures += [
            Figure("W2 delay p50", result["p50"] / 1000, "ms", 1),
            Figure("W2 delay p99", result["p99"] / 1000, "ms", 1),
            Figure("W2 messages", result["received"]),
            Figure("sink's share of its core", result["cpu"] * 100, "%"),
        ]
    return figures


def _plot(delays: Mapping[str, Sequence[int]]) -> dict[str, list[tuple[float, float]]]:
    shares = (50, 75, 90, 95, 98, 99)
    return {
        f"{kind}, ms by percentile": [(float(share), percentile(each, share / 100) / 1000) for share in shares]
        for kind, each in delays.items()
        if each
    }


def _fault(found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if found["fault"]:
        return str(found["fault"])
    if found["cpu"] + result.get("cpu", 0.0) > MAX_SINK_CPU:
        return f"client and sink used {found['cpu'] + result.get('cpu', 0.0):.0%} of their core"
    if result and result["received"] < MIN_REACH * result["expected"]:
        return f"only {result['received'] / max(result['expected'], 1):.1%} of W2's messages arrived in time"
    return ""
