"""What exchanges say, in one vocabulary, and the reading of it: pure, exact, and bounded in what it repeats.

Every exchange's ``…_format`` module turns the text of a frame into one of these. Numbers never pass through float.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn

import msgspec

from tokenwire_server.market.decimals import DecimalError, parse_decimal
from tokenwire_server.market.trades import Side, Trade

__all__ = [
    "MAX_DETAIL_CHARS",
    "MAX_SYMBOL_CHARS",
    "FormatError",
    "Frame",
    "Ignored",
    "Reply",
    "Shutdown",
    "TradesFrame",
    "VenueTrade",
    "collect",
    "digits",
    "load",
    "number",
    "rfc3339_ms",
    "shown",
    "side",
    "text",
    "whole",
]

MAX_SYMBOL_CHARS: Final = 64
MAX_DETAIL_CHARS: Final = 200
MAX_WHOLE_DIGITS: Final = 18  # ids and times in text form stay below 2**63

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class FormatError(ValueError):
    """A frame cannot be used. ``reason`` is a short constant name, ``detail`` the beginning of what came."""

    def __init__(self, reason: str, detail: object) -> None:
        self.reason = reason
        self.detail = shown(detail)
        super().__init__(f"{reason}: {self.detail}")


class VenueTrade(msgspec.Struct, frozen=True):
    """A trade and its place in the venue's own numbering of ``symbol``.

    ``number`` is None where the venue numbers nothing. A trade that stands for several (they were matched at one
    price) has the last of their numbers; ``first`` is the first of them.
    """

    symbol: str
    trade: Trade
    number: int | None = None
    first: int | None = None


class TradesFrame(msgspec.Struct, frozen=True):
    """Trades of one ``channel``, and what else the frame held and cannot be used."""

    channel: str
    trades: tuple[VenueTrade, ...]
    refused: tuple[FormatError, ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """The answer to what was asked for under ``keys``; ``error`` is None when it was granted. An error without keys is
    one of a whole request, or of the connection."""

    keys: tuple[str, ...]
    error: str | None = None


class Shutdown(msgspec.Struct, frozen=True):
    """The venue is going away: connect anew at once."""


class Ignored(msgspec.Struct, frozen=True):
    """An event that is understood and not used."""

    kind: str


Frame = TradesFrame | Reply | Shutdown | Ignored


def shown(detail: object) -> str:
    """What came, cut and harmless in a log line."""
    return ascii(detail[:MAX_DETAIL_CHARS] if isinstance(detail, str | bytes) else str(detail)[:MAX_DETAIL_CHARS])


def load(frame: str | bytes) -> Any:
    """The value that a JSON text says. Raises FormatError ``not_json``."""
    try:
        return json.loads(frame, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise FormatError("not_json", frame) from None


def collect(items: Iterable[Any], read: Callable[[Mapping[str, Any]], VenueTrade], channel: str) -> TradesFrame:
    """Read every item; one that is wrong does not spoil the others."""
    trades: list[VenueTrade] = []
    refused: list[FormatError] = []
    for item in items:
        try:
            if not isinstance(item, Mapping):
                raise FormatError("not_an_object", item)
            trades.append(read(item))
        except FormatError as error:
            refused.append(error)
    return TradesFrame(channel, tuple(trades), tuple(refused))


def text(data: Mapping[str, Any], key: str, pattern: re.Pattern[str], reason: str) -> str:
    """A short text of a known form."""
    value = data.get(key)
    if not isinstance(value, str) or len(value) > MAX_SYMBOL_CHARS or not pattern.fullmatch(value):
        raise FormatError(reason, value)
    return value


def whole(data: Mapping[str, Any], key: str, reason: str) -> int:
    """A whole JSON number from 0 to 2**63 - 1."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise FormatError(reason, value if not isinstance(value, int) else "integer out of range")
    return value


def digits(data: Mapping[str, Any], key: str, reason: str) -> int:
    """A whole number in text form."""
    value = data.get(key)
    if not isinstance(value, str) or not (value.isascii() and value.isdigit() and len(value) <= MAX_WHOLE_DIGITS):
        raise FormatError(reason, value)
    return int(value)


def number(value: object, reason: str) -> Decimal:
    """A decimal number, as text or as JSON number."""
    try:
        return parse_decimal(value)
    except DecimalError as error:
        raise FormatError(reason, error) from None


def side(value: object, sides: Mapping[str, Side]) -> Side:
    """The taker's side under the venue's word for it."""
    found = sides.get(value) if isinstance(value, str) else None
    if found is None:
        raise FormatError("bad_side", value)
    return found


def rfc3339_ms(value: object) -> int:
    """Unix ms of an RFC 3339 time with its zone; what is finer than a millisecond is cut off."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise FormatError("bad_time", value)
    try:
        return (datetime.fromisoformat(value) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        raise FormatError("bad_time", value) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
