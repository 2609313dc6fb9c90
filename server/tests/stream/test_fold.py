"""The fold of one partition: whoever takes over at a cut writes the same, and whoever follows has the same."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarPlan
from tokenwire_server.market.intervals import parse_intervals
from tokenwire_server.market.market import PART_MARK, Market
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.fold import MAX_SOURCES, Fold, Output, Snapshots
from tokenwire_server.stream.records import (
    BarKind,
    Cut,
    Logged,
    Numbered,
    PoisonError,
    RawEvent,
    Standing,
    State,
    bar_of,
    encode,
    read_bar,
    read_cut,
    read_logged,
    read_raw,
    read_snapshot,
)
from tokenwire_server.stream.replica import LogHoleError, Replica

NOW_MS = 1_774_089_400_000
PLAN = BarPlan(parse_intervals(("1s", "5s", "1m")), history=50, grace_ms=3_000)
NAMES = ("x:A", "x:B", "x:C")


class Follower:
    """What a gateway does with the log, on a bare market."""

    def __init__(self) -> None:
        self.versions: list[tuple[str, int]] = []
        self.numbers: list[tuple[str, int, str]] = []
        self.states: dict[str, tuple[SourceState, str, int]] = {}
        self.market = Market(
            lambda token: self.versions.append((token.address, token.version)), 0, bars=MarketBars(PLAN),
            on_trade=lambda token, number, trade: self.numbers.append((token.address, number, trade.trade_id)),
        )  # fmt: skip
        self.replica = Replica(self.market, self, f"{PART_MARK}0")

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        self.market.add_tokens(source, tokens)

    def applied(self, source: str, trades: Sequence[Trade]) -> None:
        for trade in trades:
            assert self.market.apply(source, trade)

    def stated(self, source: str, values: Sequence[TokenValue]) -> None:
        for value in values:
            self.market.state(source, value)

    def clock(self, source: str, event_time_ms: int) -> None:
        self.market.advance(source, event_time_ms)

    def gap(self, source: str, token: str, missed: int) -> None:
        found = self.market.find(token)
        assert found is not None
        assert found.log is not None
        found.log.skip(max(missed, 1))

    def source_state(self, source: str, state: SourceState, detail: str, cadence_ms: int) -> None:
        self.states[source] = (state, detail, cadence_ms)

    def standing(self) -> dict[str, object]:
        found: dict[str, object] = {"": self.states}
        for token in self.market:
            bars = self.market.bars.get(token.address)
            running = None if bars is None else [bars.open_bar(n) for n in range(3)]
            newest = None if token.log is None else token.log.newest
            found[token.address] = (token.version, token.price, token.volumes, newest, running)
        return found


def trade(name: str, number: int, at_ms: int, price: int = 3, amount: int = 1) -> Trade:
    return Trade(name, str(number), Decimal(price), Decimal(amount), Side.BUY if number % 2 else Side.SELL, at_ms)


moments = (st.integers(0, 400_000) | st.integers(0, 9_000)).map(lambda ms: NOW_MS - ms)
sources = st.sampled_from(("one", "two"))
trades = st.builds(trade, st.sampled_from(NAMES), st.integers(0, 80), moments, st.integers(0, 9), st.integers(1, 3))
events: st.SearchStrategy[RawEvent] = st.one_of(
    st.builds(raw.Trades, sources, st.lists(trades, max_size=6).map(tuple), st.none() | moments),
    st.builds(raw.Clock, sources, moments | st.sampled_from((0, -5, 1 << 60))),
    st.builds(raw.Gap, sources, st.sampled_from((*NAMES, "x:none")), st.integers(-1, 9)),
    st.builds(
        lambda source, name, symbol, supply: raw.Tokens(source, (TokenInfo(name, symbol, supply=supply),)),
        sources, st.sampled_from(NAMES), st.sampled_from("AB"), st.none() | st.just(Decimal(7)),
    ),
    st.builds(
        lambda source, price, at_ms: raw.Values(
            source, (TokenValue(NAMES[2], Decimal(price), *map(Decimal, (5, 4, 3, 2)), at_ms),)
        ),
        sources, st.integers(-1, 3), moments,
    ),
    st.builds(State, sources, st.sampled_from(SourceState), st.sampled_from(("", "why")), st.sampled_from((0, 500))),
    st.builds(raw.Rejected, sources, st.just("bad"), st.just("worse")),
)  # fmt: skip

BEGIN: list[RawEvent] = [raw.Tokens("one", (TokenInfo(name, name[-1], supply=Decimal(10)),)) for name in NAMES]


Store = dict[tuple[str, int, int], Bar]


def told(output: Output) -> list[bytes]:
    """What is written."""
    return [key.encode() + encode(each) for key, each in (*output.log, *output.bars)]


def store(bars: Store, output: Output) -> None:
    """Do with the bars what a loader does."""
    for _, record in output.bars:
        again = read_bar(encode(record))
        key = again.address, again.interval_ms, again.open_time
        held = bars.get(key)
        if held is None or again.kind is not BarKind.LATE:
            bars[key] = bar_of(again)
        else:
            held.merge(bar_of(again))
            held.revision += again.revision


class Topics:
    """What stands in the topics of one partition."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.tokens: dict[str, bytes] = {}
        self.cut = encode(Cut(0, 0, 0, {}))

    def write(self, output: Output, raw_offset: int) -> None:
        for at, (_, logged) in enumerate(output.log, 1):
            is_last = at == len(output.log)
            self.log.append(encode(msgspec.structs.replace(logged, raw_offset=raw_offset * is_last)))

    def keep(self, snapshots: Snapshots) -> None:
        assert read_cut(self.cut).seq <= snapshots.cut.seq
        self.tokens.update((token.info.address, encode(token)) for token in snapshots.tokens)
        self.cut = encode(snapshots.cut)

    def begin(self, one: Fold | Replica) -> None:
        """Load what stands here, and fold what was logged since."""
        cut = read_cut(self.cut)
        one.load([read_snapshot(text) for text in reversed(self.tokens.values())], cut)
        for record in self.log[cut.log_offset :]:
            one.again(read_logged(record)) if isinstance(one, Fold) else one.apply(read_logged(record))


