"""The event queue: bounded, ordered, and nothing vanishes silently."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.events import Connected, Error, Gap, Quote, Reconnecting, Snapshot, Update
from tokenwire.queue import Entry, EventQueue, Lineage
from tokenwire.states import ConnectionState

from .peer import ALL, Peer, live


def quote(address: str, version: int) -> Quote:
    return Quote(address, address, str(version), "0", "0", "0", "0", version, None, 0)


def make(kind: str, address: str, sequence: int) -> Any:
    if kind == "update":
        return Update(quote(address, sequence), sequence, 0, 0)
    if kind == "snapshot":
        return Snapshot(quote(address, sequence), sequence, 0, None)
    if kind == "gap":
        return Entry(Gap(sequence, sequence, "lost", "snapshot", 0), sequence - 1)
    if kind == "reconnecting":
        return Entry(Reconnecting(1, 0, None, None, str(sequence), 0), sequence)
    if kind == "connected":
        return Entry(Connected(str(sequence), (), None, 0), sequence, Lineage(None, None))
    return Entry(Error("X", str(sequence), "error", "", (), 0), sequence)


KINDS = ["update", "update", "update", "snapshot", "gap", "reconnecting", "error", "connected"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(0, 3)), max_size=120)


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, limit=st.integers(9, 30))
def test_bounded_ordered_and_complete(steps: list[tuple[str, str, int]], limit: int) -> None:
    queue = EventQueue(limit)
    put = taken = 0
    newest: dict[str, int] = {}
    delivered: dict[str, int] = {}
    events: list[Any] = []
    for index, (kind, address, takes) in enumerate(steps, 1):
        queue.put(make(kind, address, index))
        put += 1
        if kind in {"update", "snapshot"}:
            newest[address] = index
        assert len(queue) <= limit
        for _ in range(takes if len(queue) > limit // 3 and takes < 3 else 0):
            events.append(queue.take())
            taken += 1
    while (event := queue.take()) is not None:
        events.append(event)
        taken += 1
    assert len(queue) == 0
    assert taken + queue.conflated == put
    order = [
        event.sequence if not isinstance(event, Entry) else event.floor + (isinstance(event.event, Gap))
        for event in events
        if not (isinstance(event, Entry) and isinstance(event.event, Gap))
    ]
    assert order == sorted(order)
    for event in events:
        if not isinstance(event, Entry):
            delivered[event.quote.address] = event.sequence
    assert delivered == newest


@given(steps=STEPS)
def test_a_queue_with_room_leaves_everything_as_it_is(steps: list[tuple[str, str, int]]) -> None:
    queue = EventQueue(200)
    made = [make(kind, address, index) for index, (kind, address, _) in enumerate(steps, 1)]
    for event in made:
        queue.put(event)
    assert [queue.take() for _ in made] == made
    assert queue.take() is None
    assert queue.conflated == 0


def fill(queue: EventQueue, *events: Any) -> list[Any]:
    for event in events:
        queue.put(event)
    found = []
    while (event := queue.take()) is not None:
        found.append(event.event if isinstance(event, Entry) else event)
    return found


def test_missed_is_summed_and_a_snapshot_stays_one() -> None:
    events = [
        Snapshot(quote("a", 5), 1, 0, None),
        *(Update(quote("a", version), version, 0, 1) for version in (7, 9, 11)),
    ]
    (event,) = fill(EventQueue(1), *events)
    assert isinstance(event, Snapshot)
    assert (event.quote.version, event.sequence, event.missed) == (11, 11, 6)  # 5 to 10


def test_unknown_stays_unknown() -> None:
    bare = Quote("a", "a", "1", "0", "0", "0", "0", None, None, 0)
    (event,) = fill(EventQueue(1), Update(bare, 1, 0), Update(bare, 2, 0))
    assert event.missed is None


def test_neighbours_merge_when_full() -> None:
    data = [make("update", address, index) for index, address in enumerate("ab", 1)]
    gaps = [Entry(Gap(first, last, "lost", "snapshot", 0), first - 1) for first, last in ((3, 4), (5, 5), (9, 9))]
    found = fill(EventQueue(4), *data, *gaps)
    assert [(one.first, one.last) for one in found[2:]] == [(3, 5), (9, 9)]
    tries = [make("reconnecting", "", number) for number in range(10)]
    found = fill(EventQueue(4), *data, *tries)
    assert len(found) == 3
    assert found[-1].cause == "9"


def test_gaps_never_vanish() -> None:
    queue = EventQueue(2)
    for number in range(1, 100):
        queue.put(make("gap", "", 2 * number))
        queue.put(make("error", "", 2 * number))
    found = fill(queue)
    gaps = [one for one in found if isinstance(one, Gap)]
    assert (gaps[0].first, gaps[-1].last) == (2, 198)
    assert len(found) == 2


def test_fail_refuses_and_says_so() -> None:
    queue = EventQueue(2, fail=True)
    assert len(fill(queue, *(make("update", "a", index) for index in (1, 2)))) == 2
    assert not queue.overflowed
    assert len(fill(queue, *(make("update", "a", index) for index in (1, 2, 3)))) == 2
    assert queue.overflowed


def test_more_tokens_than_room_keep_one_value_each() -> None:
    queue = EventQueue(3)
    found = fill(queue, *(make("update", name, index) for index, name in enumerate("abcdefabcdef", 1)))
    assert [event.sequence for event in found] == [7, 8, 9, 10, 11, 12]


def test_overflow_is_cheap() -> None:
    queue = EventQueue(10_000)
    events = [make("update", f"t{index % 9_000}", index) for index in range(200_000)]
    began = time.perf_counter()
    for event in events:
        queue.put(event)
    assert time.perf_counter() - began < 5  # a pass over the queue for each would take minutes
    assert len(queue) <= 10_000
    assert queue.conflated > 180_000


def test_the_session_conflates_and_counts() -> None:
    peer = live("A", "B", queue_events=20)
    for version in range(1, 500):
        peer.value("a-A", str(version), version)
    peer.value("a-B", "1", 1)
    first, second = peer.values()[-2:]
    assert first[2] == "499"
    assert second == ("Snapshot", "B", "1")
    assert peer.session.metrics.conflated_in_client > 400


def test_the_session_fails_when_nothing_may_be_left_out() -> None:
    peer = live("A", queue_events=20, overflow="fail")
    for version in range(1, 23):
        peer.value("a-A", str(version), version)
    assert peer.session.state is ConnectionState.FAILED
    assert peer.session.failure is not None
    assert peer.session.failure.code == "QUEUE_OVERFLOW"
    assert [close.code for close in peer.closes] == [1000]
    assert [price for _, _, price in peer.values()] == [str(version) for version in range(1, 21)]


def test_a_checkpoint_after_an_overflow_does_not_cover_what_was_refused() -> None:
    peer = live("A", overflow="fail", queue_events=2)
    for version in (1, 2, 3):
        peer.value("a-A", str(version), version)
    assert [price for _, _, price in peer.values()] == ["1", "2"]
    saved = peer.session.checkpoint()
    assert saved.position == peer.number - 1
    assert saved.versions == {"a-A": 2}


def test_a_session_whose_beginning_gave_way_is_in_no_checkpoint() -> None:
    peer = Peer(queue_events=4, max_retries=None).start()
    for number in range(1, 12):
        peer.greet(*ALL, session=f"s{number}", reason="unknown_session")
        peer.cut()
        peer.back()
    seen = []
    while (event := peer.session.next_event()) is not None:
        saved = peer.session.checkpoint()
        seen.append(saved.session)
        if not isinstance(event, Connected) and saved.session is not None:
            assert saved.session == "s11"
    assert seen[-1] == "s11"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_long_outages_do_not_fill_the_queue(count: int) -> None:
    peer = live("A", queue_events=8, max_retries=None)
    for _ in range(200):
        peer.cut()
        for _ in range(count):
            peer.back()
            peer.session.refused(503, None, "busy", peer.now, peer.wall)
        peer.back()
        peer.greet(*ALL, reason="unknown_session", session="s")
    assert peer.session.queued <= 8
    kinds = [type(event).__name__ for event in peer.events()]
    assert "Gap" in kinds
    assert "Connected" in kinds


def test_a_reader_that_falls_behind_gets_the_newest_values_long_before_the_queue_is_full() -> None:
    queue = EventQueue(10_000, max_wait_ms=1_000)
    for step in range(100):
        queue.put(value("a", step, step * 200))
        queue.put(value("b", step, step * 200))
    waiting = [queue.take(), queue.take(), queue.take()]
    assert [event.quote.price for event in waiting[:2] if isinstance(event, Update)] == ["99", "99"]
    assert waiting[2] is None
    assert queue.conflated == 198
    for step in range(100, 105):  # who keeps up gets every value
        queue.put(value("a", step, step * 200))
        taken = queue.take()
        assert isinstance(taken, Update)
        assert taken.missed == 0


@pytest.mark.parametrize("policy", [{"fail": True, "max_wait_ms": 1_000}, {"max_wait_ms": None}, {}])
def test_age_alone_leaves_out_nothing_where_every_event_counts(policy: dict[str, Any]) -> None:
    queue = EventQueue(10_000, **policy)
    for step in range(100):
        queue.put(value("a", step, step * 200))
    assert len(queue) == 100
    assert queue.conflated == 0


MESSAGES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=6), st.integers(0, 700), st.integers(0, 9)
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(messages=MESSAGES, limit=st.integers(1, 20), fail=st.booleans(), max_wait_ms=st.sampled_from([None, 1_000]))
def test_the_values_of_a_message_at_once_or_one_by_one(
    messages: list[tuple[list[tuple[str, bool]], int, int]], limit: int, fail: bool, max_wait_ms: int | None
) -> None:
    at_once, one_by_one = (EventQueue(limit, fail=fail, max_wait_ms=max_wait_ms) for _ in range(2))
    now = serial = 0
    for tokens, passed, takes in messages:
        now += passed
        values: list[Snapshot | Update] = []
        for address, first in tokens:
            serial += 1
            values.append(Snapshot(quote(address, serial), serial, now, 0) if first else value(address, serial, now))
        at_once.put_values(values)
        for one in values:
            one_by_one.put(one)
        assert [at_once.take() for _ in range(takes)] == [one_by_one.take() for _ in range(takes)]
        assert (len(at_once), at_once.conflated) == (len(one_by_one), one_by_one.conflated)
        assert at_once.next == one_by_one.next


def value(address: str, version: int, received_ms: int) -> Update:
    return Update(quote(address, version), version, received_ms, 0)
