"""Resuming and acks (I-54, I-59)."""

from urllib.parse import parse_qs, urlsplit

import pytest

from tokenwire.events import Connected, Error, Gap, Reconnecting, Resumed, Snapshot, Update
from tokenwire.states import ConnectionState

from .peer import ALL, Peer, live, update


def query(peer: Peer) -> dict[str, list[str]]:
    return parse_qs(urlsplit(peer.connects[-1].url).query)


def resumed(peer: Peer, high_water: int, *held: str, **data: object) -> None:
    """The server resumes the session."""
    subscriptions = [{"token": token, "channels": ["token"]} for token in held]
    number = peer.number
    peer.greet(*ALL, sequence=high_water, resumed=True, replayFrom=number + 1, subscriptions=subscriptions, **data)


def test_resumes_with_header_position_and_attempt() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1)
    last = peer.number
    peer.value("a-A", "9", 9, sequence=last + 5)  # beyond a hole: not received in order
    peer.events()
    peer.cut()
    connect = peer.back()
    assert connect.headers == (("X-Tokenwire-Session", "secret-1"),)
    assert query(peer)["seq"] == [str(last)]
    assert query(peer)["attempt"] == ["2"]
    peer.number = last
    resumed(peer, last + 5, "a-A")
    assert peer.session.state is ConnectionState.CONNECTED
    (reconnecting, event) = peer.events()
    assert isinstance(reconnecting, Reconnecting)
    assert isinstance(event, Resumed)
    assert (event.replay_from, event.replay_to) == (last + 1, last + 5)
    assert event.outage_ms == 1_000
    assert len(peer.sent_of("replay")) == 1  # the one before the cut; resuming asks by itself
    for number in range(1, 6):
        peer.value("a-A", str(number), 1 + number, sequence=last + number)
    assert [event.replayed for event in peer.take(Update)] == [True] * 5
    peer.number = last + 5
    peer.value("a-A", "99", 99)
    assert [event.replayed for event in peer.take(Update)] == [False]
    assert peer.session.metrics.resumes == {"resumed": 1}
    assert not peer.requests[1:]


def test_nothing_to_replay() -> None:
    peer = live("A")
    peer.cut()
    peer.back()
    last = peer.number
    resumed(peer, last, "a-A")
    (event,) = peer.take(Resumed)
    assert (event.replay_from, event.replay_to) == (last + 1, last)


def test_the_network_may_fail_before_the_answer() -> None:
    peer = live("A")
    request = peer.session.subscribe(["B"], peer.now)
    peer.act()
    asked = peer.requests[-1]
    peer.cut()
    peer.back()
    base = peer.number
    resumed(peer, base + 1, "a-A", "a-B")
    peer.number = base
    count = len(peer.requests)
    peer.accept("a-B", request=asked)
    assert request.accepted == {"B": "a-B"}
    peer.advance(5_000)
    assert len(peer.requests) == count
    peer.value("a-B", "1", 1)
    assert peer.values() == [("Snapshot", "B", "1")]


def test_a_request_the_server_never_saw_is_sent_again() -> None:
    peer = live("A")
    first = peer.session.subscribe(["B"], peer.now)
    second = peer.session.unsubscribe(["A"], peer.now)
    peer.act()
    peer.cut()
    third = peer.session.subscribe(["C"], peer.now)
    peer.back()
    resumed(peer, peer.number, "a-A")
    asked = peer.requests[-3:]
    assert [(one["action"], one["tokens"]) for one in asked] == [
        ("subscribe", ["B"]),
        ("unsubscribe", ["a-A"]),
        ("subscribe", ["C"]),
    ]
    for one, address in zip(asked, ("a-B", "a-A", "a-C"), strict=True):
        peer.accept(address, request=one)
    assert first.done
    assert second.done
    assert third.done
    count = len(peer.requests)
    peer.advance(5_000)
    assert len(peer.requests) == count


def test_what_the_server_holds_is_brought_in_line() -> None:
    peer = live("A", "B")
    peer.cut()
    peer.back()
    resumed(peer, peer.number, "a-A", "a-Z")
    assert [(one["action"], one["tokens"]) for one in peer.requests[-2:]] == [
        ("unsubscribe", ["a-Z"]),
        ("subscribe", ["a-B"]),
    ]


