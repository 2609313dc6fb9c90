"""The numbered stream: duplicates, holes, replays, gaps (I-58, I-65)."""

from hypothesis import given
from hypothesis import strategies as st

from tokenwire.events import Gap, Reconnecting, Update
from tokenwire.sequence import Held, Lost, Place, SequenceReader
from tokenwire.states import ConnectionState

from .peer import Peer, live

STRICT: tuple[str, ...] = ()


def prices(peer: Peer) -> list[str]:
    return [price for _, _, price in peer.values()]


def test_in_order() -> None:
    peer = live("A")
    for version in (5, 6, 7):
        peer.value("a-A", str(version), version)
    assert peer.values() == [("Snapshot", "A", "5"), ("Update", "A", "6"), ("Update", "A", "7")]


def test_duplicates_are_dropped_and_counted() -> None:
    peer = live("A", caps=STRICT)
    stamp = peer.wall
    number = peer.value("a-A", "1")
    peer.advance(10)
    peer.say(
        "token_update",
        number,
        stamp,
        address="a-A",
        price="1",
        marketCap="0",
        volume={"h24": "0", "h1": "0", "m5": "0"},
    )
    assert prices(peer) == ["1"]
    assert peer.session.metrics.duplicates == 1
    assert peer.session.metrics.invalid_messages == 0


def test_reordered_messages_are_put_in_order_without_a_gap() -> None:
    for caps in (STRICT, ("resume", "details")):
        peer = live("A", caps=caps)
        base = peer.number
        peer.value("a-A", "3", 3, sequence=base + 3)
        peer.value("a-A", "2", 2, sequence=base + 2)
        assert peer.events() == []
        peer.value("a-A", "1", 1, sequence=base + 1)
        assert prices(peer) == ["1", "2", "3"]
        peer.advance(10_000)
        assert not peer.take(Gap, Reconnecting)


def test_a_hole_is_replayed_once() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "4", 4, sequence=base + 4)
    peer.value("a-A", "5", 5, sequence=base + 5)
    assert peer.sent_of("replay") == [{"from": base + 1, "to": base + 3}]
    for number in (1, 2, 3):
        peer.value("a-A", str(number), number, sequence=base + number)
    assert prices(peer) == ["1", "2", "3", "4", "5"]
    assert len(peer.sent_of("replay")) == 1
    peer.number = base + 5
    peer.value("a-A", "6", 6)
    assert prices(peer) == ["6"]


def test_a_second_hole_is_asked_for_after_the_first() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "2", 2, sequence=base + 2)
    peer.value("a-A", "5", 5, sequence=base + 5)
    assert peer.sent_of("replay") == [{"from": base + 1, "to": base + 1}]
    peer.value("a-A", "1", 1, sequence=base + 1)
    assert peer.sent_of("replay")[1:] == [{"from": base + 3, "to": base + 4}]


def test_replay_unavailable_is_asked_again_even_from_behind_the_hole() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "2", 2, sequence=base + 2)
    peer.say("error", base + 3, code="REPLAY_UNAVAILABLE", message="busy", level="warning", retryAfterMs=1500)
    peer.advance(1_499)
    assert len(peer.sent_of("replay")) == 1
    peer.advance(1)
    assert peer.sent_of("replay")[1:] == [{"from": base + 1, "to": base + 1}]


def test_an_open_hole_ends_the_session() -> None:
    peer = live("A", random=lambda: 0.5)
    base = peer.number
    peer.value("a-A", "2", 2, sequence=base + 2)
    peer.advance(4_999)
    assert not peer.closes
    peer.advance(1)
    assert [close.code for close in peer.closes] == [4003]
    connect = peer.back()
    assert "seq=" not in connect.url
    assert connect.headers == ()
    peer.greet("batch", "heartbeat", "resume", "details", session="secret-2")
    (gap,) = peer.take(Gap)
    assert (gap.first, gap.last, gap.cause, gap.repair) == (base + 1, None, "session_lost", "snapshot")


