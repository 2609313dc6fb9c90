"""Subscribing: matching answers, partial failure, pacing, reconnecting (I-18 to I-23, I-36, I-53)."""

import pytest

from tokenwire.events import Error, Gap
from tokenwire_schemas import limits

from .peer import ALL, Peer, update


def ready(*caps: str, **settings: object) -> Peer:
    peer = Peer(**settings).start().greet(*caps)
    peer.events()
    return peer


def test_one_string_is_no_list_of_names() -> None:
    peer = ready()
    with pytest.raises(TypeError):
        peer.session.subscribe("DOGE", peer.now)
    with pytest.raises(TypeError):
        peer.session.subscribe([1], peer.now)  # type: ignore[list-item]


def test_nothing_to_do_is_done() -> None:
    peer = ready()
    assert peer.session.subscribe([], peer.now).done
    assert peer.session.unsubscribe(["never wanted"], peer.now).done
    peer.act()
    assert not peer.sent


def test_names_that_cannot_be_sent_are_refused_here() -> None:
    peer = ready(*ALL)
    request = peer.session.subscribe(["", "x" * 257, "\ud800", "ok"], peer.now)
    peer.act()
    assert request.rejected == dict.fromkeys(["", "x" * 257, "\ud800"], "INVALID_TOKEN")
    assert peer.requests[-1]["tokens"] == ["ok"]
    assert not request.done
    assert peer.session.desired == ("ok",)


@pytest.mark.parametrize("caps", [(), ALL])
def test_success(caps: tuple[str, ...]) -> None:
    peer = ready(*caps)
    request = peer.session.subscribe(["DOGE", "BONK", "DOGE"], peer.now)
    peer.act()
    assert peer.requests[-1]["tokens"] == ["DOGE", "BONK"]
    assert ("requestId" in peer.requests[-1]) == bool(caps)
    peer.accept("a1", "a2")
    assert request.done
    assert request.error is None
    assert request.accepted == {"DOGE": "a1", "BONK": "a2"}


def test_messages_are_numbered_and_stamped_for_strict_servers() -> None:
    peer = ready()
    for name in ("A", "B"):
        peer.session.subscribe([name], peer.now)
        peer.act()
        peer.accept(f"a-{name}")
    assert [(one["sequence"], one["timestamp"]) for one in peer.sent] == [(1, peer.wall), (2, peer.wall)]


def test_partial_failure_with_details() -> None:
    peer = ready(*ALL)
    request = peer.session.subscribe(["DOGE", "nope", "BONK"], peer.now)
    peer.act()
    peer.accept("a1", "a2")
    assert not request.done
    peer.refuse("nope", code="TOKEN_NOT_FOUND")
    assert request.done
    assert request.accepted == {"DOGE": "a1", "BONK": "a2"}
    assert request.rejected == {"nope": "TOKEN_NOT_FOUND"}


def test_partial_failure_of_a_strict_server() -> None:
    peer = ready()
    request = peer.session.subscribe(["DOGE", "nope", "BONK", "dup"], peer.now)
    peer.act()
    peer.accept("a1", "a2")
    peer.refuse("nope", "dup")
    assert not request.done
    peer.say("error", code="TOKEN_NOT_FOUND", message="no token has this symbol: nope", level="error")
    assert not request.done
    peer.say("error", code="AMBIGUOUS_TOKEN", message="several share it: dup", level="error")
    assert request.done
    assert request.rejected == {"nope": "TOKEN_NOT_FOUND", "dup": "AMBIGUOUS_TOKEN"}
    assert len(request.messages) == 2
    first, second = peer.take(Error)
    assert (first.names, second.names) == (("nope",), ("dup",))
    assert peer.session.desired == ("DOGE", "nope", "BONK")


def test_only_a_refusal() -> None:
    peer = ready()
    request = peer.session.subscribe(["nope"], peer.now)
    peer.act()
    peer.refuse("nope")
    peer.say("error", code="SUBSCRIPTION_LIMIT", message="full", level="error")
    assert request.rejected == {"nope": "SUBSCRIPTION_LIMIT"}
    assert peer.session.desired == ()


