"""Whether what a client decoded is what the workload says. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.bench.workloads import Workload

__all__ = ["Arrival", "Verdict", "Window", "merge", "verify"]

Arrival = tuple[int, str]
"""When a message came (CLOCK_MONOTONIC, ns), and its text."""


@dataclass(frozen=True)
class Window:
    """The measured ticks: ``ticks`` of them from number ``first`` on, planned at ``first_ns`` + n * ``interval_ns``."""

    first: int
    first_ns: int
    interval_ns: int
    ticks: int

    @property
    def slack_ns(self) -> int:
        """How early a tick may be: clocks of event loops have whole milliseconds."""
        return min(self.interval_ns // 10, 5_000_000)

    @property
    def begin_ns(self) -> int:
        return self.first_ns - self.slack_ns

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.ticks * self.interval_ns


@dataclass(frozen=True)
class Verdict:
    """What the real clients saw. ``mismatch`` is empty when all was right; ``missing`` counts ticks that did not come
    in the window; ``behind`` messages came later than the next planned instant. ``digest`` is of one decoded body."""

    clients: int = 0
    messages: int = 0
    missing: int = 0
    behind: int = 0
    mismatch: str = ""
    digest: str = ""


def verify(workload: Workload, connection: int, arrivals: Sequence[Arrival], window: Window) -> Verdict:
    """Judge everything that one client got, its numbers from the first message on, its values in the window."""
    held = workload.held_by(connection)
    book = _Book(workload, held, window)
    number: int | None = None
    try:
        for at_ns, text in arrivals:
            message = json.loads(text)
            if number is not None and message["sequence"] != number + 1:
                raise _MismatchError(f"number {message['sequence']} follows {number}")
            number = message["sequence"]
            if window.begin_ns <= at_ns < window.end_ns:
                book.enter(message, at_ns)
        missing, digest = book.compare(workload, held)
    except _MismatchError as found:
        return Verdict(1, book.messages, mismatch=str(found))
    return Verdict(1, book.messages, missing, book.behind, "", digest)


class _MismatchError(Exception):
    """What a client got is not what it should have got."""


class _Book:
    """The values of the window, by tick; ``found`` has them by the tick's place in the window."""

    def __init__(self, workload: Workload, held: frozenset[int], window: Window) -> None:
        self.messages = 0
        self.behind = 0
        self.found: dict[int, dict[str, str]] = {}
        self._window = window
        self._cycle = len(workload.ticks)
        self._tick_of = {text: n for n, tick in enumerate(workload.ticks) for i, text in tick if i in held}
        self._last = -1

    def enter(self, message: dict[str, Any], at_ns: int) -> None:
        """Note the values of a message that came in the window."""
        updates = _updates(message)
        number = message["sequence"]
        if updates is None:
            raise _MismatchError(f"a message of type {message['type']} in the measured phase")
        self.messages += 1
        texts = [json.dumps(update, separators=(",", ":"), ensure_ascii=False) for update in updates]
        ticks = {self._tick_of.get(text, -1) for text in texts}
        if len(ticks) != 1 or ticks == {-1}:
            raise _MismatchError(f"message {number} is of no tick, or of several")
        place = self._place(ticks.pop())
        if place is None:  # of the tick before the window
            self.behind += 1
            return
        planned_ns = self._window.first_ns + place * self._window.interval_ns
        self.behind += at_ns - planned_ns > self._window.interval_ns
        values = self.found.setdefault(place, {})
        for update, text in zip(updates, texts, strict=True):
            if update["address"] in values:
                raise _MismatchError(f"message {number} repeats a token of its tick")
            values[update["address"]] = text

    def _place(self, tick: int) -> int | None:
        """Which tick of the window that is, ticks coming round and never going back; None: one before it."""
        offset = (tick - self._window.first) % self._cycle
        if self._last < 0 and offset >= min(self._window.ticks, self._cycle):
            return None
        last = max(self._last, 0)
        place = last - last % self._cycle + offset
        place += self._cycle if place < last else 0
        if place >= self._window.ticks:
            raise _MismatchError("a message is of an older tick than the one before it")
        self._last = place
        return place

    def compare(self, workload: Workload, held: frozenset[int]) -> tuple[int, str]:
        """How many ticks are missing, and the hash of the first one that is there."""
        missing = 0
        digest = ""
        for place in range(self._window.ticks):
            expected = workload.expected(self._window.first + place, held)
            if place not in self.found:
                missing += bool(expected)
            elif self.found[place] != expected:
                raise _MismatchError(f"tick {self._window.first + place} came with other values, or not whole")
            elif not digest:
                digest = f"{(self._window.first + place) % self._cycle}:{body_digest(self.found[place])}"
        return missing, digest


def body_digest(values: dict[str, str]) -> str:
    """Hash of one tick's decoded data, whatever its order and framing were."""
    return hashlib.sha256("\n".join(values[address] for address in sorted(values)).encode()).hexdigest()[:12]


def merge(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict for several clients: the first mismatch, and sums."""
    return Verdict(
        clients=len(verdicts),
        messages=sum(v.messages for v in verdicts),
        missing=sum(v.missing for v in verdicts),
        behind=sum(v.behind for v in verdicts),
        mismatch=next((v.mismatch for v in verdicts if v.mismatch), ""),
        digest=next((v.digest for v in verdicts if v.digest), ""),
    )


def _updates(message: dict[str, Any]) -> list[dict[str, Any]] | None:
    if message["type"] == "token_batch":
        updates: list[dict[str, Any]] = message["data"]["updates"]
        return updates
    return [message["data"]] if message["type"] == "token_update" else None
