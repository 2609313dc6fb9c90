"""The market's inputs: a trade and a token's description."""

from decimal import Decimal
from enum import StrEnum

import msgspec

__all__ = ["Side", "TokenInfo", "Trade"]


class Side(StrEnum):
    """The *taker's* side, whatever the exchange's own convention."""

    BUY = "Buy"
    SELL = "Sell"


class Trade(msgspec.Struct, frozen=True):
    """One trade of one token, after normalisation.

    ``address`` is the token's identity (``venue:SYMBOL`` for an exchange pair), ``trade_id`` the venue's id,
    ``price`` in USD (or the pair's quote currency), ``amount`` in base units, ``time_ms`` the event time.
    """

    address: str
    trade_id: str
    price: Decimal
    amount: Decimal
    side: Side
    time_ms: int


class TokenInfo(msgspec.Struct, frozen=True):
    """What is known of a token before it trades. ``supply`` (base units, None: unknown) gives the cap."""

    address: str
    symbol: str
    name: str = ""
    chain: str = ""
    supply: Decimal | None = None
