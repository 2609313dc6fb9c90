"""Trades in order: whatever is lost on the way, fetched or not, nothing is silent about it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.channels import Trade
from tokenwire.trade_line import TradeLine, Wanted


def trade(number: int | None, *, fetched: bool = False) -> Trade:
    return Trade("PEPE", "a", "PEPE", number, str(number), "1", "1", "Buy", 0, 0, fetched=fetched)


def taken(line: TradeLine) -> list[tuple[int | None, int | None]]:
    found = []
    while (each := line.take()) is not None:
        found.append((each.number, each.missed))
    return found


def test_trades_in_order_pass() -> None:
    line = TradeLine()
    for number in (7, 8, 8, 7, 9):
        line.push(trade(number))
    assert taken(line) == [(7, 0), (8, 0), (9, 0)]
    assert line.wanted is None


def test_a_hole_is_filled_before_what_follows() -> None:
    line = TradeLine()
    for number in (1, 5, 6):
        line.push(trade(number))
    assert taken(line) == [(1, 0)]
    assert line.wanted == Wanted(1, 5)
    line.fetched([trade(2), trade(3)], is_all=False)
    assert line.wanted == Wanted(3, 5)
    line.push(trade(7))
    line.fetched([trade(4), trade(5)], is_all=False)
    assert taken(line) == [(2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)]
    assert line.wanted is None


def test_what_cannot_be_had_is_counted() -> None:
    line = TradeLine(10)
    line.push(trade(15))
    line.fetched([trade(13)], is_all=True)
    assert taken(line) == [(13, 2), (15, 1)]


def test_numbers_from_somewhere_else_are_said_to_be_so() -> None:
    line = TradeLine(10)
    line.begin_anew()
    line.push(trade(3))
    line.push(trade(4))
    assert taken(line) == [(3, None), (4, 0)]
    fresh = TradeLine()
    fresh.begin_anew()
    fresh.push(trade(3))
    assert taken(fresh) == [(3, 0)]


def test_without_numbers_everything_passes() -> None:
    line = TradeLine()
    line.push(trade(None))
    line.push(trade(None))
    assert taken(line) == [(None, 0), (None, 0)]


@given(st.integers(0, 1 << 32), st.integers(1, 40), st.integers(0, 6))
def test_everything_that_can_be_had_comes_once_and_the_rest_is_counted(seed: int, count: int, held: int) -> None:
    source = random.Random(seed)
    stored = {number for number in range(1, count + 1) if source.random() < 0.8} | {count + 1, count + 2}
    line = TradeLine(0)
    from tokenwire import trade_line

    before, trade_line.MAX_HELD = trade_line.MAX_HELD, held  # type: ignore[misc]
    out: list[tuple[int | None, int | None]] = []
    arrived = [number for number in range(1, count + 1) if source.random() < 0.6] + [count + 1]
    try:
        for number in arrived:
            for _ in range(source.choice([1, 1, 2])):
                line.push(trade(number))
            out += taken(line)
            if source.random() < 0.5:
                out += fetch(line, stored, source)
        while line.wanted is not None:
            out += fetch(line, stored, source)
        line.push(trade(count + 2))
        while line.wanted is not None:
            out += fetch(line, stored, source)
        out += taken(line)
    finally:
        trade_line.MAX_HELD = before  # type: ignore[misc]
    numbers = [number for number, _ in out if number is not None]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count + 2
    assert len(numbers) + sum(missed or 0 for _, missed in out) == count + 2
    assert stored <= set(numbers)


def test_of_trades_that_were_let_go_the_last_one_is_fetched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.trade_line.MAX_HELD", 1)
    line = TradeLine(1)
    for number in (3, 4, 5):
        line.push(trade(number))
    line.fetched([trade(2)], is_all=True)
    assert taken(line) == [(2, 0), (3, 0)]
    assert line.wanted == Wanted(3, 6)
    line.fetched([trade(4)], is_all=True)
    assert taken(line) == [(4, 0)]
    assert line.wanted is None, "nobody has the last one"
    line.push(trade(6))
    line.fetched([], is_all=True)
    assert taken(line) == [(6, 1)]


def test_an_application_that_lags_gets_everything_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.trade_line.MAX_WAITING", 2)
    line = TradeLine(0)
    for number in range(1, 6):
        line.push(trade(number))
    assert line.wanted is None
    assert line.take() is not None
    assert line.wanted == Wanted(2, 6)
    line.fetched([trade(3), trade(4), trade(5)], is_all=True)
    line.push(trade(6))
    while line.wanted is None and line.take() is not None:
        pass
    assert line.wanted == Wanted(5, 7)
    line.fetched([trade(6)], is_all=True)
    assert taken(line)[-1] == (6, 0)


def test_catching_up_fetches_whatever_there_is_and_goes_on_live() -> None:
    line = TradeLine(7)
    line.catch_up()
    line.push(trade(10))
    assert line.wanted is not None
    line.fetched([trade(8), trade(9)], is_all=False)
    line.fetched([trade(10)], is_all=True)
    assert taken(line) == [(8, 0), (9, 0), (10, 0)]
    assert line.wanted is None
    line.push(trade(11))
    assert taken(line) == [(11, 0)]


def test_two_breaks_before_the_next_trade_are_not_forgotten() -> None:
    line = TradeLine(10)
    line.begin_anew()
    line.begin_anew()
    line.push(trade(3))
    assert taken(line) == [(3, None)]


def test_a_hole_behind_what_is_caught_up_with_is_fetched() -> None:
    line = TradeLine(7)
    line.catch_up()
    line.push(trade(10))
    line.push(trade(20))
    line.fetched([trade(8), trade(9)], is_all=True)
    assert taken(line) == [(8, 0), (9, 0), (10, 0)]
    assert line.wanted == Wanted(10, 20)


@pytest.mark.parametrize("newest", [0, 4, None])
def test_a_server_that_numbers_anew_is_noticed_by_the_first_page(newest: int | None) -> None:
    line = TradeLine(4_711)
    line.catch_up()
    line.push(trade(4))
    line.push(trade(5))
    line.push(trade(7))
    assert taken(line) == []
    line.fetched([], is_all=True, newest=newest)
    assert taken(line) == [(4, None), (5, 0)]
    assert line.wanted == Wanted(5, 7)


def test_a_server_that_goes_on_may_repeat_older_trades() -> None:
    line = TradeLine(7)
    line.catch_up()
    for number in (6, 7, 8, 9):
        line.push(trade(number))
    line.fetched([trade(8)], is_all=True, newest=8)
    assert taken(line) == [(8, 0), (9, 0)]
    line.push(trade(3))
    assert taken(line) == []


def test_numbers_that_no_trade_ever_had_are_not_missed() -> None:
    line = TradeLine(2)
    line.push(trade(10_004))
    line.fetched([trade(3), trade(10_003)], is_all=True, known=range(1, 10_005))
    assert taken(line) == [(3, 0), (10_003, 0), (10_004, 0)]
    line = TradeLine(2)
    line.push(trade(20))
    line.fetched([trade(12)], is_all=True, known=range(10, 15))
    assert taken(line) == [(12, 7), (20, 5)], "3 to 9 are gone, 11 never was; of 15 to 19 the answer knew nothing"


def fetch(line: TradeLine, stored: set[int], source: random.Random) -> list[tuple[int | None, int | None]]:
    wanted = line.wanted
    if wanted is None:
        return []
    limit = source.randint(1, 5)
    rows = [number for number in sorted(stored) if number > wanted.after][:limit]
    is_all = len(rows) < limit or rows[-1] >= wanted.before - 1
    line.fetched([trade(number, fetched=True) for number in rows], is_all=is_all)
    return taken(line)
