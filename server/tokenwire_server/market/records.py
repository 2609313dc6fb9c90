"""What a history keeps, as plain data: tokens, numbered trades and bars, and what is to be stored together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.trade_log import NumberedTrade
from tokenwire_server.market.trades import TokenInfo

__all__ = ["Batch", "Beginning", "NumberedTrade", "Series", "StoredToken"]

Series = tuple[str, int]
"""The bars of one token in one length: its wire address, the length in ms."""


class StoredToken(NamedTuple):
    """A token that traded, as of its last batch.

    ``info.address`` is the one on the wire, ``trades`` the number of its newest trade, ``now_ms`` the event time up to
    which its bars are closed, ``price`` the newest one and ``price_ms`` the event time of that.
    """

    info: TokenInfo
    source: str
    trades: int
    now_ms: int
    price: Decimal
    price_ms: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is stored together or not at all.

    A bar of ``bars`` takes the place of the one that begins when it does. A bar of ``late`` holds trades that
    came late: it is merged into whatever is stored by then, or stands alone. ``offsets`` say where each source
    goes on after this: a crash and a repetition from there give the same bars.
    """

    number: int
    """1, 2, 3 … since the history was opened: a batch that is tried again is stored once."""
    tokens: Sequence[StoredToken] = ()
    trades: Mapping[str, Sequence[NumberedTrade]] = field(default_factory=dict)
    """By the token's address, ascending."""
    bars: Mapping[Series, Mapping[int, Bar]] = field(default_factory=dict)
    """By beginning, Unix ms."""
    late: Mapping[Series, Mapping[int, Bar]] = field(default_factory=dict)
    """Likewise."""
    offsets: Mapping[str, str] = field(default_factory=dict)
    """Position by source."""
    numbered: int = 0
    """Trades that were ever numbered, of all tokens."""
    version: int = 0
    """No token has a higher one."""
    is_last: bool = False
    """Nothing follows: numbers go on exactly here."""

    def ids_of(self, address: str) -> set[str]:
        """Ids of this token's trades."""
        return {trade.trade_id for _, trade in self.trades.get(address, ())}

    def holds_bars(self, series: Series, before_ms: int) -> bool:
        """Whether there are bars that begin before this time."""
        return any(bars and min(bars) < before_ms for bars in (self.bars.get(series), self.late.get(series)))

    def holds_trades(self, address: str, before: int) -> bool:
        """Whether there are trades numbered below this."""
        trades = self.trades.get(address, ())
        return len(trades) > 0 and trades[0].number < before


class Beginning(NamedTuple):
    """What a process goes on from.

    ``stream`` names the lineage of the versions, ``version`` is above every one that may have been sent. ``numbered``
    counts the trades that were ever numbered, and tokens that are not stored begin to number above ``floor``.
    """

    stream: str
    version: int
    numbered: int
    floor: int
    offsets: Mapping[str, str]
