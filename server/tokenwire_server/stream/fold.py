"""What the processor does with the raw events of one partition: number, fold, and say what became of them. Pure.

Only the order of the events counts: no clock is read, so that whoever folds what was logged again, from a cut on, says
the same of what comes next. That is how a processor takes over from another, and how a gateway knows every version.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Final, NamedTuple

import msgspec

from tokenwire_server.market.bars import BarChange, BarPlan
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.registry import wire_address
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trade_log import LogPlan
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
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
from tokenwire_server.stream.replica import LogHoleError, Replica
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
    """Tokens as they are now, and the newest cut that all snapshots together make up."""

    tokens: Sequence[TokenSnapshot]
    cut: Cut


class Fold:
    """The market of one partition, which has at most ``max_tokens``. ``owns`` says which addresses belong to it. Of
    ``plan`` only the lengths of bars count, and for how long corrections are told: nobody asks here for old bars."""

    def __init__(self, plan: BarPlan, max_tokens: int, owns: Callable[[str], bool] = lambda _: True) -> None:
        self.rejections = ReasonCounts()  # by source and reason
        self.market: Final = Market(
            self._changed,
            0,
            max_tokens,
            bars=MarketBars(plan.without_history(), self._bar_changed),
            log_plan=LogPlan(most=0),
            on_trade=self._traded,
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
        self._mark = Cut(0, 0, 0, {})  # the newest
        self._dirty: dict[str, Cut] = {}  # who changed since its snapshot, with a mark before that; the oldest first
        self._replica = Replica(self.market, self)  # folds what was logged

    # --- taking over -------------------------------------------------------------------------------------------

    def load(self, tokens: Iterable[TokenSnapshot], cut: Cut) -> None:
        """Begin at a cut; nothing was fed yet.

        Raises:
            ValueError: the snapshots are of other lengths of bars, or of more tokens than there may be.
        """
        self.begin(cut)
        for token in tokens:
            self.add(token)

    def begin(self, cut: Cut) -> None:
        """As of ``Replica``."""
        self._mark = cut
        self._clocks = dict(cut.clocks)
        self._replica.begin(cut)
        self._go_on()

    def add(self, token: TokenSnapshot) -> None:
        """As of ``Replica``."""
        self._replica.add(token)

    def again(self, logged: Logged) -> None:
        """Fold what was logged after the cut, record by record: nothing is written of it once more.

        Raises:
            LogHoleError: as of ``Replica``.
            ValueError: as of ``load``.
        """
        self._replica.apply(logged)
        self._go_on()

    def taken_over(self) -> int:
        """Nothing more was logged: the offset of the first raw record that was not folded, as far as the log knows.

        Raises:
            LogHoleError: the log ends before the newest snapshots.
        """
        if not self._replica.is_whole:
            raise LogHoleError(f"records behind {self._seq} of the log are missing")
        return self._replica.raw_offset

    def _go_on(self) -> None:
        self._seq, self._bar_seq = self._replica.seq, self._replica.bars
        self._run = None
        self._events, self._bars, self._touched = [], [], {}

    # --- events ------------------------------------------------------------------------------------------------

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
                self.tokens(event.source, event.tokens)
                self._log(wire_address(event.tokens[0]) if event.tokens else "", event)
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
                    self.source_state(event.source, event.state, event.detail, event.cadence_ms)
                    self._log("", event)

    def lose(self) -> None:
        """Nobody knows what should come next: events are missing. Whoever counts the trades of a token sees a hole."""
        for token in self.market:
            if token.log is not None:
                self._skip(raw.Gap(token.source, token.address, 0))

    def take(self) -> Output:
        """What became of everything since the last call."""
        log, bars = self._events, self._bars
        for address in self._touched:
            standing = self._standing(address)
            if standing is not None:
                log.append((address, Logged(self._seq, standing)))
        self._events, self._bars, self._touched = [], [], {}
        return Output(log, bars)

    # --- snapshots ---------------------------------------------------------------------------------------------

    @property
    def oldest_change(self) -> int | None:
        """The ``seq`` of the mark behind which the token changed that waits longest for a snapshot; None: none does."""
        return next((mark.seq for mark in self._dirty.values()), None)

    def mark(self, raw_offset: int, log_offset: int, lineage: str = "") -> int:
        """Everything up to now was written: there may be a cut here. ``raw_offset``, ``log_offset`` and ``lineage`` as
        of :class:`Cut`; its ``seq``. Right after :meth:`take`, and before anything else is fed."""
        self._mark = self._cut(raw_offset, log_offset, lineage)
        return self._mark.seq

    def snapshots(
        self, raw_offset: int, log_offset: int, lineage: str = "", *, until: int | None = None, most: int | None = None
    ) -> Snapshots:
        """Of the tokens that changed right behind the mark of the ``seq`` ``until`` or an earlier one (None: of all)
        at ``most`` so many, those that wait longest first. Arguments and time as of :meth:`mark`."""
        due = takewhile(lambda changed: until is None or changed[1].seq <= until, self._dirty.items())
        tokens = []
        for address, _ in list(islice(due, most)):
            del self._dirty[address]
            tokens.append(msgspec.structs.replace(self.market.snapshot(address), seq=self._seq))
        if not self._dirty:
            self.mark(raw_offset, log_offset, lineage)
        return Snapshots(tokens, next(iter(self._dirty.values()), self._mark))

    def _cut(self, raw_offset: int, log_offset: int, lineage: str) -> Cut:
        states = tuple(self._states.values())
        return Cut(raw_offset, self._seq, log_offset, dict(self._clocks), states, self._bar_seq, lineage)

    def _soil(self, address: str) -> None:
        """The token at exactly this address is not what its newest snapshot says."""
        if address not in self._dirty:
            self._dirty[address] = self._mark

    # --- what happens, fed or logged: as ``stream.replica`` wants it ----------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens."""
        self.market.add_tokens(source, tokens)
        for info in tokens:
            token = self.market.find(wire_address(info))
            if token is not None:
                self._soil(token.address)

    def applied(self, source: str, trades: Sequence[Trade]) -> None:
        """Fold trades."""
        for trade in trades:
            self.market.apply(source, trade)

    def stated(self, source: str, values: Sequence[TokenValue]) -> None:
        """Take over stated values."""
        for value in values:
            before = self.market.stated
            self.market.state(source, value)
            token = self.market.find(value.address)
            if token is not None and self.market.stated != before:
                self._soil(token.address)

    def clock(self, source: str, event_time_ms: int) -> None:
        """Event time moved on."""
        self._clocks[source] = event_time_ms
        self.market.advance(source, event_time_ms)

    def gap(self, source: str, token: str, missed: int) -> None:
        """Trades of the token are missing."""
        found = self.market.find(token)
        if found is not None and found.log is not None:
            found.log.skip(max(missed, 1))
            self._soil(found.address)

    def source_state(self, source: str, state: SourceState, detail: str, cadence_ms: int) -> None:
        """The source changed its state."""
        self._states[source] = State(source, state, detail, cadence_ms)

    # --- what is fed -------------------------------------------------------------------------------------------

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
                used.append(value)
        if used:
            self.stated(event.source, used)
            self._log(used[0].address, raw.Values(event.source, tuple(used)))

    def _advance(self, source: str, now_ms: int, written_ms: int) -> None:
        if not 0 < now_ms <= written_ms + MAX_SKEW_MS:  # a clock far ahead would expire everything for good
            self.rejections.add(source, "clock_out_of_bounds")
        elif now_ms > self._clocks.get(source, 0) and self._has_room(source, self._clocks):
            self.clock(source, now_ms)
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
        self.gap(event.source, token.address, event.missed)
        self._log(token.address, raw.Gap(event.source, token.address, event.missed))

    def _check_addresses(self, event: RawEvent) -> None:
        match event:
            case raw.Trades():
                addresses = [trade.address for trade in event.trades]
            case raw.Tokens():
                addresses = [wire_address(info) for info in event.tokens]
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
        self._soil(token.address)

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        run = self._run
        if run is None or run.token is not token or run.first + len(run.trades) != number:
            self._end_run()
            run = self._run = _Run(token, number, [])
        run.trades.append(trade)
        self._touched[token.address] = None
        self._soil(token.address)

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
            self._touched[address] = None
            self._soil(address)

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
