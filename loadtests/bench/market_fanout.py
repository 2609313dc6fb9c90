"""M5: one token's trades to many, on the v1.0 endpoint and on the plain path, beside a loop of ``send()``."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtests.bench import market_server
from loadtests.bench.market_feed import SOURCE
from loadtests.bench.market_processes import Cast, event, subscriptions, told
from loadtests.bench.market_rest import percentile
from loadtests.bench.market_rows import Figure, MarketRow, beside
from loadtests.bench.processes import Child, cpu_ns, rss_bytes, tree
from loadtests.bench.tools import BenchError
from loadtests.bench.validity import MAX_SINK_CPU
from loadtests.machine import free_port

__all__ = ["FORMS", "FanoutLoad", "fanout_rows"]

_SUBSCRIBE: Final = json.dumps(
    {"type": "subscription", "data": {"action": "subscribe", "tokens": ["T0"], "channels": ["trades"]}},
    separators=(",", ":"),
)


@dataclass(frozen=True)
class Form:
    """A way to have the trades. ``expected_ms`` is how long the server gathers them, by design."""

    label: str
    path: str
    subscribe: str
    what: str


FORMS: Final = (
    Form("tokenwire, channel trades", "/api/v1/ws/token-data?caps=batch,channels", _SUBSCRIBE,
         "v1.0 endpoint, caps=batch,channels: numbered batches of what 50 ms bring"),
    Form("tokenwire, plain path", f"/ws/transactions/{SOURCE}:T0", "",
         "/ws/transactions/{symbol}: a message a trade, those of 40 ms in one write"),
)  # fmt: skip
_WATCHERS: Final = 10
_SLACK: Final = 2
"""Writes of a connection that may lie on either side of the window's ends."""
_TICK_NS: Final = 50_000_000


@dataclass(frozen=True)
class FanoutLoad:
    """How many get ``rate`` trades a second, and for how long."""

    subscribers: int = 1000
    rate: float = 100.0
    seconds: float = 5.0
    warm_s: float = 1.0
    """Before anything is measured, each time."""


def fanout_rows(load: FanoutLoad) -> list[MarketRow]:
    """Each form, followed by its floor."""
    rows: list[MarketRow] = []
    for form in FORMS:
        what = (
            f"one token, {load.rate:g} trades a second to {load.subscribers} connections; {form.what}. Server CPU less "
            "its rate without subscribers, per trade and connection; delays of real clients from the planned instant"
        )
        try:
            row, writes, octets = _ours(form, load, what)
        except BenchError as error:
            rows.append(MarketRow("M5", form.label, "ours", what, invalid=str(error)))
            continue
        label = f"floor of {form.label.partition(', ')[2]}"
        note = f"C: {writes:.1f} send() a second of {octets:.0f} ready bytes per connection, as many as ours wrote"
        try:
            floor = _floor(label, note, load, writes, octets)
        except BenchError as error:
            floor = MarketRow("M5", label, "floor", note, invalid=str(error))
        rows += [beside(row, floor, "CPU per trade and subscriber", "x floor"), floor]
    return rows


