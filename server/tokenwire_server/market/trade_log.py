"""The newest trades of each token, numbered 1, 2, 3 … in the order of arrival.

The numbers are what lets a listener see a hole, and ask for what lies in it. They outlive the process if a history
keeps them (see :meth:`TradeLog.resume`).
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, NamedTuple

from tokenwire_server.market.trades import Trade

__all__ = ["MAX_LOGGED", "MAX_SKIPPED", "MAX_TRADES", "LogPlan", "NumberSupply", "NumberedTrade", "TradeLog"]

MAX_TRADES: Final = 1_000  # at hand of one token
MAX_SKIPPED: Final = 1_000
MAX_LOGGED: Final = 200_000  # at hand of all tokens, of some 450 bytes each


class NumberedTrade(NamedTuple):
    """A trade with its place among those of its token."""

    number: int
    trade: Trade


class NumberSupply:
    """Numbers that trades may be given, of all tokens together.

    Whoever keeps them beyond the process lets no more be given than it is sure to skip after a crash: ``reserved``,
    which ``extend`` raises when it has been reached (False: it can't). By default there is no end of them.
    """

    __slots__ = ("extend", "given", "reserved")

    def __init__(self) -> None:
        self.given = 0
        self.reserved = 1 << 62
        self.extend: Callable[[], bool] = lambda: False


class LogPlan:
    """How many trades each log keeps: the more tokens, the fewer. ``floor``: logs begin to number above it."""

    __slots__ = ("_most", "_total", "floor", "logs", "most")

    def __init__(self, most: int = MAX_TRADES, total: int = MAX_LOGGED) -> None:
        self._most = most
        self._total = total
        self.floor = 0
        self.logs = 0
        self.most = most

    def count_one(self) -> None:
        """One more token has a log."""
        self.logs += 1
        self.most = min(self._most, max(1, self._total // self.logs))


class TradeLog:
    """One token's newest trades. ``newest`` is the number of the last one, before the first that of none."""

    __slots__ = ("_plan", "_trades", "newest", "skipped")

    def __init__(self, plan: LogPlan) -> None:
        plan.count_one()
        self.skipped = 0  # numbers that the next trade leaves out, since as many trades could be given none
        self._plan = plan
        self._trades: deque[Trade] = deque()
        self.newest = plan.floor

    @property
    def oldest(self) -> int:
        """The number of the first trade at hand; with none at hand, of the next to come."""
        return self.newest - len(self._trades) + 1

    def add(self, trade: Trade) -> int:
        """Append a trade; its number."""
        trades = self._trades
        if self.skipped:
            trades.clear()  # what is at hand follows without a hole
            self.newest += self.skipped
            self.skipped = 0
        trades.append(trade)
        while len(trades) > self._plan.most:
            trades.popleft()
        self.newest += 1
        return self.newest

    def skip(self, count: int = 1) -> None:
        """Trades are missing, or could be given no number: whoever counts sees a hole of so many before the next one
        (of a thousand at most)."""
        self.skipped = min(self.skipped + count, MAX_SKIPPED)

    def after(self, number: int, limit: int) -> list[NumberedTrade]:
        """At most ``limit`` trades numbered above ``number``, ascending: of these the oldest that are at hand."""
        oldest = self.oldest
        first = max(oldest, number + 1)
        found = islice(self._trades, first - oldest, first - oldest + limit)
        return [NumberedTrade(first + at, trade) for at, trade in enumerate(found)]

    def before(self, number: int, limit: int) -> list[NumberedTrade]:
        """The ``limit`` trades next below ``number`` that are at hand, ascending."""
        last = min(self.newest, number - 1)
        return self.after(max(self.oldest - 1, last - limit), min(limit, max(0, last - self.oldest + 1)))

    def resume(self, newest: int, trades: Iterable[Trade] = ()) -> None:
        """Go on after number ``newest``, with the trades that end there."""
        self._trades = deque(trades, self._plan.most)
        self.newest = newest
