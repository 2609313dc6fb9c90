"""The whole proof: tapes, a cluster, clients, faults, and the judgement over everything that was written down."""

import asyncio
import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from server.tests.services.errors import ServiceError

from loadtests.distributed.cluster import SCHEMA, Cluster
from loadtests.distributed.fold import INTERVALS_MS, Expected, expected
from loadtests.distributed.markers import count_aborted
from loadtests.distributed.schedule import plan_faults
from loadtests.distributed.stored import count_stored, read_stored
from loadtests.distributed.supervisor import IN_TRANSACTION, Supervisor
from loadtests.distributed.tapes import LEAD_MS, captured_tape, simulated_tape, trade_frames
from loadtests.distributed.verdict import Verdict, judged
from loadtests.distributed.watchers import Order, Orders
from loadtests.faults.history import Entry, Folded, JsonlWriter, Traded, read_history

__all__ = ["Request", "run_proof"]

TOKENS: Final = 24  # of the simulated market
RATE: Final = 500  # trades a second of it
FAULTS_AFTER_S: Final = 3.0
STORED_S: Final = 90.0  # after the last fault, for everything to be in the database
FOLLOWED_S: Final = 60.0  # and then for every client to have it
LOOK_S: Final = 0.5
TOKENS_EACH: Final = 4
KNOWN_S: Final = 60.0  # from the start
LAST_FAULT_S: Final = 4.0  # before the end of the tapes
PAGES_S: Final = 15.0  # longer than a leader's lease
_ASK_S: Final = 2.0
_WATCHER_END_S: Final = 15.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to do. ``full``: every kind of fault, not only kills; ``kills``: of each process."""

    seed: int = 1
    trades: int = 100_000
    rate: int = RATE
    kills: int = 5
    clients: int = 20
    full: bool = True
    folder: Path
    tapes: Path | None = None
    say: Say = field(default=lambda text: None)


async def run_proof(request: Request) -> Verdict:
    """Run it. Raises ServiceError if an engine can't be started."""
    begun_s = time.monotonic()
    say, folder = request.say, request.folder
    tapes = await asyncio.to_thread(_tapes, request)
    truth = await asyncio.to_thread(expected, tapes)
    say(f"{truth.count} trades of {len(truth.trades)} tokens, {truth.bar_count} bars; logs and history in {folder}")
    history = folder / "history.jsonl"
    with JsonlWriter(history) as writer:
        _tell_truth(truth, writer.add)
        async with Cluster(folder, tapes) as cluster:
            say(
                ", ".join(f"{engine.name} {engine.version}" for engine in (*cluster.engines.values(), cluster.balancer))
            )
            supervisor = Supervisor(cluster, writer.add, say)
            await supervisor.start()
            await _known(cluster, truth, say)
            watchers = await _watchers(request, cluster, truth)
            try:
                await supervisor.carry_out(_faults(request, cluster))
                await _stored(cluster, supervisor, truth, say)
                counts = await watchers.finish(FOLLOWED_S)
            finally:
                await watchers.kill()
            await supervisor.stop()
            supervisor.breaches += await asyncio.to_thread(_wrong_pages, cluster, truth)
            await asyncio.to_thread(read_stored, cluster.postgres, SCHEMA, sorted(truth.trades), writer.add)
            aborted = await asyncio.to_thread(count_aborted, cluster.kafka)
        for entry in read_history(watchers.history):
            writer.add(entry)
    verdict = await asyncio.to_thread(judged, read_history(history), supervisor.breaches)
    verdict.counts.update(
        _counts(supervisor, counts, truth), clients=request.clients, aborted=aborted,
        seconds=round(time.monotonic() - begun_s),
    )  # fmt: skip
    verdict.breaches += _unproven(request, supervisor, verdict.counts)
    return verdict


def _unproven(request: Request, supervisor: Supervisor, counts: Mapping[str, int]) -> list[str]:
    """What was to happen and did not: a run without it proves too little."""
    found = [
        f"{name} was killed {supervisor.kills[name]} times, not {request.kills}"
        for name in supervisor.names
        if supervisor.kills[name] < request.kills
    ]
    if request.full:
        found += [f"nothing was {name}" for name in ("aborted", "fenced", "redelivered") if not counts[name]]
        if not supervisor.counts[IN_TRANSACTION]:
            found.append(f"nobody was {IN_TRANSACTION}")
    return found


def _tapes(request: Request) -> list[Path]:
    simulated, captured = request.folder / "simulated.jsonl", request.folder / "captured.jsonl"
    simulated_tape(simulated, seed=request.seed, trades=request.trades, rate=request.rate, tokens=TOKENS)
    captured_tape(captured, trade_frames(request.tapes, request.seed), seconds=request.trades / request.rate)
    return [simulated, captured]


def _tell_truth(truth: Expected, add: Callable[[Entry], None]) -> None:
    for address, ids in truth.trades.items():
        for number, trade_id in enumerate(ids, 1):
            add(Traded(0, address, number, trade_id))
    for (address, interval_ms), bars in truth.bars.items():
        for open_ms, figures in bars.items():
            add(Folded(0, address, interval_ms, open_ms, figures))


def _faults(request: Request, cluster: Cluster) -> Sequence[Any]:
    if not request.kills and not request.full:
        return ()
    return plan_faults(
        request.seed,
        {role.name: role.role for role in cluster.roles.values()},
        begin_s=FAULTS_AFTER_S,
        end_s=LEAD_MS / 1_000 + request.trades / request.rate - LAST_FAULT_S,
        kills=request.kills,
        full=request.full,
    )


