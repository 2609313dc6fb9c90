"""A server and its clients in memory and in virtual time, under the faults of one seed; then the judgement.

The cores are the real ones; everything around them (sockets, clocks, processes, applications) is simulated, and every
choice comes from the seed. It ends with a quiet period without faults, after which everything must have settled.
"""

import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import FrameType
from typing import Final

from loadtests.faults.engine import Scheduler
from loadtests.faults.history import Converged, Entry, Sample
from loadtests.faults.index import Violation
from loadtests.faults.invariants import judge
from loadtests.faults.setup import Fault, FaultKind, Setup, draw_setup
from loadtests.faults.sim_client import SimClient
from loadtests.faults.sim_server import SimServer
from tokenwire.states import ConnectionState

__all__ = ["Outcome", "World", "simulate"]

_QUIET_STEP_MS: Final = 2_000
_QUIET_MAX_MS: Final = 400_000
_SETTLED_MS: Final = 12_000


@dataclass
class Outcome:
    """What one seed came to."""

    setup: Setup
    history: list[Entry]
    violations: list[Violation]
    totals: "Counter[str]" = field(default_factory=Counter)


class World:
    """Everything there is in one simulation."""

    server_type: type[SimServer] = SimServer
    client_type: type[SimClient] = SimClient

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.history: list[Entry] = []
        self.scheduler = Scheduler()
        sockets = count()
        self.server = self.server_type(setup, self.scheduler, self.history.append)
        self.clients = [
            self.client_type(setup, own, self.server, self.scheduler, self.history.append, lambda: next(sockets))
            for own in setup.clients
        ]
        self.changing = True

    def run(self) -> None:
        """The whole story."""
        setup, scheduler, server = self.setup, self.scheduler, self.server
        for address in list(server.tokens)[: max(setup.tokens - 1, 1)]:
            server.change(address)  # one token may have no value yet
        self._sample()
        scheduler.after(setup.interval_ms, server.tick)
        scheduler.after(250, server.timers)
        scheduler.after(setup.change_every_ms, self._market)
        for number, client in enumerate(self.clients):
            scheduler.at(number * 50, client.start)
            names = [name for position, name in enumerate(server.tokens) if (position + number) % 4 != 3]
            scheduler.at(number * 50 + 10 * (setup.seed % 7), client.want, names)
        for fault in setup.faults:
            scheduler.at(fault.at, self._strike, fault)
        scheduler.run(setup.duration_ms)
        self._quiet()
        self._converge()
        self._end()

    def _market(self) -> None:
        still_from = self.setup.still_from_ms
        if self.changing and (still_from is None or self.scheduler.now < still_from):
            self.server.market()
            self.scheduler.after(self.setup.change_every_ms, self._market)

    # --- faults ----------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        """Let ``fault`` happen, if there is something for it to happen to."""
        if _FAULTS[fault.kind](self, self.clients[fault.client], fault.a, fault.b, fault.flag):
            self.server.totals[fault.kind] += 1

    def _cut(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        socket = client.socket
        if socket is None:
            return False
        socket.notice_ms = (0, 0, 300, 4_000, None)[b % 5]
        if flag:
            socket.cut_at = socket.delivered + a % 1500  # somewhere in what follows
            return True
        if a % 2:
            socket.swallow_up = True  # what is under way up is lost as well
        elif a % 4:
            socket.late_ms = 2_500  # … or arrives when another socket has the session
            socket.notice_ms = 4_000
        socket.cut()
        return True

    def _half_open(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        if client.socket is None:
            return False
        client.socket.swallow_down = a % 3 != 0
        client.socket.swallow_up = a % 3 != 1
        return True

    def _stall(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        if client.socket is None:
            return False
        client.socket.stall(a % 3_000 if flag else a % (90_000 // self.setup.pace))
        return True

    def _restart(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        self.server.die(tell=flag, keep=b % 2 == 0, down_ms=a % 6_000)
        return True

    def _drain(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        if not self.server.is_up or self.server.hub.draining:
            return False
        self.server.drain(a % 3_000)
        return True

    def _kill(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        if flag:
            client.save()
        client.kill(0 if flag else b % 3, vanish=a % 3 == 0, twist=a % 8)
        return True

    def _refuse(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        status = (503, 429, 500, 502)[a % 4]
        self.server.refusals += [(status, (None, 1_000, 3_000)[b % 3])] * (1 + a % 3)
        return True

    def _slow(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        client.slow.append((b % 8_000, 0) if flag else (0, b % 8_000))
        if client.socket is not None and a % 2:
            client.socket.notice_ms = None
            client.socket.cut()
        return True

    def _clock(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        step = (a - (1 << 15)) * 4
        if flag:
            self.server.wall_skew_ms += step
        else:
            client.wall_skew_ms += step
        return True

    def _pause(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        client.pause(a % 10_000)
        return True

    def _checkpoint(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        client.save()
        return True

    def _lose(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        # That the last message of all was lost shows only in a heartbeat; without that, something must follow.
        noticed = "heartbeat" in client.own.capabilities or self.setup.still_from_ms is None
        client.mischief.append(("drop", "drop", "repeat", "swap")[a % 4] if noticed else "repeat")
        return True

    def _burst(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        if not self.server.is_up:
            return False
        addresses = list(self.server.tokens)
        times = 1_100 if a % 8 == 0 and client.own.delivery == "every" else 2 + b % 20
        self.server.change(addresses[a % len(addresses)], times)
        return True

    def _churn(self, client: SimClient, a: int, b: int, flag: bool) -> bool:
        addresses = sorted(client.desired)
        if flag and addresses:
            client.unwant([addresses[b % len(addresses)]])
            if a % 4 == 0:  # and at once again
                client.want([addresses[b % len(addresses)]])
            return True
        names = [f"SYM{a % self.setup.tokens}" if b % 3 == 0 else f"t{a % self.setup.tokens}"]
        if b % 4 == 0:
            names.append("unknown")
        known = {self.server.resolve(name).address for name in names}
        client.want([name for name in names if not known & set(client.desired)] or ["unknown"])
        return True

    # --- the end ---------------------------------------------------------------------------------------------

    def _quiet(self) -> None:
        """No more faults: wait until everybody is connected again, and then for everything to settle."""
        scheduler, server = self.scheduler, self.server
        server.refusals.clear()
        for client in self.clients:
            client.slow.clear()
            client.mischief.clear()
            client.pause(0)
        end = scheduler.now + _QUIET_MAX_MS
        settled = scheduler.now + _SETTLED_MS
        while scheduler.now < min(settled, end):
            scheduler.run(scheduler.now + _QUIET_STEP_MS)
            if not (server.is_up and all(map(self._is_settled, self.clients))):
                settled = scheduler.now + _SETTLED_MS
            elif self.changing:
                self.changing = False
                settled = scheduler.now + _SETTLED_MS

    def _is_settled(self, client: SimClient) -> bool:
        if client.session.failure is not None:
            return True
        socket = client.socket
        return (
            client.session.state is ConnectionState.CONNECTED
            and socket is not None
            and not (socket.swallow_down or socket.swallow_up or socket.stalled)
        )

    def _converge(self) -> None:
        now = self.scheduler.now
        for client in self.clients:
            if client.session.failure is not None:
                continue
            socket = client.socket
            link = socket.link if socket is not None else None
            served = tuple(row.value.address for row in link.session.tokens.rows) if link is not None else None
            latest = {
                quote.address: quote.price
                for quote in (client.session.latest.get(name) for name in client.desired.values())
                if quote is not None
            }
            desired = tuple(sorted(client.desired))
            self.history.append(Converged(now, client.name, client.run, desired, served or (), latest))

    def _end(self) -> None:
        """Everybody leaves; nothing may be left."""
        for client in self.clients:
            client.close()
        self.scheduler.run(self.scheduler.now + 1_000)
        self.server.is_idle = True
        window = self.setup.resume_window_ms + 60_000
        self.scheduler.run(self.scheduler.now + window)
        self._sample()

    def _sample(self) -> None:
        hub = self.server.hub
        counts = {
            "links": len(hub.links),
            "rejected": hub.rejected,
            "sessions": len(hub.registry),
            "detached": len(hub.registry.detached),
            "frames held": hub.ledger.frames,
            "bytes held": hub.ledger.octets,
            "token sets": len(hub.sets),
            "subscriptions": hub.sets.subscriptions,
        }
        self.history.append(Sample(self.scheduler.now, "server", counts))


_FAULTS: Final[dict[FaultKind, Callable[[World, SimClient, int, int, bool], bool]]] = {
    "cut": World._cut,
    "half_open": World._half_open,
    "stall": World._stall,
    "restart": World._restart,
    "drain": World._drain,
    "kill": World._kill,
    "refuse": World._refuse,
    "slow": World._slow,
    "clock": World._clock,
    "churn": World._churn,
    "pause": World._pause,
    "checkpoint": World._checkpoint,
    "lose": World._lose,
    "burst": World._burst,
}


class _HungError(Exception):
    """A core does not come back."""


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Break off what takes longer, where the platform can: an endless loop must not hang a campaign."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise _HungError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def simulate(seed: int, *, world_type: type[World] = World, patience_s: float = 20) -> Outcome:
    """Live through the schedule of ``seed`` and judge it. An exception in either core counts as a violation."""
    setup = draw_setup(seed)
    world = world_type(setup)
    violations: list[Violation] = []
    try:
        with _patience(patience_s):
            world.run()
    except Exception:
        text = traceback.format_exc().strip()
        violations.append(Violation("defect", "", "", (), text, world.scheduler.now))
    history = world.history
    violations += judge(history, quiet=not violations)
    totals: Counter[str] = Counter()
    if not violations:
        totals.update(world.server.count())
        for client in world.clients:
            totals.update(client.count())
    totals["schedules"] = 1
    totals["entries"] = len(history)
    totals["calls"] = world.scheduler.calls
    return Outcome(setup, history, violations, totals)