def state(fold: Fold, raw_offset: int) -> list[object]:
    """Everything that what comes next depends on, but for when somebody looked at a window that did not change."""
    addresses = sorted(token.address for token in fold.market)
    tokens = [fold.market.snapshot(address) for address in addresses]
    sums = [[window.sums for window in token.windows] for token in tokens]
    return [*(encode(msgspec.structs.replace(token, windows=(), seq=0)) for token in tokens), sums,
            encode(fold._cut(raw_offset, 0, ""))]  # fmt: skip


class Step(NamedTuple):
    """A transaction, and what comes with it or behind it."""

    events: list[RawEvent]
    most: int | None  # snapshots; None: not even a cut
    has_mark: bool
    is_taken_over: bool


steps = st.builds(Step, st.lists(events, max_size=8), st.none() | st.integers(0, 4), st.booleans(), st.booleans())


@given(st.lists(steps, max_size=16))
def test_whoever_takes_over_writes_the_same_and_whoever_follows_has_the_same(steps: list[Step]) -> None:
    lasting, working, first = Fold(PLAN, 100), Fold(PLAN, 100), Follower()
    stored: Store = {}
    topics, followers = Topics(), [first]
    bars: list[int] = []
    logged_raw = 0
    for number, step in enumerate([Step(BEGIN, None, False, False), *steps], 1):
        for event in step.events:
            again = read_raw(encode(event))
            lasting.feed(again, NOW_MS)
            working.feed(again, NOW_MS)
        output, expected = working.take(), lasting.take()
        assert told(output) == told(expected)
        store(stored, output)
        bars += [bar.seq for _, bar in output.bars]
        assert bars == list(range(1, len(bars) + 1))
        for _, logged in output.log:
            assert not isinstance(logged.event, Standing) or logged.event.bars == len(bars)
            for each in followers:
                each.replica.apply(read_logged(encode(logged)))
        if step.most is not None:
            topics.keep(working.snapshots(number, len(topics.log), most=step.most))
        topics.write(output, number)
        logged_raw = number if output.log else logged_raw
        if step.has_mark:
            working.mark(number, len(topics.log))
        if step.is_taken_over:
            working, joined = Fold(PLAN, 100), Follower()
            topics.begin(working)
            topics.begin(joined.replica)
            assert joined.replica.is_whole
            assert logged_raw <= working.taken_over() <= number
            assert state(working, number) == state(lasting, number)
            followers.append(joined)
    for each in followers:
        assert each.standing() == first.standing()
    for token in lasting.market:
        mine = first.market.get(token.address)
        assert mine is not None
        assert mine.version == token.version


