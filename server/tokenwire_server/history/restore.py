"""The market as it was: tokens, newest trades, bars and windows, read from the history before anything else happens."""

import asyncio
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from tokenwire_server.errors import UserError
from tokenwire_server.history.port import History
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import UNOWNED, Market
from tokenwire_server.market.records import NumberedTrade, StoredToken
from tokenwire_server.market.rolling import H1, H24, M5
from tokenwire_server.market.trade_log import MAX_TRADES
from tokenwire_server.market.trades import Trade

__all__ = ["MAX_RESTORED_TRADES", "restore"]

MAX_RESTORED_TRADES: Final = 500_000  # of all tokens together; more tokens, fewer trades of each
_END_OF_TIME_MS: Final = 1 << 53
_NO_LIMIT: Final = 1 << 31
_READ_AT_ONCE: Final = 32  # tokens
_WINDOWS: Final = (H24, H1, M5)


class _Read(NamedTuple):
    """What is stored of one token: its newest trades, bars of each length, turnovers for each window."""

    token: StoredToken
    trades: list[NumberedTrade]
    bars: list[list[Bar]]
    turnovers: list[dict[int, Decimal]]


async def restore(market: Market, history: History, floor: int, sources: Collection[str]) -> int:
    """Make ``market``, which is empty, what it was; how many tokens that are.

    ``floor``: tokens that are not stored number their trades above it. Tokens of sources that are not among
    ``sources`` belong to the first one that brings them.

    Volumes of 24 hours, one hour and five minutes are made of stored bars: exactly, if there are bars of 1s and 1m.

    Raises:
        UserError: more tokens are stored than may be known at once.
        HistoryError: the history can't be read.
    """
    stored = await history.tokens()
    market.number_above(floor)
    market.bars.expect(len(stored))
    each = max(1, min(MAX_TRADES, MAX_RESTORED_TRADES // max(1, len(stored))))
    for at in range(0, len(stored), _READ_AT_ONCE):
        tokens = stored[at : at + _READ_AT_ONCE]
        for read in await asyncio.gather(*(_read(history, market.bars.plan, token, each) for token in tokens)):
            source = read.token.source if read.token.source in sources else UNOWNED
            if not _restored(market, source, read):
                raise UserError(
                    f"the history holds {len(stored)} tokens, more than may be known at once; raise MAX_TOKENS"
                )
    return len(stored)


def _restored(market: Market, source: str, read: _Read) -> bool:
    token, plan = read.token, market.bars.plan
    ids = [trade.trade_id for _, trade in read.trades]
    if not market.restore(token, source, _unbroken(read.trades, token.trades), ids):
        return False
    bars = market.bars.restore(source, token.info.address, token.now_ms, read.bars)
    sums = []
    for turnovers, (width_ms, _) in zip(read.turnovers, _WINDOWS, strict=True):
        running = bars.open_bar(_finest_for(plan.intervals, width_ms))
        if running is not None:  # the longer ones are not stored before they close
            turnovers[running.open_ms] = running.turnover
        sums.append(sorted(turnovers.items()))
    market.restore_windows(token.info.address, *sums)
    return True


def _unbroken(numbered: Sequence[NumberedTrade], newest: int) -> list[Trade]:
    """The trades that end at the newest number without a hole."""
    kept: list[Trade] = []
    for number, trade in reversed(numbered):
        if number != newest - len(kept):
            break
        kept.append(trade)
    return kept[::-1]


async def _read(history: History, plan: BarPlan, token: StoredToken, trades: int) -> _Read:
    address = token.info.address
    found: list[list[Bar]] = []
    for index, interval in enumerate(plan.intervals):
        newest = await history.bars(address, interval.ms, 0, _END_OF_TIME_MS, plan.history + 1, newest=True)
        since_ms = _needed_since(plan, index, token.now_ms)
        if len(newest) > plan.history and newest[0].open_ms > since_ms:
            newest = await history.bars(address, interval.ms, since_ms, newest[0].open_ms, _NO_LIMIT) + newest
        found.append(newest)
    turnovers = []
    for width_ms, count in _WINDOWS:
        interval = plan.intervals[_finest_for(plan.intervals, width_ms)]
        from_ms = interval.open_ms(max(0, (token.now_ms // width_ms - count) * width_ms))
        turnovers.append(dict(await history.turnovers(address, interval.ms, from_ms)))
    return _Read(token, await history.trades_before(address, token.trades + 1, trades), found, turnovers)


def _needed_since(plan: BarPlan, index: int, now_ms: int) -> int:
    """From when on bars of this length are part of a longer one that is running."""
    longer = (plan.intervals[n] for n, parent in enumerate(plan.parents) if parent == index)
    return min((interval.open_ms(now_ms) for interval in longer), default=_END_OF_TIME_MS)


def _finest_for(intervals: Sequence[Interval], width_ms: int) -> int:
    """The longest bars that fall into buckets of this width as a whole; else the shortest there are."""
    fitting = [index for index, interval in enumerate(intervals) if width_ms % interval.ms == 0]
    return fitting[-1] if fitting else 0
