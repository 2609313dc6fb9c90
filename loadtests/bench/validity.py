"""When a run does not count. Pure: each rule looks at what was measured and says in one line what is wrong."""

from collections.abc import Sequence
from typing import Final

from loadtests.bench.measure import Measurement
from loadtests.bench.oracle import Verdict
from loadtests.bench.plan import Phase

__all__ = ["FLOOR_BYTES_TOLERANCE", "MAX_SINK_CPU", "MIN_REACH", "faults", "floor_faults"]

MAX_SINK_CPU: Final = 0.85
"""Share of its core: above, the sink's own queue would be in the delays."""
MIN_REACH: Final = 0.999
"""Received within the measured phase, of what was expected."""
FLOOR_BYTES_TOLERANCE: Final = 0.02
"""How far the floor's bytes per tick may be from those of the server it stands for."""
_MAX_LATE: Final = 0.001


def faults(run: Measurement, phase: Phase, dead: int = 0) -> list[str]:
    """Everything that makes this run invalid; empty when it counts."""
    found: list[str] = []
    if run.closed > dead:
        found.append(f"the server closed {run.closed} connections")
    readers = run.connections - (run.verdict.clients if run.verdict else 0)
    if run.asked_deflate and run.deflated < readers:
        found.append(f"permessage-deflate was accepted for {run.deflated} of {readers} connections")
    if phase != "ticks":
        return found
    reach = run.received / run.expected if run.expected else 0.0
    if reach < MIN_REACH:
        found.append(f"only {reach:.1%} of the messages arrived in time")
    elif run.late > _MAX_LATE * run.received:
        found.append(f"{run.late / run.received:.1%} of the messages came a whole interval late")
    if run.asked_packed and run.packed < MIN_REACH * run.received:
        found.append(f"only {run.packed} of {run.received} messages came compressed")
    if run.sink_cpu > MAX_SINK_CPU:
        found.append(f"the sink used {run.sink_cpu:.0%} of its core")
    found += _by_the_checker(run.verdict)
    if run.us_per_message <= 0:
        found.append("the server's CPU time was below its idle rate")
    return found


def _by_the_checker(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return []
    if verdict.mismatch:
        return [f"the checker found: {verdict.mismatch}"]
    if verdict.missing:
        return [f"the checker missed {verdict.missing} ticks"]
    if verdict.behind > _MAX_LATE * max(verdict.messages, 1):
        return [f"the checker got {verdict.behind} messages a whole interval late"]
    return [] if verdict.clients and verdict.messages else ["the checker saw nothing"]


def floor_faults(floor: Measurement, others: Sequence[Measurement]) -> list[str]:
    """What is wrong with a floor beside the servers that it stands for, in one round."""
    found: list[str] = []
    for run in others:
        difference = abs(floor.bytes_per_tick - run.bytes_per_tick) / max(run.bytes_per_tick, 1)
        if difference > FLOOR_BYTES_TOLERANCE:
            found.append(
                f"the floor sends {floor.bytes_per_tick:.0f} bytes per tick, "
                f"{run.label} {run.bytes_per_tick:.0f} ({difference:.1%} apart)"
            )
    return found
