"""Where trades are missing, pure: the venue's own numbers, and where it has none, what a reconnection leaves open."""

import msgspec

from tokenwire_server.sources.frames import VenueTrade

__all__ = ["Continuity", "Hole"]


class Hole(msgspec.Struct, frozen=True):
    """Trades of ``symbol`` that did not come, between one (``after_…``) and the next that came (``before_…``).

    ``first`` and ``last`` are the missing numbers; both None where the venue does not number its trades, so that
    nobody knows how many there are, or whether there are any. Times are Unix ms.
    """

    symbol: str
    address: str
    after_id: str
    after_ms: int
    before_id: str
    before_ms: int
    first: int | None = None
    last: int | None = None

    @property
    def size(self) -> int:
        """How many trades are missing; 0 when nobody knows."""
        return 0 if self.first is None or self.last is None else self.last - self.first + 1


class _Mark(msgspec.Struct, frozen=True):
    """The newest trade of a symbol."""

    number: int | None
    trade_id: str
    time_ms: int
    connection: int


class Continuity:
    """The newest trade of every symbol: finds the holes. It grows with the symbols that are shown to it."""

    def __init__(self) -> None:
        self._newest: dict[str, _Mark] = {}
        self._connection = 0

    def reconnected(self) -> None:
        """What comes from now on comes over another connection."""
        self._connection += 1

    def resume(self, symbol: str, number: int, trade_id: str, time_ms: int) -> None:
        """The newest trade of a symbol as an earlier process knew it."""
        self._newest[symbol] = _Mark(number, trade_id, time_ms, self._connection - 1)

    def observe(self, item: VenueTrade) -> Hole | None:
        """Note a trade; the hole before it. Repeated and older numbers are never a hole."""
        trade = item.trade
        newest = self._newest.get(item.symbol)
        known = None if newest is None else newest.number
        if known is not None and item.number is not None and item.number <= known:
            return None
        self._newest[item.symbol] = _Mark(item.number, trade.trade_id, trade.time_ms, self._connection)
        if newest is None:
            return None
        first = last = None
        if item.number is not None and newest.number is not None:
            first, last = newest.number + 1, (item.number if item.first is None else item.first) - 1
            if first > last:
                return None
        elif newest.connection == self._connection or newest.trade_id == trade.trade_id:
            return None
        return Hole(
            symbol=item.symbol,
            address=trade.address,
            after_id=newest.trade_id,
            after_ms=newest.time_ms,
            before_id=trade.trade_id,
            before_ms=trade.time_ms,
            first=first,
            last=last,
        )
