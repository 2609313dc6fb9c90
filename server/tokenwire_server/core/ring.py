"""What was sent and not yet acknowledged, kept so that it can be sent again, content byte for byte (I-54).

Nothing is copied: a *run* is what one flush sent to a whole cohort, held by the rings of all its members, and its
payloads are the ones that the board encoded once. A ledger knows how much all rings together keep alive.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["BATCHES", "BATCH_CLOSE", "BATCH_OPEN", "Ledger", "Ring", "Run", "Shared", "batch_data"]

BATCHES: Final = {b"token_update": b"token_batch", b"transaction": b"transaction_batch"}
"""What several messages of a type are sent as, to those who take batches."""
BATCH_OPEN: Final = b'{"updates":['
BATCH_CLOSE: Final = b"]}"
_OPENINGS: Final = {b"token_batch": BATCH_OPEN, b"transaction_batch": b'{"transactions":['}

_RUN_BYTES: Final = 200  # what a run takes besides its payloads
_REFERENCE_BYTES: Final = 8
_ENTRY_BYTES: Final = 8  # a ring's entry for a run


def batch_data(payloads: Sequence[bytes], kind: bytes = b"token_batch") -> bytes:
    """The ``data`` of a batch of type ``kind`` with these entries."""
    return _OPENINGS[kind] + b",".join(payloads) + BATCH_CLOSE


class Shared:
    """The payloads of one tick. However many runs refer to them they are counted once, and never for more than the
    runs that are held refer to: ``charged`` is the smaller of all payloads and those runs' sizes."""

    __slots__ = ("_held", "_octets")

    def __init__(self, octets: int) -> None:
        self._octets = octets
        self._held = 0  # summed over runs that a ring holds

    def change(self, octets: int) -> int:
        """A run of so many bytes is held (or, negative, no longer); how much more memory that is."""
        before = self.charged
        self._held += octets
        return self.charged - before

    @property
    def charged(self) -> int:
        """What the payloads take, as far as it can be known without looking at each."""
        return min(self._held, self._octets)


class Run:
    """Frames with consecutive numbers that one flush sent: ``count`` frames, or one batch of all payloads."""

    __slots__ = ("count", "holders", "is_batch", "kind", "octets", "own_octets", "payloads", "shared", "timestamp")

    def __init__(
        self, kind: bytes, timestamp: int, payloads: tuple[bytes, ...], *, is_batch: bool, shared: Shared | None = None
    ) -> None:
        self.kind = kind
        self.timestamp = timestamp
        self.payloads = payloads
        self.is_batch = is_batch
        self.count = 1 if is_batch else len(payloads)
        self.octets = sum(map(len, payloads))  # as the limit of a session counts
        self.own_octets = _RUN_BYTES + _REFERENCE_BYTES * len(payloads) + (0 if shared is not None else self.octets)
        self.shared = shared
        self.holders = 0

    def data(self, index: int) -> bytes:
        """The ``data`` of the frame at ``index``."""
        return batch_data(self.payloads, self.kind) if self.is_batch else self.payloads[index]


class Ledger:
    """What all sessions together keep for clients that may come back."""

    __slots__ = ("frames", "octets")

    def __init__(self) -> None:
        self.frames = 0  # to be replayed, summed over sessions
        self.octets = 0  # of memory: what is shared counts once

    def hold(self, run: Run, rings: int) -> None:
        """So many more rings have ``run``; some may have given it up already, by what was pushed after it."""
        if run.holders <= 0 < run.holders + rings:
            self.octets += run.own_octets
            if run.shared is not None:
                self.octets += run.shared.change(run.octets)
        run.holders += rings
        self.frames += run.count * rings
        self.octets += _ENTRY_BYTES * rings

    def release(self, run: Run) -> None:
        """One ring less."""
        run.holders -= 1
        self.frames -= run.count
        self.octets -= _ENTRY_BYTES
        if not run.holders:
            self.octets -= run.own_octets
            if run.shared is not None:
                self.octets += run.shared.change(-run.octets)


class Ring:
    """The replayable end of one session's stream: numbers above ``floor``, without a hole, up to the last sent.

    ``acked`` is how much of what lies below the floor the client is known to have. Runs follow each other without a
    hole, so that only the number of the oldest one's first frame is kept.
    """

    __slots__ = ("_first", "_ledger", "_max_bytes", "_max_frames", "_runs", "acked", "floor", "octets")

    def __init__(self, ledger: Ledger, max_frames: int, max_bytes: int) -> None:
        self.floor = 0
        self.acked = 0
        self.octets = 0
        self._ledger = ledger
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._first = 1
        self._runs: deque[Run] = deque()

    def push(self, first: int, run: Run) -> None:
        """``run`` was sent under the numbers from ``first`` on. Full: the oldest is given up, never the sender.

        Whoever pushes tells the ledger, once for all rings.
        """
        runs = self._runs
        if not runs:
            self._first = first
        runs.append(run)
        octets = self.octets = self.octets + run.octets
        last = first + run.count - 1
        if octets > self._max_bytes or last - self.floor > self._max_frames:
            self._trim(last)

    def keep(self, first: int, run: Run) -> None:
        """Push a run that nobody else was sent."""
        self._ledger.hold(run, 1)
        self.push(first, run)

    def _trim(self, last: int) -> None:
        runs = self._runs
        while self.octets > self._max_bytes and len(runs) > 1:
            self._drop()
        floor = last - self._max_frames
        if self.octets > self._max_bytes:  # one run alone is too much: its end is kept
            run, kept = runs[0], 0
            for index in range(run.count - 1, -1, -1):
                kept += len(run.payloads[index]) if not run.is_batch else run.octets
                if kept > self._max_bytes:
                    floor = max(floor, self._first + index)
                    break
        self._raise_floor(floor)

    def _raise_floor(self, floor: int) -> None:
        """Give up what is not above ``floor``; a run may be given up in part."""
        self.floor = max(self.floor, floor)
        runs = self._runs
        while runs and self._first + runs[0].count - 1 <= self.floor:
            self._drop()

    def ack(self, number: int) -> None:
        """The client has everything up to ``number``; it will not be asked for again."""
        self.acked = max(self.acked, number)
        self._raise_floor(number)

    def halve(self) -> None:
        """Give up the older half of what is kept, at least one run."""
        for _ in range((len(self._runs) + 1) // 2):
            self._drop()

    def octets_between(self, first: int, last: int) -> int:
        """The size of the kept runs that have a number from ``first`` to ``last``."""
        return sum(run.octets for start, run in self._numbered() if start <= last and start + run.count > first)

    def clear(self, high_water: int) -> None:
        """Give up everything; ``high_water`` is the last number sent."""
        while self._runs:
            self._drop()
        self.floor = max(self.floor, high_water)

    def frames(self, first: int, last: int) -> Iterator[tuple[int, Run, int]]:
        """Number, run and index within it, of every kept frame from ``first`` to ``last``."""
        for start, run in self._numbered():
            if start + run.count <= first:
                continue
            if start > last:
                return
            for number in range(max(start, first), min(start + run.count - 1, last) + 1):
                yield number, run, number - start

    def _numbered(self) -> Iterator[tuple[int, Run]]:
        start = self._first
        for run in self._runs:
            yield start, run
            start += run.count

    def _drop(self) -> None:
        run = self._runs.popleft()
        self.octets -= run.octets
        self._first += run.count
        self.floor = max(self.floor, self._first - 1)
        self._ledger.release(run)
