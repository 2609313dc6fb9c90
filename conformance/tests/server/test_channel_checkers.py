"""The checkers of channels: histories written by hand, good and bad."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_conformance.server.channel_checkers import (
    book_problem,
    kline_problem,
    push_problem,
    set_problem,
    trade_problem,
)
from tokenwire_conformance.wire.frames import Opcode
from tokenwire_conformance.wire.messages import Received
from tokenwire_schemas.codec import encode_data

MINUTE_MS = 60_000
BEGIN_MS = 1_764_547_200_000  # 2025-12-01T00:00:00Z


def trade(version: int, **changed: Any) -> dict[str, Any]:
    return {
        "symbol": "A", "price": "1.5", "volume": "2", "side": "Buy", "timestamp": "2025-12-01T00:00:05Z",
        "address": "A", "version": version, **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("trades", "told"),
    [
        ([trade(1), trade(2), trade(9, address="B")], None),
        ([trade(1), trade(3)], "the versions of A"),
        ([trade(2), trade(2)], "the versions of A"),
        ([trade(2), trade(1)], "the versions of A"),
        ([trade(1, side="buy")], "side is"),
        ([trade(1, price=1.5)], "price is"),
        ([trade(1, volume="1e5")], "volume is"),
        ([trade(1, timestamp="2025-12-01T00:00:05+00:00")], "timestamp is"),
        ([trade(1, timestamp="2025-13-41T00:00:05Z")], "timestamp is"),
    ],
)
def test_trades(trades: list[dict[str, Any]], told: str | None) -> None:
    expect("XC.trades", told, trade_problem(trades))


def expect(clause: str, told: str | None, problem: tuple[str, str] | None) -> None:
    if told is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem[0] == clause
        assert told in problem[1]


def bar(minute: int, at_s: float, version: int, *, closed: bool = False, **changed: Any) -> tuple[int, dict[str, Any]]:
    """A bar of that minute, sent that many seconds behind its begin."""
    data = {
        "symbol": "A", "interval": "1m", "open_time": f"2025-12-01T00:{minute:02}:00Z",
        "close_time": f"2025-12-01T00:{minute + 1:02}:00Z", "open": "2", "high": "3", "low": "1", "close": "2.5",
        "volume": "7", "address": "A", "closed": closed, "version": version, **changed,
    }  # fmt: skip
    return round(BEGIN_MS + minute * MINUTE_MS + at_s * 1000), data


KLINES: list[tuple[list[tuple[int, dict[str, Any]]], str | None, str]] = [
    ([bar(0, 1, 1), bar(0, 2, 2), bar(0, 60, 3, closed=True), bar(1, 1, 1)], None, ""),
    # Closed at once behind an open one, and corrected behind a later one.
    ([bar(0, 59.9, 1), bar(0, 60, 2, closed=True), bar(1, 1, 1), bar(0, 62, 3, closed=True), bar(1, 3, 2)], None, ""),
    # Corrected, though it was over before the subscribe.
    ([bar(5, 1, 1), bar(4, 62, 8, closed=True), bar(5, 3, 2)], None, ""),
    ([bar(0, 1, 1), bar(0, 1, 7, address="B"), bar(0, 1, 9, interval="5m")], None, ""),
    ([bar(0, 1, 1), bar(1, 1, 1)], "never came closed", "XC.kline-closed"),
    ([bar(0, 60, 1, closed=True), bar(0, 61, 2)], "came open again", "XC.kline-closed"),
    ([bar(0, 30, 1, closed=True)], "before its end", "XC.kline-closed"),
    ([bar(0, 1, 1, closed=1)], "closed is 1", "XC.kline-closed"),  # type: ignore[arg-type]
    ([bar(0, 1, 2), bar(0, 2, 2)], "went from 2 to 2", "XC.klines"),
    ([bar(0, 1, 2), bar(0, 60, 2, closed=True)], "went from 2 to 2", "XC.klines"),
    ([bar(0, 1, 1), bar(0, 1.1, 2)], "came again after 100 ms", "XC.klines"),
    ([bar(0, 60, 2, closed=True), bar(1, 1, 1), bar(0, 62, 2, closed=True)], "went from 2 to 2", "XC.klines"),
    ([bar(5, 1, 1), bar(4, 62, 8)], "open behind a later one", "XC.klines"),
    ([bar(0, 60, 2, closed=True), bar(2, 1, 1), bar(1, 62, 8, closed=True)], "behind a later one", "XC.klines"),
    ([bar(0, 1, 1, high="2")], "outside of", "XC.klines"),
    ([bar(0, 1, 1, low=1)], "low is", "XC.klines"),
    ([bar(0, 1, 1, close_time="2025-12-01T00:00:00Z")], "open_time and close_time", "XC.klines"),
    ([bar(0, 1, 1, open_time=None)], "open_time and close_time", "XC.klines"),
]


@pytest.mark.parametrize(("bars", "told", "clause"), KLINES)
def test_bars(bars: list[tuple[int, dict[str, Any]]], told: str | None, clause: str) -> None:
    expect(clause, told, kline_problem(bars))


def book(at_ms: int, version: int, **changed: Any) -> tuple[int, dict[str, Any]]:
    data = {
        "address": "A", "depth": 2, "bids": [["9.5", "1"], ["9", "1"]], "asks": [["10", "1"], ["11", "1"]],
        "stale": False, "version": version, **changed,
    }  # fmt: skip
    return at_ms, data


@pytest.mark.parametrize(
    ("books", "told"),
    [
        ([book(0, 1), book(0, 1, address="B"), book(250, 4), book(500, 5, bids=[], asks=[])], None),
        ([book(0, 1), book(100, 2)], "came again after 100 ms"),
        ([book(0, 2), book(300, 2)], "went from 2 to 2"),
        ([book(0, 1, bids=[["9", "1"], ["9.5", "1"]])], "not sorted"),
        ([book(0, 1, asks=[["10", "1"], ["10", "2"]])], "not sorted"),
        ([book(0, 1, bids=[["10", "1"]])], "not below"),
        ([book(0, 1, asks=[["10", "1"], ["11", "1"], ["12", "1"]])], "3 levels came"),
        ([book(0, 1, depth=5)], "depth 5"),
        ([book(0, 1, bids=[["9"]])], "no pairs"),
        ([book(0, 1, asks={})], "no pairs"),
    ],
)
def test_books(books: list[tuple[int, dict[str, Any]]], told: str | None) -> None:
    expect("XC.book", told, book_problem(books, 2))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([(0, 1), (250, 2), (500, 2)], None),
        ([(0, 1), (150, 2)], "came again after 150 ms"),
        ([(0, 2), (250, 1)], "fell from 2 to 1"),
    ],
)
def test_pushed_values(values: list[tuple[int, int]], told: str | None) -> None:
    expect("XC.push", told, push_problem([(at, {"address": "A", "version": version}) for at, version in values], 250))


def message(kind: str, data: dict[str, Any]) -> Received:
    payload = encode_data({"type": kind, "sequence": 1, "timestamp": BEGIN_MS, "data": data})
    return Received(0.0, 0.0, Opcode.TEXT, payload, False, len(payload), 1)


def members(added: list[str], removed: list[str], size: int, name: str = "set:new:2") -> Received:
    return message("set", {"set": name, "added": added, "removed": removed, "size": size})


def value(*addresses: str) -> Received:
    return message("token_batch", {"updates": [{"address": address} for address in addresses]})


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([members(["A", "B"], [], 2), value("A", "B"), members(["C"], ["A"], 2), value("B", "C")], None),
        ([members(["A"], [], 2), members(["B"], [], 2), value("B")], None),  # in two parts
        ([members(["A"], [], 1), members(["A"], [], 1, "set:all"), members([], ["A"], 0), value("A")], None),
        ([value("own")], None),
        ([members([], [], 0)], None),
        ([value("A"), members(["A"], [], 1)], 'a value of "A"'),
        ([members(["A"], [], 1), members([], ["A"], 0), value("A")], 'a value of "A"'),
        ([members(["A"], [], 1), members(["A"], [], 1)], "where it was"),
        ([members(["A"], ["B"], 1)], "where it was not"),
        ([members(["A"], [], 2), value("A")], "size of set:new:2 is 2"),
        ([message("set", {"set": "set:all", "added": "A", "removed": [], "size": 1})], "no lists"),
        ([members([str(number) for number in range(1_001)], [], 1_001)], "no lists of 1000"),
    ],
)
def test_sets(messages: list[Received], told: str | None) -> None:
    expect("XC.set-members", told, set_problem(messages, ["own"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("2025-12-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted({*bar(0, 1, 1)[1], *book(0, 1)[1]})), JSON), max_size=3))
def test_whatever_a_server_sends_is_judged(rows: list[dict[str, Any]]) -> None:
    checks: list[Callable[[], object]] = [
        lambda: trade_problem([{**trade(1), **row} for row in rows]),
        lambda: kline_problem([(BEGIN_MS, {**bar(0, 1, 1)[1], **row}) for row in rows]),
        lambda: book_problem([(0, {**book(0, 1)[1], **row}) for row in rows], 2),
        lambda: push_problem([(0, row) for row in rows], 250),
    ]
    for check in checks:
        check()
