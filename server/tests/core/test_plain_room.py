"""What each consumer of a plain path gets: every message from its first one on, or its end."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenwire_server.core.plain_hub import PlainConfig
from tokenwire_server.core.plain_room import RoomKey
from tokenwire_server.core.wire import ping_frame

from .plain_bench import DOGE, PEPE, Bench, Peer


def test_everybody_is_handed_the_very_same_bytes() -> None:
    bench = Bench()
    for _ in range(3):
        Peer(bench, DOGE)
    bench.publish(DOGE, 4)
    ((writes, data),) = list(bench.hub.flush(bench.now))
    assert len(writes) == 3
    assert data.count(b" ") == 4
    assert bench.hub.stats.published == 4
    assert bench.hub.stats.bytes_out == 3 * len(data)


def test_who_joins_gets_what_is_published_afterwards() -> None:
    bench = Bench()
    early = Peer(bench, DOGE)
    bench.publish(DOGE, 2)
    late = Peer(bench, DOGE)  # while two are pending
    bench.publish(DOGE)
    bench.flush()
    for peer in (early, late):
        peer.read()
    assert early.numbers == [1, 2, 3]
    assert late.numbers == [3]


def test_a_reader_that_pauses_catches_up_and_the_log_is_forgotten() -> None:
    bench = Bench()
    slow, quick = Peer(bench, DOGE), Peer(bench, DOGE)
    for _ in range(50):
        bench.publish(DOGE)
        bench.flush()
        quick.read()
    (room,) = bench.hub.rooms.values()
    assert list(room.behind) == [slow.consumer]
    lagging, octets = room.lag(slow.consumer)
    assert 0 < lagging < 50
    assert room.log_octets == octets
    slow.read()
    assert slow.numbers == quick.numbers == list(range(1, 51))
    assert not room.behind
    assert room.log_octets == 0


def test_who_lags_more_than_the_channel_holds_is_cut_and_others_go_on() -> None:
    bench = Bench(PlainConfig(channel_messages=10))
    dead, alive = Peer(bench, DOGE, high=0), Peer(bench, DOGE)
    bench.publish(DOGE)
    bench.flush()  # the one message that fits
    for _ in range(10):
        bench.publish(DOGE)
        bench.flush()
        alive.read()
    assert dead.consumer.close_with is None, "ten is what it may lag"
    bench.publish(DOGE)
    bench.flush()
    assert bench.hub.stats.cuts == {"messages": 1}
    assert bench.hub.stats.closes == {4001: 1}
    bench.publish(DOGE)
    bench.flush()
    for peer in (dead, alive):
        peer.read()
    assert dead.numbers == [1]
    assert dead.closed_with == (4001, "slow consumer: too far behind (messages)")
    assert alive.numbers == list(range(1, 14))
    (room,) = bench.hub.rooms.values()
    assert room.log_octets == 0


def test_lag_is_bounded_in_bytes_as_well() -> None:
    bench = Bench(PlainConfig(lag_bytes=1000))
    dead = Peer(bench, DOGE, high=0)
    for _ in range(2):
        bench.publish(DOGE, padding=900)
        bench.flush()
    assert dead.consumer.close_with is None
    bench.publish(DOGE, padding=900)
    bench.flush()
    assert bench.hub.stats.cuts == {"bytes": 1}


def test_all_logs_together_are_bounded_and_the_largest_pays() -> None:
    bench = Bench(PlainConfig(held_bytes=3_000))
    modest, greedy = Peer(bench, PEPE, high=0), Peer(bench, DOGE, high=0)
    for key in (PEPE, DOGE):
        bench.publish(key)
        bench.flush()
    bench.publish(PEPE, padding=1000)
    bench.publish(DOGE, padding=1500)
    bench.flush()
    assert bench.hub.stats.cuts == {}
    bench.publish(PEPE, padding=1000)
    bench.flush()
    assert bench.hub.stats.cuts == {"memory": 1}
    assert [peer.consumer.close_with is None for peer in (modest, greedy)] == [False, True]


def test_of_one_log_the_farthest_behind_pays() -> None:
    bench = Bench(PlainConfig(held_bytes=3_000))
    farther, nearer = Peer(bench, DOGE, high=0), Peer(bench, DOGE, high=1_500)
    for _ in range(4):
        bench.publish(DOGE, padding=1_000)
        bench.flush()
    assert bench.hub.stats.cuts == {"memory": 1}
    assert farther.consumer.close_with is not None
    nearer.read()
    assert nearer.numbers == [1, 2, 3, 4]


def test_a_pause_between_two_deliveries_loses_nothing() -> None:
    bench = Bench()
    peer = Peer(bench, DOGE, high=1)
    bench.publish(DOGE, 3)
    peer.write(ping_frame())  # which fills its socket while three messages are pending
    bench.publish(DOGE)
    bench.flush()
    peer.read()
    assert peer.numbers == [1, 2, 3, 4]


def test_a_room_is_there_while_somebody_listens() -> None:
    bench = Bench()
    first, second = Peer(bench, DOGE), Peer(bench, DOGE)
    (room,) = bench.hub.rooms.values()
    first.leave()
    assert bench.vacated == []
    bench.publish(DOGE)
    bench.hub.pace.touch(room, bench.now)
    second.leave()
    second.leave()  # without effect
    assert bench.vacated == [room]
    assert bench.hub.rooms == {}
    assert bench.hub.flush_due_ms is None
    assert bench.hub.pace.due_ms is None
    assert list(bench.hub.flush(bench.now)) == [], "what was pending went with the room"
    again = Peer(bench, DOGE)
    bench.publish(DOGE)
    bench.flush()
    again.read()
    assert again.numbers == [2]
    assert bench.hub.stats.opened == 3
    assert bench.hub.stats.closed == 2


@pytest.mark.parametrize("high", [0, 60])
def test_a_long_lag_is_caught_up_with_in_pieces(high: int) -> None:
    bench = Bench(PlainConfig(channel_messages=10_000))
    slow = Peer(bench, DOGE, high=high)
    bench.publish(DOGE, 3_000, padding=90)
    bench.flush()
    largest = 0
    while len(slow.numbers) < 3_000:
        largest = max(largest, len(slow.buffer))
        slow.read(50_000)
    assert slow.numbers == list(range(1, 3_001))
    assert largest < 2 * 65_536 + 200


class Streams(RuleBasedStateMachine):
    """Any interleaving of publishing, flushing, joining, reading, leaving and waiting."""

    @initialize(channel=st.integers(1, 12), octets=st.sampled_from((150, 100_000)), held=st.sampled_from((400, 10**6)))
    def begin(self, channel: int, octets: int, held: int) -> None:
        config = PlainConfig(channel_messages=channel, lag_bytes=octets, held_bytes=held, pending_bytes=400)
        self.bench = Bench(config)
        self.eager = [Peer(self.bench, key, high=10**9) for key in (DOGE, PEPE)]

    @property
    def present(self) -> list[Peer]:
        return [peer for peer in self.bench.peers if not peer.gone and peer not in self.eager]

    @rule(key=st.sampled_from((DOGE, PEPE)), count=st.integers(1, 8), padding=st.integers(0, 90))
    def publish(self, key: RoomKey, count: int, padding: int) -> None:
        self.bench.publish(key, count, padding)

    @rule()
    def flush(self) -> None:
        self.bench.flush()
        for peer in self.eager:
            peer.read()

    @rule(key=st.sampled_from((DOGE, PEPE)), high=st.sampled_from((0, 30, 300)))
    def join(self, key: RoomKey, high: int) -> None:
        if len(self.bench.peers) < 12:
            Peer(self.bench, key, high)

    @rule(data=st.data(), octets=st.one_of(st.none(), st.integers(1, 400)))
    def read(self, data: Any, octets: int | None) -> None:
        if self.present:
            data.draw(st.sampled_from(self.present), "reader").read(octets)

    @rule(data=st.data())
    def ping(self, data: Any) -> None:
        if self.present:
            peer = data.draw(st.sampled_from(self.present), "pinged")
            if peer.consumer.close_with is None:
                peer.write(ping_frame())

    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        if self.present:
            data.draw(st.sampled_from(self.present), "leaver").leave()

    @invariant()
    def every_run_is_contiguous(self) -> None:
        for peer in getattr(self, "bench", Bench()).peers:
            assert peer.numbers == list(range(peer.first, peer.first + len(peer.numbers)))

    @invariant()
    def nobody_lags_too_far_and_nothing_more_is_held(self) -> None:
        if not hasattr(self, "bench"):
            return
        hub = self.bench.hub
        for room in hub.rooms.values():
            lags = [room.lag(consumer) for consumer in room.behind]
            assert all(messages <= hub.config.channel_messages for messages, _ in lags)
            assert all(octets <= hub.config.lag_bytes for _, octets in lags)
            assert bool(room.log_octets) <= bool(room.behind)
            assert room.pending_octets < hub.config.pending_bytes
        assert sum(room.log_octets for room in hub.rooms.values()) <= hub.config.held_bytes

    def teardown(self) -> None:
        """At last everybody reads: each has everything, or was cut."""
        if not hasattr(self, "bench"):
            return
        self.bench.flush()
        for peer in self.bench.peers:
            if peer.gone:
                continue
            peer.read()
            if peer.closed_with is None:
                assert peer.numbers == list(range(peer.first, self.bench.published.get(peer.key, 0) + 1))
            else:
                assert peer.closed_with[0] == 4001
                assert peer not in self.eager, "who reads everything is never cut"
        self.every_run_is_contiguous()


Streams.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestStreams = Streams.TestCase
