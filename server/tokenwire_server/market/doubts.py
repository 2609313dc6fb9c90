"""What is odd about a trade, and yet no reason to refuse it: told and counted."""

from decimal import Decimal
from enum import StrEnum
from typing import Final

from tokenwire_server.market.decimals import EXACT

__all__ = ["CALM_DOWN", "CALM_UP", "MAX_AHEAD_MS", "OLD_MS", "Doubt", "doubt_of_time", "is_jump"]

OLD_MS: Final = 86_400_000  # a trade that is told of later than that after it was made
MAX_AHEAD_MS: Final = 60_000  # how far the clock of another machine may be ahead without a word
CALM_DOWN: Final = Decimal("0.8")
CALM_UP: Final = Decimal("1.2")
"""Two prices that are both within these factors of a third differ by half at most: so much need not be looked at."""


class Doubt(StrEnum):
    """Stable names, used as metric labels."""

    PRICE_JUMP = "price_jump"
    """The price is more than half above or below the one before it."""
    TIME_OLD = "time_old"
    TIME_AHEAD = "time_ahead"


def is_jump(before: Decimal, price: Decimal) -> bool:
    """Whether ``price`` is more than half above or below the positive price ``before``."""
    doubled = EXACT.add(price, price)
    return not before <= doubled <= EXACT.add(EXACT.add(before, before), before)


def doubt_of_time(time_ms: int, now_ms: int) -> Doubt | None:
    """What is odd about the time of a trade, Unix ms, when it is ``now_ms``."""
    if time_ms < now_ms - OLD_MS:
        return Doubt.TIME_OLD
    return Doubt.TIME_AHEAD if time_ms > now_ms + MAX_AHEAD_MS else None