async def _known(cluster: Cluster, truth: Expected, say: Say) -> None:
    """Until each gateway knows every token: one that a server does not know is refused, and told of."""
    for address in cluster.gateways_url():
        until_s = time.monotonic() + KNOWN_S
        while (known := (await asyncio.to_thread(_prices_at, address)).keys()) < truth.trades.keys():
            if time.monotonic() > until_s:
                raise ServiceError(f"the gateway at {address} knows {len(known)} of {len(truth.trades)} tokens")
            await asyncio.sleep(LOOK_S)
    say("every gateway knows every token")


def _prices_at(address: str) -> dict[str, str | None]:
    """Of each token that a gateway lists."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/tokens?limit=1000", timeout=_ASK_S) as answer:
            return {row["address"]: row.get("price") for row in json.load(answer)["data"]}
    except (OSError, ValueError):
        return {}


def _wrong_pages(cluster: Cluster, truth: Expected) -> list[str]:
    """Every gateway lists every token at the price of its last trade, as soon as the index has been published."""
    until_s = time.monotonic() + PAGES_S
    while True:
        wrong = [
            f"the gateway at {address} lists {token} at {found.get(token)}, not at {price}"
            for address in cluster.gateways_url()
            for found in [_prices_at(address)]
            for token, price in truth.prices.items()
            if found.get(token) != price
        ]
        if not wrong or time.monotonic() > until_s:
            return wrong
        time.sleep(LOOK_S)


async def _stored(cluster: Cluster, supervisor: Supervisor, truth: Expected, say: Say) -> None:
    """Until everything is in the database, or for long enough."""
    while not supervisor.is_played:
        await asyncio.sleep(LOOK_S)
    until_s = time.monotonic() + STORED_S
    found: dict[str, int] = {}
    while time.monotonic() < until_s:
        try:
            found = dict(await asyncio.to_thread(count_stored, cluster.postgres, SCHEMA))
        except ServiceError as error:
            say(f"the database can't be asked: {error}")
        if found == {"trades": truth.count, "bars": truth.bar_count}:
            say(f"everything is stored: {found}")
            return
        await asyncio.sleep(LOOK_S)
    say(f"not everything is stored: {found}")


class _Watchers:
    """The process of the clients."""

    def __init__(self, process: asyncio.subprocess.Process, history: Path, say: Say) -> None:
        self.history = history
        self._process = process
        self._say = say

    async def finish(self, limit_s: float) -> dict[str, int]:
        """Its counts, once every client has everything, or at the end of the time."""
        assert self._process.stdout is not None
        reading = asyncio.create_task(self._process.stdout.read())
        await asyncio.wait((reading,), timeout=limit_s)
        if not reading.done():
            self._say("not every client has come to the end")
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait((reading,), timeout=_WATCHER_END_S)
        text = reading.result() if reading.done() else b""
        await self._process.wait()
        counts = json.loads(text.splitlines()[-1]) if text.strip() else {}
        for line in counts.pop("waits", ()):
            self._say(f"  waits: {line}")
        return dict(counts)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def _watchers(request: Request, cluster: Cluster, truth: Expected) -> _Watchers:
    chance = random.Random(f"{request.seed}/clients")
    intervals = list(INTERVALS_MS)
    addresses = sorted(truth.trades)
    orders = []
    for number in range(request.clients):
        tokens = chance.sample(addresses, TOKENS_EACH)
        # A correction that is told while a client is away is not fetched by it: what it has of late bars may be older.
        charts = chance.sample([address for address in addresses if address not in truth.late], TOKENS_EACH)
        lengths = ["1s", intervals[1 + number % (len(intervals) - 1)]]
        orders.append(Order(f"client-{number}", tokens, charts, lengths, bool(number % 2)))
    last_bars = {
        f"{address} {text}": max(truth.bars[address, ms]) for address in addresses for text, ms in INTERVALS_MS.items()
    }
    last_trades = {address: len(ids) for address, ids in truth.trades.items()}
    path, history = request.folder / "orders.json", request.folder / "clients.jsonl"
    path.write_bytes(msgspec.json.encode(Orders(f"ws://{cluster.address}", orders, last_trades, last_bars)))
    with (request.folder / "clients.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.distributed.watchers", str(path), str(history),
            stdout=asyncio.subprocess.PIPE, stderr=log, env=dict(os.environ), cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return _Watchers(process, history, request.say)


def _counts(supervisor: Supervisor, clients: dict[str, int], truth: Expected) -> dict[str, int]:
    total: Counter[str] = supervisor.totals()
    return {
        "trades": truth.count,
        "bars": truth.bar_count,
        "kills": sum(supervisor.kills.values()),
        "stops": supervisor.counts["stop"],
        "replaced": supervisor.counts["replace"],
        "restarts": supervisor.counts["restart"],
        "fenced": supervisor.counts["fenced"],
        "ended": supervisor.counts["ended by themselves"],
        "redelivered": total["tokenwire_processor_refolded_total"],
        "takeovers": total["tokenwire_processor_rebuilt_total"],
        "rows": total["tokenwire_loader_rows_total trades"] + total["tokenwire_loader_rows_total bars"],
        "wire": clients.get("wire", 0),
        "wire_duplicates": clients.get("wire_duplicates", 0),
        "fetched": clients.get("trades fetched", 0) + clients.get("bars fetched", 0),
        "waiting": clients.get("waiting", 0),
    }
