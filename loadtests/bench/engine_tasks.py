"""M6 to M9, past one machine: trades through Kafka exactly once, from a source to a client, into PostgreSQL, and pages
of tokens from Redis; each beside the same without the engine, or without our way of using it.

Engines are those of ``make services``, else of the run's own. They may use either core.
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from redis import Redis as RedisClient
from server.tests.services.errors import ServiceError
from server.tests.services.kafka import Kafka
from server.tests.services.postgres import Postgres
from server.tests.services.redis import Redis

from loadtests.bench import market_server
from loadtests.bench.market_feed import SOURCE
from loadtests.bench.market_processes import Cast, said, told
from loadtests.bench.market_rest import CONNECTIONS, percentile
from loadtests.bench.market_rows import Figure, MarketRow, beside
from loadtests.bench.processes import Child
from loadtests.bench.tools import BenchError
from loadtests.bench.validity import MAX_SINK_CPU
from loadtests.engines import at_hand, kafka_settings, postgres_settings
from loadtests.machine import free_port
from tokenwire_server.cache.keys import Keys
from tokenwire_server.settings_engines import TOPIC_NAMES

__all__ = [
    "LatencyLoad",
    "LoaderLoad",
    "PagesLoad",
    "ProcessorLoad",
    "latency_rows",
    "loader_rows",
    "page_rows",
    "processor_rows",
]

WATCHERS: Final = 4
_PLAIN_PATH: Final = f"/ws/transactions/{SOURCE}:T0"
_READY_S: Final = 30.0
_LOOK_S: Final = 0.1
_WARM_S: Final = 1.0
_WINDOW_SHARE: Final = 0.95


@dataclass(frozen=True)
class ProcessorLoad:
    """Trades that are in Kafka when the clock starts."""

    trades: int = 200_000


@dataclass(frozen=True)
class LatencyLoad:
    """One token's trades a second, and for how long."""

    rate: float = 1_000.0
    seconds: float = 6.0


@dataclass(frozen=True)
class LoaderLoad:
    """Trades that are loaded, and how long the naive way goes on."""

    trades: int = 150_000
    naive_s: float = 2.0


@dataclass(frozen=True)
class PagesLoad:
    """Requests a second for pages of so many tokens, and for how long."""

    tokens: int = 10_000
    rate: float = 500.0
    seconds: float = 5.0


def _rows(task: str, label: str, measure: Callable[[ExitStack], list[MarketRow]]) -> list[MarketRow]:
    """What it measures; where an engine can't be had, one row which says why."""
    try:
        with ExitStack() as stack:
            return measure(stack)
    except (ServiceError, BenchError) as error:
        return [MarketRow(task, label, "ours", "nothing was measured", invalid=str(error))]


# --- M6 --------------------------------------------------------------------------------------------------------------


def processor_rows(load: ProcessorLoad) -> list[MarketRow]:
    """A processor over Kafka, and its fold alone."""

    def measure(stack: ExitStack) -> list[MarketRow]:
        environment = kafka_settings(stack.enter_context(at_hand(Kafka)))
        about = "100 tokens, five lengths of bars, up to 20 trades a record"
        rows = []
        for run, label, family, what in (
            ("processor", "tokenwire process", "ours",
             f"{load.trades:,} trades that are in Kafka, read, folded and written with their offsets in transactions, "
             f"by one processor on one core, from its first transaction to its last; {about}"),
            ("embedded", "the same fold, no bus", "floor",
             f"the same records decoded and folded, and what would be written encoded, without Kafka; {about}"),
        ):  # fmt: skip
            words = ["--run", run, "--trades", str(load.trades)]
            found, fault = said("stream_path", words, 120 + load.trades / 2_000, environment)
            rows.append(_processor_row(label, family, what, found, fault))
        return [beside(rows[0], rows[1], "trades/s", "x of the fold alone"), rows[1]]

    return _rows("M6", "tokenwire process", measure)


def _processor_row(label: str, family: str, what: str, found: Mapping[str, Any], fault: str) -> MarketRow:
    if not found:
        return MarketRow("M6", label, family, what, invalid=fault)
    figures = [Figure("trades/s", found["trades_per_s"])]
    if "transactions" in found:
        figures += [
            Figure("trades per transaction", found["trades"] / max(found["transactions"], 1)),
            Figure("aborted transactions", found["aborted"]),
            Figure("share of the core", 100 * found["cpu_s"] / max(found["seconds"], 1e-9), "%"),
        ]
    return MarketRow("M6", label, family, what, figures)


# --- M7 --------------------------------------------------------------------------------------------------------------


