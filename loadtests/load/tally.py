"""What was counted and timed, pure: in one process, carried to another, and added up."""

from typing import Any, Final

from hdrh.histogram import HdrHistogram

__all__ = ["COUNTS", "TIMES", "Tally"]

_LONGEST_US: Final = 3_600_000_000
_DIGITS: Final = 3
CANARY_US: Final = 10_000  # the canary sleeps this long

TIMES: Final = ("push latency", "connect", "ready", "subscribe ack", "unsubscribe ack", "resume", "canary")
COUNTS: Final = {
    "delivered": "ticks that came whole",
    "lost": "ticks that never came, or not whole",
    "unjudged": "ticks that were not due yet when their user left",
    "gap": "numbers missing on a connection",
    "duplicate": "numbers that came twice",
    "repeated": "values of a tick that came again under a new number, or after the tick was given up as lost",
    "stray": "values after the end of their subscription was confirmed",
    "unreadable": "messages that are none of a probe's",
    "refused": "connects that failed",
    "dropped": "connections that ended and should not have",
    "errors": "error messages of the server, other than warnings",
    "warnings": "warnings of the server",
    "reconnect": "connections opened again",
    "resume failed": "sessions that were not given back",
    "subscribed": "subscriptions that were confirmed",
    "users": "users at the peak that had subscribed",
    "misfit": "planned instants that are off the grid",
    "crashed": "users that ended with an exception of their own",
}


class Tally:
    """Counters, and histograms in microseconds. ``final`` is set once nothing will be added any more."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(COUNTS, 0)
        self.times = {name: HdrHistogram(1, _LONGEST_US, _DIGITS) for name in TIMES}
        self.cpu_warned = False
        self.final = False
        self._present = 0

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        self.counts[name] += number

    def time(self, name: str, value_us: int) -> None:
        """Add to a histogram. What came before its planned instant (timers fire a little early) counts as 1 us."""
        self.times[name].record_value(min(max(value_us, 1), _LONGEST_US))

    def canary(self, lag_us: int) -> None:
        """The canary overslept by ``lag_us``; the sleeps that it missed meanwhile count too."""
        self.times["canary"].record_corrected_value(min(max(lag_us, 1), _LONGEST_US), CANARY_US)

    def came(self) -> None:
        """A user has subscribed for the first time."""
        self._present += 1
        self.counts["users"] = max(self.counts["users"], self._present)

    def went(self) -> None:
        """A user that had subscribed is gone for good."""
        self._present -= 1

    # --- as the book of a ledger -----------------------------------------------------------------------------

    def delivered(self, latency_us: int) -> None:
        """A tick came whole."""
        self.counts["delivered"] += 1
        self.time("push latency", latency_us)

    def lost(self, waited_us: int) -> None:
        """A tick never came: it stands in the histogram with the time it was waited for, at the least."""
        self.counts["lost"] += 1
        self.time("push latency", waited_us)

    def unjudged(self) -> None:
        """A tick was not due yet."""
        self.counts["unjudged"] += 1

    def repeated(self, values: int) -> None:
        """Values of a tick came once more than they should."""
        self.counts["repeated"] += values

    # --- reading ---------------------------------------------------------------------------------------------

    def percentile_us(self, name: str, percent: float) -> int:
        """A percentile of a histogram, 0 if it is empty."""
        times = self.times[name]
        return int(times.get_value_at_percentile(percent)) if times.get_total_count() else 0

    def samples(self, name: str) -> int:
        """How many values a histogram has."""
        return int(self.times[name].get_total_count())

    def summary(self, name: str) -> dict[str, int]:
        """A histogram in six numbers."""
        return {
            "count": self.samples(name),
            "p50_us": self.percentile_us(name, 50),
            "p90_us": self.percentile_us(name, 90),
            "p99_us": self.percentile_us(name, 99),
            "p999_us": self.percentile_us(name, 99.9),
            "max_us": int(self.times[name].get_max_value()) if self.samples(name) else 0,
        }

    # --- between processes -----------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Everything so far, as plain data; a later snapshot replaces an earlier one."""
        times = {name: times.encode().decode("ascii") for name, times in self.times.items() if times.total_count}
        return {"counts": self.counts.copy(), "times": times, "cpu_warned": self.cpu_warned, "final": self.final}

    def add(self, snapshot: dict[str, Any]) -> None:
        """Add what another process counted."""
        for name, number in snapshot["counts"].items():
            self.counts[name] += number
        for name, encoded in snapshot["times"].items():
            self.times[name].decode_and_add(encoded)
        self.cpu_warned = self.cpu_warned or bool(snapshot["cpu_warned"])
