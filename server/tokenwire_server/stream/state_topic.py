"""What stands in the compacted topic of token states: where a partition's tokens were at the newest cut."""

from collections.abc import Sequence

from tokenwire_server.bus.port import Bus, Place
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.stream.records import CUT_KEY, Cut, read_cut, read_snapshot

__all__ = ["read_state"]


async def read_state(bus: Bus, place: Place) -> tuple[Sequence[TokenSnapshot], Cut]:
    """The newest snapshot of each token of a partition, and where they belong; nothing was written yet: none, at the
    beginning of everything."""
    cut = Cut(0, 0, 0, {})
    tokens: dict[bytes, bytes] = {}
    _, end = await bus.bounds(place)
    for record in await bus.read(place, 0, end):
        if record.key == CUT_KEY:
            cut = read_cut(record.value)
        else:
            tokens[record.key] = record.value
    return [read_snapshot(value) for value in tokens.values()], cut
