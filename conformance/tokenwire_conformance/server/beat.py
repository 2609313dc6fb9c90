"""When updates come: the times between those of one token."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tokenwire_conformance.server.bench import Bench
from tokenwire_conformance.server.peer import Peer
from tokenwire_conformance.wire.messages import Received

__all__ = ["Beat", "Gap", "observe"]

_INTERVALS: Final = 5
_TOKENS: Final = 50
_HUGE_MS: Final = 10**15
_LONGEST_S: Final = 10.0
"""Update interval for which the deadlines of the cases are made."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two updates of a token."""

    come_s: float
    """As they came, which a busy machine or network changes."""
    stamped_s: float
    """By their timestamps; as they came, where one has none."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What was seen of a server's updates."""

    peer: Peer
    interval_s: float
    """What the server is said to have."""
    gaps: tuple[Gap, ...]
    """Between two updates of one token. The one behind its first update is left out, since that may come at
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
    updates: dict[str, list[Received]] = defaultdict(list)
    for message in peer.messages:
        if message.type == "token_update":
            updates[str(message.data.get("address"))].append(message)
    bench.need(updates, "no value came: name tokens that change with --tokens", peer)
    gaps = tuple(_gap(before, after) for row in updates.values() for before, after in pairwise(row[1:]))
    return Beat(peer, interval_s, gaps)


def _gap(before: Received, after: Received) -> Gap:
    come_s = after.at_s - before.at_s
    first, second = before.envelope.get("timestamp"), after.envelope.get("timestamp")
    if (
        not isinstance(first, (int, float))
        or not isinstance(second, (int, float))
        or max(abs(first), abs(second)) > _HUGE_MS
    ):
        return Gap(come_s, come_s)
    return Gap(come_s, float(second - first) / 1000)
