"""Up to which trade everything of a symbol was delivered, as a text that outlives the process: pure.

A venue that numbers its trades can be asked for those after the last one that was stored, however long ago that was.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from tokenwire_server.sources.continuity import Continuity
from tokenwire_server.sources.frames import VenueTrade

__all__ = ["TOLD_EVERY_S", "Positions", "furthest", "read_positions"]

TOLD_EVERY_S: Final = 0.1
"""How seldom a position is told. What is repeated after a restart because of that is known by its ids."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The newest trade of a symbol before which nothing is missing."""

    number: int
    trade_id: str
    time_ms: int


_decoder: Final = msgspec.json.Decoder(dict[str, Position])


class Positions:
    """While a hole of a symbol is open its position stays before the hole, whatever is delivered."""

    def __init__(self) -> None:
        self._safe: dict[str, Position] = {}
        self._newest: dict[str, Position] = {}
        self._holes: dict[str, int] = {}
        self._told_s = float("-inf")
        self._is_new = False

    def delivered(self, items: Iterable[VenueTrade]) -> None:
        """These trades were delivered."""
        for item in items:
            newest = self._newest.get(item.symbol)
            if item.number is not None and (newest is None or item.number > newest.number):
                position = Position(item.number, item.trade.trade_id, item.trade.time_ms)
                self._newest[item.symbol] = position
                if not self._holes.get(item.symbol):
                    self._safe[item.symbol] = position
                    self._is_new = True

    def opened(self, symbol: str) -> None:
        """A hole is to be filled."""
        self._holes[symbol] = self._holes.get(symbol, 0) + 1

    def settled(self, symbol: str) -> None:
        """A hole was filled, or never will be; called once what filled it was delivered."""
        self._holes[symbol] = self._holes.get(symbol, 1) - 1
        newest = self._newest.get(symbol)
        if self._holes[symbol] == 0 and newest is not None:
            self._safe[symbol] = newest
            self._is_new = True

    def resume(self, positions: Mapping[str, Position], continuity: Continuity) -> None:
        """Go on behind these."""
        for symbol, position in positions.items():
            self._safe[symbol] = self._newest[symbol] = position
            continuity.resume(symbol, position.number, position.trade_id, position.time_ms)

    def due(self, now_s: float) -> str | None:
        """The text to be told now, if there is something new and it is time."""
        if not self._is_new or now_s - self._told_s < TOLD_EVERY_S:
            return None
        self._is_new = False
        self._told_s = now_s
        return msgspec.json.encode(self._safe).decode()


def read_positions(text: str) -> Mapping[str, Position]:
    """The position of each symbol. Raises ValueError if the text is of something else."""
    return _decoder.decode(text)


def furthest(several: Iterable[Mapping[str, Position]], wanted: Collection[str]) -> dict[str, Position]:
    """The position of each of the ``wanted`` symbols with the highest number; of equal ones the last."""
    found: dict[str, Position] = {}
    for positions in several:
        for symbol in positions.keys() & wanted:
            if symbol not in found or positions[symbol].number >= found[symbol].number:
                found[symbol] = positions[symbol]
    return found
