"""Pings, the server's clock, latency, and the other counters (I-57)."""

from typing import Any

import pytest

from tokenwire.clock import ClockEstimate

from .peer import ALL, Peer, live


def answer(peer: Peer, *, way_ms: int, back_ms: int, ahead_ms: int) -> None:
    """Answers the last ping of a server whose clock is ahead of the wall clock."""
    echo = peer.sent_of("ping")[-1]["echo"]
    sent = peer.wall
    peer.advance(way_ms + back_ms)
    peer.say("heartbeat", peer.number, sent + way_ms + ahead_ms, echo=echo)


def test_round_trip_and_offset() -> None:
    peer = Peer().start().greet(*ALL)
    peer.advance(0)
    assert len(peer.sent_of("ping")) == 1
    answer(peer, way_ms=20, back_ms=20, ahead_ms=5_000)
    assert peer.session.metrics.rtt_ms == 40
    assert peer.session.metrics.clock_offset_ms == 5_000


def test_the_fastest_round_trip_wins() -> None:
    peer = Peer().start().greet(*ALL)
    peer.advance(0)
    for way, back in ((300, 900), (10, 10), (800, 100)):
        answer(peer, way_ms=way, back_ms=back, ahead_ms=-700)
        peer.advance(10_000 - way - back)
    assert peer.session.metrics.clock_offset_ms == -700
    assert peer.session.metrics.rtt_ms == 900


def test_latency_is_by_the_servers_clock() -> None:
    peer = live("A")
    peer.advance(0)
    answer(peer, way_ms=10, back_ms=10, ahead_ms=60_000)
    peer.skew = -3_600_000  # the wall clock is set back by an hour: nothing changes
    stamp = peer.wall + 3_600_000 + 60_000 - 25
    peer.value("a-A", "1", 1)
    peer.say(
        "token_update",
        None,
        stamp,
        address="a-A",
        price="2",
        marketCap="0",
        volume={"h24": "0", "h1": "0", "m5": "0"},
        version=2,
    )
    assert peer.session.metrics.latency_ms == pytest.approx(25)


def test_latency_without_an_estimate_is_by_the_wall_clock() -> None:
    peer = live("A", caps=())
    peer.say("x", None, peer.wall)
    for age in (10, 90, 50):
        data: dict[str, Any] = {
            "address": "a-A",
            "price": "2",
            "marketCap": "0",
            "volume": {"h24": "0", "h1": "0", "m5": "0"},
        }
        peer.say("token_update", None, peer.wall - age, **data)
    metrics = peer.session.metrics
    assert (metrics.latency_ms, metrics.latency_max_ms) == (50, 90)
    assert metrics.latency_ewma_ms is not None
    assert 0 < metrics.latency_ewma_ms < 50


def test_a_wall_clock_that_jumps_during_a_ping() -> None:
    clock = ClockEstimate()
    echo = clock.ping(1_000, 500_000)
    assert clock.pong(echo, 900_010, 1_020, 900_020)
    assert clock.offset_ms == 0
    assert clock.server_now(1_020, 0) == 900_020


def test_foreign_and_repeated_echoes() -> None:
    clock = ClockEstimate()
    echo = clock.ping(0, 0)
    assert not clock.pong("p99", 5, 1, 1)
    assert not clock.pong(7, 5, 1, 1)
    assert clock.pong(echo, 5, 1, 1)
    assert not clock.pong(echo, 5, 1, 1)
    for _ in range(100):
        clock.ping(0, 0)
    assert len(clock._outstanding) <= 8


def test_another_server_has_another_clock() -> None:
    clock = ClockEstimate()
    clock.pong(clock.ping(0, 0), 1_001, 2, 2)
    assert clock.offset_ms == 1_000
    clock.new_socket()
    assert clock.offset_ms == 1_000
    clock.pong(clock.ping(100, 100), 5_150, 200, 200)
    assert clock.offset_ms == 5_000


def test_messages_do_not_keep_the_clock_from_being_set() -> None:
    peer = live("A", ping_interval_ms=1_000)
    for version in range(1, 50):
        peer.value("a-A", "1", version)
        peer.advance(100)
    assert len(peer.sent_of("ping")) == 5
    assert peer.pings == 0


def test_time_in_states_and_changes() -> None:
    peer = Peer(random=lambda: 0.5).start()
    peer.advance(100)
    peer.greet()
    peer.advance(700)
    peer.cut()
    peer.back()
    peer.greet()
    metrics = peer.session.metrics
    assert metrics.time_in_state_ms == {"CONNECTING": 100, "CONNECTED": 700, "RECONNECTING": 500}
    assert (metrics.state, metrics.state_changes, metrics.connects, metrics.reconnects) == ("CONNECTED", 3, 2, 1)


def test_wall_clock_jumps_move_no_deadline() -> None:
    peer = live("A")
    before = peer.session.next_deadline()
    peer.skew = 10**9
    peer.session.handle_timer(peer.now, peer.wall)
    assert peer.session.next_deadline() == before or peer.sent
    peer.advance(5_000)
    peer.skew = -(10**9)
    peer.value("a-A", "1", 1)
    peer.advance(5_000)
    assert not peer.closes
