"""Spellings of intervals, and where their bars begin."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.intervals import (
    DEFAULT_INTERVALS,
    MAX_INTERVALS,
    IntervalError,
    parse_interval,
    parse_intervals,
)


@pytest.mark.parametrize(
    ("text", "spelled", "ms"),
    [
        ("1s", "1s", 1_000),
        ("60s", "1m", 60_000),
        ("90s", "90s", 90_000),
        ("15m", "15m", 900_000),
        ("24h", "1d", 86_400_000),
        ("1w", "1w", 604_800_000),
    ],
)
def test_each_length_has_one_spelling(text: str, spelled: str, ms: int) -> None:
    assert parse_interval(text) == (spelled, ms)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "1",
        "0s",
        "-1s",
        "1M",
        "1.5m",
        "1 m",
        "01m",
        "8d",
        "169h",
        "9999999s",
        "1m\n",
        "\N{FULLWIDTH DIGIT ONE}m",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(IntervalError, match="interval"):
        parse_interval(text)


def test_several_are_sorted_and_each_is_there_once() -> None:
    assert [interval.text for interval in parse_intervals(["1h", "60s", "1m"])] == ["1m", "1h"]
    assert [interval.text for interval in DEFAULT_INTERVALS] == ["1s", "1m", "5m", "15m", "1h"]
    for texts in ([], [f"{n}s" for n in range(1, MAX_INTERVALS + 2)]):
        with pytest.raises(IntervalError, match="from 1 to"):
            parse_intervals(texts)


def test_weeks_begin_on_mondays() -> None:
    sunday = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    start = parse_interval("1w").open_ms(int(sunday.timestamp() * 1000))
    assert datetime.fromtimestamp(start / 1000, UTC) == datetime(2026, 11, 16, tzinfo=UTC)


@given(st.integers(1, 10_000), st.integers(0, 2**42))
def test_a_time_lies_in_its_bar(seconds: int, time_ms: int) -> None:
    interval = parse_interval(f"{seconds}s")
    start = interval.open_ms(time_ms)
    assert start <= time_ms < start + interval.ms
    assert interval.open_ms(start) == start
    assert interval.open_ms(start - 1) == start - interval.ms


TEXTS = ["1s", "1m", "5m", "7s", "90s", "1h", "1d", "7d"]


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_a_shorter_bar_lies_within_one_longer_one(long: str, short: str) -> None:
    longer, shorter = parse_interval(long), parse_interval(short)
    if shorter.ms < longer.ms and longer.holds(shorter):
        for number in range(20):
            start = shorter.open_ms(1_700_000_000_000) + number * shorter.ms
            assert longer.open_ms(start) == longer.open_ms(start + shorter.ms - 1)
