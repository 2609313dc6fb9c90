"""What stands in the compacted topic of token states: the newest snapshot of each token of a partition, and a cut."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final, NamedTuple, Protocol

from tokenwire_server.bus.port import COMPACTION_LAG_MS, Bus, Place
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.stream.records import CUT_KEY, Cut, read_cut, read_snapshot

__all__ = ["Begins", "StoredState", "load_state", "read_state"]

MAX_READ_S: Final = COMPACTION_LAG_MS / 2_000  # after longer than this something may have left that had been there
_BREATH_TOKENS: Final = 20  # of 60 KB at most, before others have their turn


class Begins(Protocol):
    """Whoever can begin at a cut: ``Fold`` and ``Replica``."""

    def begin(self, cut: Cut) -> None:
        """Be at a cut."""

    def add(self, token: TokenSnapshot) -> None:
        """Know a token. Raises ValueError."""


class StoredState(NamedTuple):
    """A cut, and the newest snapshot of each token as it stands there, by key."""

    cut: Cut
    tokens: dict[bytes, bytes]


async def read_state(bus: Bus, place: Place, monotonic_s: Callable[[], float] = time.monotonic) -> StoredState:
    """Where a partition stood last; nothing was written yet: at the beginning of everything.

    Raises:
        BusError: try again.
        PoisonError: the cut can't be read.
    """
    newest: dict[bytes, bytes] = {}
    first = 0
    is_whole = False
    while not is_whole:  # what leaves while this reads has a newer one behind the end: then that is read too
        began_s = monotonic_s()
        _, end = await bus.bounds(place)
        async with aclosing(bus.pieces(place, first, end)) as pieces:
            async for piece in pieces:
                newest.update((record.key, record.value) for record in piece)
        first = max(first, end)
        is_whole = monotonic_s() - began_s < MAX_READ_S
    cut = newest.pop(CUT_KEY, None)
    return StoredState(Cut(0, 0, 0, {}) if cut is None else read_cut(cut), newest)


async def load_state(state: StoredState, into: Begins) -> None:
    """Have somebody begin there; ``state`` is used up.

    Raises:
        ValueError: a snapshot can't be read (PoisonError), or as ``into`` says.
    """
    into.begin(state.cut)
    at = 0
    while state.tokens:
        into.add(read_snapshot(state.tokens.popitem()[1]))
        at += 1
        if at % _BREATH_TOKENS == 0:
            await asyncio.sleep(0)
