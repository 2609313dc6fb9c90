"""Coinbase Exchange's formats, pure: the channel ``matches``, and pages of ``/products/{id}/trades``.

Of Coinbase's two feeds this is the one whose ``trade_id`` rises by one per product, so that a hole shows; the other
(Advanced Trade's ``market_trades``) numbers the messages of a connection instead. ``side`` is the *maker's*: a maker
that sold met a taker that bought. ``last_match``, sent after each subscription, is a trade like the others.
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
    TradesFrame,
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

CHANNEL: Final = "matches"
PAGE_TRADES: Final = 1_000

_MATCHES: Final = ("match", "last_match")
_TAKER_BY_MAKER: Final = {"buy": Side.SELL, "sell": Side.BUY}
_PRODUCT: Final = re.compile(r"[A-Z0-9]+-[A-Z0-9]+")


def parse_frame(frame_text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`."""
    frame = load(frame_text)
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", frame_text)
    kind = frame.get("type")
    if kind in _MATCHES:
        return TradesFrame(CHANNEL, (_trade(text(frame, "product_id", _PRODUCT, "bad_symbol"), frame),))
    if kind == "subscriptions":
        return _granted(frame.get("channels"))
    if kind == "error":
        # It names no product: what is wrong with one is wrong with the whole request.
        return Reply((), shown(f"{frame.get('message')}: {frame.get('reason')}"))
    if isinstance(kind, str):
        return Ignored(kind[:MAX_SYMBOL_CHARS])
    raise FormatError("unknown_frame", frame_text)


def page_path(hole: Hole) -> str:
    """The trades before the end of the hole (``after`` means further back), newest first."""
    limit = min(PAGE_TRADES, hole.size)
    return f"/products/{quote(hole.symbol)}/trades?limit={limit}&after={(hole.last or 0) + 1}"


def read_page(symbol: str, body: bytes) -> Sequence[VenueTrade]:
    """The trades of a page; those that cannot be read are left out. Raises :class:`FormatError`."""
    page = load(body)
    if not isinstance(page, list):
        raise FormatError("not_a_page", body)
    return collect(page, partial(_trade, symbol), CHANNEL).trades


def _trade(symbol: str, data: Mapping[str, Any]) -> VenueTrade:
    identifier = whole(data, "trade_id", "bad_id")
    trade = Trade(
        address=f"coinbase:{symbol}",
        trade_id=str(identifier),
        price=number(data.get("price"), "bad_price"),
        amount=number(data.get("size"), "bad_amount"),
        side=side(data.get("side"), _TAKER_BY_MAKER),
        time_ms=rfc3339_ms(data.get("time")),
    )
    return VenueTrade(symbol, trade, identifier)


def _granted(channels: object) -> Reply:
    """Every answer lists all that is subscribed to."""
    listed: list[str] = []
    for entry in channels if isinstance(channels, list) else []:
        if isinstance(entry, dict) and entry.get("name") == CHANNEL and isinstance(entry.get("product_ids"), list):
            listed += [product for product in entry["product_ids"] if isinstance(product, str)]
    return Reply(tuple(listed))