def latency_rows(load: LatencyLoad) -> list[MarketRow]:
    """Through a collector, Kafka, a processor and a gateway; and through one server."""
    about = (
        f"{load.rate:,.0f} trades a second of one token, read by {WATCHERS} real clients on /ws/transactions/…, which "
        "gathers those of 40 ms; from the planned instant of a trade to its message"
    )
    through = "tokenwire collect, process, gateway"
    rows = _rows("M7", through, lambda stack: [_through_kafka(load, through, about, stack)])
    return [*rows, *_rows("M7", "tokenwire run", lambda stack: [_embedded(load, about, stack)])]


def _through_kafka(load: LatencyLoad, label: str, about: str, stack: ExitStack) -> MarketRow:
    kafka = stack.enter_context(at_hand(Kafka))
    run = f"bench-{token_hex(4)}-"
    names = {key: run + name for key, name in TOPIC_NAMES.items()}
    stack.callback(kafka.delete_topics, names.values())
    topics = ";".join(f"{key}={name}" for key, name in names.items())
    environment = {**kafka_settings(kafka), "TOKENWIRE_KAFKA_TOPICS": topics, "TOKENWIRE_ENV_FILE": os.devnull}
    cast = stack.enter_context(Cast())
    port = free_port()

    def role(name: str, *words: str) -> None:
        command = ["-m", "tokenwire_server", name, "--role-port", "0", "--log-level", "warning", *words]
        cast.python(f"the role {name}", command, environment=environment)

    role("process")
    role("gateway", "--port", str(port), "--drain", "0")
    words = ["-m", "loadtests.bench.market_collector", "--rate", str(load.rate)]
    collector = cast.python("the collector", words, environment=environment)
    first_ns = told(collector, ("trades",), _READY_S)["trades"]
    _wait(port, f"/api/v1/tokens/{SOURCE}:T0")
    return _watched(load, label, f"{about}. All three roles share one core, Kafka may use both", cast, port, first_ns)


def _embedded(load: LatencyLoad, about: str, stack: ExitStack) -> MarketRow:
    cast, port = stack.enter_context(Cast()), free_port()
    server = cast.python("the server", market_server.command(port, tokens=1, rate=load.rate))
    first_ns = told(server, ("listening", "trades"))["trades"]
    return _watched(load, "tokenwire run", f"{about}; source and server are one process", cast, port, first_ns)


def _watched(load: LatencyLoad, label: str, what: str, cast: Cast, port: int, first_ns: int) -> MarketRow:
    words = ["-m", "loadtests.bench.market_watcher", "--port", str(port), "--path", _PLAIN_PATH]
    watcher: Child = cast.python("the watcher", [*words, "--clients", str(WATCHERS)], reads=True)
    told(watcher, ("ready",))
    begin_ns = time.monotonic_ns() + int(_WARM_S * 1e9)
    end_ns = begin_ns + int(load.seconds * 1e9)
    watcher.tell(f"measure {first_ns} {load.rate} {begin_ns} {end_ns}")
    seen: dict[str, Any] = json.loads(watcher.line(_WARM_S + load.seconds + 20))
    planned, delays = load.rate * load.seconds, seen["delays_us"]
    fault = seen["fault"]
    if not fault and seen["trades"] < _WINDOW_SHARE * planned:
        fault = f"a watcher got {seen['trades']:.0f} of {planned:.0f} trades within the window"
    shares = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    figures = [
        *(Figure(f"delay {name}", percentile(delays, share) / 1000, "ms", 1) for name, share in shares),
        Figure("trades/s and client", seen["trades"] / load.seconds),
    ]
    return MarketRow("M7", label, "ours", what, figures, invalid=fault)


def _wait(port: int, path: str) -> None:
    """Until that page is there."""
    until_s = time.monotonic() + _READY_S
    fault = ""
    while time.monotonic() < until_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                return
        except OSError as error:
            fault = str(error)
        time.sleep(_LOOK_S)
    raise BenchError(f"{path} can't be had: {fault}")


# --- M8 --------------------------------------------------------------------------------------------------------------


def loader_rows(load: LoaderLoad) -> list[MarketRow]:
    """The loader, and an INSERT for each row."""

    def measure(stack: ExitStack) -> list[MarketRow]:
        kafka, postgres = stack.enter_context(at_hand(Kafka)), stack.enter_context(at_hand(Postgres))
        environment = {**kafka_settings(kafka), **postgres_settings(postgres)}
        found, fault = said("loader_store", ["--trades", str(load.trades)], 120 + load.trades / 1_000, environment)
        words = ["--run", "naive", "--trades", "100000", "--seconds", str(load.naive_s)]
        naive, naive_fault = said("postgres_store", words, 60 + load.naive_s, environment)
        rows = [_loader_row(load, found, fault), _naive_row(naive, naive_fault)]
        return [beside(rows[0], rows[1], "trades/s stored", "x one INSERT per row"), rows[1]]

    return _rows("M8", "tokenwire load", measure)


