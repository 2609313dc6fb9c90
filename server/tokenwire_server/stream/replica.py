"""One more market that folds what a processor logged of a partition, and so has the same of everything. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tokenwire_server.market.market import Market
from tokenwire_server.market.registry import Registry, wire_address
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.records import Cut, Logged, Numbered, Standing, State

__all__ = ["LogHoleError", "Replica", "ReplicaSink"]


class LogHoleError(Exception):
    """Records of the log are missing, or do not lead where they led the processor: what is at hand can't be trusted
    any more, and must be made anew from snapshots."""


class ReplicaSink(Protocol):
    """Where logged events go. What is delivered was judged before, and is applied as it is."""

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """As of ``Sink``."""

    def applied(self, source: str, trades: Sequence[Trade]) -> None:
        """Trades of one token."""

    def stated(self, source: str, values: Sequence[TokenValue]) -> None:
        """Values that the source states."""

    def clock(self, source: str, event_time_ms: int) -> None:
        """As of ``Sink``."""

    def gap(self, source: str, token: str, missed: int) -> None:
        """As of ``Sink``."""

    def source_state(self, source: str, state: SourceState, detail: str, cadence_ms: int) -> None:
        """As ``state`` of ``Sink``; the source may be new, and promises this cadence (0: what it promised before)."""


class Replica:
    """Follows the log of one partition. ``market`` is the one that ``sink`` feeds; it may follow other partitions too,
    each with a ``suffix`` of its own: each source is another one in each partition, since each partition has come to
    its own time (``market.named`` is what it is called).

    Snapshots are of different moments. A token whose snapshot is newer than the cut is not there until the log comes
    to where that was taken; what is logged of it before is in the snapshot.
    """

    def __init__(self, market: Market, sink: ReplicaSink, suffix: str = "") -> None:
        self.seq = 0  # of the newest record that was applied
        self.bars = 0  # of the newest bar by then
        self.raw_offset = 0  # raw records before it are in the log up to there
        self._suffix: Final = suffix
        self._market = market
        self._sink = sink
        self._waiting: list[TokenSnapshot] = []  # newer than what was applied; the newest first
        self._absent = Registry(0)  # whom they are of

    @property
    def is_whole(self) -> bool:
        """Whether the log has come to where the newest snapshot was taken."""
        return not self._waiting

    def load(self, tokens: Iterable[TokenSnapshot], cut: Cut) -> None:
        """Begin at a cut. Raises ValueError as ``Fold.load``."""
        self.begin(cut)
        for token in tokens:
            self.add(token)

    def begin(self, cut: Cut) -> None:
        """Be at a cut; every snapshot is to be added then, before anything is applied."""
        for source, now_ms in cut.clocks.items():
            self._market.resume_clock(source + self._suffix, now_ms)
        for state in cut.states:
            self._tell(state)
        self.seq, self.bars, self.raw_offset = cut.seq, cut.bars, cut.raw_offset

    def add(self, token: TokenSnapshot) -> None:
        """Know a token. Raises ValueError as ``Fold.load``."""
        if token.seq <= self.seq:
            self._enter(token)
        else:
            self._waiting.append(token)

    def apply(self, logged: Logged) -> None:
        """Apply the next record; one that was applied before is left out.

        Raises:
            LogHoleError: records before this one are missing, or it leads elsewhere than it led the processor.
            ValueError: as ``Fold.load``.
        """
        event = logged.event
        follows = self.seq + (not isinstance(event, Standing))
        if logged.seq > follows:
            raise LogHoleError(f"records {self.seq + 1} to {logged.seq - follows + self.seq} of the log are missing")
        if logged.seq < follows:
            return
        self.raw_offset = max(self.raw_offset, logged.raw_offset)
        if self._waiting and not len(self._absent):
            self._expect()
        if isinstance(event, Standing):
            self.bars = max(self.bars, event.bars)
            self._compare(event.info.address, event.trades, event.version)
            return
        self._take(event)
        self.seq = logged.seq
        while self._waiting and self._waiting[-1].seq <= self.seq:
            self._enter(self._waiting.pop())
            if not self._waiting:
                self._absent = Registry(0)

    def _take(self, event: raw.Tokens | Numbered | raw.Values | raw.Clock | raw.Gap | State) -> None:
        source = event.source + self._suffix
        match event:
            case Numbered():
                address = event.trades[-1].address
                if not self._is_absent(address):
                    self._sink.applied(source, event.trades)
                    self._compare(address, event.first + len(event.trades) - 1, event.version)
            case raw.Clock():
                self._sink.clock(source, event.time_ms)
            case raw.Tokens():
                tokens = [info for info in event.tokens if not self._is_absent(wire_address(info))]
                self._sink.tokens(source, tokens)
            case raw.Values():
                self._sink.stated(source, event.values)
            case raw.Gap():
                if not self._is_absent(event.token):
                    self._sink.gap(source, event.token, event.missed)
            case State():
                self._tell(event)

    def _expect(self) -> None:
        self._waiting.sort(key=lambda token: token.seq, reverse=True)
        self._absent = Registry(len(self._waiting))
        for token in self._waiting:
            self._absent.add(token.info)

    def _enter(self, token: TokenSnapshot) -> None:
        if not self._market.load(token, token.source + self._suffix):
            raise ValueError("there are more tokens than may be known at once; raise MAX_TOKENS")

    def _is_absent(self, address: str) -> bool:
        """Whether the token is one that waits."""
        return bool(self._waiting) and self._absent.find(address) is not None and self._market.find(address) is None

    def _tell(self, event: State) -> None:
        self._sink.source_state(event.source + self._suffix, event.state, event.detail, event.cadence_ms)

    def _compare(self, address: str, newest: int, version: int) -> None:
        if self._is_absent(address):
            return
        token = self._market.find(address)
        mine = None if token is None or token.log is None else (token.log.newest, token.version)
        if mine != (newest, version):
            raise LogHoleError(f"{address}: trade and version are {mine} here, and {(newest, version)} in the log")
