"""Cores and ports of this machine, for what starts processes of its own. Linux only."""

import contextlib
import os
import socket
from pathlib import Path

__all__ = ["apart", "free_port"]


def apart() -> tuple[int, list[int]]:
    """A core for a server, and those for whoever loads it: other cores than that one's threads where there are any,
    else what else may be used; none on a machine of one core."""
    first, *others = sorted(os.sched_getaffinity(0))
    siblings = _siblings(first)
    return first, [core for core in others if core not in siblings] or others


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _siblings(core: int) -> set[int]:
    """Every thread of the core that this one belongs to."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    found: set[int] = set()
    with contextlib.suppress(OSError, ValueError):
        for part in path.read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found
