"""Trades, bars, books and pushed values: each a function of the time, and what a session is due of them."""

import re
from datetime import UTC, datetime
from typing import Any, Final

from conformance.tests.reference.market import Market
from conformance.tests.reference.session import Session

__all__ = ["TICK_MS", "Events"]

TICK_MS: Final = 250
"""How often a busy token is traded, and a book changes."""
_QUIET_MS: Final = 3_000
_OFTEN_MS: Final = 50
_BAR_MS: Final = 60_000
_LATE_MS: Final = 500
"""Behind its end a closed bar is corrected."""
_GAP_MS: Final = TICK_MS - 1
_LEVELS: Final = 60
_CHANNEL: Final = re.compile(r"token|trades|(token|book):[1-9][0-9]{0,5}|klines:[1-9][0-9]{0,5}[smhdw]")


class Events:
    """Every second token is busy and has a book. ``begun_ms`` is the wall clock at the server's start."""

    def __init__(self, market: Market, begun_ms: float) -> None:
        self._market = market
        self._begun_ms = int(begun_ms)

    def has(self, address: str, channel: str) -> bool:
        """Whether the token has this channel."""
        if not _CHANNEL.fullmatch(channel):
            return False
        kind, _, argument = channel.partition(":")
        if channel in {"token", "trades", "klines:1m"}:
            return True
        if kind == "book":
            return int(argument) <= 100 and self._is_busy(address)
        return kind == "token" and 50 <= int(argument) <= 60_000

    def begin(self, session: Session, address: str, channel: str, after: int | None, now_ms: float) -> None:
        """A session begins to hold a channel, or asks for it once more; ``after`` is the trade it has."""
        if channel != "trades":
            session.progress.pop((address, channel), None)
            return
        newest = self._number(address, now_ms)
        if isinstance(after, int) and after <= newest:
            session.progress[address, channel] = max(0, after - ("after_off_by_one" in session.faults))
        else:
            session.progress.setdefault((address, channel), newest)

    def due(self, session: Session, address: str, channel: str, now_ms: float) -> list[tuple[str, dict[str, Any]]]:
        """What is to be sent of a channel now: types and data."""
        kind, _, argument = channel.partition(":")
        if kind == "trades":
            return self._trades(session, address, now_ms)
        if kind == "klines":
            return self._bars(session, address, channel, int(now_ms))
        if kind == "book":
            return self._books(session, address, channel, int(argument), now_ms)
        return self._pushes(session, address, channel, int(argument), now_ms)

    def _is_busy(self, address: str) -> bool:
        return self._market.place(address) % 2 == 0

    def _number(self, address: str, now_ms: float) -> int:
        """How many trades there were."""
        return max(0, int(now_ms - self._first_ms(address)) // self._period_ms(address))

    def _period_ms(self, address: str) -> int:
        return TICK_MS if self._is_busy(address) else _QUIET_MS

    def _first_ms(self, address: str) -> int:
        """A period before the first trade: no two quiet tokens beside each other are traded at once."""
        return self._begun_ms if self._is_busy(address) else self._begun_ms + self._market.place(address) * 750 % 3_000

    # --- trades ------------------------------------------------------------------------------------------------
    def _trades(self, session: Session, address: str, now_ms: float) -> list[tuple[str, dict[str, Any]]]:
        faults, key = session.faults, (address, "trades")
        newest = self._number(address, now_ms)
        last = session.progress.get(key, newest)
        session.progress[key] = newest
        if session.connection is None and "trades_lost_while_away" in faults:
            return []
        numbers = [n for n in range(last + 1, newest + 1) if not ("trades_with_holes" in faults and n % 3 == 0)]
        if "after_unordered" in faults:
            numbers.reverse()
        return [("transaction", self._trade(session, address, number, now_ms)) for number in numbers]

    def _trade(self, session: Session, address: str, number: int, now_ms: float) -> dict[str, Any]:
        faults = session.faults
        at_ms = min(now_ms, self._first_ms(address) + number * self._period_ms(address))
        data: dict[str, Any] = {
            "symbol": address[:4], "price": self._market.value(address, at_ms, faults=faults)["price"],
            "volume": "100", "side": ("Buy", "Sell")[number % 2], "timestamp": _iso(at_ms), "address": address,
        }  # fmt: skip
        if "side_lower_case" in faults:
            data["side"] = data["side"].lower()
        if "details" in session.caps:
            data |= {"version": number, "id": str(number)}
        return data

    # --- bars --------------------------------------------------------------------------------------------------
    def _bars(self, session: Session, address: str, channel: str, now_ms: int) -> list[tuple[str, dict[str, Any]]]:
        faults, key = session.faults, (address, channel)
        opened = now_ms // _BAR_MS * _BAR_MS
        found = []
        before = session.progress.get(key)
        count = self._traded(session, address, opened, now_ms)
        if before is not None and before[0] < opened:
            last = before[0]
            if self._traded(session, address, last, opened) and "bar_never_closed" not in faults:
                found.append(self._bar(session, address, last, opened, closed=True))
                session.corrected[key] = last
            before = (opened, 0, 0.0)
        if before is None and "no_bar_on_subscribing" in faults:
            before = (opened, count, now_ms)
        if before is None or (count > before[1] and now_ms - before[2] >= (_GAP_MS if _often(faults) else 0)):
            if count:
                found.append(self._bar(session, address, opened, now_ms, closed=False))
            before = (opened, count, now_ms if count else 0)
        session.progress[key] = before
        if now_ms - opened >= _LATE_MS and key in session.corrected:
            found.append(self._bar(session, address, session.corrected.pop(key), opened, closed=True, late=1))
        return [("kline", bar) for bar in found]

    def _traded(self, session: Session, address: str, opened: int, now_ms: int) -> int:
        """How many trades a bar has."""
        until = min(now_ms, opened + _BAR_MS - 1)
        if "bars_too_often" in session.faults:
            return 1 + (until - opened) // _OFTEN_MS
        return self._number(address, until) - self._number(address, opened - 1)

    def _bar(
        self, session: Session, address: str, opened: int, now_ms: int, *, closed: bool, late: int = 0
    ) -> dict[str, Any]:
        faults = session.faults
        trades = self._traded(session, address, opened, now_ms)
        data: dict[str, Any] = {
            "symbol": address[:4], "interval": "1m", "open_time": _iso(opened),
            "close_time": _iso(opened + _BAR_MS), "open": "0.123", "high": "0.125", "low": "0.122",
            "close": f"0.124{trades % 9 + 1}", "volume": str(100 * (trades + late)), "address": address,
            "closed": closed and "closed_false" not in faults,
        }  # fmt: skip
        if "details" in session.caps:
            version = trades + (closed and "closing_keeps_version" not in faults)
            version += late if "late_bar_keeps_version" not in faults else 0
            data |= {
                "version": version, "turnover": str(12 * (trades + late)), "buy_volume": str(50 * trades),
                "buy_turnover": str(6 * trades), "trades": trades + late, "revision": late,
            }  # fmt: skip
        if "closed_missing" in faults:
            del data["closed"]
        return data

    # --- books, pushed values ----------------------------------------------------------------------------------
    def _books(
        self, session: Session, address: str, channel: str, depth: int, now_ms: float
    ) -> list[tuple[str, dict[str, Any]]]:
        faults, key = session.faults, (address, channel)
        often = "book_too_often" in faults
        version = 1 + int(now_ms - self._begun_ms) // (_OFTEN_MS if often else TICK_MS)
        before = session.progress.get(key)
        if before is not None and (version <= before[0] or now_ms - before[1] < (0 if often else _GAP_MS)):
            return []
        session.progress[key] = (version, now_ms)
        middle = 100 + version % 7
        count = depth + 1 if "book_too_deep" in faults else depth
        bids = [[str(middle - level), f"{level}.5"] for level in range(1, min(count, _LEVELS) + 1)]
        asks = [[str(middle + level), f"{level}.5"] for level in range(1, min(count, _LEVELS) + 1)]
        if "book_unsorted" in faults:
            bids.reverse()
        if "book_crossed" in faults:
            bids, asks = asks[::-1], bids[::-1]
        data: dict[str, Any] = {
            "symbol": address[:4], "depth": depth, "bids": bids, "asks": asks, "timestamp": _iso(now_ms),
            "stale": False, "address": address,
        }  # fmt: skip
        if "book_stale_missing" in faults:
            del data["stale"]
        if "details" in session.caps:
            data["version"] = 1 if "book_version_stands" in faults else version
        return [("book", data)]

    def _pushes(
        self, session: Session, address: str, channel: str, gap_ms: int, now_ms: float
    ) -> list[tuple[str, dict[str, Any]]]:
        faults, key = session.faults, (address, channel)
        step = self._market.step(now_ms)
        before = session.progress.get(key)
        if "push_with_the_interval" in faults:
            gap_ms = max(gap_ms, 5_000)
        elif "push_too_often" in faults:
            gap_ms = 0
        if before is not None and (step <= before[0] or now_ms - before[1] < gap_ms - 1 or "push_once" in faults):
            return []
        session.progress[key] = (step, now_ms)
        data = self._market.value(address, now_ms, details="details" in session.caps, faults=faults)
        return [("token_update" if "push_in_batches" in faults else "push", data)]


def _often(faults: frozenset[str]) -> bool:
    return "bars_too_often" not in faults


def _iso(time_ms: float) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
