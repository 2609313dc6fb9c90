"""Decimal numbers, exactly: bounded parsing, canonical text and an arithmetic context that never rounds."""

import re
from decimal import Clamped, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

from tokenwire_server.validation.trades import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS, fits

__all__ = ["EXACT", "MAX_TEXT_CHARS", "ZERO", "DecimalError", "canonical", "parse_decimal"]

MAX_TEXT_CHARS: Final = 128  # room for 38 + 38 digits, sign, point, exponent and padding zeros

_MAX_SUMMANDS_DIGITS: Final = 24  # sums of up to 10^24 products stay exact

EXACT: Final = Context(
    prec=2 * (MAX_INTEGER_DIGITS + MAX_FRACTION_DIGITS) + _MAX_SUMMANDS_DIGITS,
    traps=[Inexact, InvalidOperation, DivisionByZero, Overflow, Clamped],
)
"""Context for products of two bounded numbers and their sums; rounding raises ``decimal.Inexact``."""

ZERO: Final = Decimal(0)

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


class DecimalError(ValueError):
    """A value is not a usable decimal number.

    ``reason`` is ``not_a_number``, ``too_long`` or ``out_of_bounds``.
    """

    def __init__(self, reason: str, value: object) -> None:
        super().__init__(f"{reason}: {str(value)[:64]!a}")
        self.reason = reason


def parse_decimal(value: object) -> Decimal:
    """Read a str, int or Decimal (what a JSON number becomes when parsed without float) exactly.

    At most 38 integer and 38 fractional digits after the exponent is expanded; trailing zeros do not count.
    Raises :class:`DecimalError` otherwise, and for float, bool, NaN and infinities.
    """
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise DecimalError("too_long", value)
        if _NUMBER.fullmatch(value) is None:
            raise DecimalError("not_a_number", value)
        number = Decimal(value)
    elif isinstance(value, Decimal):
        number = value
    elif isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 4 * MAX_INTEGER_DIGITS:  # before the costly conversion of a huge integer
            raise DecimalError("out_of_bounds", "integer")
        number = Decimal(value)
    else:
        raise DecimalError("not_a_number", type(value).__name__)
    return number if fits(number) else _shortened(number)


def canonical(value: Decimal) -> str:
    """The one text of a number: no exponent, no leading or trailing zeros, nothing rounded, never ``-0``.

    Raises ValueError for NaN and infinities.
    """
    if not value.is_finite():
        raise ValueError("only finite numbers have a canonical text")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _shortened(number: Decimal) -> Decimal:
    """The same value in bounds without its trailing zeros, or without its exponent; else DecimalError."""
    if number.is_nan() or number.is_infinite():
        raise DecimalError("not_a_number", number)
    if not number:
        return ZERO
    if number.adjusted() < MAX_INTEGER_DIGITS and len(number.as_tuple().digits) <= EXACT.prec:
        number = number.normalize(EXACT)
        if fits(number):
            return number
    raise DecimalError("out_of_bounds", number)