def test_snapshots_are_taken_some_at_a_time_those_that_wait_longest_first() -> None:
    fold = Fold(PLAN, 100)
    marks = []
    for number, event in enumerate(BEGIN, 1):
        fold.feed(event, NOW_MS)
        fold.take()
        marks.append(fold.mark(number, number))
    assert fold.oldest_change == 0
    assert fold.snapshots(3, 3, until=-1) == Snapshots([], Cut(0, 0, 0, {}))
    some = fold.snapshots(3, 3, until=marks[0], most=1)
    assert ([token.info.address for token in some.tokens], some.cut.raw_offset) == (["x:A"], 1)
    fold.feed(raw.Trades("one", (trade("x:A", 1, NOW_MS),)), NOW_MS)
    fold.take()
    more = fold.snapshots(4, 4, until=marks[1])
    assert ([token.info.address for token in more.tokens], more.cut.raw_offset) == (["x:B", "x:C"], 3)
    rest = fold.snapshots(4, 4)
    assert ([token.info.address for token in rest.tokens], rest.cut.raw_offset) == (["x:A"], 4)
    assert fold.oldest_change is None
    assert fold.snapshots(9, 9) == Snapshots([], fold._cut(9, 9, ""))


def test_what_expires_makes_a_snapshot_due() -> None:
    fold = Fold(PLAN, 100)
    fold.feed(BEGIN[0], NOW_MS)
    fold.feed(raw.Trades("one", (trade("x:A", 1, NOW_MS - 400_000),)), NOW_MS)
    fold.feed(raw.Clock("one", NOW_MS - 300_000), NOW_MS)  # its bars close
    fold.take()
    (before,) = fold.snapshots(1, 1).tokens
    fold.feed(raw.Clock("one", NOW_MS - 99_000), NOW_MS)
    (after,) = fold.snapshots(2, 2).tokens
    assert after.version == before.version + 1


def test_whoever_takes_over_notices_that_the_log_is_shorter_than_it_was() -> None:
    fold, topics = Fold(PLAN, 100), Topics()
    for number, event in enumerate((*BEGIN, raw.Trades("one", (trade("x:A", 1, NOW_MS),))), 1):
        fold.feed(event, NOW_MS)
        topics.write(fold.take(), number)
    topics.keep(fold.snapshots(4, 4, most=1))
    topics.log.pop()
    topics.log.pop()
    again = Fold(PLAN, 100)
    topics.begin(again)
    with pytest.raises(LogHoleError, match="behind 3 of the log are missing"):
        again.taken_over()


def test_what_is_lost_shows_in_the_numbers_of_every_token_that_trades() -> None:
    fold, follower = Fold(PLAN, 100), Follower()
    for event in (*BEGIN, raw.Trades("one", (trade("x:A", 1, NOW_MS), trade("x:B", 1, NOW_MS)))):
        fold.feed(event, NOW_MS)
    fold.lose()
    fold.feed(raw.Trades("one", (trade("x:A", 2, NOW_MS), trade("x:C", 1, NOW_MS))), NOW_MS)
    for _, logged in fold.take().log:
        follower.replica.apply(logged)
    assert follower.numbers == [("x:A", 1, "1"), ("x:B", 1, "1"), ("x:A", 3, "2"), ("x:C", 1, "1")]