def _ours(form: Form, load: FanoutLoad, what: str) -> tuple[MarketRow, float, float]:
    """The row; writes a second of each connection; octets of each write."""
    port = free_port()
    watchers = min(_WATCHERS, load.subscribers // 2)
    readers = load.subscribers - watchers
    with tempfile.TemporaryDirectory(prefix="tokenwire-bench-") as name, Cast() as cast:
        server = cast.python("the server", market_server.command(port, tokens=1, rate=load.rate))
        first_ns = told(server, ("listening", "trades"))["trades"]
        pids = tree(server.pid)
        time.sleep(load.warm_s)
        idle = _cpu_rate(pids, load.warm_s)
        before = rss_bytes(pids)
        sink = _sink(cast, port, form.path, form.subscribe, readers, Path(name))
        words = ["-m", "loadtests.bench.market_watcher", "--port", str(port), "--path", form.path]
        words += ["--clients", str(watchers), "--subscribe", form.subscribe]
        watcher = cast.python("the watcher", words, reads=True)
        told(watcher, ("ready",))
        begin_ns = time.monotonic_ns() + int(load.warm_s * 1e9)
        end_ns = _measure(sink, begin_ns, load.seconds)
        watcher.tell(f"measure {first_ns} {load.rate} {begin_ns} {end_ns}")
        busy = _window_cpu(pids, begin_ns, end_ns)
        rss = rss_bytes(pids)
        result = event(sink, "result", 10)
        seen: dict[str, Any] = json.loads(watcher.line(20))
    seconds = (end_ns - begin_ns) / 1e9
    trades = load.rate * seconds
    us = (busy / seconds / 1e9 - idle) * seconds * 1e6 / (trades * load.subscribers)
    octets = result["bytes"] / max(readers, 1)
    delays = seen["delays_us"]
    figures = [
        Figure("CPU per trade and subscriber", us, "us", 2),
        Figure("CPU per message and subscriber", us * trades / max(seen["messages"], 1), "us", 2),
        Figure("server's share of its core", busy / (end_ns - begin_ns) * 100, "%"),
        *(Figure(f"delay {n}", percentile(delays, p) / 1000, "ms", 1) for n, p in (("p50", 0.5), ("p99", 0.99))),
        Figure("messages a second and connection", seen["messages"] / seconds, "", 1),
        Figure("writes a second and connection", seen["writes"] / seconds, "", 1),
        Figure("bytes per trade", octets / trades),
        Figure("memory per connection", (rss - before) / load.subscribers / 1000, "KB", 2),
        Figure("sink's share of its core", result["cpu"] * 100, "%"),
    ]
    fault = _fault(seen, result, readers, trades) or ("its CPU time was below its idle rate" if us <= 0 else "")
    writes = max(seen["writes"], 1) / seconds
    row = MarketRow("M5", form.label, "ours", what, figures, invalid=fault)
    return row, writes, octets / max(seen["writes"], 1)


def _floor(label: str, note: str, load: FanoutLoad, writes: float, octets: float) -> MarketRow:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tokenwire-bench-") as name, Cast() as cast:
        options: dict[str, Any] = {"--port": port, "--interval-ms": 1000 / writes, "--bytes": round(octets)}
        floor = cast.program("floor", {**options, "--frames": 1})
        told(floor, ("listening", "grid"))
        sink = _sink(cast, port, "/", "", load.subscribers, Path(name))
        begin_ns = time.monotonic_ns() + int(load.warm_s * 1e9)
        end_ns = _measure(sink, begin_ns, load.seconds)
        busy = _window_cpu(tree(floor.pid), begin_ns, end_ns)
        result = event(sink, "result", 10)
    seconds = (end_ns - begin_ns) / 1e9
    trades = load.rate * seconds
    expected = (writes * seconds - _SLACK) * load.subscribers
    fault = "" if result["received"] >= expected else f"{result['received']} of {expected:.0f} messages arrived"
    figures = [
        Figure("CPU per trade and subscriber", busy / 1000 / (trades * load.subscribers), "us", 2),
        Figure("server's share of its core", busy / (end_ns - begin_ns) * 100, "%"),
        Figure("writes a second and connection", result["received"] / load.subscribers / seconds, "", 1),
        Figure("bytes per trade", result["bytes"] / load.subscribers / trades),
        Figure("sink's share of its core", result["cpu"] * 100, "%"),
    ]
    return MarketRow("M5", label, "floor", note, figures, invalid=fault)


def _sink(cast: Cast, port: int, path: str, subscribe: str, connections: int, folder: Path) -> Child:
    """Connected and subscribed. On a plain path, where nothing is to be said, it says an empty object, once."""
    options: dict[str, Any] = {
        "--port": port,
        "--connections": connections,
        "--subscribe": subscriptions(folder, [subscribe or "{}"]),
        "--target": path,
        "--frames": 1_000,  # how many come is to be seen
        "--limit": 180,
    }
    sink = cast.program("sink", options, reads=True)
    event(sink, "ready", 60)
    return sink


def _measure(sink: Child, begin_ns: int, seconds: float) -> int:
    """Have the sink count from ``begin_ns`` on; when it ends."""
    ticks = max(round(seconds * 1e9 / _TICK_NS), 1)
    sink.tell(f"measure {begin_ns} {_TICK_NS} {ticks}")
    return begin_ns + ticks * _TICK_NS


def _cpu_rate(pids: list[int], seconds: float) -> float:
    begin_ns = time.monotonic_ns()
    return _window_cpu(pids, begin_ns, begin_ns + int(seconds * 1e9)) / (seconds * 1e9)


def _window_cpu(pids: list[int], begin_ns: int, end_ns: int) -> int:
    """CPU time between two instants, in ns."""
    time.sleep(max(begin_ns - time.monotonic_ns(), 0) / 1e9)
    mark = cpu_ns(pids)
    time.sleep(max(end_ns - time.monotonic_ns(), 0) / 1e9)
    return cpu_ns(pids) - mark


def _fault(seen: Mapping[str, Any], result: Mapping[str, Any], readers: int, trades: float) -> str:
    if seen["fault"]:
        return str(seen["fault"])
    if result["closed"]:
        return f"the server closed {result['closed']} connections"
    if result["cpu"] > MAX_SINK_CPU:
        return f"the sink used {result['cpu']:.0%} of its core"
    if seen["trades"] < 0.95 * trades:
        return f"a watcher got {seen['trades']:.0f} of {trades:.0f} trades within the window"
    each = seen["messages"] / max(seen["writes"], 1)  # so many messages may be at either end of the window
    expected = (seen["messages"] - _SLACK * each) * readers
    if result["received"] < expected:
        return f"the sink got {result['received']} of {expected:.0f} messages"
    return ""
