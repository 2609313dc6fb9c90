"""Which workloads a run has, who takes part in each, for how long, and in what order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["PLANS", "WORKLOADS", "Entry", "Plan", "in_turn"]

Phase = Literal["ticks", "idle", "storm"]


@dataclass(frozen=True)
class Entry:
    """How one workload is measured. ``ticks`` are counted per run; ``ours`` are modes, the first one's floor is also
    that of the peers."""

    workload: str
    ours: Sequence[str]
    ticks: int
    compressed: bool = False
    phase: Phase = "ticks"
    has_floor: bool = True
    has_peers: bool = True
    checked: bool = True
    max_rounds: int = 9
    daily_peers: Sequence[str] = ()
    """Other than the plan's own, where not everybody is worth the time."""


WORKLOADS: Final[Mapping[str, Entry]] = {
    entry.workload: entry
    for entry in (
        Entry("W1", ["strict", "resume"], 40),
        Entry("W2", ["deflate", "zstd"], 5, compressed=True,
              daily_peers=["websockets", "ws", "bun", "socketio"]),
        Entry("W2-all", ["deflate", "zstd", "batch", "deflate+resume"], 6, compressed=True),
        Entry("W3", ["deflate", "zstd"], 4, compressed=True, daily_peers=["websockets", "ws", "bun"]),
        Entry("W4", ["deflate", "zstd", "batch"], 8, compressed=True),
        Entry("W5", ["strict", "strict+deflate"], 0, phase="idle", has_floor=False, checked=False, max_rounds=1,
              daily_peers=["ws", "bun", "socketio"]),
        Entry("W6", ["deflate", "batch"], 30, compressed=True, has_floor=False, has_peers=False, max_rounds=2),
        Entry("W7", ["deflate"], 0, phase="storm", has_floor=False, has_peers=False, checked=False),
        Entry("W7-strict", ["strict"], 0, phase="storm", has_floor=False, has_peers=False, checked=False),
        Entry("W8", ["strict"], 6, daily_peers=["ws", "bun", "websockets", "socketio"]),
        Entry("W9", ["strict"], 2, daily_peers=["websockets", "ws", "bun", "picows"]),
        Entry("spec", ["batch", "deflate", "zstd"], 3, has_floor=False, has_peers=False, max_rounds=2),
        Entry("spec-strict", ["strict"], 3, has_floor=False, has_peers=False, max_rounds=2),
        Entry("mixed", ["batch", "deflate", "zstd"], 3, has_floor=False, has_peers=False, max_rounds=2),
        Entry("mixed-strict", ["strict"], 3, has_floor=False, has_peers=False, max_rounds=2),
        *(Entry(f"C{n}", ["deflate"], 6, has_peers=False, max_rounds=2) for n in (100, 300, 1000, 3000)),
        *(Entry(f"T{n}", ["deflate"], 6, has_peers=False, max_rounds=2) for n in (1, 10, 100, 1000)),
        *(Entry(f"O{n}", ["deflate"], 6, has_peers=False, max_rounds=2) for n in (0, 50, 90, 100)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A run. ``peers`` None: all there are; ``narrow`` keeps to each workload's own list of them."""

    name: str
    workloads: Sequence[str]
    peers: Sequence[str] | None
    rounds: int
    narrow: bool = True
    fewer_ours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fewer_rounds: Mapping[str, int] = field(default_factory=dict)
    share_of_ticks: float = 1.0
    market: Sequence[str] = ()
    """Of the market's tasks."""
    market_size: Literal["daily", "full"] = "daily"

    def rounds_of(self, entry: Entry) -> int:
        """Rounds of this workload."""
        return min(self.fewer_rounds.get(entry.workload, self.rounds), self.rounds, entry.max_rounds)

    def ticks_of(self, entry: Entry) -> int:
        """Ticks measured in each run."""
        return max(2, round(entry.ticks * self.share_of_ticks))

    def modes_of(self, entry: Entry) -> Sequence[str]:
        """Modes of ours in this run."""
        return self.fewer_ours.get(entry.workload, entry.ours)

    def peers_of(self, entry: Entry, every: Sequence[str]) -> list[str]:
        """Peers in this workload, of all names there are."""
        if not entry.has_peers:
            return []
        chosen = list(every if self.peers is None else self.peers)
        if self.narrow and entry.daily_peers:
            chosen = [name for name in chosen if name in entry.daily_peers]
        return chosen


MARKET: Final = ("M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M9")
SIX: Final = ("websockets", "ws", "bun", "picows", "aiohttp", "socketio")

PLANS: Final[Mapping[str, Plan]] = {
    "quick": Plan(
        "quick",
        ("W1", "W2", "W9"),
        ("ws", "bun", "websockets"),
        1,
        fewer_ours={"W1": ["strict"], "W2": ["deflate"]},
        share_of_ticks=0.6,
    ),
    "daily": Plan(
        "daily",
        ("W1", "W2", "W3", "W5", "W9"),
        SIX,
        3,
        fewer_ours={"W3": ["deflate"]},
        fewer_rounds={"W1": 2, "W3": 2, "W9": 2},
        market=MARKET,
    ),
    "full": Plan("full", tuple(WORKLOADS), None, 3, narrow=False, market=MARKET, market_size="full"),
}


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round (0, 1, 2 …): there and back (ABBA), so that a drift of the machine favours nobody."""
    return list(names if number % 2 == 0 else reversed(names))
