"""Bybit v5's formats, pure: the topic ``publicTrade.SYMBOL``, and the page of ``/v5/market/recent-trade``.

A frame holds up to 1024 trades; ``S`` is the taker's side. Trade ids are unique, but neither they nor ``seq`` (which
the book's changes share) are consecutive per symbol: a trade missing within a connection is told by nothing. What
was missed over a reconnection is found by joining the page of recent trades to the last one known.
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
    digits,
    load,
    number,
    shown,
    side,
    text,
    whole,
)

__all__ = ["CHANNEL", "page_path", "parse_frame", "read_page"]

CHANNEL: Final = "publicTrade"

_PAGE_TRADES: Final = {"spot": 60, "linear": 1_000}
_TAKER: Final = {"Buy": Side.BUY, "Sell": Side.SELL}
_SYMBOL: Final = re.compile(r"[A-Z0-9-]+")
_ID: Final = re.compile(r"[A-Za-z0-9-]+")


def parse_frame(frame_text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`."""
    frame = load(frame_text)
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", frame_text)
    topic = frame.get("topic")
    if isinstance(topic, str):
        if not topic.startswith(f"{CHANNEL}."):
            return Ignored(topic[:MAX_SYMBOL_CHARS])
        data = frame.get("data")
        if not isinstance(data, list):
            raise FormatError("no_data", frame_text)
        return collect(data, _live_trade, CHANNEL)
    operation = frame.get("op")
    if operation == "subscribe":
        if frame.get("success") is not True:
            return Reply((), shown(frame.get("ret_msg")))
        request_id = frame.get("req_id")
        return Reply((request_id,) if isinstance(request_id, str) else ())
    if operation in ("ping", "pong"):
        return Ignored("pong")
    if isinstance(operation, str):
        return Ignored(operation[:MAX_SYMBOL_CHARS])
    raise FormatError("unknown_frame", frame_text)


def page_path(category: str, hole: Hole) -> str:
    """The newest trades; there are no older pages."""
    return (
        f"/v5/market/recent-trade?category={category}&symbol={quote(hole.symbol)}"
        f"&limit={_PAGE_TRADES.get(category, _PAGE_TRADES['spot'])}"
    )


def read_page(symbol: str, body: bytes) -> Sequence[VenueTrade]:
    """The trades of the page; those that cannot be read are left out. Raises :class:`FormatError`."""
    page = load(body)
    if not isinstance(page, dict) or page.get("retCode") != 0:
        raise FormatError("refused", page.get("retMsg") if isinstance(page, dict) else body)
    result = page.get("result")
    listed = result.get("list") if isinstance(result, dict) else None
    if not isinstance(listed, list):
        raise FormatError("not_a_page", body)
    return collect(listed, lambda item: _page_trade(symbol, item), CHANNEL).trades


def _live_trade(data: Mapping[str, Any]) -> VenueTrade:
    symbol = text(data, "s", _SYMBOL, "bad_symbol")
    trade = Trade(
        address=f"bybit:{symbol}",
        trade_id=text(data, "i", _ID, "bad_id"),
        price=number(data.get("p"), "bad_price"),
        amount=number(data.get("v"), "bad_amount"),
        side=side(data.get("S"), _TAKER),
        time_ms=whole(data, "T", "bad_time"),
    )
    return VenueTrade(symbol, trade)


def _page_trade(symbol: str, data: Mapping[str, Any]) -> VenueTrade:
    trade = Trade(
        address=f"bybit:{symbol}",
        trade_id=text(data, "execId", _ID, "bad_id"),
        price=number(data.get("price"), "bad_price"),
        amount=number(data.get("size"), "bad_amount"),
        side=side(data.get("side"), _TAKER),
        time_ms=digits(data, "time", "bad_time"),
    )
    return VenueTrade(symbol, trade)
