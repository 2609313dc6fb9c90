"""Decimals are bounded, exact and have one text."""

import re
from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.decimals import EXACT, MAX_TEXT_CHARS, DecimalError, canonical, parse_decimal
from tokenwire_server.validation.trades import MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS

digits = st.text("0123456789", min_size=1, max_size=MAX_INTEGER_DIGITS)
numbers = st.builds(
    lambda sign, whole, part: f"{sign}{whole}.{part}",
    st.sampled_from(["", "-", "+"]),
    digits,
    st.text("0123456789", max_size=MAX_FRACTION_DIGITS),
)


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("0.00001180", "0.0000118"),
        ("1E-7", "0.0000001"),
        ("1e5", "100000"),
        ("-0.000", "0"),
        ("00012.50", "12.5"),
        ("5.", "5"),
        (".5", "0.5"),
        ("0e99", "0"),
        ("0e-99", "0"),
        (7, "7"),
        (Decimal("1E+37"), "1" + "0" * 37),
        ("1e-38", "0." + "0" * 37 + "1"),
        ("1." + "0" * 60, "1"),
    ],
)
def test_parses_to_one_canonical_text(given_value: object, expected: str) -> None:
    assert canonical(parse_decimal(given_value)) == expected


@pytest.mark.parametrize(
    ("given_value", "reason"),
    [
        ("", "not_a_number"),
        (" 1", "not_a_number"),
        ("1_000", "not_a_number"),
        ("\u0661", "not_a_number"),
        ("NaN", "not_a_number"),
        ("Infinity", "not_a_number"),
        (Decimal("NaN"), "not_a_number"),
        (Decimal("sNaN"), "not_a_number"),
        (Decimal("-Infinity"), "not_a_number"),
        (1.5, "not_a_number"),
        (True, "not_a_number"),
        (None, "not_a_number"),
        ("1" * (MAX_TEXT_CHARS + 1), "too_long"),
        ("1e38", "out_of_bounds"),
        ("1e-39", "out_of_bounds"),
        ("1e9999", "out_of_bounds"),
        (Decimal("1e999999"), "out_of_bounds"),
        (10**38, "out_of_bounds"),
        pytest.param(1 << 1_000_000, "out_of_bounds", id="huge integer"),
        ("1" * 39, "out_of_bounds"),
        (Decimal("1." + "1" * 5_000), "out_of_bounds"),
    ],
)
def test_refuses_with_a_reason(given_value: object, reason: str) -> None:
    with pytest.raises(DecimalError) as caught:
        parse_decimal(given_value)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 120


@given(numbers)
def test_canonical_text_is_exact_and_a_fixed_point(text: str) -> None:
    value = parse_decimal(text)
    shown = canonical(value)
    assert value == Decimal(text) == Decimal(shown)
    assert canonical(parse_decimal(shown)) == shown
    assert shown != "-0"
    assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", shown)


@given(st.lists(st.tuples(numbers, numbers), max_size=20))
def test_products_and_sums_are_never_rounded(pairs: list[tuple[str, str]]) -> None:
    total = Decimal(0)
    for left, right in pairs:
        total = EXACT.add(total, EXACT.multiply(parse_decimal(left), parse_decimal(right)))
    scale = MAX_FRACTION_DIGITS * 2
    as_integers = sum(_scaled(left) * _scaled(right) for left, right in pairs)
    assert total.scaleb(scale, EXACT) == as_integers


def _scaled(text: str) -> int:
    whole, _, part = text.lstrip("+-").partition(".")
    number = int(whole + part.ljust(MAX_FRACTION_DIGITS, "0"))
    return -number if text.startswith("-") else number


def test_rounding_is_an_error() -> None:
    with pytest.raises(Inexact):
        EXACT.divide(Decimal(1), Decimal(3))


def test_only_finite_numbers_have_a_text() -> None:
    with pytest.raises(ValueError, match="finite"):
        canonical(Decimal("NaN"))
