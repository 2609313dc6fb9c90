"""What is wrong with trades, bars, books, pushed values and sets, as one connection received them.

Every checker gives the clause that is broken and a text, or ``None``. Versions are judged where there are any.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final

from tokenwire_conformance.server.extension import updates_of
from tokenwire_conformance.wire.messages import Received, shown

__all__ = [
    "CLOCKS_MS", "Problem", "Stamped", "book_problem", "kline_problem", "push_problem", "set_problem", "stamped",
    "trade_problem", "trades_of",
]  # fmt: skip

Problem = tuple[str, str]
Stamped = tuple[int, dict[str, Any]]
"""``data`` with the timestamp (ms) of its message."""

CLOCKS_MS: Final = 100
"""By which the clocks of a server and of its source may differ."""
_GAP_MS: Final = 250
_SLACK_MS: Final = 50
_MAX_NAMED: Final = 1_000
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_DECIMAL: Final = re.compile(r"\d+(\.\d+)?", re.ASCII)
_BAR_PRICES: Final = ("open", "high", "low", "close")


# --- what came ---------------------------------------------------------------------------------------------
def trades_of(messages: Iterable[Received]) -> list[dict[str, Any]]:
    """The trades in ``messages``, single ones and those in batches."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message.type == "transaction":
            found.append(message.data)
        elif message.type == "transaction_batch" and isinstance(rows := message.data.get("transactions"), list):
            found.extend(row for row in rows if isinstance(row, dict))
    return found


def stamped(messages: Iterable[Received], kind: str) -> list[Stamped]:
    """The data of the messages of the type ``kind``."""
    return [(message.timestamp or 0, message.data) for message in messages if message.type == kind]


# --- trades ------------------------------------------------------------------------------------------------
def trade_problem(trades: Sequence[dict[str, Any]]) -> Problem | None:
    """Of trades in the order in which they came."""
    versions: dict[str, list[int]] = {}
    for trade in trades:
        if trade.get("side") not in ("Buy", "Sell"):
            return "XC.trades", f"side is {shown(trade.get('side'))}"
        for name in ("price", "volume"):
            if not _is_decimal(trade.get(name)):
                return "XC.trades", f"{name} is {shown(trade.get(name))}"
        if _unix_ms(trade.get("timestamp")) is None:
            return "XC.trades", f"timestamp is {shown(trade.get('timestamp'))}, not ISO 8601 in UTC"
        if isinstance(version := trade.get("version"), int):
            versions.setdefault(str(trade.get("address")), []).append(version)
    for address, numbers in versions.items():
        if any(later - earlier != 1 for earlier, later in pairwise(numbers)):
            return "XC.trades", f"the versions of {address} are {shown(numbers[:20])}"
    return None


# --- bars --------------------------------------------------------------------------------------------------
class _Series:
    """The bars of one token and interval, by the time they open."""

    def __init__(self) -> None:
        self.seen: dict[float, tuple[int, Any, bool]] = {}
        """When it came last, its version, and whether it was closed."""
        self.first: float | None = None
        self.newest: float | None = None


def kline_problem(bars: Sequence[Stamped]) -> Problem | None:
    """Of bars, open and closed ones, of any tokens and intervals."""
    series: dict[tuple[str, str], _Series] = {}
    for at_ms, bar in bars:
        found = _bar_shape(bar)
        if found is not None:
            return found
        key = str(bar.get("address")), str(bar.get("interval"))
        found = _next_bar(series.setdefault(key, _Series()), at_ms, bar)
        if found is not None:
            return found
    return None


def _bar_shape(bar: dict[str, Any]) -> Problem | None:
    for name in (*_BAR_PRICES, "volume"):
        if not _is_decimal(bar.get(name)):
            return "XC.klines", f"{name} is {shown(bar.get(name))}"
    low, high = Decimal(bar["low"]), Decimal(bar["high"])
    if not all(low <= Decimal(bar[name]) <= high for name in ("open", "close")):
        return "XC.klines", f"open {bar['open']} or close {bar['close']} is outside of {bar['low']} to {bar['high']}"
    opens, closes = _unix_ms(bar.get("open_time")), _unix_ms(bar.get("close_time"))
    if opens is None or closes is None or opens >= closes:
        return "XC.klines", f"open_time and close_time are {shown([bar.get('open_time'), bar.get('close_time')])}"
    if not isinstance(bar.get("closed"), bool):
        return "XC.kline-closed", f"closed is {shown(bar.get('closed'))}"
    return None


def _next_bar(series: _Series, at_ms: int, bar: dict[str, Any]) -> Problem | None:
    name, version, is_closed = bar["open_time"], bar.get("version"), bar["closed"]
    opens, closes = _unix_ms(name), _unix_ms(bar["close_time"])
    assert opens is not None
    assert closes is not None
    if is_closed and at_ms < closes - CLOCKS_MS:
        return "XC.kline-closed", f"the bar {name} came closed {closes - at_ms:.0f} ms before its end"
    before = series.seen.get(opens)
    if before is not None:
        before_ms, before_version, was_closed = before
        if isinstance(version, int) and isinstance(before_version, int) and version <= before_version:
            return "XC.klines", f"the version of the bar {name} went from {before_version} to {version}"
        if was_closed and not is_closed:
            return "XC.kline-closed", f"the bar {name} came open again, after it had come closed"
        if not is_closed and at_ms - before_ms < _GAP_MS - _SLACK_MS:
            return "XC.klines", f"the open bar {name} came again after {at_ms - before_ms} ms"
    newest = series.newest
    if newest is not None and opens < newest:
        # A late trade corrects a closed bar, also one that was over before anybody here asked.
        is_known = before is not None or (series.first is not None and opens < series.first)
        if not (is_known and is_closed):
            return "XC.klines", f"the bar {name} came {'open ' if not is_closed else ''}behind a later one"
    elif newest is not None and opens > newest and not series.seen[newest][2]:
        return "XC.kline-closed", f"the bar before {name} never came closed"
    series.seen[opens] = (at_ms, version, is_closed)
    series.first = opens if series.first is None else series.first
    series.newest = opens if newest is None else max(newest, opens)
    return None