def test_what_is_logged_are_trades_with_numbers_and_what_they_led_to() -> None:
    fold = Fold(PLAN, 100)
    fold.feed(BEGIN[0], NOW_MS)
    fold.feed(
        raw.Trades("one", (trade("x:A", 1, NOW_MS), trade("x:A", 2, NOW_MS + 5), trade("x:A", 1, NOW_MS))), NOW_MS
    )
    fold.feed(raw.Gap("one", "x:A", 4), NOW_MS)
    fold.feed(raw.Trades("one", (trade("x:A", 9, NOW_MS + 1_000),), NOW_MS + 1_000), NOW_MS)
    output = fold.take()
    assert [logged.seq for _, logged in output.log] == [1, 2, 3, 4, 5, 5]
    kinds = [type(logged.event).__name__ for _, logged in output.log]
    assert kinds == ["Tokens", "Numbered", "Gap", "Clock", "Numbered", "Standing"]
    numbered = [logged.event for _, logged in output.log if isinstance(logged.event, Numbered)]
    assert [(each.first, [one.trade_id for one in each.trades]) for each in numbered] == [(1, ["1", "2"]), (7, ["9"])]
    assert [version.version for version in numbered] == [2, 3]
    assert [(key, bar.interval, bar.kind, bar.trades) for key, bar in output.bars] == [("x:A", "1s", BarKind.CLOSED, 2)]
    bar = read_bar(encode(output.bars[0][1]))
    assert bar_of(bar).close == Decimal(3)
    assert fold.take() == Output([], [])


def test_a_late_trade_of_what_is_not_at_hand_is_told_to_be_merged() -> None:
    fold = Fold(PLAN, 100)
    fold.feed(BEGIN[0], NOW_MS)
    fold.feed(raw.Trades("one", (trade("x:A", 1, NOW_MS - 90_000), trade("x:A", 2, NOW_MS))), NOW_MS)
    fold.take()
    later, topics = Fold(PLAN, 100), Topics()
    topics.keep(fold.snapshots(5, 5))
    topics.begin(later)
    later.feed(raw.Trades("one", (trade("x:A", 3, NOW_MS - 90_000),)), NOW_MS)
    assert {(bar.interval, bar.kind, bar.trades) for _, bar in later.take().bars} == {
        (interval, BarKind.LATE, 1) for interval in ("1s", "5s", "1m")
    }


@pytest.mark.parametrize(
    "event",
    [
        raw.Trades("one", (trade("x:A", 1, NOW_MS), trade("y:Z", 1, NOW_MS))),
        raw.Tokens("one", (TokenInfo("y:Z", "Z"),)),
        raw.Values("one", (TokenValue("y:Z", *map(Decimal, (1, 1, 1, 1, 1)), NOW_MS),)),
        raw.Gap("one", "y:Z", 1),
    ],
)
def test_what_belongs_to_another_partition_is_not_touched(event: RawEvent) -> None:
    fold = Fold(PLAN, 100, owns=lambda address: address.startswith("x:"))
    fold.feed(BEGIN[0], NOW_MS)
    fold.take()
    with pytest.raises(PoisonError, match="another partition"):
        fold.feed(event, NOW_MS)
    assert fold.take() == Output([], [])


def test_a_token_of_another_chain_is_that_which_its_values_name() -> None:
    name = "ethereum:0x" + "aB" * 20
    fold = Fold(PLAN, 100, owns=lambda address: address.lower() == name.lower())
    fold.feed(raw.Tokens("one", (TokenInfo("0x" + "ab" * 20, "E", chain="ethereum"),)), NOW_MS)
    assert [key for key, _ in fold.take().log] == [name.lower()]
    assert [token.info.address for token in fold.snapshots(1, 1).tokens] == [name.lower()]
    fold.feed(raw.Values("one", (TokenValue(name, *map(Decimal, (1, 1, 1, 1, 1)), NOW_MS),)), NOW_MS)
    assert [type(logged.event).__name__ for _, logged in fold.take().log] == ["Values"]
    assert fold.market.get(name.lower()).has_value  # type: ignore[union-attr]


