"""The ``data`` of what the hub says, in the fields that a client was granted (I-51, I-53)."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import UNSET

from tokenwire_schemas import limits
from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.errors import CATALOGUE, ErrorCode
from tokenwire_schemas.extension_messages import (
    ExtendedConnectionData,
    ExtendedErrorData,
    HeartbeatData,
    HeldSubscription,
)
from tokenwire_schemas.messages import ConnectionData, ErrorData
from tokenwire_server.core.grants import Grants

__all__ = ["Reason", "Status", "error_data", "farewell_data", "greeting_data", "heartbeat_data"]

Status = Literal["connected", "disconnected", "error"]
Reason = Literal["position_evicted", "position_ahead", "unknown_session", "caps_changed"]

_RETRY_AFTER_MS: Final = {
    ErrorCode.TOKEN_NOT_FOUND: 60_000,
    ErrorCode.RATE_LIMITED: limits.RATE_NOTICE_INTERVAL_MS,
    ErrorCode.REPLAY_UNAVAILABLE: 1_000,
    ErrorCode.MAX_CONNECTIONS: limits.BUSY_RETRY_AFTER_MS,
}


def farewell_data(status: Status, connection_id: str, max_subscriptions: int) -> bytes:
    """A ``connection`` in the Spec's fields, which the last one is in whatever was granted."""
    return encode_data(ConnectionData(status, connection_id, max_subscriptions))


def greeting_data(
    connection_id: str,
    max_subscriptions: int,
    grants: Grants,
    *,
    session: str,
    replay_from: int | None,
    reason: Reason | None,
    held: Mapping[str, list[str]],
    stream: str,
    limits_ms: tuple[int, int, int, int],
) -> bytes:
    """The first message of a socket. ``replay_from``: the session goes on there; ``reason``: why it does not.

    ``held`` maps addresses to channels, ``limits_ms`` are heartbeat, idle time-out, resume window and update interval.
    """
    capabilities = grants.capabilities
    if not capabilities:
        return farewell_data("connected", connection_id, max_subscriptions)
    heartbeat_ms, idle_timeout_ms, resume_window_ms, update_interval_ms = limits_ms
    told = grants.details or grants.resume
    return encode_data(
        ExtendedConnectionData(
            "connected",
            connection_id,
            max_subscriptions,
            capabilities,
            session=session if grants.resume else UNSET,
            resumed=replay_from is not None if grants.resume else UNSET,
            reason=reason or UNSET,
            replay_from=replay_from or UNSET,
            subscriptions=[HeldSubscription(token, channels) for token, channels in held.items()] if told else UNSET,
            stream=stream if told else UNSET,
            heartbeat_ms=heartbeat_ms if told else UNSET,
            idle_timeout_ms=idle_timeout_ms if told else UNSET,
            resume_window_ms=resume_window_ms if told and grants.resume else UNSET,
            max_message_bytes=limits.MAX_MESSAGE_BYTES if told else UNSET,
            max_batch=limits.MAX_BATCH if told else UNSET,
            update_interval_ms=update_interval_ms if told else UNSET,
        )
    )


def error_data(
    code: ErrorCode,
    message: str,
    level: Literal["fatal", "error", "warning"],
    *,
    details: bool,
    request_id: str | None = None,
    tokens: Sequence[str] = (),
) -> bytes:
    """An ``error``; with ``details`` also what it is about and whether to try again."""
    if not details:
        return encode_data(ErrorData(code, message, level))
    entry = CATALOGUE[code]
    retry_after_ms = _RETRY_AFTER_MS.get(code) if entry.retryable else None
    return encode_data(
        ExtendedErrorData(
            code,
            message,
            level,
            category=entry.category.value,
            retryable=entry.retryable,
            retry_after_ms=UNSET if retry_after_ms is None else retry_after_ms,
            request_id=UNSET if request_id is None else request_id,
            tokens=list(tokens) or UNSET,
        )
    )


def heartbeat_data(pending: int, echo: str | float | None = None) -> bytes:
    """A ``heartbeat``, with the ``echo`` of the ping it answers."""
    return encode_data(HeartbeatData(UNSET if echo is None else echo, pending))
