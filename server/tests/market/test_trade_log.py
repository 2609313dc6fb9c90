"""Trades by number, against a plain list of all of them."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.trade_log import MAX_SKIPPED, LogPlan, NumberedTrade, TradeLog
from tokenwire_server.market.trades import Side, TokenInfo, Trade

BEGIN_MS = 1_700_000_000_000


def trade(name: int | str) -> Trade:
    return Trade("venue:X", str(name), Decimal(1), Decimal(1), Side.BUY, BEGIN_MS)


@given(st.integers(0, 30), st.integers(1, 12), st.integers(-2, 40), st.integers(1, 15), st.integers(0, 5))
def test_pages_are_those_of_a_plain_list(count: int, most: int, number: int, limit: int, begun: int) -> None:
    log = TradeLog(LogPlan(most))
    log.resume(begun)
    everything = [NumberedTrade(begun + 1 + at, trade(at)) for at in range(count)]
    for expected in everything:
        assert log.add(expected.trade) == expected.number
    at_hand = everything[-most:]
    assert (log.oldest, log.newest) == (begun + count - len(at_hand) + 1, begun + count)
    assert log.after(number, limit) == [each for each in at_hand if each.number > number][:limit]
    assert log.before(number, limit) == [each for each in at_hand if each.number < number][-limit:]


def test_the_more_tokens_the_fewer_trades_each() -> None:
    plan = LogPlan(most=10, total=12)
    logs = [TradeLog(plan) for _ in range(3)]
    for log in logs:
        for number in range(10):
            log.add(trade(number))
        assert len(log.after(0, 100)) == 4
    many = [TradeLog(plan) for _ in range(20)]
    many[0].add(trade(1))
    many[0].add(trade(2))
    assert [each.number for each in many[0].after(0, 100)] == [2]


def test_who_keeps_none_only_counts() -> None:
    log = TradeLog(LogPlan(most=0))
    assert [log.add(trade(number)) for number in range(3)] == [1, 2, 3]
    assert log.after(0, 9) == []
    assert log.oldest == 4


def test_a_resumed_log_has_the_trades_that_were_stored() -> None:
    log = TradeLog(LogPlan(most=3))
    log.resume(9, [trade(number) for number in (6, 7, 8, 9)])
    assert [(each.number, each.trade.trade_id) for each in log.after(0, 9)] == [(7, "7"), (8, "8"), (9, "9")]
    assert log.add(trade(10)) == 10


def test_a_trade_that_can_be_given_no_number_shows_as_a_hole() -> None:
    heard: list[int] = []
    market = Market(lambda token: None, BEGIN_MS, on_trade=lambda token, number, _: heard.append(number))
    market.add_tokens("test", [TokenInfo("venue:X", "X")])
    market.numbers.reserved = 2
    for name in range(5):
        market.apply("test", trade(name))
    assert (heard, market.unnumbered) == ([1, 2], 3)
    market.numbers.reserved = 5
    market.apply("test", trade(5))
    assert (heard, market.unnumbered) == ([1, 2], 4), "the hole takes numbers too"
    market.numbers.reserved = 7
    market.apply("test", trade(6))
    assert heard == [1, 2, 7]
    token = market.get("venue:X")
    assert token is not None
    assert token.log is not None
    assert [each.number for each in token.log.after(0, 9)] == [7]
    market.numbers.reserved = 100
    market.apply("test", trade(7))
    assert heard[-1] == 8
    for _ in range(2 * MAX_SKIPPED):
        token.log.skip()
    assert token.log.skipped == MAX_SKIPPED, "so that no such hole can keep all others waiting for numbers"


def test_the_market_numbers_what_it_applies_and_nothing_else() -> None:
    heard: list[tuple[str, int, str]] = []

    def hear(token: TokenState, number: int, heard_trade: Trade) -> None:
        heard.append((token.address, number, heard_trade.trade_id))

    market = Market(lambda token: None, BEGIN_MS, on_trade=hear)
    market.add_tokens("test", [TokenInfo("venue:X", "X")])
    for name in ("a", "b", "a", "c"):
        market.apply("test", trade(name))
    market.apply("another", trade("d"))
    assert heard == [("venue:X", 1, "a"), ("venue:X", 2, "b"), ("venue:X", 3, "c")]
