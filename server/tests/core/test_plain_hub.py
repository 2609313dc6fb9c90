"""Time on the plain paths: heartbeats, flushes, the pace of open bars, and ends that nobody answers."""

import pytest

from tokenwire_server.core.limiter import Verdict
from tokenwire_server.core.plain_hub import PlainConfig, PlainHub
from tokenwire_server.core.plain_pace import Pace
from tokenwire_server.core.plain_room import Room

from .plain_bench import DOGE, PEPE, Bench, Peer


def test_a_ping_comes_every_5_s_and_any_byte_is_life() -> None:
    bench = Bench()
    peer = Peer(bench, DOGE)
    for second in range(60):
        bench.pass_time(1_000)
        if second % 9 == 0:
            peer.say(1)
        peer.read()
    assert peer.pings == 12
    assert peer.consumer.close_with is None


def test_10_s_without_a_byte_are_the_end() -> None:
    bench = Bench()
    peer = Peer(bench, DOGE)
    bench.pass_time(3_000)
    peer.say()
    bench.pass_time(9_750)
    assert peer.consumer.close_with is None
    bench.pass_time(500)
    peer.read()
    assert peer.closed_with == (4000, "heartbeat time-out")
    assert bench.hub.rooms == {}
    assert not peer.aborted
    bench.pass_time(5_250)
    assert peer.aborted, "it did not answer the close frame"
    peer.leave()
    assert bench.hub.consumers == {}
    bench.pass_time(30_000)
    assert bench.hub.stats.closes == {4000: 1}


def test_who_is_being_closed_gets_nothing_more() -> None:
    bench = Bench()
    peer, other = Peer(bench, DOGE), Peer(bench, DOGE)
    bench.publish(DOGE)
    bench.flush()
    peer.write(bench.hub.close(peer.consumer, 1001, "the server stops", bench.now))
    assert bench.hub.close(peer.consumer, 1001, "again", bench.now) == b""
    bench.publish(DOGE)
    bench.flush()
    for each in (peer, other):
        each.read()
    assert peer.numbers == [1]
    assert peer.closed_with == (1001, "the server stops")
    assert other.numbers == [1, 2]
    bench.pass_time(4_000)
    assert peer.pings == 0


def test_the_first_message_after_a_quiet_time_is_due_at_once_and_the_next_within_50_ms() -> None:
    bench = Bench()
    Peer(bench, DOGE)
    hub = bench.hub
    assert hub.flush_due_ms is None
    bench.publish(DOGE)
    assert hub.flush_due_ms is not None
    assert hub.flush_due_ms <= bench.now
    bench.flush()
    assert hub.flush_due_ms is None
    bench.now += 5
    bench.publish(DOGE)
    assert hub.flush_due_ms == bench.now + 35


def test_much_that_is_pending_is_flushed_at_once() -> None:
    hub = PlainHub(0, PlainConfig(pending_bytes=100))
    room = Room(DOGE)
    assert not hub.publish(room, bytes(60))
    assert hub.publish(room, bytes(60))


def test_an_open_bar_is_due_at_once_and_then_every_250_ms_while_it_changes() -> None:
    pace = Pace(250)
    doge, pepe = Room(DOGE), Room(PEPE)
    assert pace.due_ms is None
    pace.touch(doge, 1_000)
    assert pace.take(1_000) == [doge]
    pace.touch(doge, 1_010)
    pace.touch(pepe, 1_020)
    assert pace.due_ms == 1_020
    assert pace.take(1_020) == [pepe]
    pace.touch(doge, 1_100)
    assert pace.due_ms == 1_250
    assert pace.take(1_249) == []
    assert pace.take(1_250) == [doge]
    assert pace.due_ms is None
    pace.touch(doge, 1_260)
    pace.forget(doge)
    pace.forget(doge)
    assert pace.due_ms is None


def test_a_flood_is_cut_after_10_s() -> None:
    bench = Bench()
    peer = Peer(bench, DOGE)
    verdicts = []
    for _ in range(600):
        bench.now += 30
        verdicts.append(bench.hub.judge(peer.consumer, bench.now, is_control=False))
    assert verdicts[:40] == [Verdict.ACCEPT] * 40
    assert Verdict.CUT in verdicts
    assert bench.hub.stats.dropped_in > 100
    assert bench.hub.judge(peer.consumer, bench.now, is_control=True) is Verdict.ACCEPT, "pongs have their own rate"


@pytest.mark.parametrize("ms", [250, 40])
def test_a_thousand_clients_are_pinged_once_each(ms: int) -> None:
    bench = Bench()
    peers = [Peer(bench, DOGE) for _ in range(1000)]
    bench.pass_time(5_250, ms)
    for peer in peers:
        peer.read()
    assert [peer.pings for peer in peers] == [1] * 1000
