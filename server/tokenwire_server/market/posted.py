"""Trades as programs post them: JSON texts become trades, or reasons why not. Pure.

Numbers are read from their text as written, never through float. Fields that are not known are ignored.
"""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from tokenwire_server.market.decimals import DecimalError, parse_decimal
from tokenwire_server.market.doubts import Doubt
from tokenwire_server.market.instants import parse_instant
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.validation.trades import MAX_ID_CHARS, Reason, Rejection, validate_recorded

__all__ = [
    "MAX_POST_TRADES",
    "VENUE",
    "Outcome",
    "OutcomeKind",
    "PostError",
    "Posted",
    "Refusal",
    "TooManyTradesError",
    "UnsettledError",
    "read_post",
    "read_trade",
]  # fmt: skip

MAX_POST_TRADES: Final = 1_000
VENUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

_SPACE: Final = b" \t\r\n"
_SIDES: Final = {"buy": Side.BUY, "sell": Side.SELL}
_NOTHING: Final = msgspec.Raw(b"")


class PostError(ValueError):
    """The body is not what is expected; the message says what is."""


class TooManyTradesError(PostError):
    """There are more than ``MAX_POST_TRADES``."""


class Posted(NamedTuple):
    """A trade that may be used. Its address is ``venue:symbol``."""

    symbol: str
    venue: str
    trade: Trade


class Refusal(NamedTuple):
    """Why a trade can't be used: a stable ``reason``, a ``message`` for people, the trade's ``id`` if it has one."""

    reason: str
    message: str
    id: str | None


class OutcomeKind(StrEnum):
    """What became of one posted trade."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class Outcome(NamedTuple):
    """What became of one posted trade: ``doubts`` if it was accepted, ``refusal`` with its ``code`` if rejected."""

    kind: OutcomeKind
    id: str | None
    doubts: tuple[Doubt, ...] = ()
    code: str = ""
    refusal: Refusal | None = None


class UnsettledError(Exception):
    """It is not known whether the trades are stored, or none were taken; posting the same later is harmless."""


class _Fields(msgspec.Struct):
    id: msgspec.Raw = _NOTHING
    symbol: msgspec.Raw = _NOTHING
    price: msgspec.Raw = _NOTHING
    amount: msgspec.Raw = _NOTHING
    side: msgspec.Raw = _NOTHING
    timestamp: msgspec.Raw = _NOTHING
    venue: msgspec.Raw = _NOTHING


class _FieldError(ValueError):
    """A field is missing or wrong."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


_list_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])
_fields_decoder: Final = msgspec.json.Decoder(_Fields)
_text_decoder: Final = msgspec.json.Decoder(str)


def read_post(body: bytes) -> list[msgspec.Raw]:
    """The trades of a body, which is one object or an array of them; each is to be read by :func:`read_trade`.

    Raises:
        TooManyTradesError, PostError: none of it is used.
    """
    text = body.strip(_SPACE)
    if not text.startswith((b"[", b"{")):
        raise PostError("a JSON object (one trade) or an array of such objects is expected")
    try:
        text.decode("utf-8")
        found = _list_decoder.decode(text if text.startswith(b"[") else b"[%b]" % text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PostError(f"not JSON: {str(error) or 'nested too deeply'}") from None
    if text.startswith(b"{") and len(found) != 1:
        raise PostError("several objects must be an array")
    if len(found) > MAX_POST_TRADES:
        raise TooManyTradesError(f"at most {MAX_POST_TRADES} trades in one request, not {len(found)}")
    return found


def read_trade(raw: msgspec.Raw, default_venue: str, now_ms: int) -> Posted | Refusal:
    """One trade. ``now_ms`` is the wall clock: times are judged as those of recorded trades."""
    name: str | None = None
    try:
        try:
            fields = _fields_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            raise _FieldError("not_an_object", "an object with id, symbol, price, amount, side, timestamp") from None
        name = trade_id = _identifier(fields.id)
        symbol = _required(fields.symbol, "symbol", Reason.SYMBOL)
        venue = _required(fields.venue, "venue", "venue_invalid") if bytes(fields.venue) else default_venue
        if VENUE.fullmatch(venue) is None:
            raise _FieldError("venue_invalid", "venue: 1 to 32 letters, digits, dots, dashes and underscores")
        price = _number(fields.price, "price", "price_invalid", Reason.PRICE_OUT_OF_BOUNDS)
        amount = _number(fields.amount, "amount", "amount_invalid", Reason.AMOUNT_OUT_OF_BOUNDS)
        side = _SIDES.get(_required(fields.side, "side", "side_invalid").lower())
        if side is None:
            raise _FieldError("side_invalid", "side: Buy or Sell, which is the taker's")
        time_ms = _time(fields.timestamp)
    except _FieldError as error:
        return Refusal(error.reason, str(error), name)
    trade = Trade(f"{venue}:{symbol}", trade_id, price, amount, side, time_ms)
    rejection = validate_recorded(trade, now_ms)
    if rejection is None:
        return Posted(symbol, venue, trade)
    return Refusal(rejection.reason, _explain(rejection), name)


def _text(raw: msgspec.Raw) -> str | None:
    """The string that is there, or the number as it is written; None: something else, or nothing."""
    written = bytes(raw).strip(_SPACE)
    if written[:1] == b'"':
        try:
            return _text_decoder.decode(written)
        except msgspec.DecodeError:  # half of a surrogate pair, say
            return None
    return written.decode("ascii") if written[:1] in b"-0123456789" and written else None


def _required(raw: msgspec.Raw, field: str, reason: str) -> str:
    """A string that is not too long, without characters that can't be shown."""
    written = bytes(raw).strip(_SPACE)
    text = _text(raw) if written[:1] == b'"' else None
    if text is None or not 0 < len(text) <= MAX_ID_CHARS or not text.isprintable():
        given = "missing" if not written else "not what it must be"
        raise _FieldError(reason, f"{field} is {given}: a text of 1 to {MAX_ID_CHARS} printable characters")
    return text


def _identifier(raw: msgspec.Raw) -> str:
    """A text, or a whole number as text."""
    written = bytes(raw).strip(_SPACE)
    if written.isdigit() and len(written) <= MAX_ID_CHARS:
        return written.decode("ascii")
    return _required(raw, "id", Reason.TRADE_ID)


def _number(raw: msgspec.Raw, field: str, reason: str, bounds_reason: str) -> Decimal:
    text = _text(raw)
    if text is None:
        given = "missing" if not bytes(raw) else "not what it must be"
        raise _FieldError(reason, f"{field} is {given}: a decimal number, as text or as a JSON number")
    try:
        return parse_decimal(text)
    except DecimalError as error:
        if error.reason == "out_of_bounds":
            raise _FieldError(bounds_reason, f"{field}: at most 38 digits before and 38 after the point") from None
        raise _FieldError(reason, f"{field}: {error}") from None


def _time(raw: msgspec.Raw) -> int:
    text = _text(raw)
    try:
        time_ms = parse_instant(text or "")
    except ValueError as error:
        given = "" if text is None else f", not {text[:40]!a}"
        raise _FieldError("time_invalid", f"timestamp: {error}{given}") from None
    if time_ms == 0:
        raise _FieldError("time_invalid", "timestamp: a time after 1970")
    return time_ms


def _explain(rejection: Rejection) -> str:
    return f"{str(rejection.reason).replace('_', ' ')}: {rejection.detail}"
