"""Trades as the market's tasks are fed with them, and the straightforward program that folds the same ones.

Pure and seeded: the same numbers give the same trades.
"""

import random
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from tokenwire_server.market.trades import Side, TokenInfo, Trade

__all__ = ["BEGIN_MS", "FRAME_TRADES", "SOURCE", "NaiveMarket", "frames", "infos", "trades"]

SOURCE: Final = "venue"
BEGIN_MS: Final = 1_700_000_000_000
FRAME_TRADES: Final = 10
"""Delivered at once, as exchanges send several trades in a frame."""
LATE_EVERY: Final = 100
MAX_LATE_MS: Final = 20_000
INTERVALS_MS: Final = (1_000, 60_000, 300_000, 900_000, 3_600_000)
WINDOWS_MS: Final = (86_400_000, 3_600_000, 300_000)


def infos(tokens: int) -> list[TokenInfo]:
    """The tokens that trade."""
    return [TokenInfo(f"{SOURCE}:T{n}", f"T{n}") for n in range(tokens)]


def trades(tokens: int, per_s: float, seed: int = 1) -> Iterator[Trade]:
    """Trades without end, ``per_s`` of them in a second of event time, of tokens at random. A price moves by less than
    a thousandth at each; one trade in a hundred comes some seconds late."""
    rng = random.Random(f"{tokens}:{per_s}:{seed}")
    addresses = [info.address for info in infos(tokens)]
    prices = [rng.randrange(10_000_000, 99_999_999) for _ in range(tokens)]
    number = 0
    while True:
        number += 1
        time_ms = BEGIN_MS + int(number * 1_000 / per_s)
        if number % LATE_EVERY == 0:
            time_ms -= rng.randrange(MAX_LATE_MS)
        which = rng.randrange(tokens)
        prices[which] = max(1_000_000, prices[which] + rng.randint(-500, 500))
        price = Decimal(prices[which]).scaleb(-5)
        amount = Decimal(rng.randrange(1, 999_999)).scaleb(-3)
        yield Trade(addresses[which], str(number), price, amount, Side.BUY if number & 1 else Side.SELL, time_ms)


def frames(source: Iterator[Trade], count: int) -> list[list[Trade]]:
    """The next ``count`` trades, as they come in frames."""
    taken = list(islice(source, count))
    return [taken[at : at + FRAME_TRADES] for at in range(0, len(taken), FRAME_TRADES)]


class NaiveMarket:
    """What a straightforward program does with a trade: checks it, forgets repeated ones, keeps five lengths of bars
    and three windows of turnover in dicts and deques, and counts versions. It publishes nothing, closes nothing, and
    never lets go of a bar or an id.
    """

    def __init__(self) -> None:
        self.bars: dict[tuple[str, int, int], dict[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self._ids: dict[str, set[str]] = {}
        self._windows: dict[tuple[str, int], tuple[deque[tuple[int, Decimal]], list[Decimal]]] = {}

    def take(self, trade: Trade) -> None:
        """Fold one trade."""
        address, price, amount, time_ms = trade.address, trade.price, trade.amount, trade.time_ms
        if not price.is_finite() or price <= 0 or not amount.is_finite() or amount <= 0 or time_ms <= 0:
            return
        ids = self._ids.setdefault(address, set())
        if trade.trade_id in ids:
            return
        ids.add(trade.trade_id)
        turnover = price * amount
        for length_ms in INTERVALS_MS:
            self._fold(trade, turnover, length_ms)
        for length_ms in WINDOWS_MS:
            entries, total = self._windows.setdefault((address, length_ms), (deque(), [Decimal(0)]))
            entries.append((time_ms, turnover))
            total[0] += turnover
            while entries[0][0] <= time_ms - length_ms:
                total[0] -= entries.popleft()[1]
        self.versions[address] = self.versions.get(address, 0) + 1

    def _fold(self, trade: Trade, turnover: Decimal, length_ms: int) -> None:
        price, amount, time_ms = trade.price, trade.amount, trade.time_ms
        open_ms = time_ms - time_ms % length_ms
        bar = self.bars.get((trade.address, length_ms, open_ms))
        if bar is None:
            bar = self.bars[trade.address, length_ms, open_ms] = {
                "open": price, "high": price, "low": price, "close": price, "first_ms": time_ms, "last_ms": time_ms,
                "volume": Decimal(0), "turnover": Decimal(0), "buy_volume": Decimal(0), "buy_turnover": Decimal(0),
                "trades": 0,
            }  # fmt: skip
        bar["high"] = max(bar["high"], price)
        bar["low"] = min(bar["low"], price)
        if time_ms < bar["first_ms"]:
            bar["open"], bar["first_ms"] = price, time_ms
        if time_ms >= bar["last_ms"]:
            bar["close"], bar["last_ms"] = price, time_ms
        bar["volume"] += amount
        bar["turnover"] += turnover
        if trade.side is Side.BUY:
            bar["buy_volume"] += amount
            bar["buy_turnover"] += turnover
        bar["trades"] += 1
