"""The messages of the v1.0 specification as msgspec Structs (the typed reading of ``v1/*.schema.json``).

Field order is the order on the wire. Prices, market caps and volumes are canonical decimal strings: no
exponent, no trailing zeros, no rounding. ``timestamp`` is Unix time in milliseconds.
"""

from typing import Literal

import msgspec

__all__ = [
    "Connection",
    "ConnectionData",
    "Error",
    "ErrorData",
    "ServerMessage",
    "Subscription",
    "SubscriptionData",
    "TokenUpdate",
    "TokenUpdateData",
    "Volume",
]


class Volume(msgspec.Struct, frozen=True):
    """Rolling turnover by event time over 24 hours, one hour and five minutes (Spec, Token Updates)."""

    h24: str
    h1: str
    m5: str


class TokenUpdateData(msgspec.Struct, frozen=True, rename="camel"):
    """One token's newest value: ``address`` and decimal strings (Spec, Token Updates)."""

    address: str
    price: str
    market_cap: str
    volume: Volume


class ConnectionData(msgspec.Struct, frozen=True, rename="camel"):
    """State of the connection; ``connection_id`` is new for every socket (Spec, Connection Messages)."""

    status: Literal["connected", "disconnected", "error"]
    connection_id: str
    max_subscriptions: int


class SubscriptionData(msgspec.Struct, frozen=True):
    """Reply to a subscription request: the tokens that share one outcome (Spec, Subscription Management)."""

    action: Literal["subscribe", "unsubscribe"]
    tokens: list[str]
    status: Literal["success", "error"]


class ErrorData(msgspec.Struct, frozen=True):
    """An error: its catalogue ``code``, ``level`` is what becomes of the connection (Spec, Error Messages)."""

    code: str
    message: str
    level: Literal["fatal", "error", "warning"]


class _Envelope(msgspec.Struct, frozen=True, tag_field="type"):
    sequence: int
    timestamp: int


class Connection(_Envelope, frozen=True, tag="connection"):
    """Spec, Connection Messages."""

    data: ConnectionData


class TokenUpdate(_Envelope, frozen=True, tag="token_update"):
    """Spec, Token Updates."""

    data: TokenUpdateData


class Subscription(_Envelope, frozen=True, tag="subscription"):
    """Spec, Subscription Management (the server's reply)."""

    data: SubscriptionData


class Error(_Envelope, frozen=True, tag="error"):
    """Spec, Error Messages."""

    data: ErrorData


ServerMessage = Connection | TokenUpdate | Subscription | Error
"""What a strict v1.0 client receives."""