def test_progress_keeps_a_long_replay_alive() -> None:
    peer = live("A")
    base = peer.number
    taken: list[str] = []
    peer.value("a-A", "9", 9, sequence=base + 9)
    for number in range(1, 9):
        peer.advance(3_000)
        peer.value("a-A", str(number), number, sequence=base + number)
        taken += prices(peer)
    assert len(taken) == 9
    assert not peer.closes


def test_without_resume_the_loss_is_told_and_values_are_asked_for() -> None:
    peer = live("A", "B", caps=STRICT)
    peer.value("a-A", "1")
    base = peer.number
    peer.events()
    peer.value("a-A", "3", sequence=base + 3)
    assert peer.events() == []
    peer.advance(1_999)
    assert peer.events() == []
    peer.advance(1)
    gap, held = peer.events()
    assert gap == Gap(base + 1, base + 2, "lost", "snapshot", peer.wall)
    assert held.quote.price == "3"
    assert type(held).__name__ == "Snapshot"
    assert peer.requests[-1]["tokens"] == ["a-A", "a-B"]
    assert peer.session.metrics.lost_frames == 2
    peer.number = base + 3
    peer.accept("a-A", "a-B")
    peer.value("a-A", "3")
    peer.value("a-B", "9")
    assert peer.values() == [("Snapshot", "A", "3"), ("Snapshot", "B", "9")]


def test_heartbeat_proves_a_loss_at_the_end() -> None:
    peer = live("A")
    base = peer.number
    peer.say("heartbeat", base)
    assert not peer.sent_of("replay")
    peer.say("heartbeat", base + 2)
    assert peer.sent_of("replay") == [{"from": base + 1, "to": base + 2}]
    peer.value("a-A", "1", 1, sequence=base + 1)
    peer.value("a-A", "2", 2, sequence=base + 2)
    peer.advance(6_000)
    assert not peer.closes


def test_heartbeat_proves_a_loss_without_resume_too() -> None:
    peer = live("A", caps=("heartbeat",))
    base = peer.number
    peer.say("heartbeat", base + 2)
    peer.advance(2_000)
    assert peer.take(Gap) == [Gap(base + 1, base + 2, "lost", "snapshot", peer.wall)]
    assert peer.requests[-1]["tokens"] == ["a-A"]


def test_gap_is_surfaced_exactly_and_the_stream_goes_on() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "1", 1)
    peer.events()
    peer.say("gap", base + 9, **{"from": base + 2, "to": base + 9, "cause": "evicted", "repair": "snapshot"})
    assert peer.events() == [Gap(base + 2, base + 9, "evicted", "snapshot", peer.wall)]
    peer.value("a-A", "9", 9, sequence=base + 10)
    assert peer.values() == [("Snapshot", "A", "9")]


def test_gap_covers_only_what_was_not_received() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "1", 1)
    peer.value("a-A", "4", 4, sequence=base + 4)
    peer.value("a-A", "7", 7, sequence=base + 7)
    peer.events()
    peer.say("gap", base + 7, **{"from": base + 1, "to": base + 5, "cause": "evicted", "repair": "rest"})
    first, value, second = peer.events()
    assert (first.first, first.last) == (base + 2, base + 3)
    assert value.quote.price == "4"
    assert isinstance(value, Update)  # repair "rest": nothing is sent again
    assert (second.first, second.last) == (base + 5, base + 5)
    assert peer.sent_of("replay")[-1] == {"from": base + 6, "to": base + 6}


def test_gap_in_the_past_or_the_future() -> None:
    peer = live("A")
    base = peer.number
    peer.value("a-A", "1", 1)
    peer.events()
    peer.say("gap", base + 5, **{"from": 1, "to": base, "cause": "evicted", "repair": "snapshot"})
    assert peer.events() == []
    peer.say("gap", base + 5, **{"from": base + 3, "to": base + 4, "cause": "evicted", "repair": "snapshot"})
    assert peer.events() == []
    peer.value("a-A", "2", 2, sequence=base + 2)
    kinds = [type(event).__name__ for event in peer.events()]
    assert kinds == ["Update", "Gap"]
    peer.value("a-A", "5", 5, sequence=base + 5)
    assert prices(peer) == ["5"]


