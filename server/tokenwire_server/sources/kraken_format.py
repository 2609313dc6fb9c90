"""Kraken's formats, pure: the WebSocket v2 channel ``trade``, and pages of ``/0/public/Trades``.

Prices and amounts are JSON numbers, read exactly; ``side`` is the taker's. A subscription is answered per symbol, and
by a ``snapshot`` of the newest 50 trades, which repeats known ones after a reconnection. ``trade_id`` rises by one
per book.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import (
    MAX_SYMBOL_CHARS,
    FormatError,
    Frame,
    Ignored,
    Reply,
    VenueTrade,
    collect,
    load,
    number,
    rfc3339_ms,
    shown,
    side,
    text,
    whole,
)

__all__ = ["CHANNEL", "PAGE_TRADES", "page_path", "parse_frame", "read_page"]

CHANNEL: Final = "trade"
PAGE_TRADES: Final = 1_000

_TAKER: Final = {"buy": Side.BUY, "sell": Side.SELL, "b": Side.BUY, "s": Side.SELL}
_SYMBOL: Final = re.compile(r"[A-Za-z0-9.]+/[A-Za-z0-9.]+")
_PAGE_FIELDS: Final = 7  # price, amount, time, side, kind of order, miscellaneous, trade id


def parse_frame(frame_text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`."""
    frame = load(frame_text)
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", frame_text)
    channel = frame.get("channel")
    if channel == CHANNEL:
        data = frame.get("data")
        if not isinstance(data, list):
            raise FormatError("no_data", frame_text)
        return collect(data, _live_trade, CHANNEL)
    if isinstance(channel, str):
        return Ignored(channel[:MAX_SYMBOL_CHARS])  # heartbeat, status
    method = frame.get("method")
    if method == "subscribe":
        return _reply(frame)
    if isinstance(method, str):
        return Ignored(method[:MAX_SYMBOL_CHARS])
    if isinstance(frame.get("error"), str):
        return Reply((), shown(frame["error"]))
    raise FormatError("unknown_frame", frame_text)


def page_path(hole: Hole) -> str:
    """Trades after the time of the last one known, oldest first. REST writes the pair without the slash."""
    since_ns = hole.after_ms * 1_000_000 - 1  # the stream's times are cut to ms: begin before them
    pair = quote(hole.symbol.replace("/", ""))
    return f"/0/public/Trades?pair={pair}&since={since_ns}&count={PAGE_TRADES}"


def read_page(symbol: str, body: bytes) -> Sequence[VenueTrade]:
    """The trades of a page; those that cannot be read are left out. Raises :class:`FormatError`."""
    page = load(body)
    if not isinstance(page, dict):
        raise FormatError("not_a_page", body)
    if page.get("error"):
        raise FormatError("refused", page["error"])
    result = page.get("result")
    # The pair comes back under Kraken's own name for it; the only other key is "last".
    rows = [value for key, value in result.items() if key != "last"] if isinstance(result, dict) else []
    if len(rows) != 1 or not isinstance(rows[0], list):
        raise FormatError("not_a_page", body)
    named = [_named(row) for row in rows[0]]
    return collect(named, lambda row: _page_trade(symbol, row), CHANNEL).trades


def _live_trade(data: Mapping[str, Any]) -> VenueTrade:
    symbol = text(data, "symbol", _SYMBOL, "bad_symbol")
    return _trade(symbol, data, rfc3339_ms(data.get("timestamp")))


def _page_trade(symbol: str, data: Mapping[str, Any]) -> VenueTrade:
    seconds = number(data.get("timestamp"), "bad_time")
    if not 0 <= seconds < 10**11:
        raise FormatError("bad_time", seconds)
    return _trade(symbol, data, int(seconds * 1_000))


def _trade(symbol: str, data: Mapping[str, Any], time_ms: int) -> VenueTrade:
    identifier = whole(data, "trade_id", "bad_id")
    trade = Trade(
        address=f"kraken:{symbol}",
        trade_id=str(identifier),
        price=number(data.get("price"), "bad_price"),
        amount=number(data.get("qty"), "bad_amount"),
        side=side(data.get("side"), _TAKER),
        time_ms=time_ms,
    )
    return VenueTrade(symbol, trade, identifier)


def _named(row: object) -> object:
    """A row of a page under the names that the stream uses."""
    if not isinstance(row, list) or len(row) < _PAGE_FIELDS:
        return None
    return {"price": row[0], "qty": row[1], "timestamp": row[2], "side": row[3], "trade_id": row[6]}


def _reply(frame: Mapping[str, Any]) -> Reply:
    result = frame.get("result")
    symbol = result.get("symbol") if isinstance(result, dict) else frame.get("symbol")
    keys = (symbol,) if isinstance(symbol, str) else ()
    if frame.get("success") is True:
        return Reply(keys)
    return Reply(keys, shown(frame.get("error", "no reason given")))
