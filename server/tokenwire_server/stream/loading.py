"""What is to be stored of the processors' output: the log and the bars of each partition, put together. Pure.

What a transaction of a processor wrote is stored as a whole, together with how far it was read. Where one ends the log
tells where each token stands that it touched, and which bars there are by then (``stream.records.Standing``).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Final, NamedTuple

from tokenwire_server.market.pending_bars import PendingBars
from tokenwire_server.market.records import Batch, NumberedTrade, StoredToken
from tokenwire_server.stream.records import BarKind, BarRecord, Logged, Numbered, Standing, bar_of
from tokenwire_server.stream.replica import LogHoleError

__all__ = ["Loading", "PartitionLoading", "Position"]


class Position(NamedTuple):
    """How far a partition is stored: the offset of the next record of the log, and the number (``seq``) of the newest
    one; likewise of the bars. Written ``12:7:3:2``."""

    log_offset: int = 0
    seq: int = 0
    bar_offset: int = 0
    bars: int = 0

    def __str__(self) -> str:
        return ":".join(map(str, self))

    @classmethod
    def of(cls, text: str) -> "Position":
        """What :meth:`__str__` wrote. Raises ValueError."""
        log_offset, seq, bar_offset, bars = map(int, text.split(":"))
        return cls(log_offset, seq, bar_offset, bars)


class _Run:
    """Records up to and with those that say where the tokens stand then. Those that are told of no token's trades,
    such as clocks, may be one by themselves: what they led to is stored with the next."""

    def __init__(self) -> None:
        self.trades: dict[str, list[NumberedTrade]] = {}
        self.tokens: dict[str, StoredToken] = {}
        self.rows = 0  # trades and tokens
        self.log_offset = 0
        self.seq = 0
        self.bars = 0  # seq of the newest bar by then, if it touched any token
        self.version = 0


class PartitionLoading:
    """One partition, from ``position`` on. ``known`` are the tokens that are stored.

    With ``accepts_gaps`` it goes on behind records that are missing, counted in ``missing``; what can't be
    stored without them is left out. Otherwise every hole raises LogHoleError.
    """

    def __init__(
        self, name: str, position: Position, known: set[str] | None = None, *, accepts_gaps: bool = False
    ) -> None:
        self.position = position
        """Where what was taken ends."""
        self.missing = 0
        self.log_offset = position.log_offset  # of the next record that is expected
        self.bar_offset = position.bar_offset
        self._name = name
        self._known = set() if known is None else known
        self._accepts_gaps = accepts_gaps
        self._seq = position.seq
        self._bar_seq = position.bars
        self._runs: deque[_Run] = deque()
        self._bars: deque[tuple[int, BarRecord]] = deque()
        self.log_rows = 0  # trades and tokens that wait

    @property
    def bar_rows(self) -> int:
        """Bars that wait."""
        return len(self._bars)

    @property
    def needs_bars(self) -> bool:
        """Nothing more can be taken before further bars were read."""
        return bool(self._runs) and self._runs[0].bars > self._bar_seq

    @property
    def needs_log(self) -> bool:
        """Nothing more can be taken before further records of the log were read."""
        return not self.needs_bars and not self._is_whole()

    def log(self, offset: int, address: str, logged: Logged) -> None:
        """The next record of the log, which has the address of its token as key; one that was read before is left out.

        Raises:
            LogHoleError: records before it are missing.
        """
        if offset < self.log_offset:
            return
        event = logged.event
        is_standing = isinstance(event, Standing)
        self._check("record", self._seq, logged.seq - (not is_standing))
        self._seq = logged.seq
        self.log_offset = offset + 1
        if not self._runs or (self._runs[-1].tokens and not is_standing):
            self._runs.append(_Run())
        run = self._runs[-1]
        run.log_offset, run.seq = offset + 1, logged.seq
        if isinstance(event, Numbered):
            trades = run.trades.setdefault(address, [])
            trades += (NumberedTrade(event.first + at, trade) for at, trade in enumerate(event.trades))
            self._count(run, len(event.trades), event.version)
        elif isinstance(event, Standing):
            run.tokens[address] = StoredToken(
                event.info, event.source, event.trades, event.now_ms, event.price, event.price_ms
            )
            run.bars = max(run.bars, event.bars)
            self._count(run, 1, event.version)

    def bar(self, offset: int, record: BarRecord) -> None:
        """The next bar; as :meth:`log`."""
        if offset < self.bar_offset:
            return
        self._check("bar", self._bar_seq, record.seq - 1)
        self._bar_seq = record.seq
        self.bar_offset = offset + 1
        self._bars.append((offset, record))

    def take_run(self, into: "_Draft") -> bool:
        """Move the oldest records that belong together ``into`` a batch; False: they are not all there yet.

        Raises:
            LogHoleError: it is not said where a token stands.
        """
        if not self._is_whole():
            return False
        run = self._runs.popleft()
        for address, trades in run.trades.items():
            if self._is_told(address, run):
                into.trades.setdefault(address, []).extend(trades)
        into.tokens.update(run.tokens)
        self._known.update(run.tokens)
        bar_offset = self.position.bar_offset
        while self._bars and self._bars[0][1].seq <= run.bars:
            bar_offset, record = self._bars.popleft()
            bar_offset += 1
            if self._is_told(record.address, run):
                into.bar(record)
        self.log_rows -= run.rows
        into.rows += run.rows
        into.version = max(into.version, run.version)
        self.position = Position(run.log_offset, run.seq, bar_offset, max(run.bars, self.position.bars))
        return True

    def _count(self, run: _Run, rows: int, version: int) -> None:
        run.rows += rows
        self.log_rows += rows
        run.version = max(run.version, version)

    def _is_whole(self) -> bool:
        """Whether the oldest records that belong together are all there."""
        if not self._runs or self._runs[0].bars > self._bar_seq:
            return False
        if len(self._runs) > 1:
            return True
        run = self._runs[0]
        bars = takewhile(lambda waiting: waiting[1].seq <= run.bars, self._bars)
        return {*run.trades, *(record.address for _, record in bars)} <= run.tokens.keys()

    def _is_told(self, address: str, run: _Run) -> bool:
        """Whether rows of a token can be stored with this run."""
        if address in run.tokens:
            return True
        if not self._accepts_gaps:
            raise LogHoleError(f"{self._name}: by record {run.seq} it is not said where {address} stands")
        return address in self._known

    def _check(self, what: str, newest: int, before: int) -> None:
        """``newest`` was read; what comes next stands behind ``before``."""
        if before < newest:
            raise LogHoleError(f"{self._name}: {what} {before + 1} comes again behind {newest}")
        if before > newest:
            if not self._accepts_gaps:
                raise LogHoleError(f"{self._name}: {what}s {newest + 1} to {before} are missing")
            self.missing += before - newest


class _Draft:
    """A batch that is being put together."""

    def __init__(self, version: int) -> None:
        self.tokens: dict[str, StoredToken] = {}
        self.trades: dict[str, list[NumberedTrade]] = {}
        self.bars = PendingBars()
        self.rows = 0
        self.version = version

    def bar(self, record: BarRecord) -> None:
        series = record.address, record.interval_ms
        if record.kind is BarKind.LATE:
            self.bars.merge(series, bar_of(record))
        else:
            self.bars.put(series, bar_of(record))
        self.rows += 1


class Loading:
    """All partitions of a log that is called ``name``, from ``positions`` on (by partition). ``known`` are the tokens
    that are stored, ``numbered`` and ``version`` as of ``Beginning``; ``accepts_gaps`` as of PartitionLoading."""

    def __init__(
        self,
        name: str,
        positions: Mapping[int, Position],
        known: Iterable[str] = (),
        numbered: int = 0,
        version: int = 0,
        *,
        accepts_gaps: bool = False,
    ) -> None:
        self._stored: Final = set(known)
        self.partitions: Final = {
            number: PartitionLoading(f"{name}/{number}", position, self._stored, accepts_gaps=accepts_gaps)
            for number, position in positions.items()
        }
        self._name = name
        self._order = deque(self.partitions)
        self._taken = 0
        self._numbered = numbered
        self._version = version

    @property
    def log_rows(self) -> int:
        """Trades and tokens that wait."""
        return sum(partition.log_rows for partition in self.partitions.values())

    @property
    def bar_rows(self) -> int:
        """Bars that wait."""
        return sum(partition.bar_rows for partition in self.partitions.values())

    def positions(self) -> dict[int, Position]:
        """Where what was taken ends, by partition."""
        return {number: partition.position for number, partition in self.partitions.items()}

    def lost(self) -> int:
        """How many records and bars the log was found to have lost since the last call."""
        found = sum(partition.missing for partition in self.partitions.values())
        for partition in self.partitions.values():
            partition.missing = 0
        return found

    def take(self, most_rows: int) -> Batch:
        """What can be stored, up to the end of the run that reaches ``most_rows``; it may be nothing but positions.

        Raises:
            LogHoleError: as of PartitionLoading.
        """
        draft = _Draft(self._version)
        offsets = {}
        self._order.rotate(-1)  # so that none is always the last
        for number in self._order:
            partition = self.partitions[number]
            before = partition.position
            while draft.rows < most_rows and partition.take_run(draft):
                pass
            if partition.position != before:
                offsets[f"{self._name}/{number}"] = str(partition.position)
        self._taken += 1
        self._numbered += sum(map(len, draft.trades.values()))
        self._version = draft.version
        return Batch(
            number=self._taken,
            tokens=tuple(draft.tokens.values()),
            trades=draft.trades,
            bars=draft.bars.bars,
            late=draft.bars.late,
            offsets=offsets,
            numbered=self._numbered,
            version=self._version,
            is_last=True,  # numbers are given elsewhere: none are ever to be skipped here
        )
