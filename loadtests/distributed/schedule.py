"""What is broken when: a plan made of a seed, pure. Each part has its own sequence of faults; those of different parts
fall together as chance has it."""

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["ENGINES", "Fault", "FaultKind", "plan_faults"]

KILL_GAP_S: Final = (0.0, 1.5)  # from a kill to the next life
SHORT_STOP_S: Final = (1.0, 4.0)
LONG_STOP_S: Final = 12.0  # longer than a session (6 s) and a transaction (10 s) may be
SETTLE_S: Final = 2.0  # after a fault, before the next one of the same part
ENGINES: Final = ("kafka", "postgres", "redis")


class FaultKind(StrEnum):
    """What is done to a part."""

    KILL = "kill"  # SIGKILL, and a new life
    STOP = "stop"  # SIGSTOP, and SIGCONT
    REPLACE = "replace"  # SIGSTOP, another process of the same name, SIGCONT: the former must end
    RESTART = "restart"  # SIGTERM, which it answers in good order, and a new life


class Fault(NamedTuple):
    """At ``at_s`` seconds after the beginning. ``for_s``: how long until it goes on."""

    at_s: float
    kind: FaultKind
    whom: str
    for_s: float


def plan_faults(
    seed: int, roles: Mapping[str, str], *, begin_s: float, end_s: float, kills: int, full: bool
) -> list[Fault]:
    """The faults between two times, in order. ``roles``: the role of each process by its name. Each process is killed
    ``kills`` times; ``full``: besides, they are stopped, replaced and restarted, and so are the engines."""
    faults = []
    for name, role in sorted(roles.items()):
        kinds = [FaultKind.KILL] * kills
        if full:
            kinds += _more(role)
        faults += _spread(random.Random(f"{seed}/{name}"), name, kinds, begin_s, end_s)
    for name in ENGINES if full else ():
        kinds = [FaultKind.KILL, FaultKind.RESTART]
        faults += _spread(random.Random(f"{seed}/{name}"), name, kinds, begin_s, end_s)
    return sorted(faults)


def _more(role: str) -> list[FaultKind]:
    match role:
        case "gateway":
            return [FaultKind.STOP, FaultKind.STOP, FaultKind.RESTART, FaultKind.RESTART]
        case "load":
            return [FaultKind.STOP, FaultKind.STOP, FaultKind.RESTART]
        case _:
            return [FaultKind.STOP, FaultKind.STOP, FaultKind.REPLACE]


def _spread(chance: random.Random, name: str, kinds: Sequence[FaultKind], begin_s: float, end_s: float) -> list[Fault]:
    """One in each of as many equal parts of the time, in any order, at any instant."""
    order = list(kinds)
    chance.shuffle(order)
    step_s = (end_s - begin_s) / max(1, len(order))
    is_long = True
    found = []
    for place, kind in enumerate(order):
        for_s = chance.uniform(*KILL_GAP_S)
        if kind is FaultKind.REPLACE:
            for_s = LONG_STOP_S
        elif kind is FaultKind.STOP:  # every other one is a long one
            for_s = LONG_STOP_S if is_long else chance.uniform(*SHORT_STOP_S)
            is_long = not is_long
        room_s = max(0.0, step_s - for_s - SETTLE_S)
        found.append(Fault(begin_s + place * step_s + chance.uniform(0, room_s), kind, name, for_s))
    return found
