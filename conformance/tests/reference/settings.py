"""How a reference server is set up."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from conformance.tests.reference.faults import FAULTS

__all__ = ["CAPABILITIES", "Settings"]

CAPABILITIES: Final = frozenset({"batch", "channels", "details", "heartbeat", "resume", "zstd"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One mistake is one name in ``faults``; without any the server keeps every clause."""

    faults: frozenset[str] = frozenset()
    wall_ms: Callable[[], float] = field(default=lambda: time.time() * 1000)
    """Unix time."""
    tokens: int = 300
    """How many the server knows."""
    accepts_any: bool = False
    """Whether a name that it does not know is a token too."""
    update_interval_s: float = 5.0
    max_connections: int = 1000
    capabilities: frozenset[str] = CAPABILITIES
    """What is granted to who asks."""

    def __post_init__(self) -> None:
        unknown = self.faults - FAULTS
        if unknown:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
