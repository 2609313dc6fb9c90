"""The splice of snapshot and events: the documented steps, and a true book behind a bad line."""

from dataclasses import dataclass, field
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.book import BookCondition, BookDelta, BookSnapshot, OrderBook
from tokenwire_server.sources import binance_depth_splice as module
from tokenwire_server.sources.binance_depth import DepthEvent, DepthSnapshot
from tokenwire_server.sources.binance_depth_splice import DepthSplice, Effects, Lost, SpliceState, SpliceTimes

TIMES = SpliceTimes(answer_ms=500, retry_ms=100, max_retry_ms=400, quiet_ms=300)
ONE = Decimal(1)


def event(first: int, last: int) -> DepthEvent:
    """Updates ``first`` to ``last``, whose only change tells which they are."""
    return DepthEvent("P", first, last, ((ONE, Decimal(last)),), (), 1_000_000 + last)


def snapshot(last: int) -> DepthSnapshot:
    return DepthSnapshot(last, ((ONE, Decimal(last)),), ((Decimal(9), ONE),), 5)


def told(effects: Effects) -> list[object]:
    """``"lost"``, a snapshot's update, or a delta's, negative."""
    shown: list[object] = []
    for effect in effects:
        if isinstance(effect, Lost):
            shown.append("lost")
        else:
            amount = int(effect.bids[0][1])
            shown.append(amount if isinstance(effect, BookSnapshot) else -amount)
    return shown


@pytest.fixture
def splice() -> DepthSplice:
    splice = DepthSplice(TIMES)
    splice.subscribed(0)
    return splice


def live(splice: DepthSplice, last: int = 10, now_ms: int = 0) -> DepthSplice:
    splice.event(event(last - 1, last), now_ms)
    assert told(splice.snapshot(splice.asked(now_ms), snapshot(last), now_ms)) == [last]
    assert splice.state is SpliceState.LIVE
    return splice


def test_events_that_the_snapshot_holds_are_left_out(splice: DepthSplice) -> None:
    assert splice.wants_snapshot(0)
    number = splice.asked(0)
    assert not splice.wants_snapshot(1)
    for first, last in ((157, 160), (161, 163), (164, 170), (171, 171)):
        assert told(splice.event(event(first, last), 1)) == []
    effects = splice.snapshot(number, snapshot(165), 2)
    assert told(effects) == [165, -170, -171]
    assert (splice.state, splice.last_update) == (SpliceState.LIVE, 171)
    book = effects[0]
    assert isinstance(book, BookSnapshot)
    assert (book.time_ms, book.limit_levels) == (1_000_170, 1_000)
    assert told(splice.event(event(172, 180), 3)) == [-180]


def test_the_first_event_may_begin_right_behind_the_snapshot_but_no_later(splice: DepthSplice) -> None:
    splice.event(event(101, 110), 0)
    assert told(splice.snapshot(splice.asked(0), snapshot(99), 0)) == []
    assert (splice.state, splice.wants_snapshot(99), splice.wants_snapshot(100)) == (SpliceState.SPLICING, False, True)
    assert told(splice.snapshot(splice.asked(100), snapshot(100), 101)) == [100, -110]


def test_a_snapshot_newer_than_all_events_is_complete(splice: DepthSplice) -> None:
    splice.event(event(101, 110), 0)
    assert told(splice.snapshot(splice.asked(0), snapshot(120), 0)) == [120]
    assert told(splice.event(event(111, 119), 1)) == []
    assert told(splice.event(event(119, 121), 1)) == [-121]


def test_repeated_and_older_events_are_left_out(splice: DepthSplice) -> None:
    live(splice)
    assert told(splice.event(event(9, 10), 1)) == []
    assert told(splice.event(event(1, 3), 1)) == []
    assert splice.last_update == 10
    assert splice.breaks == 0


def test_a_hole_loses_the_book_and_begins_anew(splice: DepthSplice) -> None:
    live(splice)
    assert told(splice.event(event(12, 13), 200)) == ["lost"]
    assert (splice.state, splice.last_update, splice.breaks) == (SpliceState.SPLICING, None, 1)
    assert told(splice.event(event(14, 15), 201)) == []
    assert splice.wants_snapshot(201)
    assert told(splice.snapshot(splice.asked(201), snapshot(13), 202)) == [13, -15]


def test_a_hole_while_splicing_leaves_only_what_follows_it(splice: DepthSplice) -> None:
    number = splice.asked(0)
    splice.event(event(1, 5), 0)
    splice.event(event(8, 9), 0)
    assert told(splice.snapshot(number, snapshot(5), 0)) == []
    assert told(splice.snapshot(splice.asked(100), snapshot(7), 100)) == [7, -9]