def test_a_strict_server_that_says_nothing_more() -> None:
    peer = ready()
    request = peer.session.subscribe(["DOGE", "nope"], peer.now)
    peer.act()
    peer.refuse("nope")
    peer.advance(2_999)
    assert not request.done
    peer.advance(1)
    assert request.rejected == {"nope": "REJECTED"}
    assert peer.requests[-1]["tokens"] == ["DOGE"]
    for _ in range(60):
        peer.advance(1_000)
        peer.session.alive(peer.now)
    assert request.done
    assert request.error is not None


def test_half_an_answer_is_over_when_something_else_follows() -> None:
    peer = ready(*ALL)
    request = peer.session.subscribe(["DOGE", "a1"], peer.now)
    peer.act()
    peer.accept("a1")  # both names are one token
    assert not request.done
    peer.value("a1", "1", 1)
    assert request.accepted == {"a1": "a1"}
    assert peer.requests[-1]["tokens"] == ["DOGE"]
    peer.accept("a1")
    assert request.done
    assert request.accepted == {"a1": "a1", "DOGE": "a1"}


def test_a_stall_between_the_halves_of_an_answer_does_not_shift_the_answers_after_it() -> None:
    peer = ready()
    first = peer.session.subscribe(["none", "A", "B"], peer.now)
    second = peer.session.subscribe(["C", "D"], peer.now)
    peer.act()
    peer.accept("a-A", "a-B")
    peer.advance(7_000)
    assert len(peer.requests) == 1
    peer.refuse("none")
    peer.say("error", code="TOKEN_NOT_FOUND", message="none", level="error")
    assert first.rejected == {"none": "TOKEN_NOT_FOUND"}
    peer.accept("a-C", "a-D")
    assert first.accepted | second.accepted == {"A": "a-A", "B": "a-B", "C": "a-C", "D": "a-D"}


def test_a_strict_server_that_goes_on_without_the_other_half() -> None:
    peer = ready()
    request = peer.session.subscribe(["DOGE", "a1"], peer.now)
    peer.act()
    peer.accept("a1")  # both names are one token
    peer.value("a1")
    peer.advance(2_999)
    assert len(peer.requests) == 1
    peer.advance(1)
    assert peer.requests[-1]["tokens"] == ["DOGE"]
    peer.accept("a1")
    assert request.accepted == {"a1": "a1", "DOGE": "a1"}


def test_an_answer_that_comes_twice_is_not_two_halves() -> None:
    peer = ready(*ALL)
    request = peer.session.subscribe(["S1", "a1", "a2", "S2"], peer.now)
    peer.act()
    asked = peer.requests[0]
    peer.accept("a1", "a2", request=asked)
    peer.accept("a1", "a2", request=asked)
    assert request.accepted == {"a1": "a1", "a2": "a2"}
    peer.accept("a1", request=peer.requests[1])
    peer.accept("a2", request=peer.requests[2])
    assert request.accepted == {"a1": "a1", "a2": "a2", "S1": "a1", "S2": "a2"}


def test_repetitions_for_other_reasons_are_no_timeouts() -> None:
    peer = ready()
    first = peer.session.subscribe(["A"], peer.now)
    second = peer.session.subscribe(["B"], peer.now)
    peer.act()
    for _ in range(3):
        peer.say("error", code="RATE_LIMITED", message="1", level="error")
        peer.advance(1_000)
    peer.advance(9_999)
    peer.session.alive(peer.now)
    peer.advance(1)  # no answer in time: once more, and nothing else meanwhile
    assert [request["tokens"] for request in peer.requests] == [["A"]] * 5
    peer.accept("a-A")
    for _ in range(3):
        peer.accept("a-A", request=peer.requests[0])
    peer.accept("a-B")
    assert first.accepted | second.accepted == {"A": "a-A", "B": "a-B"}


