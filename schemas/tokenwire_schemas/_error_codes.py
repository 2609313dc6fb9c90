"""Generated from ``errors.json`` by ``python -m tokenwire_schemas.generate``."""

# ruff: noqa: S105

from enum import StrEnum

__all__ = ["Category", "ErrorCode"]


class ErrorCode(StrEnum):
    """Every ``code`` an error message may carry. Codes are frozen once published."""

    INVALID_JSON = "INVALID_JSON"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    INVALID_ACTION = "INVALID_ACTION"
    BINARY_NOT_SUPPORTED = "BINARY_NOT_SUPPORTED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    INVALID_TOKEN = "INVALID_TOKEN"
    AMBIGUOUS_TOKEN = "AMBIGUOUS_TOKEN"
    TOKEN_NOT_FOUND = "TOKEN_NOT_FOUND"
    UNKNOWN_CHANNEL = "UNKNOWN_CHANNEL"
    SUBSCRIPTION_LIMIT = "SUBSCRIPTION_LIMIT"
    BATCH_LIMIT = "BATCH_LIMIT"
    SEQUENCE_GAP = "SEQUENCE_GAP"
    RATE_LIMITED = "RATE_LIMITED"
    MAX_CONNECTIONS = "MAX_CONNECTIONS"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    RESUME_FAILED = "RESUME_FAILED"
    ACK_OUT_OF_RANGE = "ACK_OUT_OF_RANGE"
    REPLAY_UNAVAILABLE = "REPLAY_UNAVAILABLE"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    UPSTREAM_STALE = "UPSTREAM_STALE"
    UPSTREAM_UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
    DATA_REJECTED = "DATA_REJECTED"
    SERVER_SHUTDOWN = "SERVER_SHUTDOWN"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class Category(StrEnum):
    """What an error is about: whose fault it is, and who acts on it."""

    ACCESS = "access"
    DELIVERY = "delivery"
    INTERNAL = "internal"
    LIFECYCLE = "lifecycle"
    LIMIT = "limit"
    PROTOCOL = "protocol"
    SUBSCRIPTION = "subscription"
    UPSTREAM = "upstream"
