"""Snapshots: whoever goes on from one has everything that whoever saw all of it has."""

from collections.abc import Sequence
from copy import copy
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarEvent, BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.market import DEDUPE_TRADES, Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue

BEGAN_MS = 1_774_089_000_000
INTERVALS = ("1s", "5s", "1m")
NAMES = ("x:A", "x:B")

Step = tuple[str, Any]


class Folded:
    """A market, and what became of it."""

    def __init__(self, intervals: Sequence[str] = INTERVALS) -> None:
        self.versions: list[tuple[str, int, Any]] = []
        self.numbers: list[tuple[str, int, str]] = []
        self.told: list[tuple[str, BarEvent, str, Bar]] = []
        self.stored: dict[tuple[str, int, int], Bar] = {}
        self.clock_ms = 0
        bars = MarketBars(BarPlan(parse_intervals(intervals), history=50, grace_ms=3_000), self._bar)
        self.market = Market(self._changed, 0, bars=bars, on_trade=self._traded)

    def _changed(self, token: TokenState) -> None:
        self.versions.append((token.address, token.version, token.data()))

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        self.numbers.append((token.address, number, trade.trade_id))

    def _bar(self, address: str, change: BarChange) -> None:
        key = address, change.interval.ms, change.bar.open_ms
        if change.event is BarEvent.BEYOND and key in self.stored:
            self.stored[key].merge(change.bar)
            self.stored[key].revision += change.bar.revision
        else:
            self.stored[key] = copy(change.bar)
        if change.event in (BarEvent.CLOSED, BarEvent.REVISED):
            self.told.append((address, change.event, change.interval.text, copy(change.bar)))

    def begin(self) -> None:
        self.market.add_tokens("s", [TokenInfo(NAMES[0], "A", supply=Decimal(1000)), TokenInfo(NAMES[1], "B")])

    def take(self, step: Step) -> None:
        kind, what = step
        if kind == "trade":
            self.market.apply("s", what)
        elif kind == "value":
            self.market.state("s", what)
        elif kind == "skip":
            token = self.market.get(what)
            if token is not None and token.log is not None:
                token.log.skip(3)
        else:
            self.clock_ms = max(self.clock_ms, what)
            self.market.advance("s", self.clock_ms)

    def resumed(self) -> "Folded":
        """Another one that goes on from here, having read what was written."""
        other = Folded()
        for token in self.market:
            text = msgspec.json.encode(self.market.snapshot(token.address))
            assert other.market.load(msgspec.json.decode(text, type=TokenSnapshot), "s")
        other.market.resume_clock("s", self.clock_ms)
        other.clock_ms = self.clock_ms
        assert other.versions == []
        assert other.told == []
        other.stored = {key: copy(bar) for key, bar in self.stored.items()}
        return other


def of(name: str, events: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those of one token."""
    return [event for event in events if event[0] == name]


def trade(name: str, number: int, at_ms: int, price: int = 1, side: Side = Side.BUY) -> Trade:
    return Trade(name, str(number), Decimal(price) / 7 if price % 5 == 0 else Decimal(price), Decimal(2), side, at_ms)


moments = st.integers(0, 400_000).map(lambda ms: BEGAN_MS + ms)
steps = st.one_of(
    st.tuples(
        st.just("trade"),
        st.builds(
            trade, st.sampled_from(NAMES), st.integers(0, 60), moments, st.integers(1, 12), st.sampled_from(Side)
        ),
    ),
    st.tuples(st.just("clock"), moments),
    st.tuples(st.just("skip"), st.sampled_from(NAMES)),
    st.tuples(
        st.just("value"),
        st.builds(
            lambda price, at_ms: TokenValue(NAMES[1], Decimal(price), *map(Decimal, (5, 4, 3, 2)), at_ms),
            st.integers(1, 3),
            moments,
        ),
    ),
)


@given(before=st.lists(steps, max_size=60), after=st.lists(steps, max_size=60))
def test_going_on_from_a_snapshot_is_having_seen_everything(before: list[Step], after: list[Step]) -> None:
    whole = Folded()
    whole.begin()
    for step in before:
        whole.take(step)
    part = whole.resumed()
    cut = len(whole.versions), len(whole.numbers), len(whole.told)
    for step in after:
        whole.take(step)
        part.take(step)
    assert part.numbers == whole.numbers[cut[1] :]
    assert part.stored == whole.stored
    for name in NAMES:  # what happens to several tokens at one time happens in any order
        assert of(name, part.versions) == of(name, whole.versions[cut[0] :])
        assert of(name, part.told) == of(name, whole.told[cut[2] :])
        mine, theirs = part.market.bars.get(name), whole.market.bars.get(name)
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert [mine.open_bar(n) for n in range(3)] == [theirs.open_bar(n) for n in range(3)]


def test_a_repeated_trade_is_known_again_and_an_old_id_forgotten_as_before() -> None:
    whole = Folded()
    whole.begin()
    for number in range(DEDUPE_TRADES + 10):
        whole.take(("trade", trade(NAMES[0], number, BEGAN_MS + number)))
    part = whole.resumed()
    for folded in (whole, part):
        for number in (*range(5), *range(DEDUPE_TRADES, DEDUPE_TRADES + 20)):
            folded.take(("trade", trade(NAMES[0], number, BEGAN_MS + 1_000)))
    assert part.numbers == whole.numbers[DEDUPE_TRADES + 10 :]
    assert [number for _, number, _ in part.numbers] == list(range(DEDUPE_TRADES + 11, DEDUPE_TRADES + 21))


def test_bars_of_other_lengths_are_refused() -> None:
    whole = Folded()
    whole.begin()
    whole.take(("trade", trade(NAMES[0], 1, BEGAN_MS)))
    with pytest.raises(ValueError, match="other lengths"):
        Folded(("1s", "1m")).market.load(whole.market.snapshot(NAMES[0]), "s")


def test_there_may_be_no_room() -> None:
    whole = Folded()
    whole.begin()
    small = Market(lambda _: None, 0, max_tokens=1)
    assert small.load(whole.market.snapshot(NAMES[0]), "s")
    assert not small.load(whole.market.snapshot(NAMES[1]), "s")
