"""The extension messages as msgspec Structs (the typed reading of ``v1/extended/*.schema.json``).

Field order is the order on the wire. A field that is ``UNSET`` is absent from the JSON; ``null`` never occurs.
What a server grants stands in ``capabilities``; without it none of this is sent (Interpretation I-50).
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tokenwire_schemas.messages import ConnectionData, ErrorData, SubscriptionData, TokenUpdateData

__all__ = [
    "Ack",
    "AckData",
    "Book",
    "BookData",
    "ClientMessage",
    "ExtendedConnection",
    "ExtendedConnectionData",
    "ExtendedError",
    "ExtendedErrorData",
    "ExtendedServerMessage",
    "ExtendedSubscription",
    "ExtendedSubscriptionData",
    "ExtendedTokenUpdate",
    "ExtendedTokenUpdateData",
    "Gap",
    "GapData",
    "Heartbeat",
    "HeartbeatData",
    "HeldSubscription",
    "Kline",
    "KlineData",
    "Ping",
    "PingData",
    "Rejected",
    "Replay",
    "ReplayData",
    "SetData",
    "SubscriptionRequest",
    "SubscriptionRequestData",
    "TokenBatch",
    "TokenBatchData",
    "TokenSet",
    "Transaction",
    "TransactionBatch",
    "TransactionBatchData",
    "TransactionData",
]


class HeldSubscription(msgspec.Struct, frozen=True):
    """A token the session holds, with its channels (I-51)."""

    token: str
    channels: list[str]


class ExtendedConnectionData(ConnectionData, frozen=True, rename="camel"):
    """What was granted, the session and the limits a client would otherwise hard-code (I-50, I-51, I-54).

    A name that ends in ``_ms`` is in milliseconds, ``max_message_bytes`` counts inflated bytes.
    """

    capabilities: list[str] | UnsetType = UNSET
    session: str | UnsetType = UNSET
    resumed: bool | UnsetType = UNSET
    reason: Literal["position_evicted", "position_ahead", "unknown_session", "caps_changed"] | UnsetType = UNSET
    replay_from: int | UnsetType = UNSET
    subscriptions: list[HeldSubscription] | UnsetType = UNSET
    stream: str | UnsetType = UNSET
    heartbeat_ms: int | UnsetType = UNSET
    idle_timeout_ms: int | UnsetType = UNSET
    resume_window_ms: int | UnsetType = UNSET
    max_message_bytes: int | UnsetType = UNSET
    max_batch: int | UnsetType = UNSET
    update_interval_ms: int | UnsetType = UNSET


class ExtendedTokenUpdateData(TokenUpdateData, frozen=True, rename="camel"):
    """``version`` rises by one with each change of the token; ``source_time`` is the event time in ms (I-52)."""

    version: int | UnsetType = UNSET
    source_time: int | UnsetType = UNSET


class Rejected(msgspec.Struct, frozen=True):
    """A refused name, as given, and the code of its refusal (I-53)."""

    token: str
    code: str


class ExtendedSubscriptionData(SubscriptionData, frozen=True, rename="camel"):
    """The reply names its request; ``active`` counts the tokens held after it (I-53, I-60)."""

    request_id: str | UnsetType = UNSET
    rejected: list[Rejected] | UnsetType = UNSET
    active: int | UnsetType = UNSET
    channels: list[str] | UnsetType = UNSET


class ExtendedErrorData(ErrorData, frozen=True, rename="camel"):
    """What the error is about, and whether and when (ms) to try again (I-53)."""

    category: (
        Literal["access", "delivery", "internal", "lifecycle", "limit", "protocol", "subscription", "upstream"]
        | UnsetType
    ) = UNSET
    retryable: bool | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    tokens: list[str] | UnsetType = UNSET


class TokenBatchData(msgspec.Struct, frozen=True):
    """1 to 1000 token updates under one sequence (I-56)."""

    updates: list[ExtendedTokenUpdateData]


class HeartbeatData(msgspec.Struct, frozen=True):
    """``echo`` of the ping it answers; ``pending`` counts tokens with a value still to be sent (I-57)."""

    echo: str | int | float | UnsetType = UNSET
    pending: int | UnsetType = UNSET


class GapData(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Numbers ``first`` to ``last``, both included, are lost; ``repair`` says what follows instead (I-58)."""

    first: int
    last: int
    cause: str
    repair: Literal["snapshot", "rest"]


class TransactionData(msgspec.Struct, frozen=True):
    """One trade: ``side`` of the taker, ``volume`` in base units, ISO 8601 ``timestamp`` (I-61).

    ``version`` is its number among the trades of the token, ``id`` the source's name for it.
    """

    symbol: str
    price: str
    volume: str
    side: Literal["Buy", "Sell"]
    timestamp: str
    address: str
    version: int | UnsetType = UNSET
    id: str | UnsetType = UNSET


class TransactionBatchData(msgspec.Struct, frozen=True):
    """1 to 1000 trades under one sequence (I-61)."""

    transactions: list[TransactionData]


