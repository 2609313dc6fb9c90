"""What the processor does with the raw events of one partition: number, fold, and say what became of them. Pure.

Only the order of the events counts: no clock is read, so that whoever folds the same ones again, from the same cut,
says the same. That is how a processor takes over from another, and how a gateway knows every version.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tokenwire_server.market.bars import BarChange, BarPlan
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.records import (
    BarRecord,
    Cut,
    LogEvent,
    Logged,
    Numbered,
    PoisonError,
    RawEvent,
    Standing,
    State,
)
from tokenwire_server.validation.reason_counts import ReasonCounts
from tokenwire_server.validation.trades import MAX_SKEW_MS, validate_recorded, validate_value

__all__ = ["MAX_SOURCES", "Fold", "Output", "Snapshots"]

MAX_SOURCES: Final = 1_000  # whose clocks and states are kept


class Output(NamedTuple):
    """What is to be written of the events since the last time, each with the address that is its key (empty: of the
    partition as a whole)."""

    log: Sequence[tuple[str, Logged]]
    bars: Sequence[tuple[str, BarRecord]]


class Snapshots(NamedTuple):
    """The tokens that changed since the last time, and where they belong."""

    tokens: Sequence[TokenSnapshot]
    cut: Cut


class Fold:
    """The market of one partition, which has at most ``max_tokens``. ``owns`` says which addresses belong to it."""

    def __init__(self, plan: BarPlan, max_tokens: int, owns: Callable[[str], bool] = lambda _: True) -> None:
        self.rejections = ReasonCounts()  # by source and reason
        self.market: Final = Market(
            self._changed, 0, max_tokens, bars=MarketBars(plan, self._bar_changed), on_trade=self._traded
        )
        self._owns = owns
        self._clocks: dict[str, int] = {}
        self._states: dict[str, State] = {}
        self._seq = 0
        self._bar_seq = 0
        self._run: _Run | None = None
        self._events: list[tuple[str, Logged]] = []
        self._bars: list[tuple[str, BarRecord]] = []
        self._touched: dict[str, None] = {}  # since the last output
        self._dirty: dict[str, None] = {}  # since the last snapshots

    def load(self, tokens: Iterable[TokenSnapshot], cut: Cut) -> None:
        """Be what was at a cut; nothing was fed yet.

        Raises:
            ValueError: the snapshots are of other lengths of bars, or of more tokens than there may be.
        """
        for token in tokens:
            if not self.market.load(token, token.source):
                raise ValueError("there are more tokens than may be known at once; raise MAX_TOKENS")
        for source, now_ms in cut.clocks.items():
            self._clocks[source] = now_ms
            self.market.resume_clock(source, now_ms)
        self._states = {state.source: state for state in cut.states}
        self._seq, self._bar_seq = cut.seq, cut.bars

    def feed(self, event: RawEvent, written_ms: int) -> None:
        """Fold one event. ``written_ms`` (Unix ms) is when its record was written: times are judged by that.

        Raises:
            PoisonError: it is of a token that belongs to another partition; nothing of it was used.
        """
        self._check_addresses(event)
        match event:
            case raw.Trades():
                self._apply(event, written_ms)
            case raw.Tokens():
                self.market.add_tokens(event.source, event.tokens)
                for info in event.tokens:
                    token = self.market.find(info.address)
                    if token is not None:
                        self._dirty[token.address] = None
                self._log(event.tokens[0].address if event.tokens else "", event)
            case raw.Values():
                self._state(event, written_ms)
            case raw.Clock():
                self._advance(event.source, event.time_ms, written_ms)
            case raw.Gap():
                self._skip(event)
            case raw.Rejected():
                self.rejections.add(event.source, event.reason)
            case State():
                if self._has_room(event.source, self._states):
                    self._states[event.source] = event
                    self._log("", event)

    def take(self) -> Output:
        """What became of everything since the last call."""
        log, bars = self._events, self._bars
        for address in self._touched:
            standing = self._standing(address)
            if standing is not None:
                log.append((address, Logged(self._seq, standing)))
        self._events, self._bars, self._touched = [], [], {}
        return Output(log, bars)

    def snapshots(self, raw_offset: int, log_offset: int) -> Snapshots:
        """What changed since the last call, as of now: right after :meth:`take`, and before anything else is fed."""
        tokens = [self.market.snapshot(address) for address in self._dirty]
        self._dirty = {}
        states = tuple(self._states.values())
        return Snapshots(tokens, Cut(raw_offset, self._seq, log_offset, dict(self._clocks), states, self._bar_seq))

    # --- events ------------------------------------------------------------------------------------------------

    def _apply(self, event: raw.Trades, written_ms: int) -> None:
        if event.clock_ms is not None:
            self._advance(event.source, event.clock_ms, written_ms)
        for trade in event.trades:
            rejection = validate_recorded(trade, written_ms)
            if rejection is not None:
                self.rejections.add(event.source, rejection.reason)
            else:
                self.market.apply(event.source, trade)
        self._end_run()

    def _state(self, event: raw.Values, written_ms: int) -> None:
        used = []
        for value in event.values:
            rejection = validate_value(value, written_ms)
            if rejection is not None:
                self.rejections.add(event.source, rejection.reason)
            else:
                self.market.state(event.source, value)
                used.append(value)
        if used:
            self._log(used[0].address, raw.Values(event.source, tuple(used)))

    def _advance(self, source: str, now_ms: int, written_ms: int) -> None:
        if not 0 < now_ms <= written_ms + MAX_SKEW_MS:  # a clock far ahead would expire everything for good
            self.rejections.add(source, "clock_out_of_bounds")
        elif now_ms > self._clocks.get(source, 0) and self._has_room(source, self._clocks):
            self._clocks[source] = now_ms
            self.market.advance(source, now_ms)
            self._log("", raw.Clock(source, now_ms))

    def _has_room(self, source: str, known: Mapping[str, object]) -> bool:
        if source in known or len(known) < MAX_SOURCES:
            return True
        self.rejections.add(source, "too_many_sources")
        return False

    def _skip(self, event: raw.Gap) -> None:
        token = self.market.find(event.token)
        if event.missed < 0 or token is None or token.log is None or token.source != event.source:
            self.rejections.add(event.source, "gap_of_nothing")
            return
        token.log.skip(max(event.missed, 1))
        self._dirty[token.address] = None
        self._log(token.address, raw.Gap(event.source, token.address, event.missed))

    def _check_addresses(self, event: RawEvent) -> None:
        match event:
            case raw.Trades():
                addresses = [trade.address for trade in event.trades]
            case raw.Tokens():
                addresses = [info.address for info in event.tokens]
            case raw.Values():
                addresses = [value.address for value in event.values]
            case raw.Gap():
                addresses = [event.token]
            case _:
                return
        if not all(map(self._owns, addresses)):
            raise PoisonError("it is of a token that belongs to another partition")

    # --- what the market tells -----------------------------------------------------------------------------------

    def _changed(self, token: TokenState) -> None:
        self._dirty[token.address] = None

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        run = self._run
        if run is None or run.token is not token or run.first + len(run.trades) != number:
            self._end_run()
            run = self._run = _Run(token, number, [])
        run.trades.append(trade)
        self._touched[token.address] = self._dirty[token.address] = None

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            token = run.token
            self._log(token.address, Numbered(token.source, run.first, token.version, tuple(run.trades)))

    def _bar_changed(self, address: str, change: BarChange) -> None:
        token = self.market.get(address)
        if token is not None:
            self._bar_seq += 1
            self._bars.append((address, BarRecord.of(self._bar_seq, address, token.symbol, change)))
            self._touched[address] = self._dirty[address] = None

    # --- what is written -------------------------------------------------------------------------------------------

    def _log(self, key: str, event: LogEvent) -> None:
        self._seq += 1
        self._events.append((key, Logged(self._seq, event)))

    def _standing(self, address: str) -> Standing | None:
        token, bars = self.market.get(address), self.market.bars.get(address)
        if token is None or token.log is None or token.price is None or bars is None:
            return None
        info = TokenInfo(address, token.symbol, token.name, token.chain, token.supply)
        return Standing(
            token.source, info, token.log.newest, bars.now_ms, token.price, token.source_time_ms, token.version,
            self._bar_seq,
        )  # fmt: skip


class _Run(NamedTuple):
    """Trades of one token that are being applied, one after the other."""

    token: TokenState
    first: int
    trades: list[Trade]
