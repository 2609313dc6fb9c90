"""Virtual time: what is to happen, in order. The same calls in the same order give the same run."""

import heapq
from collections.abc import Callable
from typing import Any

__all__ = ["Scheduler"]


class Scheduler:
    """Calls by time, those of one instant in the order in which they were planned. ``now`` is in milliseconds."""

    __slots__ = ("_heap", "_planned", "calls", "now")

    def __init__(self) -> None:
        self.now = 0
        self.calls = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, when: int, call: Callable[..., object], *args: Any) -> None:
        """Call ``call(*args)`` at ``when``, or now if that is past."""
        self._planned += 1
        heapq.heappush(self._heap, (max(when, self.now), self._planned, call, args))

    def after(self, ms: int, call: Callable[..., object], *args: Any) -> None:
        """Call ``call(*args)`` in ``ms``."""
        self.at(self.now + ms, call, *args)

    def run(self, until: int) -> None:
        """Let time pass up to and including ``until``."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, call, args = heapq.heappop(heap)
            self.now = when
            self.calls += 1
            call(*args)
        self.now = max(self.now, until)
