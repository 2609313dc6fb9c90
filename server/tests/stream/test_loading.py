"""What a loader takes of a log and its bars: however they come, and whatever dies, each row once and as it was."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.history.late_bars import merge_late
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, NumberedTrade, StoredToken
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.fold import Fold
from tokenwire_server.stream.loading import Loading, Position
from tokenwire_server.stream.records import (
    BarKind,
    BarRecord,
    Logged,
    Numbered,
    RawEvent,
    Standing,
    bar_of,
    encode,
    read_raw,
)
from tokenwire_server.stream.replica import LogHoleError

from .test_fold import BEGIN, NOW_MS, PLAN, events, trade

PARTITIONS = 2
Log = list[tuple[int, str, Logged]]
Bars = list[tuple[int, BarRecord]]


@dataclass
class Store:
    """What a history has, as plain data."""

    tokens: dict[str, StoredToken] = field(default_factory=dict)
    trades: dict[tuple[str, int], NumberedTrade] = field(default_factory=dict)
    bars: dict[tuple[str, int, int], Bar] = field(default_factory=dict)
    offsets: dict[str, str] = field(default_factory=dict)

    def commit(self, batch: Batch) -> None:
        self.tokens.update((token.info.address, token) for token in batch.tokens)
        for address, trades in batch.trades.items():
            assert address in self.tokens
            for each in trades:
                assert (address, each.number) not in self.trades, "a trade is stored once"
                self.trades[address, each.number] = each
        for (address, interval_ms), bars in batch.bars.items():
            assert not bars.keys() & batch.late.get((address, interval_ms), {}).keys()
            self.bars.update({(address, interval_ms, open_ms): deepcopy(bar) for open_ms, bar in bars.items()})
        for (address, interval_ms), late in batch.late.items():
            held = [self.bars[key] for open_ms in late if (key := (address, interval_ms, open_ms)) in self.bars]
            for bar in merge_late(held, deepcopy(late)):
                self.bars[address, interval_ms, bar.open_ms] = bar
        self.offsets.update(batch.offsets)

    def position(self, number: int) -> Position:
        return Position.of(self.offsets.get(f"log/{number}", str(Position())))


class Written:
    """What a processor wrote of one partition, and what is to be stored of it at the end of each transaction."""

    def __init__(self, number: int, transactions: list[list[RawEvent]]) -> None:
        self.log: Log = []
        self.bars: Bars = []
        self.states: dict[int, Store] = {0: Store()}  # by the offset behind its last record of the log
        fold, store = Fold(PLAN, 100), Store()
        log_offset = bar_offset = 0
        for transaction in [BEGIN, *transactions]:
            for event in transaction:
                fold.feed(read_raw(encode(event).replace(b"x:", b"xyz"[number : number + 1] + b":")), NOW_MS)
            output = fold.take()
            for at, (key, logged) in enumerate(output.log):
                self.log.append((log_offset + at, key, logged))
                self._store(store, key, logged)
            for at, (_, bar) in enumerate(output.bars):
                self.bars.append((bar_offset + at, bar))
                key_of_bar = bar.address, bar.interval_ms, bar.open_time
                held = store.bars.get(key_of_bar)
                if bar.kind is BarKind.LATE and held is not None:
                    held.merge(bar_of(bar))
                    held.revision += bar.revision
                else:
                    store.bars[key_of_bar] = bar_of(bar)
            log_offset += len(output.log) + 1  # with the mark of the transaction
            bar_offset += len(output.bars) + 1
            if output.log:
                self.states[self.log[-1][0] + 1] = deepcopy(store)

    @staticmethod
    def _store(store: Store, key: str, logged: Logged) -> None:
        event = logged.event
        if isinstance(event, Numbered):
            for at, each in enumerate(event.trades):
                store.trades[key, event.first + at] = NumberedTrade(event.first + at, each)
        if isinstance(event, Standing):
            store.tokens[key] = StoredToken(
                event.info, event.source, event.trades, event.now_ms, event.price, event.price_ms
            )

    def at(self, log_offset: int) -> Store:
        return self.states[max(known for known in self.states if known <= log_offset)]


def told(store: Store, prefix: str) -> tuple[object, ...]:
    return (
        {key: each for key, each in store.tokens.items() if key.startswith(prefix)},
        {key: each for key, each in store.trades.items() if key[0].startswith(prefix)},
        {key: each for key, each in store.bars.items() if key[0].startswith(prefix)},
    )


transactions = st.lists(st.lists(events, max_size=8), max_size=8)


@settings(max_examples=200)
@given(st.tuples(transactions, transactions), st.data())
def test_however_it_comes_and_whatever_dies_the_same_is_stored(
    given_: tuple[list[list[RawEvent]], list[list[RawEvent]]], data: st.DataObject
) -> None:
    written = [Written(number, each) for number, each in enumerate(given_)]
    store = Store()

    def opened() -> tuple[Loading, list[list[Iterator[tuple[object, ...]]]]]:
        positions = {number: store.position(number) for number in range(PARTITIONS)}
        feeds = []
        for number, each in enumerate(written):
            back = data.draw(st.integers(0, 3), "read again")
            position = positions[number]
            feeds.append([
                iter([one for one in each.log if one[0] >= position.log_offset - back]),
                iter([one for one in each.bars if one[0] >= position.bar_offset - back]),
            ])  # fmt: skip
        return Loading("log", positions, store.tokens), feeds

    def check() -> None:
        for number, each in enumerate(written):
            prefix = "xyz"[number] + ":"
            assert told(store, prefix) == told(each.at(store.position(number).log_offset), prefix)

    loading, feeds = opened()
    for _ in range(data.draw(st.integers(0, 40), "steps")):
        number, side = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
        for _ in range(data.draw(st.integers(1, 20), "records")):
            one = next(feeds[number][side], None)
            if one is not None:
                feed(loading, number, side, one)
        if data.draw(st.booleans(), "take"):
            batch = loading.take(data.draw(st.integers(1, 30), "most rows"))
            if data.draw(st.integers(0, 4), "fate") == 0:  # it dies, before or after the commit
                if data.draw(st.booleans(), "stored"):
                    store.commit(batch)
                loading, feeds = opened()
            else:
                store.commit(batch)
            check()
    for number, sides in enumerate(feeds):
        for side, feed_ in enumerate(sides):
            for one in feed_:
                feed(loading, number, side, one)
    while (batch := loading.take(7)).offsets:
        store.commit(batch)
    check()
    assert (loading.log_rows, loading.bar_rows, loading.lost()) == (0, 0, 0)
    for number, each in enumerate(written):
        assert store.position(number).seq == each.log[-1][2].seq
        assert store.position(number).bars == len(each.bars)


def feed(loading: Loading, number: int, side: int, one: tuple[object, ...]) -> None:
    if side == 0:
        loading.partitions[number].log(*one)  # type: ignore[arg-type]
    else:
        loading.partitions[number].bar(*one)  # type: ignore[arg-type]


def some() -> Written:
    """Three transactions: tokens; two trades, of which the second closes bars; three of another token in one second."""
    return Written(0, [
        [raw.Trades("one", (trade("x:A", 1, NOW_MS - 90_000), trade("x:A", 2, NOW_MS - 80_000)))],
        [raw.Trades("one", tuple(trade("x:B", number, NOW_MS) for number in range(3)))],
    ])  # fmt: skip


def test_nothing_is_taken_before_its_bars_and_all_that_it_touched_are_there() -> None:
    written = some()
    loading = Loading("log", {0: Position()})
    partition = loading.partitions[0]
    assert partition.needs_log
    for one in written.log[:-2]:
        partition.log(*one)
    assert isinstance(written.log[-1][2].event, Standing)
    assert written.bars
    assert partition.needs_bars
    assert loading.take(100).offsets == {}, "the bars are missing"
    for bar in written.bars:
        partition.bar(*bar)
    first = loading.take(100)
    assert [token.info.address for token in first.tokens] == ["x:A"]
    assert sum(map(len, first.bars.values())) == len(written.bars)
    for one in written.log[-2:-1]:
        partition.log(*one)
    assert partition.needs_log
    assert loading.take(100).offsets == {}, "it is not said where they stand"
    partition.log(*written.log[-1])
    second = loading.take(100)
    assert [number for number, _ in second.trades["x:B"]] == [1, 2, 3]
    assert (first.numbered, second.numbered) == (2, 5)
    assert second.is_last
    assert Position.of(second.offsets["log/0"]).seq == written.log[-1][2].seq


def test_tokens_whose_bars_closed_without_a_trade_are_waited_for_too() -> None:
    written = Written(0, [
        [raw.Trades("one", tuple(trade(name, 1, NOW_MS - 90_000) for name in ("x:A", "x:B")))],
        [raw.Clock("one", NOW_MS)],
    ])  # fmt: skip
    loading = Loading("log", {0: Position()})
    for one in written.log[:-1]:
        loading.partitions[0].log(*one)
    for bar in written.bars:
        loading.partitions[0].bar(*bar)
    assert loading.take(100).bars == {}
    loading.take(100)
    loading.partitions[0].log(*written.log[-1])
    assert {address for address, _ in loading.take(100).bars} == {"x:A", "x:B"}


def test_a_batch_ends_with_the_run_that_reaches_the_most_rows() -> None:
    written = some()
    loading = Loading("log", {0: Position()})
    for one in written.log:
        loading.partitions[0].log(*one)
    for bar in written.bars:
        loading.partitions[0].bar(*bar)
    assert loading.take(1).trades.keys() == {"x:A"}
    assert loading.take(1).trades.keys() == {"x:B"}


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_hole_in_the_log_is_an_error(lost: int) -> None:
    written = some()
    partition = Loading("log", {0: Position()}).partitions[0]
    for one in written.log[:lost]:
        partition.log(*one)
    with pytest.raises(LogHoleError, match=rf"log/0: records {lost + 1} to {lost + 1} are missing"):
        partition.log(*written.log[lost + 1])


def test_a_hole_in_the_bars_is_an_error() -> None:
    written = some()
    partition = Loading("log", {0: Position()}).partitions[0]
    with pytest.raises(LogHoleError, match="log/0: bars 1 to 1 are missing"):
        partition.bar(*written.bars[1])


def test_a_log_that_begins_again_is_an_error() -> None:
    partition = Loading("log", {0: Position(log_offset=5, seq=7)}).partitions[0]
    with pytest.raises(LogHoleError, match="record 1 comes again behind 7"):
        partition.log(5, "", Logged(1, raw.Clock("one", NOW_MS)))


def test_a_token_of_which_it_is_not_said_where_it_stands_is_an_error() -> None:
    log = [(offset, key, logged) for offset, key, logged in some().log if not isinstance(logged.event, Standing)]
    standing = Logged(
        log[-1][2].seq, Standing("one", TokenInfo("x:Z", "Z"), 0, NOW_MS, Decimal(1), NOW_MS, 1)
    )  # fmt: skip
    loading = Loading("log", {0: Position()})
    for one in log:
        loading.partitions[0].log(*one)
    loading.partitions[0].log(99, "x:Z", standing)
    loading.partitions[0].log(100, "", Logged(log[-1][2].seq + 1, raw.Clock("one", NOW_MS)))
    with pytest.raises(LogHoleError, match="not said where x:A stands"):
        loading.take(100)


def test_whoever_accepts_holes_stores_the_rest_and_counts_them() -> None:
    written = some()
    first_of_b = len(written.log) - 2
    loading = Loading("log", {0: Position()}, accepts_gaps=True)
    for one in written.log[first_of_b:]:
        loading.partitions[0].log(*one)
    for offset, bar in written.bars[1:]:
        loading.partitions[0].bar(offset, bar)
    loading.partitions[0].log(99, "", Logged(written.log[-1][2].seq + 1, raw.Clock("one", NOW_MS)))
    batch = loading.take(100)
    assert [number for number, _ in batch.trades["x:B"]] == [1, 2, 3]
    assert {address for address, _ in batch.bars} <= {"x:B"}, "nothing is known of x:A"
    assert loading.lost() == written.log[first_of_b][2].seq - 1 + 1, "records before, and the first bar"


def test_holes_leave_out_trades_of_tokens_that_are_not_known() -> None:
    written = some()
    log = [(offset, key, logged) for offset, key, logged in written.log if not isinstance(logged.event, Standing)]
    loading = Loading("log", {0: Position()}, known={"x:A"}, accepts_gaps=True)
    for one in log:
        loading.partitions[0].log(*one)
    last = log[-1][2].seq
    stood = Standing("one", TokenInfo("x:Z", "Z"), 0, NOW_MS, Decimal(1), NOW_MS, 1)
    loading.partitions[0].log(98, "x:Z", Logged(last + 4, stood))
    loading.partitions[0].log(99, "", Logged(last + 5, raw.Clock("one", NOW_MS)))
    assert loading.take(100).trades.keys() == {"x:A"}
    assert (loading.lost(), loading.lost()) == (4, 0)


def test_a_position_is_read_as_it_was_written() -> None:
    position = Position(12, 7, 3, 2)
    assert str(position) == "12:7:3:2"
    assert Position.of(str(position)) == position
    with pytest.raises(ValueError, match="invalid literal"):
        Position.of("x:7:3:2")


def test_late_trades_of_one_bar_are_merged_within_a_batch_also_into_the_bar_itself() -> None:
    def record(seq: int, kind: BarKind, trades: int, open_time: int = 0) -> BarRecord:
        one = Decimal(1)
        return BarRecord(
            seq, "x:A", "A", "1s", 1_000, kind, open_time, open_time + 1_000, one, one, one, one, *([one] * 4),
            trades, open_time, open_time, int(kind is BarKind.LATE),
        )  # fmt: skip

    stood = Standing("one", TokenInfo("x:A", "A"), 0, NOW_MS, Decimal(1), NOW_MS, 1, bars=6)
    loading = Loading("log", {0: Position(seq=1)})
    loading.partitions[0].log(0, "x:A", Logged(1, stood))
    records = [
        record(1, BarKind.CLOSED, 5), record(2, BarKind.LATE, 1), record(3, BarKind.LATE, 1, 5_000),
        record(4, BarKind.LATE, 2, 5_000), record(5, BarKind.LATE, 1, 9_000), record(6, BarKind.CORRECTED, 8, 9_000),
    ]  # fmt: skip
    kept = [encode(each) for each in records]
    for offset, each in enumerate(records):
        loading.partitions[0].bar(offset, each)
    batch = loading.take(100)
    assert [encode(each) for each in records] == kept
    series = "x:A", 1_000
    assert {open_ms: (bar.trades, bar.revision) for open_ms, bar in batch.bars[series].items()} == {
        0: (6, 1), 9_000: (8, 0),
    }  # fmt: skip
    assert {open_ms: (bar.trades, bar.revision) for open_ms, bar in batch.late[series].items()} == {5_000: (3, 2)}