def test_trouble_with_the_connection_is_no_reason_of_a_refusal() -> None:
    peer = ready()
    request = peer.session.subscribe(["nope", "A"], peer.now)
    peer.act()
    peer.accept("a-A")
    peer.refuse("nope")
    peer.say("error", code="SLOW_CONSUMER", message="you read slowly", level="warning")
    assert not request.done
    peer.say("error", code="TOKEN_NOT_FOUND", message="no token has this name", level="error")
    assert request.rejected == {"nope": "TOKEN_NOT_FOUND"}


def test_symbols_of_one_token_are_told_apart() -> None:
    peer = ready(*ALL)
    names = ["x1", "x2", "y", "x3"]
    request = peer.session.subscribe(names, peer.now)
    peer.act()
    address = {"x1": "X", "x2": "X", "x3": "X", "y": "Y"}
    answered = 0
    for _ in range(20):
        if answered < len(peer.requests):
            asked = peer.requests[answered]
            answered += 1
            peer.accept(*dict.fromkeys(address[name] for name in asked["tokens"]), request=asked)
            peer.value("X", "1", answered)
        peer.advance(500)
    assert request.done
    assert request.accepted == address


@pytest.mark.parametrize("code", ["BATCH_LIMIT", "INVALID_MESSAGE", "UNKNOWN_TYPE"])
def test_a_message_refused_as_a_whole(code: str) -> None:
    for caps in ((), ALL):
        peer = ready(*caps)
        request = peer.session.subscribe(["A", "B"], peer.now)
        peer.act()
        data = {"requestId": peer.requests[-1]["requestId"]} if caps else {}
        peer.say("error", code=code, message="no", level="error", **data)
        assert request.done
        assert request.rejected == {"A": code, "B": code}
        assert peer.session.desired == ()


def test_without_ids_requests_go_one_at_a_time() -> None:
    peer = ready()
    first = peer.session.subscribe(["A"], peer.now)
    peer.session.unsubscribe(["A"], peer.now)
    third = peer.session.subscribe(["B"], peer.now)
    peer.act()
    assert len(peer.requests) == 1
    peer.accept("a-A")
    assert first.done
    assert peer.requests[-1] == {"action": "unsubscribe", "tokens": ["A"]}
    peer.accept("a-A")
    assert peer.requests[-1] == {"action": "subscribe", "tokens": ["B"]}
    assert not third.done
    peer.accept("a-B")
    assert third.done


def test_waiting_subscribes_share_a_message() -> None:
    peer = Peer().start()
    peer.greet(*ALL)
    requests = [peer.session.subscribe([f"n{index}"], peer.now) for index in range(500)]
    peer.act()
    peer.advance(2_000)
    assert len(peer.requests) < 40
    for asked in list(peer.requests):
        peer.accept(*(f"a-{name}" for name in asked["tokens"]), request=asked)
    peer.advance(2_000)
    for asked in list(peer.requests):
        peer.accept(*(f"a-{name}" for name in asked["tokens"]), request=asked)
    assert all(request.done for request in requests)


def test_large_requests_are_split_by_the_servers_batch() -> None:
    peer = ready(*ALL)
    peer.session.subscribe([f"n{index}" for index in range(2_500)], peer.now)
    peer.act()
    assert [len(one["tokens"]) for one in peer.requests] == [1000, 1000, 500]
    small = Peer().start().greet(*ALL, maxBatch=10)
    small.session.subscribe([f"n{index}" for index in range(25)], small.now)
    small.act()
    assert [len(one["tokens"]) for one in small.requests] == [10, 10, 5]


