"""What the users of one process share."""

from collections import deque
from typing import Final, NamedTuple

from loadtests.load.client import Client, Target
from loadtests.load.grid import Grid
from loadtests.load.message import Reader
from loadtests.load.tally import Tally
from loadtests.load.wire import now_us

__all__ = ["Named", "RunState"]

_MOST_NAMED: Final = 200_000
_MANY_NAMED: Final = 20_000
_QUIET_US: Final = 20_000


class Named(NamedTuple):
    """Something for Locust's own statistics."""

    name: str
    elapsed_us: int
    octets: int
    error: str | None


class RunState:
    """The grid, the tally, the clients, and what waits for Locust's statistics.

    Telling Locust of a tick takes longer than reading it; done at once it would delay those who are read next. So
    it waits in ``named`` for a quiet moment. What does not fit is missing from Locust's tables, never from the tally.
    """

    def __init__(self, target: Target, interval_s: float) -> None:
        self.target = target
        self.interval_s = interval_s
        self.grid = Grid(round(interval_s * 1_000_000))
        self.tally = Tally()
        self.reader = Reader()
        self.clients: set[Client] = set()
        self.named: deque[Named] = deque(maxlen=_MOST_NAMED)
        self._latest_us = 0

    def report(self, name: str, elapsed_us: int, octets: int, error: str | None) -> None:
        """Keep something for Locust's statistics."""
        self._latest_us = now_us()
        self.named.append(Named(name, elapsed_us, octets, error))

    @property
    def is_quiet(self) -> bool:
        """Whether Locust may be told: nothing came just now, or too much waits already."""
        return now_us() - self._latest_us > _QUIET_US or len(self.named) > _MANY_NAMED

    def finish(self) -> None:
        """The run is over: judge what was due until now, and count nothing any more."""
        now = now_us()
        for client in self.clients:
            client.settle(now)
            client.finished = True
        self.tally.counts["misfit"] = self.grid.misfits
        self.tally.final = True