def test_requests_wait_for_the_replay_but_not_for_ever() -> None:
    peer = live("A")
    peer.session.subscribe(["B"], peer.now)
    peer.act()
    peer.cut()
    peer.back()
    base, count = peer.number, len(peer.requests)
    resumed(peer, base + 3, "a-A")
    peer.number = base
    peer.value("a-A", "1", 1)
    assert len(peer.requests) == count
    peer.advance(2_000)
    assert len(peer.requests) == count + 1


def test_resume_asks_for_details_and_is_of_no_use_without() -> None:
    peer = live("A", caps=("resume",), capabilities=("resume",))
    assert query(peer)["caps"] == ["resume,details"]
    request = peer.session.subscribe(["B"], peer.now)
    peer.act()
    peer.value("a-A", sequence=peer.number + 3)
    assert peer.sent_of("replay") == [{"from": 3, "to": 4}]  # on one socket nothing stands against it
    peer.events()
    assert peer.session.checkpoint().session is None
    peer.cut()
    assert peer.back().headers == ()
    assert "seq" not in query(peer)
    peer.greet("resume", session="secret-2")
    assert [type(event) for event in peer.events()] == [Reconnecting, Connected, Gap]
    assert peer.requests[-1] == {"action": "subscribe", "tokens": ["a-A", "B"]}
    peer.accept("a-A", "a-B")
    assert request.done


def test_a_session_that_is_resumed_with_other_capabilities_is_not_that_session() -> None:
    peer = live("A")
    peer.cut()
    peer.back()
    peer.greet("resume", sequence=peer.number, resumed=True, subscriptions=[])
    assert peer.closes[-1].code == 1002
    assert peer.session.metrics.resumes == {"refuted": 1}
    assert peer.back().headers == ()


def test_acks_of_checkpoints_need_a_session_to_resume() -> None:
    peer = live("A", caps=("resume",), ack="checkpoint")
    peer.value("a-A")
    peer.events()
    peer.advance(1_000)
    assert peer.sent_of("ack") == [{"sequence": 3}]


def test_history_is_no_command() -> None:
    peer = live("A")
    peer.cut()
    peer.back()
    base = peer.number
    resumed(peer, base + 3, "a-A")
    peer.number = base
    peer.say("error", code="SERVER_SHUTDOWN", message="old", level="fatal")
    peer.say("connection", status="disconnected", connectionId="c", maxSubscriptions=1)
    peer.value("a-A", "1", 1)
    assert [event.level for event in peer.take(Error)] == ["fatal"]
    peer.advance(10_000)
    assert not peer.closes
    assert peer.session.state is ConnectionState.CONNECTED


@pytest.mark.parametrize("reason", ["position_evicted", "position_ahead"])
def test_position_lost(reason: str) -> None:
    peer = live("A", "B")
    peer.value("a-A", "1", 1)
    last = peer.number
    peer.events()
    peer.cut()
    peer.session.unsubscribe(["B"], peer.now)
    peer.session.subscribe(["C"], peer.now)
    peer.back()
    held = [{"token": token, "channels": ["token"]} for token in ("a-A", "a-B")]
    peer.greet(*ALL, reason=reason, session="secret-2", subscriptions=held)
    _, connected, gap = peer.events()
    assert isinstance(connected, Connected)
    assert connected.reason == reason
    assert (gap.first, gap.last, gap.cause, gap.repair) == (last + 1, None, "session_lost", "snapshot")
    assert [(one["action"], one["tokens"]) for one in peer.requests[-2:]] == [
        ("unsubscribe", ["a-B"]),
        ("subscribe", ["C"]),
    ]
    peer.value("a-A", "5", 5)
    (event,) = peer.take(Snapshot)
    assert event.missed == 3
    assert peer.session.metrics.resumes == {reason: 1}
    peer.cut()
    assert peer.back().headers == (("X-Tokenwire-Session", "secret-2"),)


def test_unknown_session_subscribes_everything_again() -> None:
    peer = live("A", "B")
    peer.value("a-A", "1", 7)
    peer.cut()
    peer.back()
    peer.greet(*ALL, reason="unknown_session", session="secret-2")
    asked = peer.requests[-1]
    assert (asked["tokens"], asked["known"], asked["stream"]) == (["a-A", "a-B"], {"a-A": 7}, "m1")