def test_a_gap_that_lies_is_no_gap() -> None:
    peer = live("A")
    base = peer.number
    for first, last, high in ((5, 4, 9), (0, 4, 9), (base + 1, 2**60, base), (base + 1, base + 9, base + 8)):
        peer.say("gap", high, **{"from": first, "to": last, "cause": "x", "repair": "snapshot"})
    assert peer.session.metrics.invalid_messages == 4
    peer.value("a-A", "1", 1)
    assert prices(peer) == ["1"]


def test_an_unknown_type_keeps_its_number() -> None:
    peer = live("A")
    peer.say("weather", anything=[1, 2])
    peer.value("a-A", "1", 1)
    assert prices(peer) == ["1"]
    assert peer.session.metrics.unknown_messages == 1
    assert peer.session.metrics.invalid_messages == 0


def test_a_session_that_begins_elsewhere() -> None:
    peer = Peer().start().greet("resume", sequence=700)
    peer.value("x", "1")
    assert not peer.take(Gap)
    assert not peer.sent_of("replay")
    assert peer.session.metrics.frames == 2


def test_the_hold_is_bounded() -> None:
    peer = live("A", hold_frames=10)
    base = peer.number
    for number in range(2, 100):
        peer.value("a-A", str(number), number, sequence=base + number)
    assert peer.session._stream.reader.held == 10
    peer.value("a-A", "1", 1, sequence=base + 1)
    assert len(prices(peer)) == 11
    assert peer.sent_of("replay")[-1] == {"from": base + 12, "to": base + 99}


def test_a_full_hold_without_resume_is_given_up_at_once() -> None:
    peer = live("A", caps=STRICT, hold_frames=3)
    base = peer.number
    for number in range(2, 6):
        peer.value("a-A", str(number), sequence=base + number)
    assert [(gap.first, gap.last) for gap in peer.take(Gap)] == [(base + 1, base + 1), (base + 5, base + 5)]
    peer.value("a-A", "6", sequence=base + 6)
    assert prices(peer) == ["6"]


def test_hopeless_hole_state() -> None:
    peer = live("A", max_retries=0)
    peer.value("a-A", "2", 2, sequence=peer.number + 2)
    peer.advance(5_000)
    assert peer.session.state is ConnectionState.FAILED


Script = list[tuple[str, int, int]]


@given(
    order=st.permutations(list(range(1, 13))),
    dropped=st.sets(st.integers(1, 12), max_size=5),
    repeated=st.lists(st.integers(1, 12), max_size=8),
    frames=st.integers(1, 12),
)
def test_reader_delivers_each_once_and_in_order(
    order: list[int], dropped: set[int], repeated: list[int], frames: int
) -> None:
    reader: SequenceReader[str] = SequenceReader(frames, 10_000)
    delivered: list[int] = []
    full: set[int] = set()

    def offer(number: int) -> None:
        place = reader.place(number, 1, f"m{number}")
        if place is Place.NEXT:
            delivered.append(number)
        elif place is Place.FULL:
            full.add(number)
        for found in reader.release():
            assert isinstance(found, Held)
            assert found.message == f"m{found.sequence}"
            delivered.append(found.sequence)
        hole = reader.hole()
        assert hole is None or hole[0] == reader.last + 1 <= hole[1]
        assert (hole is None) == reader.is_straight

    for number in [*order, *repeated]:
        if number not in dropped:
            offer(number)
    assert delivered == sorted(set(delivered))
    reader.notice(12)
    reader.abandon("lost", "snapshot")
    lost: set[int] = set()
    for found in reader.release():
        if isinstance(found, Lost):
            lost.update(range(found.first, found.last + 1))
        else:
            delivered.append(found.sequence)
    assert reader.last == 12
    assert reader.is_straight
    assert set(delivered) | lost == set(range(1, 13))
    assert not set(delivered) & lost
    assert lost <= dropped | full
    assert delivered == sorted(delivered)
