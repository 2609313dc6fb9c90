"""One more market that folds what a processor logged of a partition, and so has the same of everything. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from tokenwire_server.market.market import PART_MARK, Market
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
    """Follows the log of one partition. ``market`` is the one that ``sink`` feeds; it may follow other partitions too:
    each source is another one in each partition, since each partition has come to its own time (``market.named`` is
    what it is called)."""

    def __init__(self, partition: int, market: Market, sink: ReplicaSink) -> None:
        self.seq = 0  # of the newest record that was applied
        self._suffix: Final = f"{PART_MARK}{partition}"
        self._market = market
        self._sink = sink

    def load(self, tokens: Iterable[TokenSnapshot], cut: Cut) -> None:
        """Begin at a cut. Raises ValueError as ``Fold.load``."""
        for token in tokens:
            if not self._market.load(token, token.source + self._suffix):
                raise ValueError("there are more tokens than may be known at once; raise MAX_TOKENS")
        for source, now_ms in cut.clocks.items():
            self._market.resume_clock(source + self._suffix, now_ms)
        for state in cut.states:
            self._tell(state)
        self.seq = cut.seq

    def apply(self, logged: Logged) -> None:
        """Apply the next record; one that was applied before is left out.

        Raises:
            LogHoleError: records before this one are missing, or it leads elsewhere than it led the processor.
        """
        event = logged.event
        follows = self.seq + (not isinstance(event, Standing))
        if logged.seq > follows:
            raise LogHoleError(f"records {self.seq + 1} to {logged.seq - follows + self.seq} of the log are missing")
        if logged.seq < follows:
            return
        if isinstance(event, Standing):
            self._compare(event.info.address, event.trades, event.version)
            return
        self.seq = logged.seq
        source = event.source + self._suffix
        match event:
            case Numbered():
                self._sink.applied(source, event.trades)
                self._compare(event.trades[-1].address, event.first + len(event.trades) - 1, event.version)
            case raw.Clock():
                self._sink.clock(source, event.time_ms)
            case raw.Tokens():
                self._sink.tokens(source, event.tokens)
            case raw.Values():
                self._sink.stated(source, event.values)
            case raw.Gap():
                self._sink.gap(source, event.token, event.missed)
            case State():
                self._tell(event)

    def _tell(self, event: State) -> None:
        self._sink.source_state(event.source + self._suffix, event.state, event.detail, event.cadence_ms)

    def _compare(self, address: str, newest: int, version: int) -> None:
        token = self._market.find(address)
        mine = None if token is None or token.log is None else (token.log.newest, token.version)
        if mine != (newest, version):
            raise LogHoleError(f"{address}: trade and version are {mine} here, and {(newest, version)} in the log")