def test_session_lost_is_not_resumed() -> None:
    peer = live("A")
    peer.cut(4003)
    assert peer.back().headers == ()
    assert "seq" not in query(peer)


def test_a_server_that_resumes_what_it_never_sent() -> None:
    peer = live("A")
    peer.cut()
    peer.back()
    resumed(peer, peer.number - 1, "a-A")
    assert peer.closes[-1].code == 1002
    peer.back()
    assert "seq" not in query(peer)


def test_a_server_that_resumes_unasked_begins_a_session() -> None:
    peer = Peer().start().greet(*ALL, resumed=True, sequence=40)
    assert [type(event) for event in peer.events()] == [Connected]
    peer.value("x")
    assert peer.session.metrics.frames == 2


def test_a_secret_that_would_break_a_header_is_not_used() -> None:
    peer = Peer().start().greet(*ALL, session="a\r\nX-Evil: 1")
    assert [error.code for error in peer.take(Error)] == ["INVALID_SERVER_MESSAGE"]
    peer.cut()
    assert peer.back().headers == ()


def test_a_halted_replay_is_asked_for() -> None:
    peer = live("A")
    peer.cut()
    peer.back()
    base = peer.number
    resumed(peer, base + 3, "a-A")
    peer.say("heartbeat", base + 3)
    assert not peer.sent_of("replay")
    peer.advance(2_000)
    assert peer.sent_of("replay") == [{"from": base + 1, "to": base + 3}]
    peer.advance(2_999)
    assert not peer.closes
    peer.advance(1)
    assert peer.closes[-1].code == 4003


# --- acks --------------------------------------------------------------------------------------------------------


def test_acks_what_was_taken_by_time() -> None:
    peer = live("A")
    for version in range(1, 6):
        peer.value("a-A", str(version), version)
    peer.advance(1_000)
    assert peer.sent_of("ack") == [{"sequence": peer.number - 5}]
    for _ in range(3):
        assert peer.session.next_event() is not None
    peer.advance(1_000)
    assert peer.sent_of("ack")[1:] == [{"sequence": peer.number - 2}]
    peer.advance(3_000)
    assert len(peer.sent_of("ack")) == 2


def test_acks_by_frames_but_not_in_a_burst() -> None:
    peer = live("A", ack_frames=10)
    for version in range(1, 1_000):
        peer.value("a-A", str(version), version)
        peer.events()
        if version % 20 == 0:
            peer.advance(10)
    acks = [one["sequence"] for one in peer.sent_of("ack")]
    assert acks == sorted(set(acks))
    assert 5 <= len(acks) <= 12


def test_a_batch_is_acknowledged_when_all_of_it_was_taken() -> None:
    peer = live("A", "B")
    peer.say("token_batch", updates=[update("a-A", "1", 1), update("a-B", "1", 1)])
    peer.session.next_event()
    peer.advance(1_000)
    assert peer.sent_of("ack")[-1] == {"sequence": peer.number - 1}
    peer.session.next_event()
    peer.advance(1_000)
    assert peer.sent_of("ack")[-1] == {"sequence": peer.number}


def test_no_acks_without_resume() -> None:
    peer = live("A", caps=("details",))
    peer.value("a-A", "1", 1)
    peer.events()
    peer.advance(9_000)
    assert not peer.sent_of("ack")


def test_the_last_ack_goes_out_with_the_close() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1)
    peer.events()
    peer.session.close(peer.now)
    peer.act()
    assert peer.sent_of("ack") == [{"sequence": peer.number}]


def test_acks_of_checkpoints() -> None:
    peer = live("A", ack="checkpoint")
    peer.value("a-A", "1", 1)
    peer.events()
    peer.advance(3_000)
    assert not peer.sent_of("ack")
    saved = peer.session.checkpoint()
    peer.value("a-A", "2", 2)
    peer.advance(3_000)
    assert not peer.sent_of("ack")
    peer.session.confirm(saved)
    peer.advance(1_000)
    assert peer.sent_of("ack") == [{"sequence": saved.position}]
    peer.events()
    second = peer.session.checkpoint()
    peer.session.checkpoint()
    peer.advance(2_000)
    assert peer.sent_of("ack")[1:] == [{"sequence": second.position}]
