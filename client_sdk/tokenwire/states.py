"""The four states of a client's connection, and the only steps between them (Spec, Connection States)."""

from enum import StrEnum
from typing import Final

__all__ = ["ConnectionState", "may_step"]


class ConnectionState(StrEnum):
    """Where the client's connection stands."""

    CONNECTING = "CONNECTING"
    """The first connection is being made."""
    CONNECTED = "CONNECTED"
    """The server's ``connection`` message arrived; data flows."""
    RECONNECTING = "RECONNECTING"
    """The connection was lost; the client waits or tries again."""
    FAILED = "FAILED"
    """It gave up: retries are used up, or the server said not to come back."""


_STEPS: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    ConnectionState.CONNECTING: frozenset(
        {ConnectionState.CONNECTED, ConnectionState.RECONNECTING, ConnectionState.FAILED}
    ),
    ConnectionState.CONNECTED: frozenset({ConnectionState.RECONNECTING, ConnectionState.FAILED}),
    ConnectionState.RECONNECTING: frozenset({ConnectionState.CONNECTED, ConnectionState.FAILED}),
    ConnectionState.FAILED: frozenset(),
}


def may_step(before: ConnectionState, after: ConnectionState) -> bool:
    """Whether ``after`` may follow ``before``."""
    return after in _STEPS[before]
