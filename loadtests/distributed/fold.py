"""What the tapes amount to, worked out once more and in another way than by the server: no line of its code is used.

Trades of each token in order, and their bars: a dictionary of figures for each length, every trade added to each.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["INTERVALS_MS", "Deal", "Expected", "expected", "figures", "plain"]

INTERVALS_MS: Final[Mapping[str, int]] = {
    "1s": 1_000, "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000,
}  # fmt: skip
_EXACT: Final = Context(prec=120)
FIGURES: Final = ("open", "high", "low", "close", "volume", "turnover", "buy_volume", "buy_turnover", "trades")


class Deal(NamedTuple):
    """One trade of a tape."""

    address: str
    trade_id: str
    price: Decimal
    amount: Decimal
    bought: bool
    time_ms: int


@dataclass
class Expected:
    """Ids of the trades of each token, in order: the first has number 1. Figures of each bar that closed, by address
    and length (ms), then by beginning (Unix ms)."""

    trades: dict[str, list[str]] = field(default_factory=dict)
    bars: dict[tuple[str, int], dict[int, tuple[str, ...]]] = field(default_factory=dict)
    prices: dict[str, str] = field(default_factory=dict)
    """The newest price of each token."""
    late: set[str] = field(default_factory=set)
    """Tokens with trades that come after later ones."""

    @property
    def count(self) -> int:
        """Trades in all."""
        return sum(map(len, self.trades.values()))

    @property
    def bar_count(self) -> int:
        """Closed bars in all."""
        return sum(map(len, self.bars.values()))


def plain(value: Decimal) -> str:
    """A number in its only spelling."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if text not in ("", "-0") else "0"


def figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures of a bar, each in its only spelling; ``row`` has them by name, as numbers or as text."""
    return tuple(plain(Decimal(str(row[name]))) for name in FIGURES)


def expected(tapes: Iterable[Path]) -> Expected:
    """Everything that tapes hold. Each ends with a clock that closes every bar."""
    found = Expected()
    bars: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    newest: dict[str, int] = {}
    for path in tapes:
        known: set[tuple[str, str]] = set()
        for deal in _deals(path):
            if (deal.address, deal.trade_id) in known:
                continue
            known.add((deal.address, deal.trade_id))
            found.trades.setdefault(deal.address, []).append(deal.trade_id)
            if deal.time_ms >= newest.get(deal.address, 0):
                newest[deal.address] = deal.time_ms
                found.prices[deal.address] = plain(deal.price)
            else:
                found.late.add(deal.address)
            for length_ms in INTERVALS_MS.values():
                begins = bars.setdefault((deal.address, length_ms), {})
                _add(begins, deal.time_ms - deal.time_ms % length_ms, deal)
    for key, begins in bars.items():
        found.bars[key] = {open_ms: figures(row) for open_ms, row in sorted(begins.items())}
    return found


def _add(bars: dict[int, dict[str, Any]], open_ms: int, deal: Deal) -> None:
    row = bars.get(open_ms)
    if row is None:
        row = bars[open_ms] = {
            "open": deal.price, "high": deal.price, "low": deal.price, "close": deal.price, "volume": Decimal(0),
            "turnover": Decimal(0), "buy_volume": Decimal(0), "buy_turnover": Decimal(0), "trades": 0,
            "first": deal.time_ms, "last": deal.time_ms,
        }  # fmt: skip
    if deal.time_ms < row["first"]:
        row["first"], row["open"] = deal.time_ms, deal.price
    if deal.time_ms >= row["last"]:
        row["last"], row["close"] = deal.time_ms, deal.price
    row["high"], row["low"] = max(row["high"], deal.price), min(row["low"], deal.price)
    turnover = _EXACT.multiply(deal.price, deal.amount)
    row["volume"] = _EXACT.add(row["volume"], deal.amount)
    row["turnover"] = _EXACT.add(row["turnover"], turnover)
    if deal.bought:
        row["buy_volume"] = _EXACT.add(row["buy_volume"], deal.amount)
        row["buy_turnover"] = _EXACT.add(row["buy_turnover"], turnover)
    row["trades"] += 1


def _deals(path: Path) -> Iterator[Deal]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line.partition(": ")[2])
            data = message.get("data")
            if message.get("tokenwire") == "trades":
                for row in message["trades"]:
                    yield Deal(
                        row["address"], row["trade_id"], Decimal(row["price"]), Decimal(row["amount"]),
                        row["side"] == "Buy", row["time_ms"],
                    )  # fmt: skip
            elif isinstance(data, dict) and data.get("e") == "aggTrade":
                yield Deal(
                    f"binance:{data['s']}", str(data["a"]), Decimal(data["p"]), Decimal(data["q"]), not data["m"],
                    data["T"],
                )  # fmt: skip
