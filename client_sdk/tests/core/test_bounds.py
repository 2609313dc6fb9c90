"""What one server can claim or send is bounded: integers, texts, names, evidence (Spec, Error Handling)."""

import json
from typing import Any

import pytest

from tokenwire.events import Connected, Error, Gap, Reconnecting, Stale
from tokenwire.states import ConnectionState
from tokenwire_schemas import limits

from .peer import ALL, WALL, Peer, live, update

TOO_BIG = (2**53, 10**19, 10**310, 10**4000)
CONNECTION = ("maxSubscriptions", "replayFrom", "heartbeatMs", "idleTimeoutMs", "maxMessageBytes", "maxBatch")


def codes(peer: Peer) -> list[str]:
    return [event.code for event in peer.take(Error)]


# --- integers


@pytest.mark.parametrize("big", [*TOO_BIG, -1], ids=lambda big: str(len(str(big))))
def test_a_timestamp_out_of_range_is_no_message(big: int) -> None:
    peer = live("A")
    peer.say("token_update", timestamp=big, **update("a-A", "1", 1))
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]
    assert peer.session.metrics.invalid_messages == 1
    peer.value("a-A", "2", 2)
    assert [price for _, _, price in peer.values()] == ["2"]
    peer.advance(1)
    echo = peer.sent_of("ping")[0]["echo"]
    peer.say("heartbeat", peer.number, big, echo=echo)
    peer.say("error", timestamp=big, code="X", message="m", level="fatal")
    assert peer.session.metrics.invalid_messages == 3
    assert peer.session.metrics.clock_offset_ms is None
    assert not peer.closes


@pytest.mark.parametrize("big", [*TOO_BIG, -1], ids=lambda big: str(len(str(big))))
@pytest.mark.parametrize("name", ["version", "sourceTime"])
def test_a_value_with_an_integer_out_of_range_is_left_out_alone(name: str, big: int) -> None:
    peer = live("A", "B")
    bad = update("a-A", "1", 1) | {name: big}
    peer.say("token_batch", updates=[bad, update("a-B", "2", 2)])
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]
    assert "A" not in peer.session.latest
    assert peer.session.latest["B"].price == "2"
    assert peer.session.checkpoint().versions == {"a-B": 2}


@pytest.mark.parametrize("big", [*TOO_BIG, -1], ids=lambda big: str(len(str(big))))
@pytest.mark.parametrize("name", CONNECTION)
def test_a_greeting_with_an_integer_out_of_range_is_none(name: str, big: int) -> None:
    peer = Peer().start().greet(*ALL, **{name: big})
    assert peer.session.state is ConnectionState.CONNECTING
    assert peer.session.metrics.invalid_messages == 1


@pytest.mark.parametrize("code", ["RATE_LIMITED", "REPLAY_UNAVAILABLE"])
def test_a_pause_out_of_range(code: str) -> None:
    peer = live("A")
    peer.say("error", code=code, message="m", level="warning", retryAfterMs=10**400)
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]


def test_what_cannot_be_handled_ends_the_socket_not_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = live("A")

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(peer.session._delivery), "apply", fail)
        text = {"type": "token_update", "sequence": peer.number + 1, "timestamp": WALL, "data": update("a-A", "1", 1)}
        peer.session.received(json.dumps(text), peer.now, peer.wall)
        peer.act()
    assert peer.closes[-1].code == 1002
    assert peer.session.metrics.invalid_messages == 1
    assert peer.session.state is ConnectionState.RECONNECTING
    assert not peer.back().headers  # what it did is not known: a new session, with current values
    peer.closes.clear()
    peer.greet(*ALL)
    assert peer.take(Gap)


# --- contradictions


@pytest.mark.parametrize("first", ["error", "success"])
def test_a_name_both_accepted_and_refused(first: str) -> None:
    peer = live()
    request = peer.session.subscribe(["A"], peer.now)
    peer.act()
    identity = peer.requests[-1]["requestId"]
    answers: dict[str, Any] = {
        "error": {"status": "error", "tokens": ["A"], "rejected": []},
        "success": {"status": "success", "tokens": ["a-A"]},
    }
    peer.say("subscription", action="subscribe", requestId=identity, **answers.pop(first))
    (other,) = answers.values()
    peer.say("subscription", action="subscribe", requestId=identity, **other)
    peer.value("a-A", "1", 1)
    peer.advance(20_000)
    assert not [close for close in peer.closes if close.code == 1002]
    assert request.done
    if first == "error":
        assert request.rejected == {"A": "REJECTED"}
        assert peer.session.metrics.invalid_messages == 1


def test_more_tokens_than_were_asked_for() -> None:
    peer = live()
    peer.session.subscribe(["A"], peer.now)
    peer.act()
    peer.accept("a-A", "a-B", "a-C")
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]
    assert not peer.session._subscriptions.held


# --- texts and names


