"""A campaign over real sockets: SDK clients behind fault proxies, and a server that is stopped and killed.

python -m loadtests.faults.real --clients 100 --seed 1

It ends with a line of counts, ``frames= replayed= gaps= duplicates= lost=0``, after at most three minutes; its exit
status is 1 when an invariant does not hold. ``--save FILE`` keeps the history.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.faults.fleet import Fleet, now_ms
from loadtests.faults.history import Entry, JsonlWriter, Sample, Sent, read_history
from loadtests.faults.invariants import Violation, judge
from loadtests.faults.plans import Plan, random_plans
from loadtests.faults.process import ServedProcess
from loadtests.faults.served import address, symbol
from tokenwire.config import ClientConfig
from tokenwire.states import ConnectionState

__all__ = ["Outcome", "run_campaign"]

_TOKENS: Final = 20
_PACE: Final = 8
_SETTLE_S: Final = 60
_WATCHDOG_S: Final = 20 / _PACE + 1
_CAPABILITIES: Final = (
    ("batch", "heartbeat", "resume", "details"),
    ("batch", "heartbeat", "resume", "details", "zstd"),
    ("resume", "details"),
    ("heartbeat", "resume", "details"),
    ("details",),
    (),
)

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a campaign found. ``counts`` are of everything that crossed the wires and reached the applications."""

    violations: list[Violation]
    counts: "Counter[str]" = field(default_factory=Counter)

    def line(self) -> str:
        """The last line."""
        names = ("clients", "frames", "replayed", "gaps", "duplicates", "reconnects", "resumed", "delivered")
        lost = sum(violation.invariant == "complete" for violation in self.violations)
        return " ".join((*(f"{name}={self.counts[name]}" for name in names), f"lost={lost}"))


