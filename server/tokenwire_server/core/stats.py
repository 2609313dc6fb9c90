"""Plain counters of the hub, read by telemetry at scrape time; an increment costs what ``+= 1`` costs."""

from typing import Protocol

from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.states import LinkState

__all__ = ["HubStats", "Observer"]


class Observer(Protocol):
    """Takes single measurements, in milliseconds."""

    def observe(self, milliseconds: float, /) -> None: ...


class _Ignore:
    def observe(self, milliseconds: float, /) -> None:
        """Nobody measures."""


class HubStats:
    """Totals since the start. ``latency`` gets, for each token a tick sends, how long its newest change waited."""

    __slots__ = ("acks", "bad_rows", "bytes_in", "bytes_out", "closed", "closes", "conflated",
                 "dropped_in", "errors", "events", "evicted", "frames", "heartbeats", "latency", "messages_in",
                 "opened", "pauses", "replay_missed", "replayed", "replays", "resumes", "stalls", "steps", "ticks",
                 "updates")  # fmt: skip

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.frames = 0  # numbered frames sent
        self.updates = 0  # of those, token values
        self.events = 0  # trades, bars and the like in them
        self.conflated = 0  # versions overtaken by a newer one before a frame carried them, summed over clients
        self.messages_in = 0
        self.dropped_in = 0  # messages and control frames beyond the rate
        self.bytes_in = 0
        self.bytes_out = 0
        self.ticks = 0
        self.bad_rows = 0  # changed values that could not be encoded
        self.pauses = 0  # times a socket's buffer filled up
        self.stalls = 0  # times it stayed full for 5 s
        self.errors: dict[ErrorCode, int] = {}
        self.closes: dict[int, int] = {}  # by the close code we chose
        self.steps: dict[tuple[LinkState, LinkState], int] = {}
        self.latency: Observer = _Ignore()
        self.resumes: dict[str, int] = {}  # tries to resume, by outcome
        self.replays = 0  # requests for a replay
        self.replayed = 0  # frames sent once more
        self.replay_missed = 0  # frames asked for once more that were not kept
        self.evicted: dict[str, int] = {}  # sessions given up while their client was away, by cause
        self.acks = 0
        self.heartbeats = 0  # heartbeat messages

    def error(self, code: ErrorCode) -> None:
        """An error, warning or fatal end was told to a client."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def step(self, before: LinkState, after: LinkState) -> None:
        """A connection changed its state."""
        self.steps[(before, after)] = self.steps.get((before, after), 0) + 1

    def resume(self, outcome: str) -> None:
        """A client asked for its session back."""
        self.resumes[outcome] = self.resumes.get(outcome, 0) + 1

    def evict(self, cause: str) -> None:
        """A session without a socket was given up."""
        self.evicted[cause] = self.evicted.get(cause, 0) + 1
