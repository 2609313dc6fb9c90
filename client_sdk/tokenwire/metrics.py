"""The client's counters, readable at any time (Spec, Monitoring)."""

import msgspec

from tokenwire.states import ConnectionState

__all__ = ["ClientMetrics"]

_EWMA_SHARE = 0.1


class ClientMetrics(msgspec.Struct):
    """Plain numbers since the session was made. Times in ms; a figure never measured is None.

    ``payload_size`` sums the sizes of messages as they came, in characters (binary ones in bytes). ``reordered``
    counts messages held back behind a hole; ``lost_frames`` the numbers announced in a Gap with known ends;
    ``stale_versions`` values dropped because a newer one was applied before; ``unsubscribed`` values of tokens that
    are not subscribed. ``conflated_by_server`` sums skipped versions; ``conflated_in_client`` counts events that
    gave way to newer ones in the queue. ``latency_ms`` is from the server's sending to reading here, by the server's
    clock as estimated from pings (by the local clock as long as there is no estimate). ``clock_offset_ms`` is the
    server's clock minus the local one. ``resumes`` counts outcomes of reconnecting: ``resumed``, a reason of I-54,
    ``not_resumed`` (the server gave none), ``refuted`` (it contradicted itself).
    """

    state: ConnectionState = ConnectionState.CONNECTING
    state_since_ms: int = 0
    state_changes: int = 0
    time_in_state_ms: dict[str, int] = {}
    connects: int = 0
    reconnects: int = 0
    resumes: dict[str, int] = {}
    frames: int = 0
    payload_size: int = 0
    updates: int = 0
    duplicates: int = 0
    reordered: int = 0
    gaps: int = 0
    lost_frames: int = 0
    replays_asked: int = 0
    stale_versions: int = 0
    unsubscribed: int = 0
    conflated_by_server: int = 0
    conflated_in_client: int = 0
    invalid_messages: int = 0
    unknown_messages: int = 0
    errors: int = 0
    acks: int = 0
    pings: int = 0
    rtt_ms: int | None = None
    clock_offset_ms: float | None = None
    latency_ms: float | None = None
    latency_max_ms: float | None = None
    latency_ewma_ms: float | None = None

    def step(self, state: ConnectionState, now: int) -> None:
        """The connection state changed."""
        spent = self.time_in_state_ms
        spent[self.state] = spent.get(self.state, 0) + now - self.state_since_ms
        self.state, self.state_since_ms = state, now
        self.state_changes += 1

    def observe_latency(self, latency_ms: float) -> None:
        """One message's way from the server's clock to here."""
        self.latency_ms = latency_ms
        if self.latency_ewma_ms is None or self.latency_max_ms is None:
            self.latency_ewma_ms = self.latency_max_ms = latency_ms
            return
        self.latency_max_ms = max(self.latency_max_ms, latency_ms)
        self.latency_ewma_ms += _EWMA_SHARE * (latency_ms - self.latency_ewma_ms)

    def outcome(self, name: str) -> None:
        """Counts what became of an attempt to resume."""
        self.resumes[name] = self.resumes.get(name, 0) + 1
