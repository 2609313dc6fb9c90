"""Pages of numbered trades: which ones a request is answered with, and which can't be had any more. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenwire_server.market.trade_log import NumberedTrade, TradeLog

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "TradePage", "TradeRequest", "trade_page_of"]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000


class TradeRequest(NamedTuple):
    """Trades numbered above ``after``: the oldest ``limit`` of them; or the newest below ``before``, or of all."""

    after: int | None = None
    before: int | None = None
    limit: int = DEFAULT_LIMIT


class TradePage(NamedTuple):
    """Trades by ascending number.

    ``oldest`` is the number of the first trade that can still be had, ``newest`` that of the last (0: there was none
    yet). Where none can be had, ``oldest`` is the number of the next one to come. Numbers below ``oldest`` are gone;
    one that is skipped from ``oldest`` on was never given to a trade.
    """

    trades: Sequence[NumberedTrade]
    oldest: int
    newest: int


def trade_page_of(log: TradeLog | None, request: TradeRequest) -> TradePage:
    """The page as far as the trades at hand go; ``log`` is None before the first trade."""
    if log is None:
        return TradePage((), 1, 0)
    after, before, limit = request
    if after is None:
        found = log.before(log.newest + 1 if before is None else before, limit)
    else:
        found = log.after(after, limit)
        if before is not None:
            found = [each for each in found if each.number < before]
    return TradePage(found, log.oldest, log.newest)