# --- books, pushed values ----------------------------------------------------------------------------------
def book_problem(books: Sequence[Stamped], depth: int) -> Problem | None:
    """Of books of any tokens, for a channel of this depth."""
    newest: dict[str, tuple[int, Any]] = {}
    for at_ms, book in books:
        sides = [book.get("bids"), book.get("asks")]
        if not all(_is_side(side) for side in sides):
            return "XC.book", f"bids and asks are {shown(sides)}, no pairs of price and amount"
        bids, asks = ([Decimal(level[0]) for level in side] for side in sides if side is not None)
        longest = max(len(bids), len(asks))
        if longest > depth or book.get("depth") != depth:
            return "XC.book", f"{longest} levels came, and depth {shown(book.get('depth'))}, for a channel of {depth}"
        if any(a <= b for a, b in pairwise(bids)) or any(a >= b for a, b in pairwise(asks)):
            return "XC.book", f"a side is not sorted, the best level first: {shown(sides)}"
        if bids and asks and bids[0] >= asks[0]:
            return "XC.book", f"the best bid, {bids[0]}, is not below the best ask, {asks[0]}"
        address = str(book.get("address"))
        if address in newest:
            before_ms, version = newest[address]
            if at_ms - before_ms < _GAP_MS - _SLACK_MS:
                return "XC.book", f"the book of {address} came again after {at_ms - before_ms} ms"
            if isinstance(version, int) and isinstance(book.get("version"), int) and book["version"] <= version:
                return "XC.book", f"the version of the book of {address} went from {version} to {book['version']}"
        newest[address] = (at_ms, book.get("version"))
    return None


def push_problem(values: Sequence[Stamped], gap_ms: int) -> Problem | None:
    """Of values that one channel ``token:GAP`` sent: none comes too soon, and no version falls."""
    newest: dict[str, tuple[int, Any]] = {}
    for at_ms, value in values:
        address, version = str(value.get("address")), value.get("version")
        if address in newest:
            before_ms, before = newest[address]
            if at_ms - before_ms < gap_ms - _SLACK_MS:
                return "XC.push", f"{address} came again after {at_ms - before_ms} ms on token:{gap_ms}"
            if isinstance(before, int) and isinstance(version, int) and version < before:
                return "XC.push", f"the version of {address} fell from {before} to {version}"
        newest[address] = (at_ms, version)
    return None


# --- sets --------------------------------------------------------------------------------------------------
def set_problem(messages: Sequence[Received], own: Iterable[str] = ()) -> Problem | None:
    """Of sets and the values of their members; those in ``own`` are subscribed by their names, too."""
    members: dict[str, dict[str, None]] = {}
    free = set(own)
    for index, message in enumerate(messages):
        if message.type == "set":
            name = str(message.data.get("set"))
            goes_on = [later.data.get("set") for later in messages[index + 1 : index + 2] if later.type == "set"]
            found = _set_change(members.setdefault(name, {}), name, message.data, is_last=name not in goes_on)
            if found is not None:
                return found
        for value in updates_of([message]):
            address = value.get("address")
            if address not in free and not any(address in held for held in members.values()):
                return "XC.set-members", f"a value of {shown(address)} came, which was told to be in no set then"
    return None


def _set_change(held: dict[str, None], name: str, data: dict[str, Any], *, is_last: bool) -> Problem | None:
    added, removed, size = data.get("added"), data.get("removed"), data.get("size")
    if not (_is_names(added) and _is_names(removed)) or len(added or ()) + len(removed or ()) > _MAX_NAMED:
        return "XC.set-members", f"added and removed of {name} are no lists of 1000 addresses at most"
    assert added is not None
    assert removed is not None
    strange = [address for address in removed if address not in held]
    if strange:
        return "XC.set-members", f"{shown(strange[0])} is told to have left {name}, where it was not"
    for address in removed:
        held.pop(address, None)
    twice = [address for address in added if address in held]
    if twice:
        return "XC.set-members", f"{shown(twice[0])} is told to have come to {name}, where it was"
    held.update(dict.fromkeys(added))
    if is_last and size != len(held):
        return "XC.set-members", f"size of {name} is {shown(size)}; {len(held)} members were told"
    return None


# --- values ------------------------------------------------------------------------------------------------
def _is_decimal(value: object) -> bool:
    return isinstance(value, str) and _DECIMAL.fullmatch(value) is not None


def _is_side(side: object) -> bool:
    return isinstance(side, list) and all(
        isinstance(level, list) and len(level) == 2 and all(map(_is_decimal, level)) for level in side
    )


def _is_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _unix_ms(text: object) -> float | None:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return None
    try:  # Python reads at most six digits of a second's fraction
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp() * 1000
    except ValueError:
        return None
