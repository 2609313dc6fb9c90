"""Pages of trades by number, and trades that are odd."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.doubts import MAX_AHEAD_MS, OLD_MS, Doubt, doubt_of_time, is_jump
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.trade_log import LogPlan, TradeLog
from tokenwire_server.market.trade_pages import TradePage, TradeRequest, trade_page_of
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue

BEGIN_MS = 1_700_000_000_000


def trade(number: int, price: Decimal = Decimal(1), time_ms: int = BEGIN_MS) -> Trade:
    return Trade("v:X", str(number), price, Decimal(1), Side.BUY, time_ms)


@given(
    st.integers(0, 25),
    st.integers(1, 12),
    st.none() | st.integers(0, 30),
    st.none() | st.integers(1, 30),
    st.integers(1, 8),
)
def test_a_page_is_what_a_plain_list_gives(
    count: int, most: int, after: int | None, before: int | None, limit: int
) -> None:
    log = TradeLog(LogPlan(most))
    for number in range(1, count + 1):
        log.add(trade(number))
    wanted = [number for number in range(1, count + 1) if number > count - most]
    oldest = wanted[0] if wanted else count + 1
    wanted = [number for number in wanted if (after or 0) < number and (before is None or number < before)]
    page = trade_page_of(log, TradeRequest(after, before, limit))
    assert [each.number for each in page.trades] == (wanted[-limit:] if after is None else wanted[:limit])
    assert (page.oldest, page.newest) == (oldest, count)


def test_before_the_first_trade() -> None:
    assert trade_page_of(None, TradeRequest()) == TradePage((), 1, 0)


@pytest.mark.parametrize(
    ("before", "price", "jumps"),
    [("1", "1.5", False), ("1", "1.51", True), ("1", "0.5", False), ("1", "0.49", True), ("2", "2", False)],
)
def test_a_jump_is_more_than_half(before: str, price: str, jumps: bool) -> None:
    assert is_jump(Decimal(before), Decimal(price)) is jumps


def test_a_time_is_odd_when_it_is_old_or_ahead() -> None:
    cases = [(-OLD_MS, None), (-OLD_MS - 1, Doubt.TIME_OLD), (MAX_AHEAD_MS, None), (MAX_AHEAD_MS + 1, Doubt.TIME_AHEAD)]
    for offset_ms, doubt in cases:
        assert doubt_of_time(BEGIN_MS + offset_ms, BEGIN_MS) is doubt


@pytest.mark.parametrize(
    ("prices", "jumps"),
    [("1 0.8 1.2", 0), ("1 0.81 1.22", 1), ("1 1.2 0.8", 0), ("1 0.61 1.2", 1), ("1 1.5 2.25 1.125 0.5", 1)],
)
def test_small_steps_may_add_up_to_a_jump(prices: str, jumps: int) -> None:
    told: list[Decimal] = []
    market = Market(lambda token: None, BEGIN_MS, on_jump=lambda token, price: told.append(price))
    market.add_tokens("test", [TokenInfo("v:X", "X")])
    for number, price in enumerate(prices.split()):
        market.apply("test", trade(number, Decimal(price)))
    assert len(told) == jumps


@given(st.lists(st.tuples(st.decimals("0.01", "9", places=2), st.integers(0, 30)), max_size=40), st.booleans())
def test_the_market_tells_of_exactly_the_jumps(steps: list[tuple[Decimal, int]], are_stated: bool) -> None:
    """Most prices are let through by a quick comparison; it must not let a jump through."""
    told: list[Decimal] = []

    def tell(token: TokenState, price: Decimal) -> None:
        assert token.price != price
        told.append(price)

    market = Market(lambda token: None, BEGIN_MS, on_jump=tell)
    market.add_tokens("test", [TokenInfo("v:X", "X")])
    expected: list[Decimal] = []
    last: Decimal | None = None
    newest_ms = 0
    one = Decimal(1)
    for number, (price, second) in enumerate(steps):
        time_ms = BEGIN_MS + second
        if are_stated:
            market.state("test", TokenValue("v:X", price, one, one, one, one, time_ms))
        else:
            market.apply("test", trade(number, price, time_ms))
        if time_ms >= newest_ms:
            if last is not None and (2 * price > 3 * last or 2 * price < last):
                expected.append(price)
            last, newest_ms = price, time_ms
    assert told == expected
