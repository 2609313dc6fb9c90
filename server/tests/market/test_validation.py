"""What a source may deliver."""

from decimal import Decimal
from typing import Any

import pytest

from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.validation.trades import (
    MAX_FUTURE_MS,
    MAX_ID_CHARS,
    MIN_TIME_MS,
    Reason,
    fits,
    validate_token,
    validate_trade,
)

NOW = 1_700_000_000_000


def trade(**changes: Any) -> Trade:
    fields: dict[str, Any] = {
        "address": "a",
        "trade_id": "1",
        "price": Decimal("0.1"),
        "amount": Decimal(3),
        "side": Side.BUY,
        "time_ms": NOW,
    }
    return Trade(**fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"price": Decimal("1e-38")},
        {"price": Decimal("9" * 38)},
        {"time_ms": NOW + MAX_FUTURE_MS},
        {"time_ms": MIN_TIME_MS},
        {"address": "x" * MAX_ID_CHARS},
    ],
)
def test_good_trades(changes: dict[str, Any]) -> None:
    assert validate_trade(trade(**changes), NOW) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": Decimal(0)}, Reason.PRICE_NOT_POSITIVE),
        ({"price": Decimal("-0.1")}, Reason.PRICE_NOT_POSITIVE),
        ({"price": Decimal("NaN")}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"price": Decimal("Infinity")}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"price": Decimal("1e38")}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"price": Decimal("1e-39")}, Reason.PRICE_OUT_OF_BOUNDS),
        ({"amount": Decimal(0)}, Reason.AMOUNT_NOT_POSITIVE),
        ({"amount": Decimal(-1)}, Reason.AMOUNT_NOT_POSITIVE),
        ({"amount": Decimal("1e999999")}, Reason.AMOUNT_OUT_OF_BOUNDS),
        ({"address": ""}, Reason.ADDRESS),
        ({"address": "x" * (MAX_ID_CHARS + 1)}, Reason.ADDRESS),
        ({"address": "a\nb"}, Reason.ADDRESS),
        ({"trade_id": ""}, Reason.TRADE_ID),
        ({"trade_id": "\u202e1"}, Reason.TRADE_ID),
        ({"time_ms": 0}, Reason.TIME_TOO_OLD),
        ({"time_ms": -5}, Reason.TIME_TOO_OLD),
        ({"time_ms": NOW + MAX_FUTURE_MS + 1}, Reason.TIME_IN_FUTURE),
    ],
)
def test_bad_trades(changes: dict[str, Any], reason: Reason) -> None:
    rejection = validate_trade(trade(**changes), NOW)
    assert rejection is not None
    assert rejection.reason == reason
    assert rejection.detail.isascii()
    assert len(rejection.detail) < 500


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (TokenInfo("a", "A"), None),
        (TokenInfo("a", "A", "Name", "solana", Decimal(1)), None),
        (TokenInfo("", "A"), Reason.ADDRESS),
        (TokenInfo("a", ""), Reason.SYMBOL),
        (TokenInfo("a", "A" * 257), Reason.SYMBOL),
        (TokenInfo("a", "A", "\x00"), Reason.NAME),
        (TokenInfo("a", "A", "", "\n"), Reason.NAME),
        (TokenInfo("a", "A", supply=Decimal(0)), Reason.SUPPLY),
        (TokenInfo("a", "A", supply=Decimal("1e39")), Reason.SUPPLY),
    ],
)
def test_tokens(info: TokenInfo, reason: Reason | None) -> None:
    rejection = validate_token(info)
    assert (rejection and rejection.reason) == reason


def test_bounds_count_written_digits() -> None:
    assert fits(Decimal("-" + "9" * 38 + "." + "9" * 38))
    assert not fits(Decimal("0." + "0" * 38 + "1"))
    assert not fits(Decimal("1" * 39))
