"""The verdict on a run, pure: OK, FAILED or INVALID, with every reason."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from loadtests.load.tally import Tally

__all__ = ["CANARY_LIMIT_US", "LEAST_TICKS", "Status", "Verdict", "judge"]

CANARY_LIMIT_US: Final = 10_000
LEAST_TICKS: Final = 100  # with fewer the 99th percentile is the one that took longest
_MUST_BE_ZERO: Final = (
    *("lost", "gap", "duplicate", "repeated", "stray", "unreadable", "refused", "dropped", "errors", "resume failed"),
)


class Status(Enum):
    """The value is the exit code of a run."""

    OK = 0
    FAILED = 1
    INVALID = 3


@dataclass(frozen=True)
class Verdict:
    """``reasons`` is empty for OK. INVALID says nothing about the server, and goes before FAILED."""

    status: Status
    reasons: tuple[str, ...]

    def line(self, tally: Tally) -> str:
        """The verdict in one line."""
        push = tally.summary("push latency")
        counts = tally.counts
        figures = (
            f"push latency p50 {_ms(push['p50_us'])} p99 {_ms(push['p99_us'])} max {_ms(push['max_us'])}, "
            f"{counts['delivered']} ticks delivered, {counts['lost']} lost, {counts['gap']} gaps, "
            f"canary p99 {_ms(tally.percentile_us('canary', 99))}"
        )
        return f"{self.status.name}: {figures}" + (f" ({'; '.join(self.reasons)})" if self.reasons else "")


def judge(tally: Tally, limit_us: int, *, users: int, faults: tuple[str, ...] = ()) -> Verdict:
    """Judge a run. ``limit_us`` bounds the 99th percentile of the push latency, ``users`` is how many there had to be
    at the peak; ``faults`` are what else makes the run worthless (a worker that died, a run that was interrupted)."""
    invalid = list(faults)
    if not tally.samples("canary"):
        invalid.append("the canary never ran")
    elif (lag_us := tally.percentile_us("canary", 99)) > CANARY_LIMIT_US:
        invalid.append(f"the load generator itself lagged: canary p99 {_ms(lag_us)}, at most {_ms(CANARY_LIMIT_US)}")
    if tally.cpu_warned:
        invalid.append("Locust used more than 90 % of its core")
    if tally.counts["misfit"]:
        invalid.append("the server's ticks do not fit --update-interval, or its source is no probe")
    if tally.counts["crashed"]:
        invalid.append(f"{tally.counts['crashed']} users crashed")
    small: list[str] = []  # too small a load to pass; a server that fails under it fails all the more
    failed = [f"{name} {tally.counts[name]}" for name in _MUST_BE_ZERO if tally.counts[name]]
    if not tally.counts["subscribed"]:
        failed.append("nobody could subscribe")
    elif not tally.counts["delivered"]:
        failed.append("no tick was delivered")
    elif (ticks := tally.samples("push latency")) < LEAST_TICKS:
        small.append(f"only {ticks} ticks were judged, which takes {LEAST_TICKS}")
    elif (p99_us := tally.percentile_us("push latency", 99)) >= limit_us:
        failed.append(f"p99 {_ms(p99_us)}, must be below {_ms(limit_us)}")
    if tally.counts["users"] < users:
        small.append(f"only {tally.counts['users']} of {users} users were subscribed at the peak")
    if invalid or (small and not failed):
        return Verdict(Status.INVALID, (*invalid, *small, *failed))
    return Verdict(Status.FAILED if failed else Status.OK, (*failed, *small))


def _ms(value_us: int) -> str:
    return f"{value_us / 1000:.1f} ms"
