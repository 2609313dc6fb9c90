"""Live trades kept back, for a short while, until a hole before them is filled: pure.

Trades then reach the market in their order. A hole that takes longer than the hold, or more trades than may be
kept, ends the hold: the live ones go on, and what is fetched later comes late (which the market corrects).
"""

from collections.abc import Iterable

from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import VenueTrade

__all__ = ["Holds"]


class _Hold:
    __slots__ = ("kept", "until_s", "waiting")

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.waiting: set[Hole] = set()
        self.kept: list[VenueTrade] = []


class Holds:
    """At most ``max_trades`` are kept at once, each at most ``hold_s`` seconds (of the clock that ``now_s`` is of)."""

    def __init__(self, hold_s: float, max_trades: int) -> None:
        self._hold_s = hold_s
        self._max_trades = max_trades
        self._holds: dict[str, _Hold] = {}
        self._kept = 0

    @property
    def kept(self) -> int:
        """How many trades are kept back now."""
        return self._kept

    def open(self, hole: Hole, now_s: float) -> None:
        """From now on trades of this symbol wait for the hole to be settled."""
        hold = self._holds.get(hole.symbol)
        if hold is None:
            # A second hole does not prolong the wait of what is kept already.
            hold = self._holds[hole.symbol] = _Hold(now_s + self._hold_s)
        hold.waiting.add(hole)

    def offer(self, item: VenueTrade) -> list[VenueTrade]:
        """A live trade; what is to be delivered now, in order."""
        hold = self._holds.get(item.symbol)
        if hold is None:
            return [item]
        hold.kept.append(item)
        self._kept += 1
        return self._release(item.symbol) if self._kept > self._max_trades else []

    def settle(self, hole: Hole, fetched: Iterable[VenueTrade]) -> list[VenueTrade]:
        """The hole is filled as far as it ever will be; what is to be delivered now, in order."""
        hold = self._holds.get(hole.symbol)
        if hold is None:
            return list(fetched)
        hold.waiting.discard(hole)
        filling = list(fetched)
        self._kept += len(filling)
        hold.kept = filling + hold.kept
        go_on = not hold.waiting or self._kept > self._max_trades
        return self._release(hole.symbol) if go_on else []

    def overdue(self, now_s: float) -> list[VenueTrade]:
        """End the holds whose time is over; what is to be delivered now."""
        symbols = [symbol for symbol, hold in self._holds.items() if hold.until_s <= now_s]
        return [item for symbol in symbols for item in self._release(symbol)]

    def flush(self) -> list[VenueTrade]:
        """End every hold; what is to be delivered now."""
        return [item for symbol in list(self._holds) for item in self._release(symbol)]

    def _release(self, symbol: str) -> list[VenueTrade]:
        kept = self._holds.pop(symbol).kept
        self._kept -= len(kept)
        return sorted(kept, key=lambda item: item.number or 0)  # stable: where there are no numbers, as it came
