"""Turnover leaves its window in time, however seldom a token trades."""

from decimal import Decimal

from tokenwire_server.market.market import Market
from tokenwire_server.market.trades import Side, TokenInfo, Trade

BEGIN_MS = 1_700_000_000_000
MINUTE = 60_000


def test_a_trade_after_a_silence_leaves_the_shortest_window_in_time() -> None:
    market = Market(lambda token: None, BEGIN_MS)
    market.add_tokens("feed", [TokenInfo("A", "A")])
    for minute in range(40):
        market.advance("feed", BEGIN_MS + minute * MINUTE)
        if minute % 10 == 0:
            market.apply("feed", Trade("A", str(minute), Decimal(3), Decimal(1), Side.BUY, BEGIN_MS + minute * MINUTE))
        token = market.get("A")
        assert token is not None
        assert token.volumes[2] == (3 if minute % 10 < 5 else 0), minute
        assert token.volumes[1] == 3 * (minute // 10 + 1)
