"""Carries out a plan of faults on a cluster, starts again what ended, and writes down all of it."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from loadtests.distributed.cluster import Cluster
from loadtests.distributed.markers import OpenTransactions
from loadtests.distributed.roles import REPLACED, RoleProcess
from loadtests.distributed.schedule import ENGINES, Fault, FaultKind
from loadtests.faults.fleet import now_ms
from loadtests.faults.history import Entry, Faulted

__all__ = ["IN_TRANSACTION", "Supervisor"]

LOOK_S: Final = 0.25
COUNT_EVERY: Final = 3  # looks
RESTART_S: Final = 1.0  # after an end that nobody asked for
REPLACED_WITHIN_S: Final = 45.0  # in which who was replaced has to notice it
FIRST_READY_S: Final = 15.0
IN_TRANSACTION: Final = "killed in the middle of a transaction"
WRITERS: Final = ("collect", "process")
TRY_S: Final = 8.0  # to stop a writer while it has a transaction open
ENDED_S: Final = 0.3  # in which a transaction of somebody who was not stopped ends
GOES_ON_S: Final = (0.01, 0.15)  # between two tries
_LINES: Final = 4


class Supervisor:
    """``add`` gets the history, ``say`` what a person may want to know. ``counts``: what was done, by kind; ``kills``
    are those of each process. ``breaches``: what should not have happened."""

    def __init__(self, cluster: Cluster, add: Callable[[Entry], None], say: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.breaches: list[str] = []
        self.finished: set[str] = set()
        self._cluster = cluster
        self._add = add
        self._say = say
        self._busy: dict[str, asyncio.Lock] = {name: asyncio.Lock() for name in (*cluster.roles, *ENGINES)}
        self._watching: asyncio.Task[None] | None = None
        self._begun_ms = now_ms()
        self._open = OpenTransactions(cluster.kafka)
        self._chance = random.Random(0)

    async def start(self) -> None:
        """Start every role but the collectors, then these, and keep them alive from now on."""
        self._begun_ms = now_ms()
        others = [role for role in self._cluster.roles.values() if role.role != "collect"]
        await asyncio.gather(*(role.start() for role in others))
        for role in others:
            if role.role == "gateway" and not await role.ready():
                self._say(f"{role.name} is not ready: {role.last_words()}")
        await asyncio.gather(*(role.start() for role in self._cluster.of("collect")))
        self._watching = asyncio.create_task(self._watch(), name="supervisor")

    async def carry_out(self, faults: Sequence[Fault]) -> None:
        """All faults, each at its time from now on; returns when the last one is over."""
        begin_s = asyncio.get_running_loop().time()

        async def later(fault: Fault) -> None:
            await asyncio.sleep(begin_s + fault.at_s - asyncio.get_running_loop().time())
            async with self._busy[fault.whom]:
                await (self._break_engine(fault) if fault.whom in ENGINES else self._break_role(fault))

        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(later(fault))

    async def stop(self) -> None:
        """Watch no more; what runs goes on."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for role in self._cluster.roles.values():
            await role.count()

    def totals(self) -> "Counter[str]":
        """Counters of all roles over all lives."""
        total: Counter[str] = Counter()
        for role in self._cluster.roles.values():
            total.update(role.totals())
        return total

    @property
    def names(self) -> list[str]:
        """Of all processes."""
        return list(self._cluster.roles)

    @property
    def is_played(self) -> bool:
        """Every collector has come to the end of its tape."""
        return all(role.name in self.finished for role in self._cluster.of("collect"))

    # --- roles ---------------------------------------------------------------------------------------------------

    async def _break_role(self, fault: Fault) -> None:
        role = self._cluster.roles[fault.whom]
        if fault.whom in self.finished:
            self._tell(fault, "skipped: it has finished")
            return
        if not role.alive:
            await role.start()
            await role.ready(FIRST_READY_S)
        await role.count()
        if fault.kind is FaultKind.KILL and role.role in WRITERS and self.kills[role.name] % 2 == 0:
            is_open = await self._stop_with_a_transaction_open(role)
            self.counts[IN_TRANSACTION] += is_open
            self._tell(fault, "in the middle of a transaction" if is_open else "")
        else:
            self._tell(fault)
        match fault.kind:
            case FaultKind.KILL:
                self.kills[role.name] += role.alive
                await role.kill()
                await asyncio.sleep(fault.for_s)
                await role.start()
            case FaultKind.STOP:
                role.send(signal.SIGSTOP)
                await asyncio.sleep(fault.for_s)
                role.send(signal.SIGCONT)
            case FaultKind.RESTART:
                if not await role.end():
                    self.breaches.append(f"{role.name} did not end on SIGTERM")
                await role.start()
            case FaultKind.REPLACE:
                await self._replace(role, fault.for_s)
        self.counts[fault.kind] += 1

    async def _stop_with_a_transaction_open(self, role: RoleProcess) -> bool:
        """Whether it is stopped now, and has left a transaction open, as far as can be seen: one that another writer
        left open when it was stopped looks the same. Every other kill is like that, the others come at any instant."""
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + TRY_S
        while now_s() < until_s:
            role.send(signal.SIGSTOP)
            before = await asyncio.to_thread(self._open.places)
            if before:
                await asyncio.sleep(ENDED_S)
                if before & await asyncio.to_thread(self._open.places):
                    return True
            role.send(signal.SIGCONT)
            await asyncio.sleep(self._chance.uniform(*GOES_ON_S))
        return False

    async def _replace(self, former: RoleProcess, for_s: float) -> None:
        former.is_expected = True
        former.send(signal.SIGSTOP)
        successor = await former.successor()
        self._cluster.roles[former.name] = successor
        await asyncio.sleep(for_s)
        former.send(signal.SIGCONT)
        if not await former.wait(REPLACED_WITHIN_S):
            self.breaches.append(f"{former.name} was replaced and goes on")
            await former.kill()
        elif former.exit_code == REPLACED:
            self.counts["fenced"] += 1
        else:
            self.breaches.append(f"{former.name} was replaced and ended with {former.exit_code}: {former.last_words()}")
        successor.inherit(former)

    async def _watch(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(LOOK_S)
            looks += 1
            for name, role in list(self._cluster.roles.items()):
                if not role.alive and not role.is_expected and not self._busy[name].locked():
                    await self._ended(role)
            if looks % COUNT_EVERY == 0:
                await asyncio.gather(*(role.count() for role in self._cluster.roles.values()))

    async def _ended(self, role: RoleProcess) -> None:
        code = role.exit_code
        if role.role == "collect" and code == 0:
            self.finished.add(role.name)
            role.is_expected = True
            self._say(f"{role.name} has come to the end of its tape")
            return
        async with self._busy[role.name]:
            self._add(Faulted(now_ms(), f"ended by itself with {code}", role.name))
            self.counts["ended by themselves"] += 1
            self.counts["fenced"] += code == REPLACED
            words = role.last_words(_LINES)
            self._say(f"{self._at()} {role.name} ended by itself with {code}:\n{words}")
            if code not in (1, REPLACED):
                self.breaches.append(f"{role.name} ended by itself with {code}: {words}")
            await asyncio.sleep(RESTART_S)
            await role.start()

    # --- engines -------------------------------------------------------------------------------------------------

    async def _break_engine(self, fault: Fault) -> None:
        engine = self._cluster.engine(fault.whom)
        self._tell(fault)
        if fault.kind is FaultKind.KILL:
            self.kills[fault.whom] += 1
            await asyncio.to_thread(engine.kill)
            await asyncio.sleep(fault.for_s)
            await asyncio.to_thread(engine.start)
        else:
            await asyncio.to_thread(engine.restart)
        self.counts[f"{fault.whom} {fault.kind}"] += 1

    def _tell(self, fault: Fault, more: str = "") -> None:
        self._add(Faulted(now_ms(), fault.kind, fault.whom, round(fault.for_s * 1_000)))
        self._say(f"{self._at()} {fault.kind} {fault.whom} {fault.for_s:.1f} s {more}".rstrip())

    def _at(self) -> str:
        return f"{(now_ms() - self._begun_ms) / 1_000:6.1f} s"