def test_long_words_of_a_server_are_cut() -> None:
    peer = live("A")
    long, many = "m" * 300_000, [f"{number:03}" + "t" * 997 for number in range(300)]
    peer.say("error", code=long, message=long, level="warning", tokens=many)
    peer.say("error", code="UPSTREAM_STALE", message=long, level="warning", tokens=many)
    last = peer.number + 1
    peer.say("gap", last, **{"from": last, "to": last}, cause=long, repair="snapshot")
    peer.number = last
    error, stale, gap = peer.take(Error, Stale, Gap)
    assert len(error.code) == 100
    assert len(error.message) == len(stale.message) == len(gap.cause) == 1_000
    assert len(error.names) == len(stale.tokens) == 100
    assert max(map(len, (*error.names, *stale.tokens))) == 256
    peer.cut(1006, long)
    (lost,) = peer.take(Reconnecting)
    assert len(lost.cause) == 1_000
    peer.back()
    peer.greet(*ALL, connectionId=long, stream=long)
    (connected,) = peer.take(Connected)
    assert len(connected.connection_id) == 128
    assert peer.session.checkpoint().stream is None


def test_words_about_a_request_are_cut() -> None:
    peer = live()
    request = peer.session.subscribe(["A"], peer.now)
    peer.act()
    identity = peer.requests[-1]["requestId"]
    peer.say("error", code="BATCH_LIMIT", message="m" * 500_000, level="error", requestId=identity)
    assert [len(message) for message in request.messages] == [1_000]


@pytest.mark.parametrize(("price", "is_taken"), [("1" * 100, True), ("1" * 101, False), ("1" * 900_000, False)])
def test_figures_without_end_are_refused(price: str, is_taken: bool) -> None:
    peer = live("A")
    peer.value("a-A", price, 1)
    assert ("A" in peer.session.latest) is is_taken
    assert peer.session.metrics.invalid_messages == (not is_taken)


def test_five_long_figures_are_fine() -> None:
    peer = live("A")
    figure = "1" * 100
    volume = {"h24": figure, "h1": figure, "m5": figure}
    peer.say("token_update", address="a-A", price=figure, marketCap=figure, volume=volume)
    assert len(peer.values()) == 1


def test_an_address_without_end_is_refused() -> None:
    peer = live("A")
    peer.value("a" * 257, "1", 1)
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]
    peer.session.subscribe(["B"], peer.now)
    peer.act()
    peer.accept("b" * 257)
    assert peer.session.metrics.invalid_messages == 2
    assert peer.session._subscriptions.held == {"a-A"}


# --- what is remembered


@pytest.mark.parametrize("caps", [(), ALL])
def test_replies_that_nobody_asked_for_are_not_remembered(caps: tuple[str, ...]) -> None:
    peer = live("A", caps=caps)
    for start in range(0, 5_000, 1_000):
        tokens = [f"t{number}" for number in range(start, start + 1_000)]
        peer.say("subscription", action="subscribe", status="success", tokens=tokens)
    assert peer.session._subscriptions.held == {"a-A"}
    assert peer.session.metrics.invalid_messages == 5
    peer.say("subscription", action="subscribe", status="success", tokens=["a-A"])
    assert peer.session.metrics.invalid_messages == 5


def test_late_answers_and_greetings_are_remembered_up_to_a_bound() -> None:
    peer = live("A")
    for start in range(0, 5_000, 1_000):
        tokens = [f"t{number}" for number in range(start, start + 1_000)]
        peer.say("subscription", action="subscribe", status="success", tokens=tokens, requestId="r1")
    assert len(peer.session._subscriptions.held) <= 1_001
    held = [{"token": f"t{number}", "channels": ["token"]} for number in range(5_000)]
    for resumed in (True, False):
        peer.cut()
        peer.back()
        peer.greet(*ALL, sequence=peer.number, resumed=resumed, subscriptions=[*held, {"token": "a-A", "channels": []}])
        assert len(peer.session._subscriptions.held) <= 1_002
        assert "a-A" in peer.session._subscriptions.held


def test_versions_of_tokens_long_gone_are_forgotten() -> None:
    peer = live("A")
    peer.value("a-A", "1", 7)
    for start in range(0, 6_000, 500):
        names = [f"t{number}" for number in range(start, start + 500)]
        peer.session.subscribe(names, peer.now)
        peer.advance(1_000)
        peer.accept(*names)
        peer.say("token_batch", updates=[update(name, "1", 3) for name in names])
        peer.events()
        peer.session.unsubscribe(names, peer.now)
        peer.advance(1_000)
        peer.accept(*names)
    assert len(peer.session._delivery._versions) <= 2_001
    assert peer.session.checkpoint().versions == {"a-A": 7}


# --- evidence


def test_a_heartbeat_far_ahead_is_no_evidence() -> None:
    peer = live("A")
    peer.say("heartbeat", 10**15)
    assert codes(peer) == ["INVALID_SERVER_MESSAGE"]
    assert not peer.sent_of("replay")
    assert peer.session._stream.reader.is_straight
    peer.say("heartbeat", peer.number + limits.RESUME_MAX_FRAMES)
    assert len(peer.sent_of("replay")) == 1


def test_repeating_a_fatal_error_does_not_put_off_the_end() -> None:
    peer = live("A")
    for _ in range(8):
        peer.say("error", code="SERVER_SHUTDOWN", message="bye", level="fatal")
        peer.advance(1_000)
        if peer.session.state is ConnectionState.RECONNECTING:
            break
    else:
        pytest.fail("the socket that was declared dead is still used")
    assert peer.closes[-1].code is None
