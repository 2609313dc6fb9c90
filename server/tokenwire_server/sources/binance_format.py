"""Binance's formats, pure: the text of a frame in, a trade or what else it says out; and pages of its REST.

Understood are combined frames ``{"stream": …, "data": {…}}`` and raw ones, ``aggTrade`` and ``trade`` events,
replies to requests and ``serverShutdown``; every other event (klines, books, tickers) is recognised and left
alone. ``m`` true means that the buyer was the maker, so the taker sold. Numbers never pass through float.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.frames import (
    MAX_DETAIL_CHARS,
    MAX_SYMBOL_CHARS,
    FormatError,
    Frame,
    Ignored,
    Reply,
    Shutdown,
    TradesFrame,
    VenueTrade,
    load,
    number,
    text,
    whole,
)

__all__ = ["PAGE_TRADES", "TRADE_KINDS", "page_path", "parse_frame", "read_page"]

PAGE_TRADES: Final = 1_000

TRADE_KINDS: Final = {"aggTrade": "a", "trade": "t"}
"""The events that are trades, and the key of their id."""

_SYMBOL: Final = re.compile(r"[A-Z0-9_]+")


def parse_frame(frame_text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`; bounds of size are the transport's business."""
    frame = load(frame_text)
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", frame_text)
    data = frame.get("data") if "stream" in frame else frame
    if not isinstance(data, dict):
        raise FormatError("no_data", frame_text)
    kind = data.get("e")
    if isinstance(kind, str):
        if kind in TRADE_KINDS:
            symbol = text(data, "s", _SYMBOL, "bad_symbol")
            return TradesFrame(kind, (_trade(symbol, data, TRADE_KINDS[kind]),))
        return Shutdown() if kind == "serverShutdown" else Ignored(kind[:MAX_SYMBOL_CHARS])
    if data is frame and "id" in frame and ("result" in frame or "error" in frame or "code" in frame):
        return _reply(frame)
    if data is frame and ("code" in frame or "error" in frame):
        return _reply(frame)
    if "stream" in frame or {"u", "b", "a"} <= data.keys() or "lastUpdateId" in data:
        return Ignored("unnamed")  # bookTicker and partial books carry no event name
    raise FormatError("unknown_frame", frame_text)


def page_path(hole: Hole) -> str:
    """Aggregate trades from the hole's first number on, oldest first."""
    return f"/api/v3/aggTrades?symbol={hole.symbol}&fromId={hole.first}&limit={min(PAGE_TRADES, hole.size)}"


def read_page(symbol: str, body: bytes) -> list[VenueTrade]:
    """The aggregate trades of a page. Raises :class:`FormatError`."""
    page = load(body)
    if not isinstance(page, list) or not all(isinstance(item, dict) for item in page):
        raise FormatError("not_a_page", body)
    return [_trade(symbol, item, "a") for item in page]


def _trade(symbol: str, data: Mapping[str, Any], id_key: str) -> VenueTrade:
    identifier = whole(data, id_key, "bad_id")
    maker_bought = data.get("m")
    if not isinstance(maker_bought, bool):
        raise FormatError("bad_side", maker_bought)
    trade = Trade(
        address=f"binance:{symbol}",
        trade_id=str(identifier),
        price=number(data.get("p"), "bad_price"),
        amount=number(data.get("q"), "bad_amount"),
        side=Side.SELL if maker_bought else Side.BUY,
        time_ms=whole(data, "T", "bad_time"),
    )
    return VenueTrade(symbol, trade, identifier)


def _reply(frame: dict[str, Any]) -> Reply:
    request_id = frame.get("id")
    keys = (str(request_id),) if isinstance(request_id, int) and not isinstance(request_id, bool) else ()
    error = frame.get("error", frame)
    if isinstance(error, dict) and ("code" in error or "msg" in error):
        return Reply((), ascii(f"{error.get('code')}: {error.get('msg')}"[:MAX_DETAIL_CHARS]))
    return Reply(keys)
