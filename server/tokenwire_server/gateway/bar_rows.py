"""Bars as rows of JSON. The text of a closed bar is kept while there is room: it is asked for again and again."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import PageBar
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import TokenState

__all__ = ["MAX_KEPT_ROWS", "BarRows", "kline_row", "moment", "plain_row"]

MAX_KEPT_ROWS: Final = 20_000  # texts of some 500 bytes each, in either form

Encode = Callable[[TokenState, Interval, PageBar], bytes]


class BarRows:
    """Bars in one of the forms below, with the memory of their texts."""

    def __init__(self, encode: Encode, most: int = MAX_KEPT_ROWS) -> None:
        self._encode = encode
        self._most = most
        self._kept: dict[tuple[str, int, int, int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, token: TokenState, interval: Interval, listed: PageBar) -> bytes:
        """The row of one bar."""
        bar = listed.bar
        # A bar that only fills a gap changes with the one before it; any other when it is revised.
        if not listed.is_closed or not bar.trades:
            return self._encode(token, interval, listed)
        key = (token.address, interval.ms, bar.open_ms, bar.trades, bar.revision)
        row = self._kept.get(key)
        if row is None:
            row = self._encode(token, interval, listed)
            if len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = row
        return row


def kline_row(token: TokenState, interval: Interval, listed: PageBar) -> bytes:
    """All fields, prices and volumes as exact decimal strings."""
    bar = listed.bar
    return msgspec.json.encode(
        {
            "symbol": token.symbol,
            "interval": interval.text,
            "open_time": moment(bar.open_ms),
            "close_time": moment(bar.open_ms + interval.ms),
            "open": canonical(bar.open),
            "high": canonical(bar.high),
            "low": canonical(bar.low),
            "close": canonical(bar.close),
            "volume": canonical(bar.volume),
            "turnover": canonical(bar.turnover),
            "buy_volume": canonical(bar.buy_volume),
            "buy_turnover": canonical(bar.buy_turnover),
            "trades": bar.trades,
            "closed": listed.is_closed,
            "revision": bar.revision,
        }
    )


def plain_row(token: TokenState, interval: Interval, listed: PageBar) -> bytes:
    """The beginning in ms, prices and volume as numbers whose digits are exact."""
    bar: Bar = listed.bar
    return (
        f'{{"timestamp":{bar.open_ms},"open":{canonical(bar.open)},"high":{canonical(bar.high)},'
        f'"low":{canonical(bar.low)},"close":{canonical(bar.close)},"volume":{canonical(bar.volume)}}}'
    ).encode()


def moment(ms: int) -> datetime:
    """A time that JSON has as RFC 3339 in UTC; bars begin at whole seconds."""
    return datetime.fromtimestamp(ms // 1000, UTC)