def _loader_row(load: LoaderLoad, found: Mapping[str, Any], fault: str) -> MarketRow:
    what = (
        f"{load.trades:,} trades and their five lengths of bars from Kafka into PostgreSQL on a disk, each batch with "
        "its offsets in a transaction, from the start of the loader to its last commit; loader on one core"
    )
    if not found:
        return MarketRow("M8", "tokenwire load", "ours", what, invalid=fault)
    figures = [
        Figure("trades/s stored", found["trades_per_s"]),
        Figure("rows/s stored", found["rows_per_s"]),
        Figure("batches", found["batches"]),
        Figure("share of the core", 100 * found["cpu_s"] / max(found["seconds"], 1e-9), "%"),
    ]
    return MarketRow("M8", "tokenwire load", "ours", what, figures)


def _naive_row(found: Mapping[str, Any], fault: str) -> MarketRow:
    what = "each trade inserted and its five bars upserted by a statement each, in a transaction of its own"
    if not found:
        return MarketRow("M8", "one INSERT per row", "peer", what, invalid=fault)
    figures = [Figure("trades/s stored", found["rate"])]
    return MarketRow("M8", "one INSERT per row", "peer", what, figures)


# --- M9 --------------------------------------------------------------------------------------------------------------


def page_rows(load: PagesLoad) -> list[MarketRow]:
    """Pages of the shared index, and of the server's own market."""

    def from_redis(stack: ExitStack) -> list[MarketRow]:
        redis = stack.enter_context(at_hand(Redis))
        return [_pages(load, "tokenwire, pages from Redis", stack, redis)]

    shared = _rows("M9", "tokenwire, pages from Redis", from_redis)
    return [
        *shared,
        *_rows("M9", "tokenwire, its own pages", lambda stack: [_pages(load, "tokenwire, its own pages", stack)]),
    ]


def _pages(load: PagesLoad, label: str, stack: ExitStack, redis: Redis | None = None) -> MarketRow:
    about = (
        f"{load.rate:g} GET a second over {CONNECTIONS} kept connections, each the first 50 of {load.tokens:,} tokens, "
        "which trade 100 times a second; from the planned instant to the last byte"
    )
    what = about if redis is None else f"{about}; the server leads, and publishes the index to Redis as often as it may"
    prefix = f"bench-{token_hex(4)}:"
    cast, port = stack.enter_context(Cast()), free_port()
    options: dict[str, object] = {"tokens": load.tokens, "rate": 100.0}
    environment = {}
    if redis is not None:
        options["prefix"], environment["REDIS_URL"] = prefix, redis.url()
    server = cast.python("the server", market_server.command(port, **options), environment=environment)
    told(server, ("listening", "trades"))
    client = RedisClient.from_url(redis.url()) if redis is not None else None
    if client is not None:
        stack.callback(_cleared, client, prefix)
        _published(client, prefix)
    reader = cast.python(
        "the client",
        ["-m", "loadtests.bench.market_client", "--port", str(port), "--rate", str(load.rate),
         "--connections", str(CONNECTIONS)],
        reads=True,
    )  # fmt: skip
    for target in ("/api/v1/tokens?limit=50", ""):
        reader.tell(target)
    told(reader, ("ready",), 60)
    before = _scripts(client)
    reader.tell(f"measure {time.monotonic_ns() + 200_000_000} {load.seconds}")
    found: dict[str, Any] = json.loads(reader.line(load.seconds + 20))
    delays = [delay for each in found["delays_us"] for delay in each]
    fault = found["fault"]
    if not fault and found["cpu"] > MAX_SINK_CPU:
        fault = f"the client used {found['cpu']:.0%} of its core"
    if not fault and client is not None and _scripts(client) - before < len(delays):
        fault = "not every page came from Redis"
    shares = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    figures = [
        *(Figure(f"page {name}", percentile(delays, share) / 1000, "ms", 2) for name, share in shares),
        Figure("requests", len(delays)),
    ]
    return MarketRow("M9", label, "ours", what, figures, invalid=fault)


def _published(client: RedisClient, prefix: str) -> None:
    """Until there is an index."""
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s:
        if client.exists(Keys(prefix).meta):
            return
        time.sleep(_LOOK_S)
    raise BenchError("nothing was published to Redis")


def _cleared(client: RedisClient, prefix: str) -> None:
    """Leave nothing behind."""
    for key in client.scan_iter(f"{prefix}*", 1_000):
        client.delete(key)
    client.close()


def _scripts(client: RedisClient | None) -> int:
    """How often a script was run so far; a page is one."""
    if client is None:
        return 0
    stats: Mapping[str, Mapping[str, int]] = client.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))
