"""Binance's stream format, pure: the text of a frame in, a trade or what else it says out.

Understood are combined frames ``{"stream": …, "data": {…}}`` and raw ones, ``aggTrade`` and ``trade`` events,
replies to requests and ``serverShutdown``; every other event (klines, books, tickers) is recognised and left
alone. ``m`` true means that the buyer was the maker, so the taker sold. Numbers never pass through float.
"""

import json
import re
from decimal import Decimal
from typing import Any, Final, NoReturn

import msgspec

from tokenwire_server.market.decimals import DecimalError, parse_decimal
from tokenwire_server.market.trades import Side, TokenInfo, Trade

__all__ = [
    "MAX_SYMBOL_CHARS",
    "TRADE_KINDS",
    "FormatError",
    "Frame",
    "Ignored",
    "Reply",
    "Shutdown",
    "TradeFrame",
    "TradeIds",
    "address_of",
    "parse_frame",
    "token_info",
]

MAX_SYMBOL_CHARS: Final = 64
MAX_DETAIL_CHARS: Final = 200
MAX_TRACKED_SYMBOLS: Final = 10_000

TRADE_KINDS: Final = {"aggTrade": "a", "trade": "t"}
"""The events that are trades, and the key of their id."""

_SYMBOL: Final = re.compile(r"[A-Z0-9_]+")


class FormatError(ValueError):
    """A frame cannot be used. ``reason`` is a short constant name, ``detail`` the beginning of what came."""

    def __init__(self, reason: str, detail: object) -> None:
        self.reason = reason
        self.detail = ascii(str(detail)[:MAX_DETAIL_CHARS])
        super().__init__(f"{reason}: {self.detail}")


class TradeFrame(msgspec.Struct, frozen=True):
    """A trade; ``number`` is the venue's id, consecutive per symbol and ``kind`` (aggTrade or trade)."""

    kind: str
    symbol: str
    number: int
    trade: Trade


class Reply(msgspec.Struct, frozen=True):
    """The answer to the request ``request_id``; ``error`` is None when it was granted."""

    request_id: int | None
    error: str | None = None


class Shutdown(msgspec.Struct, frozen=True):
    """The server is going away: connect anew at once."""


class Ignored(msgspec.Struct, frozen=True):
    """An event that is understood and not used."""

    kind: str


Frame = TradeFrame | Reply | Shutdown | Ignored


def address_of(symbol: str) -> str:
    """The wire address of an exchange pair."""
    return f"binance:{symbol}"


def token_info(symbol: str) -> TokenInfo:
    """What is known of a pair without asking: its names. The supply is not, so neither is the market cap."""
    return TokenInfo(address=address_of(symbol), symbol=symbol, name=symbol)


def parse_frame(text: str | bytes) -> Frame:
    """Read one frame. Raises :class:`FormatError`; bounds of size are the transport's business."""
    try:
        frame = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise FormatError("not_json", text[:MAX_DETAIL_CHARS]) from None
    if not isinstance(frame, dict):
        raise FormatError("not_an_object", text[:MAX_DETAIL_CHARS])
    data = frame.get("data") if "stream" in frame else frame
    if not isinstance(data, dict):
        raise FormatError("no_data", text[:MAX_DETAIL_CHARS])
    kind = data.get("e")
    if isinstance(kind, str):
        if kind in TRADE_KINDS:
            return _trade(kind, data)
        return Shutdown() if kind == "serverShutdown" else Ignored(kind[:MAX_SYMBOL_CHARS])
    if data is frame and "id" in frame and ("result" in frame or "error" in frame or "code" in frame):
        return _reply(frame)
    if data is frame and ("code" in frame or "error" in frame):
        return _reply(frame)
    if "stream" in frame or {"u", "b", "a"} <= data.keys() or "lastUpdateId" in data:
        return Ignored("unnamed")  # bookTicker and partial books carry no event name
    raise FormatError("unknown_frame", text[:MAX_DETAIL_CHARS])


class TradeIds:
    """The newest trade id of every symbol: finds the holes."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def observe(self, symbol: str, number: int) -> int:
        """Note an id; how many are missing before it. Repeated and older ones are never a hole."""
        newest = self._newest.get(symbol)
        if newest is None:
            if len(self._newest) < MAX_TRACKED_SYMBOLS:
                self._newest[symbol] = number
            return 0
        if number <= newest:
            return 0
        self._newest[symbol] = number
        return number - newest - 1


def _trade(kind: str, data: dict[str, Any]) -> TradeFrame:
    symbol = data.get("s")
    if not isinstance(symbol, str) or len(symbol) > MAX_SYMBOL_CHARS or not _SYMBOL.fullmatch(symbol):
        raise FormatError("bad_symbol", symbol)
    number = _whole(data, TRADE_KINDS[kind], "bad_id")
    maker_bought = data.get("m")
    if not isinstance(maker_bought, bool):
        raise FormatError("bad_side", maker_bought)
    trade = Trade(
        address=address_of(symbol),
        trade_id=str(number),
        price=_number(data, "p", "bad_price"),
        amount=_number(data, "q", "bad_amount"),
        side=Side.SELL if maker_bought else Side.BUY,
        time_ms=_whole(data, "T", "bad_time"),
    )
    return TradeFrame(kind, symbol, number, trade)


def _whole(data: dict[str, Any], key: str, reason: str) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise FormatError(reason, value if not isinstance(value, int) else "integer out of range")
    return value


def _number(data: dict[str, Any], key: str, reason: str) -> Decimal:
    try:
        return parse_decimal(data.get(key))
    except DecimalError as error:
        raise FormatError(reason, error) from None


def _reply(frame: dict[str, Any]) -> Reply:
    request_id = frame.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, int):
        request_id = None
    error = frame.get("error", frame)
    if isinstance(error, dict) and ("code" in error or "msg" in error):
        text = f"{error.get('code')}: {error.get('msg')}"
        return Reply(request_id, ascii(text[:MAX_DETAIL_CHARS]))
    return Reply(request_id)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