async def run_campaign(
    clients: int, seed: int, *, fault_s: float = 4, say: Say = lambda text: None, save: Path | None = None
) -> Outcome:
    """Run one and judge it.

    Faults of single connections for ``fault_s``; the server stopped (SIGSTOP) past every time-out; everything reset
    at once; the server killed (SIGKILL) and started again, twice; then quiet, until every client holds every value.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.jsonl"
        server = ServedProcess(truth, seed=seed, tokens=_TOKENS, pace=_PACE, max_connections=clients * 3 + 10)
        await server.start()
        try:
            tokens = {symbol(number): address(number) for number in range(_TOKENS)}
            async with Fleet(server.port, clients, tokens, _config(draw), _planner(seed)) as fleet:
                await _torment(fleet, server, fault_s, say)
                await _settle(fleet, server, say)
                samples = await _resources(fleet, server)
                fleet.finish()
                counts = _count(fleet)
        finally:
            await server.end(signal.SIGKILL)
        history = sorted([*read_history(truth), *fleet.history, *samples], key=_time)
        if save is not None:
            with JsonlWriter(save) as writer:
                writer.extend(history)
    return Outcome(judge(history, exact=False), counts)


def _config(draw: random.Random) -> Callable[[int], ClientConfig]:
    def config(number: int) -> ClientConfig:
        capabilities = _CAPABILITIES[number % len(_CAPABILITIES)]
        every = "resume" in capabilities and number % 7 == 3
        return ClientConfig(
            url="ws://127.0.0.1",
            capabilities=capabilities,
            delivery="every" if every else "latest",
            max_retries=None,
            backoff_base_ms=draw.choice((100, 200)),
            backoff_cap_ms=1_000,
            connect_timeout_ms=1_500,
            idle_timeout_ms=20_000 // _PACE,
            ping_interval_ms=10_000 // _PACE,
            reply_timeout_ms=2_000,
            ack_frames=draw.choice((1, 8, 64)),
        )

    return config


def _planner(seed: int) -> Callable[[str], Callable[[int], Plan]]:
    return lambda name: random_plans(seed * 1_000 + int(name[1:]), mean_bytes=15_000)


async def _torment(fleet: Fleet, server: ServedProcess, fault_s: float, say: Say) -> None:
    say("faults of single connections: resets, half-open, black holes, slices, narrow lines, cuts at any byte")
    await asyncio.sleep(fault_s)
    say("the server stands still (SIGSTOP) for longer than every time-out")
    server.send(signal.SIGSTOP)
    await asyncio.sleep(4)
    server.send(signal.SIGCONT)
    await asyncio.sleep(2)
    say(f"{fleet.cut(reset=True)} connections reset at once")
    await asyncio.sleep(1)
    for wait_s in (0.0, 1.5):
        say("the server is killed (SIGKILL) and started again")
        await server.end(signal.SIGKILL)
        await asyncio.sleep(wait_s)
        await server.start()
        await asyncio.sleep(2)
    say(f"{fleet.cut(reset=False)} connections cut at once")
    await asyncio.sleep(1)


async def _settle(fleet: Fleet, server: ServedProcess, say: Say) -> None:
    say("quiet: no more faults, no more changes; waiting until everybody holds every newest value")
    fleet.calm()
    server.send(signal.SIGUSR1)
    for _ in range(int(_SETTLE_S / 0.5)):
        await asyncio.sleep(0.5)
        if fleet.states()[ConnectionState.CONNECTED] == len(fleet.members) and _agree(fleet):
            break
    await asyncio.sleep(_WATCHDOG_S)  # who sits on a dead line notices it, and must end up with the same


def _agree(fleet: Fleet) -> bool:
    """All clients hold one value for each token."""
    values: dict[str, set[str]] = {}
    for member in fleet.members:
        latest = member.client.latest if member.client is not None else {}
        held = {quote.address: quote.price for quote in latest.values()}
        if len(held) < len(member.tokens):
            return False
        for token, price in held.items():
            values.setdefault(token, set()).add(price)
    return all(len(prices) == 1 for prices in values.values())


async def _resources(fleet: Fleet, server: ServedProcess) -> list[Entry]:
    """In the end the server holds one connection for each client, whatever they went through."""
    begin = Sample(0, "server", {"connections": len(fleet.members)})
    connections = 0
    for _ in range(2 * _PACE):  # what vanished without a word is noticed by the heartbeat
        connections = await server.connections()
        if connections == len(fleet.members):
            break
        await asyncio.sleep(0.5)
    return [begin, Sample(now_ms(), "server", {"connections": connections})]


def _count(fleet: Fleet) -> "Counter[str]":
    counts = fleet.counts
    counts["clients"] = len(fleet.members)
    for member in fleet.members:
        counts.update({f"fault {name}": count for name, count in member.proxy.counts.items()})
        if member.client is None:
            continue
        metrics = member.client.metrics
        counts["duplicates"] += metrics.duplicates
        counts["gaps"] += metrics.gaps
        counts["reconnects"] += metrics.reconnects
        counts["resumed"] += metrics.resumes.get("resumed", 0)
        counts["delivered"] += metrics.updates
        counts["invalid"] += metrics.invalid_messages
    seen: set[tuple[str, int]] = set()
    for entry in fleet.history:
        if isinstance(entry, Sent) and entry.numbered:
            key = (entry.session, entry.sequence)
            counts["replayed"] += key in seen
            seen.add(key)
    return counts


def _time(entry: Entry) -> int:
    return entry.t


def main(arguments: list[str] | None = None) -> int:
    """0 when every invariant held, 1 when one did not."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.faults.real", description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4, help="how long single connections suffer faults")
    parser.add_argument("--save", type=Path, help="write the history to this file (JSON Lines)")
    options = parser.parse_args(arguments)
    logging.getLogger("tokenwire").setLevel(logging.ERROR)  # a hundred clients are cut off on purpose
    campaign = run_campaign(options.clients, options.seed, fault_s=options.seconds, say=print, save=options.save)
    outcome = asyncio.run(campaign)
    for violation in outcome.violations:
        print(violation)
    for name, count in sorted(outcome.counts.items()):
        print(f"  {name} {count}")
    print(outcome.line())
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