def test_long_names_do_not_make_a_message_too_long() -> None:
    peer = ready(*ALL)
    peer.session.subscribe(["é" * 250 + f"{index:04}" for index in range(1_000)], peer.now)
    peer.act()
    peer.advance(60_000)
    assert len(peer.sent) > 3
    assert all(len(str(one).encode()) < limits.MAX_MESSAGE_BYTES // 4 for one in peer.sent)


def test_stays_below_the_servers_rate() -> None:
    peer = ready(*ALL)
    stamps: list[int] = []
    for index in range(300):
        verb = peer.session.subscribe if index % 2 else peer.session.unsubscribe
        peer.session._subscriptions.subscribe(["A"])
        verb(["A"], peer.now)
        peer.act()
    for _ in range(1_000):
        before = len(peer.sent)
        peer.advance(50)
        stamps += [peer.now] * (len(peer.sent) - before)
        for asked in peer.requests[-8:]:
            peer.accept("a-A", request=asked)
    credit, last = float(limits.INBOUND_BURST), 0
    for stamp in stamps:
        credit = min(limits.INBOUND_BURST, credit + (stamp - last) * limits.INBOUND_RATE_PER_S / 1000) - 1
        last = stamp
        assert credit >= 0
    assert len(stamps) > 100


def test_rate_limited_repeats_what_was_not_answered() -> None:
    for caps in ((), ALL):
        peer = ready(*caps)
        request = peer.session.subscribe(["A"], peer.now)
        peer.act()
        peer.say("error", code="RATE_LIMITED", message="1 dropped", level="error")
        peer.advance(999)
        assert len(peer.requests) == 1
        peer.advance(1)
        assert len(peer.requests) == 2
        assert peer.requests[0] == peer.requests[1]
        peer.accept("a-A")
        assert request.done


def test_an_unanswered_request_is_repeated_and_then_fails() -> None:
    for caps in ((), ALL):
        peer = ready(*caps, reply_timeout_ms=1_000)
        request = peer.session.subscribe(["A"], peer.now)
        peer.act()
        for _ in range(29):
            peer.advance(100)
            peer.say("weather")
        assert len(peer.requests) == 3
        peer.advance(100)
        assert request.done
        assert request.error is not None
        assert request.error.code == "REPLY_TIMEOUT"
        assert peer.session.desired == ("A",)


@pytest.mark.parametrize("caps", [(), ("details",), ("resume", "details")])
def test_an_answer_in_a_gap_is_asked_for_at_once(caps: tuple[str, ...]) -> None:
    peer = ready(*caps)
    request = peer.session.subscribe(["DOGE"], peer.now)
    peer.act()
    peer.number += 1  # the answer is lost …
    if "resume" in caps:
        peer.say("gap", sequence=peer.number, **{"from": 2, "to": 2, "cause": "evicted", "repair": "snapshot"})
    else:
        peer.value("a-DOGE", "1", 1)  # … and what follows it is nobody's
        peer.advance(2_000)
    assert [type(event) for event in peer.events()] == [Gap]
    assert len(peer.requests) == 2
    peer.accept("a-DOGE")
    assert request.accepted == {"DOGE": "a-DOGE"}
    peer.value("a-DOGE", "1", 1)
    assert peer.values() == [("Snapshot", "DOGE", "1")]
    peer.advance(9_000)
    assert len(peer.requests) == 2


def test_a_gap_between_request_and_answer_does_not_mix_up_two_answers() -> None:
    peer = ready()
    first = peer.session.subscribe(["A"], peer.now)
    peer.act()
    peer.say("token_update", peer.number + 2, **update("a-Z"))
    peer.number += 2
    peer.advance(2_000)  # the gap: asked again, but the first answer was only slow
    second = peer.session.subscribe(["B"], peer.now)
    peer.act()
    peer.accept("a-A")
    peer.accept("a-A")
    peer.accept("a-B")
    assert (first.accepted, second.accepted) == ({"A": "a-A"}, {"B": "a-B"})


def test_requests_keep_within_what_the_server_takes() -> None:
    names = [f"{number:0200}" for number in range(100)]
    peer = ready(*ALL)
    peer.session.subscribe(names, peer.now)
    peer.act()
    assert len(peer.requests) == 1
    peer = Peer().start().greet(*ALL, maxMessageBytes=16_384)
    peer.session.subscribe(names, peer.now)
    peer.advance(5_000)
    assert len(peer.requests) == 5
    assert [name for request in peer.requests for name in request["tokens"]] == names