def test_what_can_not_be_right_is_counted() -> None:
    fold = Fold(PLAN, 100)
    fold.feed(BEGIN[0], NOW_MS)
    fold.feed(raw.Trades("one", (trade("x:A", 1, NOW_MS, price=0),)), NOW_MS)
    fold.feed(raw.Clock("one", NOW_MS + (1 << 40)), NOW_MS)
    fold.feed(raw.Gap("one", "x:A", -1), NOW_MS)
    fold.feed(raw.Rejected("one", "bad_json", ""), NOW_MS)
    assert fold.rejections == {
        ("one", "price_not_positive"): 1, ("one", "clock_out_of_bounds"): 1,
        ("one", "gap_of_nothing"): 1, ("one", "bad_json"): 1,
    }  # fmt: skip
    assert [type(logged.event).__name__ for _, logged in fold.take().log] == ["Tokens"]


def test_sources_without_end_are_not_remembered() -> None:
    fold = Fold(PLAN, 100)
    for number in range(MAX_SOURCES + 5):
        fold.feed(State(f"s{number}", SourceState.LIVE), NOW_MS)
        fold.feed(raw.Clock(f"s{number}", NOW_MS), NOW_MS)
    fold.feed(State("s1", SourceState.FAILED), NOW_MS)
    cut = fold.snapshots(1, 1).cut
    assert len(cut.states) == len(cut.clocks) == MAX_SOURCES
    assert cut.states[1].state is SourceState.FAILED
    assert fold.rejections == {(f"s{MAX_SOURCES + n}", "too_many_sources"): 2 for n in range(5)}


def logged_trades() -> list[Logged]:
    fold = Fold(PLAN, 100)
    fold.feed(BEGIN[0], NOW_MS)
    for number in range(3):
        fold.feed(raw.Trades("one", (trade("x:A", number, NOW_MS),)), NOW_MS)
    return [logged for _, logged in fold.take().log]


def test_a_record_that_comes_twice_is_left_out() -> None:
    follower = Follower()
    log = logged_trades()
    for logged in (*log[:3], *log):
        follower.replica.apply(logged)
    assert follower.numbers == [("x:A", 1, "0"), ("x:A", 2, "1"), ("x:A", 3, "2")]


def test_a_hole_in_the_log_is_never_passed_over() -> None:
    follower = Follower()
    log = logged_trades()
    follower.replica.apply(log[0])
    with pytest.raises(LogHoleError, match="records 2 to 2"):
        follower.replica.apply(log[2])


def test_whoever_comes_elsewhere_than_the_processor_notices() -> None:
    follower = Follower()
    log = logged_trades()
    follower.replica.apply(log[0])
    follower.market.apply(f"one{PART_MARK}0", trade("x:A", 77, NOW_MS))
    with pytest.raises(LogHoleError, match=r"\(2, 2\) here, and \(1, 1\) in the log"):
        follower.replica.apply(log[1])


@pytest.mark.parametrize(
    ("text", "is_newer"),
    [
        (b"", False), (b"{}", False), (b"[1]", False), (b"\xff", False), (b"[" * 100_000, False),
        (b'{"seq":1,"event":{"tokenwire":"dance"}}', False),
        (b'{"v":2,"seq":1,"event":{"tokenwire":"dance"}}', True),
        (b'{"v":2,"seq":1,"event":{"tokenwire":"clock","source":"s","time_ms":1},"more":1}', True),
    ],
)  # fmt: skip
def test_what_can_not_be_read_says_so(text: bytes, is_newer: bool) -> None:
    with pytest.raises(PoisonError) as caught:
        read_logged(text)
    assert caught.value.is_newer is is_newer
    assert "\n" not in str(caught.value)
