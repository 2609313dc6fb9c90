"""What the cache reads of a market that it publishes."""

from collections.abc import Callable
from typing import Protocol

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.ranking import Ranking
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.token_pages import TokenPages
from tokenwire_server.market.trades import Trade
from tokenwire_server.ports import FollowStatus

__all__ = ["PublishedMarket"]


class PublishedMarket(Protocol):
    """Its tokens, their orders and rows, their bars, and who is told of trades."""

    market: Market
    ranking: Ranking
    token_pages: TokenPages
    trade_listeners: list[Callable[[TokenState, int, Trade], None]]

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""

    @property
    def follow_status(self) -> Callable[[], FollowStatus | None]:
        """How it is with following a log; None where none is followed."""

    def open_bar(self, address: str, interval: Interval) -> Bar | None:
        """The running bar."""

    def resolve(self, name: str) -> Resolution:
        """What a name for a token means."""

    def now_ms(self) -> int:
        """A clock that never goes back."""
