"""Which fault befalls which connection: plans for the proxy, the same ones for the same seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CALM", "Direction", "Plan", "Planner", "random_plans"]

Direction = Literal["down", "up"]
"""``down`` is from the server to the client."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one connection. Offsets count bytes of ``direction`` from the connection's start.

    At most one fault ends or cripples a connection; latency, bandwidth and slicing go along with any of them.
    """

    latency_ms: int = 0
    """Added to every byte, both directions."""
    bytes_per_s: int | None = None
    """At most so many, in each direction."""
    slice_bytes: int | None = None
    """No write is longer than this."""
    direction: Direction = "down"
    cut_after: int | None = None
    """Both sides see the end (FIN) after this byte."""
    reset: bool = False
    """The cut is an RST instead."""
    swallow_after: int | None = None
    """Half-open: what follows in ``direction`` is read and thrown away, and nobody is told."""
    blackhole_after: int | None = None
    """The same in both directions, from this byte of ``direction`` on."""
    stall_after: int | None = None
    """Nothing is read any more in ``direction``, so its sender's buffers fill up …"""
    stall_ms: int | None = None
    """… for so long; None: until the connection ends."""
    corrupt_at: int | None = None
    """The byte at this offset arrives with its bits inverted."""


CALM: Final = Plan()
Planner = Callable[[int], Plan]
"""From the number of a connection, counted from 0, to its plan."""

_FAULTS: Final = ("none", "cut", "reset", "swallow", "blackhole", "stall", "stall for ever")


def random_plans(seed: int, *, mean_bytes: int = 20_000, corrupt: bool = False) -> Planner:
    """Plans drawn from ``seed``: a fault after ``mean_bytes`` on average, or none; any latency and slicing.

    The plan of connection ``n`` does not depend on when it is made. ``corrupt`` adds damaged bytes, which TCP's
    checksums make rare and only TLS rules out.
    """

    def plan(number: int) -> Plan:
        draw = random.Random(f"{seed}:{number}")
        fault = draw.choice((*_FAULTS, "corrupt") if corrupt else _FAULTS)
        after = int(draw.expovariate(1 / mean_bytes))
        return Plan(
            latency_ms=draw.choice((0, 0, 1, 5, 40)),
            bytes_per_s=draw.choice((None, None, None, 50_000)),
            slice_bytes=draw.choice((None, None, 1000, 100, 7)),
            direction=draw.choice(("down", "up")),
            cut_after=after if fault in ("cut", "reset") else None,
            reset=fault == "reset",
            swallow_after=after if fault == "swallow" else None,
            blackhole_after=after if fault == "blackhole" else None,
            stall_after=after if fault.startswith("stall") else None,
            stall_ms=draw.randrange(100, 5000) if fault == "stall" else None,
            corrupt_at=after if fault == "corrupt" else None,
        )

    return plan