class KlineData(msgspec.Struct, frozen=True):
    """One candlestick, open or ``closed``: ISO 8601 times, ``volume`` in base units, ``turnover`` in quote units; the
    part whose taker bought (``buy_…``); ``version`` rises with every change, ``revision`` counts late trades (I-62)."""

    symbol: str
    interval: str
    open_time: str
    close_time: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    address: str
    closed: bool
    version: int | UnsetType = UNSET
    turnover: str | UnsetType = UNSET
    buy_volume: str | UnsetType = UNSET
    buy_turnover: str | UnsetType = UNSET
    trades: int | UnsetType = UNSET
    revision: int | UnsetType = UNSET


class BookData(msgspec.Struct, frozen=True):
    """The best levels of an order book, at most ``depth`` of each side: price and amount in base units (I-78)."""

    symbol: str
    depth: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    timestamp: str
    stale: bool
    address: str
    version: int | UnsetType = UNSET


class SetData(msgspec.Struct, frozen=True):
    """Members of a set that came and went: addresses; ``size``: how many it has now (I-80)."""

    set: str
    added: list[str]
    removed: list[str]
    size: int


class _Envelope(msgspec.Struct, frozen=True, tag_field="type"):
    sequence: int
    timestamp: int


class ExtendedConnection(_Envelope, frozen=True, tag="connection"):
    """Unnumbered when a session resumes: then ``sequence`` is the last number assigned (I-54)."""

    data: ExtendedConnectionData


class ExtendedTokenUpdate(_Envelope, frozen=True, tag="token_update"):
    """A token update with details."""

    data: ExtendedTokenUpdateData


class ExtendedSubscription(_Envelope, frozen=True, tag="subscription"):
    """A subscription reply with details."""

    data: ExtendedSubscriptionData


class ExtendedError(_Envelope, frozen=True, tag="error"):
    """An error with details."""

    data: ExtendedErrorData


class TokenBatch(_Envelope, frozen=True, tag="token_batch"):
    """Several token updates in one message."""

    data: TokenBatchData


class Heartbeat(_Envelope, frozen=True, tag="heartbeat"):
    """Unnumbered: ``sequence`` is the last number assigned, so a higher one than received shows a loss."""

    data: HeartbeatData


class Gap(_Envelope, frozen=True, tag="gap"):
    """Unnumbered announcement of a loss."""

    data: GapData


class Transaction(_Envelope, frozen=True, tag="transaction"):
    """One trade."""

    data: TransactionData


class TransactionBatch(_Envelope, frozen=True, tag="transaction_batch"):
    """Several trades in one message."""

    data: TransactionBatchData


class Kline(_Envelope, frozen=True, tag="kline"):
    """One candlestick."""

    data: KlineData


class Book(_Envelope, frozen=True, tag="book"):
    """The best levels of an order book."""

    data: BookData


class TokenSet(_Envelope, frozen=True, tag="set"):
    """A set of tokens changed."""

    data: SetData


ExtendedServerMessage = (
    ExtendedConnection
    | ExtendedTokenUpdate
    | ExtendedSubscription
    | ExtendedError
    | TokenBatch
    | Heartbeat
    | Gap
    | Transaction
    | TransactionBatch
    | Kline
    | Book
    | TokenSet
)
"""What a client may receive once something was granted; reads every strict message too."""


class SubscriptionRequestData(msgspec.Struct, frozen=True, rename="camel"):
    """Addresses or symbols, and with extensions an id, channels and what the client knows (I-53, I-55, I-60, I-61)."""

    action: Literal["subscribe", "unsubscribe"]
    tokens: list[str]
    request_id: str | UnsetType = UNSET
    known: dict[str, int] | UnsetType = UNSET
    stream: str | UnsetType = UNSET
    channels: list[str] | UnsetType = UNSET
    after: dict[str, int] | UnsetType = UNSET


class AckData(msgspec.Struct, frozen=True):
    """Everything up to ``sequence`` was received (I-59)."""

    sequence: int


class ReplayData(msgspec.Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Numbers ``first`` to ``last``, both included (I-58)."""

    first: int
    last: int


class PingData(msgspec.Struct, frozen=True):
    """``echo`` comes back in the heartbeat (I-57)."""

    echo: str | int | float | UnsetType = UNSET


class _Request(msgspec.Struct, frozen=True, tag_field="type", kw_only=True):
    sequence: int | UnsetType = UNSET
    timestamp: int | UnsetType = UNSET


class SubscriptionRequest(_Request, frozen=True, tag="subscription", kw_only=True):
    """Spec, Subscription Management (the client's request)."""

    data: SubscriptionRequestData


class Ack(_Request, frozen=True, tag="ack", kw_only=True):
    """A cumulative acknowledgment."""

    data: AckData


class Replay(_Request, frozen=True, tag="replay", kw_only=True):
    """Asks for numbered messages once more."""

    data: ReplayData


class Ping(_Request, frozen=True, tag="ping", kw_only=True):
    """Answered by a heartbeat."""

    data: PingData = PingData()


ClientMessage = SubscriptionRequest | Ack | Replay | Ping
"""What a client sends."""
