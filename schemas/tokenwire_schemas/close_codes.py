"""WebSocket close codes and the rule that tells a client whether to come back (Interpretation I-44)."""

from enum import IntEnum
from typing import Final

__all__ = ["CloseCode", "may_reconnect"]


class CloseCode(IntEnum):
    """The standard codes this service uses or meets, and its own in the private range."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    """Never on the wire: the close frame had no code."""
    ABNORMAL = 1006
    """Never on the wire: the connection ended without a close frame."""
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014

    HEARTBEAT_TIMEOUT = 4000
    """Not one byte arrived from the peer for the idle time-out (20 s)."""
    SLOW_CONSUMER = 4001
    """The peer does not read: no progress for 30 s, or a full queue."""
    REBALANCE = 4002
    """The operator moves connections to other instances."""
    SESSION_LOST = 4003
    """The session's continuity is broken; a new one starts."""
    RATE_LIMITED = 4005
    """Too many messages for 10 s."""
    SUPERSEDED = 4500
    """Another socket of the same session took over."""
    UNAUTHORIZED = 4501
    """Credentials are missing, wrong or not sufficient."""
    PROTOCOL_ERRORS = 4502
    """Ten protocol errors within a minute."""
    UNSUPPORTED_VERSION = 4503
    """The server does not speak the version asked for."""


_RECONNECT: Final = frozenset({1001, 1005, 1006, 1011, 1012, 1013, 1014})


def may_reconnect(code: int) -> bool:
    """Whether a client reconnects after ``code``. The range decides, so that codes of the future work.

    4000-4499 and the standard codes of a transient fault do; 4500-4999 and every other code do not.
    """
    return 4000 <= code <= 4499 or code in _RECONNECT