def test_a_market_without_events_has_a_book_after_a_while(splice: DepthSplice) -> None:
    assert told(splice.snapshot(splice.asked(0), snapshot(50), 10)) == []
    assert splice.state is SpliceState.UNPROVEN
    assert not splice.wants_snapshot(200)
    assert told(splice.tick(309)) == []
    effects = splice.tick(310)
    assert told(effects) == [50]
    assert isinstance(effects[0], BookSnapshot)
    assert effects[0].time_ms == 5
    assert told(splice.event(event(51, 52), 400)) == [-52]


@pytest.mark.parametrize(
    ("first", "last", "effects"), [(51, 60, [50, -60]), (40, 51, [50, -51]), (40, 50, [50]), (10, 20, [50])]
)
def test_the_first_event_proves_the_snapshot(splice: DepthSplice, first: int, last: int, effects: list[int]) -> None:
    splice.snapshot(splice.asked(0), snapshot(50), 0)
    assert told(splice.event(event(first, last), 1)) == effects
    assert splice.last_update == max(50, last)
    assert told(splice.tick(10_000)) == []


def test_the_first_event_disproves_the_snapshot(splice: DepthSplice) -> None:
    splice.snapshot(splice.asked(0), snapshot(50), 0)
    assert told(splice.event(event(52, 60), 1)) == []
    assert told(splice.tick(10_000)) == []
    assert told(splice.snapshot(splice.asked(10_000), snapshot(55), 10_001)) == [55, -60]


def test_a_snapshot_that_nobody_waits_for_is_left_out(splice: DepthSplice) -> None:
    early = splice.asked(0)
    splice.event(event(1, 5), 0)
    splice.stopped()
    assert told(splice.snapshot(early, snapshot(5), 1)) == []
    splice.subscribed(2)
    assert told(splice.snapshot(early, snapshot(5), 3)) == []
    number = splice.asked(102)
    assert told(splice.snapshot(early, snapshot(5), 103)) == []
    splice.event(event(6, 7), 103)
    assert told(splice.snapshot(number, snapshot(6), 104)) == [6, -7]
    assert told(splice.snapshot(number, snapshot(7), 105)) == []


def test_waiting_grows_with_each_request_that_brought_nothing(splice: DepthSplice) -> None:
    now_ms = 0
    for wait_ms in (100, 200, 400, 400):
        number = splice.asked(now_ms)
        splice.failed(number, now_ms)
        splice.failed(number, now_ms)  # told twice, counted once
        assert not splice.wants_snapshot(now_ms + wait_ms - 1)
        now_ms += wait_ms
        assert splice.wants_snapshot(now_ms)
    splice.failed(splice.asked(now_ms), now_ms, least_wait_ms=5_000)
    assert not splice.wants_snapshot(now_ms + 4_999)
    live(splice, now_ms=now_ms + 5_000)
    splice.event(event(13, 13), now_ms + 6_000)
    splice.failed(splice.asked(now_ms + 6_000), now_ms + 6_000)
    assert splice.wants_snapshot(now_ms + 6_100)


def test_an_answer_that_does_not_come_is_asked_for_again(splice: DepthSplice) -> None:
    number = splice.asked(0)
    splice.tick(499)
    assert not splice.wants_snapshot(10_000)
    splice.tick(500)
    assert splice.wants_snapshot(600)
    splice.event(event(1, 2), 600)
    assert told(splice.snapshot(number, snapshot(2), 600)) == []


def test_however_often_a_book_breaks_snapshots_are_paced(splice: DepthSplice) -> None:
    live(splice)
    splice.event(event(20, 20), 1)
    assert not splice.wants_snapshot(99)
    assert splice.wants_snapshot(100)


def test_a_shallow_book_goes_on_while_it_is_refreshed(splice: DepthSplice) -> None:
    live(splice)
    splice.refresh(200)
    splice.refresh(200)
    number = splice.asked(200)
    assert told(splice.event(event(11, 12), 201)) == [-12]
    assert told(splice.event(event(13, 14), 202)) == [-14]
    assert told(splice.snapshot(number, snapshot(12), 203)) == [12, -14]
    assert (splice.last_update, splice.wants_snapshot(10_000)) == (14, False)
    splice.refresh(300)
    assert told(splice.snapshot(splice.asked(300), snapshot(13), 300)) == []  # older than what is at hand
    assert splice.state is SpliceState.LIVE
    assert told(splice.snapshot(splice.asked(400), snapshot(14), 400)) == [14]


def test_a_book_that_cannot_be_right_begins_anew(splice: DepthSplice) -> None:
    live(splice)
    splice.disbelieved(200)
    assert (splice.state, splice.breaks, splice.wants_snapshot(200)) == (SpliceState.SPLICING, 1, True)
    assert told(splice.snapshot(splice.asked(200), snapshot(9), 201)) == []
    assert splice.state is SpliceState.SPLICING  # events up to 10 are known to have come
    splice.event(event(11, 12), 202)
    assert told(splice.snapshot(splice.asked(301), snapshot(10), 301)) == [10, -12]


