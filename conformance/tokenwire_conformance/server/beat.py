"""When updates come: the times between those of one token."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.peer import Peer

__all__ = ["Beat", "observe"]

_INTERVALS: Final = 5
_TOKENS: Final = 50
_LONGEST_S: Final = 10.0
"""Update interval for which the deadlines of the cases are made."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What was seen of a server's updates."""

    peer: Peer
    interval_s: float
    """What the server is said to have."""
    gaps: tuple[float, ...]
    """Seconds between two updates of one token. The one behind its first update is left out, since that may come at
    any time before a tick."""


async def observe(bench: Bench) -> Beat:
    """Subscribe, and look on for five intervals.

    Raises:
        NotTestableError: No value came, or the interval is too long.
    """
    interval_s = bench.facts.update_interval_s
    bench.need(interval_s <= _LONGEST_S, f"the update interval of {interval_s:g} s is too long for this case")
    peer = await bench.strict()
    names = bench.facts.live or bench.tokens(1)
    await peer.subscribe(names[: max(1, min(_TOKENS, peer.limit))])
    await peer.collect(_INTERVALS * interval_s + 1)
    times: dict[str, list[float]] = defaultdict(list)
    for message in peer.messages:
        if message.type == "token_update":
            times[str(message.data.get("address"))].append(message.at_s)
    bench.need(times, "no value came: name tokens that change with --tokens")
    gaps = tuple(after - before for at in times.values() for before, after in pairwise(at[1:]))
    return Beat(peer, interval_s, gaps)
