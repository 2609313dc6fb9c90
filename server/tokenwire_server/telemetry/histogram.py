"""A latency histogram of plain numbers: a fan-out can afford it, an OpenTelemetry histogram it can not."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

__all__ = ["DEFAULT_BOUNDS_MS", "LatencyHistogram", "RegisteredHistogram"]

# Finest around the specification's 100 ms.
DEFAULT_BOUNDS_MS: Final = (0.5, 1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000)


class LatencyHistogram:
    """Counts of latencies by upper bound. ``observe`` takes about 0.2 us; there is no lock, one thread writes."""

    __slots__ = ("bounds_ms", "counts", "sum_ms")

    def __init__(self, bounds_ms: Sequence[float] = DEFAULT_BOUNDS_MS) -> None:
        if not bounds_ms or list(bounds_ms) != sorted(set(bounds_ms)):
            raise ValueError("bounds must rise, and there must be one")
        self.bounds_ms = tuple(bounds_ms)
        self.counts = [0] * (len(self.bounds_ms) + 1)
        """How many fell into each bucket, the last one being those above every bound; not cumulative."""
        self.sum_ms: float = 0

    def observe(self, ms: float, times: int = 1) -> None:
        """Count one latency, or the same one ``times`` over (a fan-out). Less than zero counts as zero:
        clocks of other machines may be ahead."""
        if ms < 0:  # noqa: PLR1730 - max() would cost as much as all the rest
            ms = 0
        self.counts[bisect_left(self.bounds_ms, ms)] += times
        self.sum_ms += ms * times

    @property
    def count(self) -> int:
        """All observations so far."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Per bound, and then without one, how many were at most that."""
        return list(accumulate(self.counts))


@dataclass(frozen=True, slots=True)
class RegisteredHistogram:
    """A histogram under its exported name; exported in seconds, the base unit of Prometheus."""

    name: str
    description: str
    histogram: LatencyHistogram
    attributes: Mapping[str, str] = field(default_factory=dict)