def test_what_is_kept_is_bounded(splice: DepthSplice, monkeypatch: pytest.MonkeyPatch) -> None:
    number = splice.asked(0)
    for update in range(1, module.MAX_KEPT_EVENTS + 11):
        splice.event(event(update, update), 0)
    assert told(splice.snapshot(number, snapshot(9), 0)) == []
    effects = splice.snapshot(splice.asked(100), snapshot(10), 100)
    assert len(effects) == 1 + module.MAX_KEPT_EVENTS


def test_stopping_loses_a_live_book_only(splice: DepthSplice) -> None:
    assert told(splice.stopped()) == []
    assert told(splice.event(event(1, 2), 0)) == []
    assert not splice.wants_snapshot(10_000)
    splice.subscribed(10_000)
    live(splice, now_ms=10_000)
    assert told(splice.stopped()) == ["lost"]
    assert told(splice.stopped()) == []


# --- A true book behind a bad line ---------------------------------------------------------------------------


@dataclass
class Venue:
    """The true book, its history, and the event that is being gathered."""

    random: Random
    update: int = 100
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    history: dict[int, tuple[dict[int, int], dict[int, int]]] = field(default_factory=dict)

    def event(self) -> DepthEvent:
        first = self.update + 1
        changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for _ in range(self.random.randint(1, 4)):
            which = self.random.randrange(2)
            price, amount = self.random.randint(1, 8) + 10 * which, self.random.choice([0, 1, 2, 3])
            changed[which][price] = (self.bids, self.asks)[which][price] = amount
            self.update += 1
            self.history[self.update] = (_present(self.bids), _present(self.asks))
        return DepthEvent("P", first, self.update, _levels(changed[0]), _levels(changed[1]), self.update)

    def snapshot(self) -> DepthSnapshot:
        return DepthSnapshot(self.update, _levels(_present(self.bids)), _levels(_present(self.asks)), 1)


def _present(side: dict[int, int]) -> dict[int, int]:
    return {price: amount for price, amount in side.items() if amount}


def _levels(side: dict[int, int]) -> tuple[tuple[Decimal, Decimal], ...]:
    return tuple((Decimal(price), Decimal(amount)) for price, amount in side.items())


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["event"] * 12 + ["drop", "repeat", "swap", "cut", "early", "late", "fail", "refresh", "wait"]),
        max_size=60,
    ),
)
def test_a_live_book_is_the_true_one_and_every_line_heals(seed: int, steps: list[str]) -> None:
    venue, splice, book = Venue(Random(seed)), DepthSplice(TIMES), OrderBook("P")
    venue.history[venue.update] = ({}, {})
    sent: list[DepthEvent] = []
    waiting: list[tuple[int, DepthSnapshot]] = []
    now_ms = 0

    def apply(effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, Lost):
                book.lose()
                continue
            condition = book.apply(effect)
            assert condition in (BookCondition.SOUND, BookCondition.SHALLOW)
            assert isinstance(effect, BookSnapshot | BookDelta)
        assert book.is_stale == (splice.state is not SpliceState.LIVE)
        if splice.last_update is not None:
            bids, asks = venue.history[splice.last_update]
            top = book.top(100)
            assert {int(price): int(amount) for price, amount in top.bids} == bids
            assert {int(price): int(amount) for price, amount in top.asks} == asks

    def line(*events: DepthEvent) -> None:
        for each in events:
            apply(splice.event(each, now_ms))

    def ask(*, at_once: bool) -> None:
        if splice.wants_snapshot(now_ms):
            waiting.append((splice.asked(now_ms), venue.snapshot()))
        while at_once and waiting:
            apply(splice.snapshot(*waiting.pop(0), now_ms))

    def play_events(step: str) -> None:
        match step:
            case "event":
                sent.append(venue.event())
                line(sent[-1])
            case "drop":
                venue.event()
            case "repeat":
                line(*sent[-3:])
            case "swap":
                first, second = venue.event(), venue.event()
                line(second, first)
            case "cut":
                apply(splice.stopped())
                venue.event()
                splice.subscribed(now_ms)

    splice.subscribed(now_ms)
    for step in steps:
        now_ms += 650 if step == "wait" else 50
        apply(splice.tick(now_ms))
        match step:
            case "early":
                ask(at_once=False)
            case "late":
                ask(at_once=True)
            case "fail":
                if splice.wants_snapshot(now_ms):
                    splice.failed(splice.asked(now_ms), now_ms)
            case "refresh":
                splice.refresh(now_ms)
            case _:
                play_events(step)
    for _ in range(30):  # a good line from here on
        now_ms += 100
        apply(splice.tick(now_ms))
        line(venue.event())
        ask(at_once=True)
    assert splice.state is SpliceState.LIVE
    assert splice.last_update == venue.update
