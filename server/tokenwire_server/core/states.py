"""States of a server-side connection, and the only steps between them (Spec, Connection Management)."""

from enum import StrEnum
from typing import Final

__all__ = ["IllegalStepError", "LinkState", "check_step"]


class LinkState(StrEnum):
    """Where a socket is in its life."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    REJECTED = "rejected"  # told why it is not served, about to close
    CLOSING = "closing"  # our close frame is out, or the peer's came
    CLOSED = "closed"


class IllegalStepError(RuntimeError):
    """A step that the table lacks: a defect of the server."""


_STEPS: Final[dict[LinkState, frozenset[LinkState]]] = {
    LinkState.CONNECTING: frozenset({LinkState.CONNECTED, LinkState.REJECTED, LinkState.CLOSED}),
    LinkState.CONNECTED: frozenset({LinkState.CLOSING, LinkState.CLOSED}),
    LinkState.REJECTED: frozenset({LinkState.CLOSING, LinkState.CLOSED}),
    LinkState.CLOSING: frozenset({LinkState.CLOSED}),
    LinkState.CLOSED: frozenset(),
}


def check_step(before: LinkState, after: LinkState) -> None:
    """Raises :class:`IllegalStepError` unless ``before`` may become ``after``."""
    if after not in _STEPS[before]:
        raise IllegalStepError(f"{before} -> {after}")
