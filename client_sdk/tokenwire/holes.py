"""When to ask for what is missing, and when to give up on it (I-65)."""

from tokenwire.config import ClientConfig

__all__ = ["HoleWatch"]


class HoleWatch:
    """The hole in front of the stream: since when it is open, and what was asked for.

    A hole is measured from its last progress: a replay that fills it bit by bit is not given up. A message that says
    ``REPLAY_UNAVAILABLE`` makes it ask again; otherwise each number is asked for once.
    """

    __slots__ = ("_ask_at", "_asked_to", "_first", "_gap_timeout_ms", "_hold_ms", "_implied", "_since")

    def __init__(self, config: ClientConfig) -> None:
        self._hold_ms = config.hold_ms
        self._gap_timeout_ms = config.gap_timeout_ms
        self._first = 0
        self._since: int | None = None
        self._asked_to = 0
        self._ask_at: int | None = None
        self._implied = False

    def begin(self) -> None:
        """A new session."""
        self._since = self._ask_at = None
        self._asked_to = 0
        self._implied = False

    def resume(self, high_water: int) -> None:
        """Resuming asks for everything up to ``high_water`` without a message of its own."""
        self.begin()
        self._asked_to = high_water
        self._implied = True

    @property
    def is_open(self) -> bool:
        """There is a hole."""
        return self._since is not None

    def look(self, hole: tuple[int, int] | None, now: int, *, can_replay: bool) -> tuple[int, int] | None:
        """Notes the first ``hole`` of the stream (None: there is none); the numbers to ask for now, if any."""
        if hole is None:
            self._since = None
            return None
        first, _ = hole
        if self._since is None or first != self._first:
            self._since, self._first = now, first
        if not can_replay:
            return None
        if self._implied and first <= self._asked_to and now >= self._since + self._hold_ms:
            self._implied = False  # the replay that a resume begins with has come to a halt
            self._asked_to = 0
        if first <= self._asked_to or (self._ask_at is not None and now < self._ask_at):
            return None
        return hole

    def asked(self, last: int) -> None:
        """What is missing up to ``last`` was asked for."""
        self._asked_to = last
        self._ask_at = None
        self._implied = False

    def ask_later(self, at: int) -> None:
        """It could not be asked for before ``at``."""
        self._ask_at = at

    def refused(self, at: int) -> None:
        """The server does not replay before ``at``: what was asked for was not."""
        self._ask_at = at
        self._asked_to = 0
        self._implied = False

    def is_hopeless(self, now: int, *, can_replay: bool) -> bool:
        """Whether the hole has been open for too long."""
        since = self._since
        return since is not None and now >= since + (self._gap_timeout_ms if can_replay else self._hold_ms)

    def due(self, *, can_replay: bool) -> int | None:
        """When something is to be done about the hole, in monotonic ms."""
        since = self._since
        if since is None:
            return None
        if not can_replay:
            return since + self._hold_ms
        due = since + self._gap_timeout_ms
        if self._first > self._asked_to:
            return due if self._ask_at is None else min(due, self._ask_at)
        return min(due, since + self._hold_ms) if self._implied else due
