"""OKX v5's formats, pure: the channel ``trades``, and pages of ``/api/v5/market/history-trades``.

``side`` is the taker's, ``sz`` of a spot pair is in its base currency. One message stands for ``count`` matches of one
taker order at one price, and has the last of their ids; ids are consecutive per pair, so that ``tradeId - count + 1``
is the first. (Where normal and Enhanced Liquidity orders meet one taker order at one price, their ids interleave: a
hole is seen there that is none.) The newest trade is sent after each subscription.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
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
    Shutdown,
    VenueTrade,
    collect,
    digits,
    load,
    number,
    shown,
    side,
    text,
)

__all__ = ["CHANNEL", "PAGE_TRADES", "page_path", "parse_frame", "read_page"]

CHANNEL: Final = "trades"
PAGE_TRADES: Final = 100

_CLOSING: Final = "64008"  # the connection will be closed for a service upgrade
_TAKER: Final = {"buy": Side.BUY, "sell": Side.SELL}
_INSTRUMENT: Final = re.compile(r"[A-Z0-9]+(-[A-Z0-9_]+)+")
_NAMED: Final = re.compile(r"instId:\s*([A-Z0-9_-]{1,64})")  # how an error names the pair that it is about


def parse_frame(frame_text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`."""
    if frame_text in ("pong", b"pong"):
        return Ignored("pong")
    frame = load(frame_text)
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", frame_text)
    event = frame.get("event")
    if isinstance(event, str):
        return _event(event, frame)
    argument = frame.get("arg")
    channel = argument.get("channel") if isinstance(argument, dict) else None
    if channel == CHANNEL:
        data = frame.get("data")
        if not isinstance(data, list):
            raise FormatError("no_data", frame_text)
        return collect(data, _live_trade, CHANNEL)
    if isinstance(channel, str):
        return Ignored(channel[:MAX_SYMBOL_CHARS])
    raise FormatError("unknown_frame", frame_text)


def page_path(hole: Hole) -> str:
    """The trades before the end of the hole (``after`` means further back), newest first."""
    after = (hole.last or 0) + 1
    limit = min(PAGE_TRADES, hole.size)
    return f"/api/v5/market/history-trades?instId={quote(hole.symbol)}&type=1&after={after}&limit={limit}"


def read_page(symbol: str, body: bytes) -> Sequence[VenueTrade]:
    """The trades of a page; those that cannot be read are left out. Raises :class:`FormatError`."""
    page = load(body)
    if not isinstance(page, dict) or page.get("code") != "0":
        raise FormatError("refused", page.get("msg") if isinstance(page, dict) else body)
    data = page.get("data")
    if not isinstance(data, list):
        raise FormatError("not_a_page", body)
    return collect(data, partial(_trade, symbol), CHANNEL).trades


def _event(event: str, frame: Mapping[str, Any]) -> Frame:
    argument = frame.get("arg")
    pair = argument.get("instId") if isinstance(argument, dict) else None
    if event == "subscribe":
        ours = isinstance(argument, dict) and argument.get("channel") == CHANNEL
        return Reply((pair,)) if ours and isinstance(pair, str) else Ignored(event)
    if event == "error":
        message = str(frame.get("msg"))
        named = _NAMED.search(message)
        keys = (pair,) if isinstance(pair, str) else (named[1],) if named else ()
        return Reply(keys, shown(f"{frame.get('code')}: {message}"))
    if event == "notice" and frame.get("code") == _CLOSING:
        return Shutdown()
    return Ignored(event[:MAX_SYMBOL_CHARS])


def _live_trade(data: Mapping[str, Any]) -> VenueTrade:
    return _trade(text(data, "instId", _INSTRUMENT, "bad_symbol"), data)


def _trade(symbol: str, data: Mapping[str, Any]) -> VenueTrade:
    identifier = digits(data, "tradeId", "bad_id")
    count = digits(data, "count", "bad_count") if "count" in data else 1
    trade = Trade(
        address=f"okx:{symbol}",
        trade_id=str(identifier),
        price=number(data.get("px"), "bad_price"),
        amount=number(data.get("sz"), "bad_amount"),
        side=side(data.get("side"), _TAKER),
        time_ms=digits(data, "ts", "bad_time"),
    )
    if not 1 <= count <= identifier + 1:
        raise FormatError("bad_count", count)
    return VenueTrade(symbol, trade, identifier, identifier - count + 1)
