"""What an application wants outlives requests, connections and sessions (I-23, I-53)."""

from tokenwire.events import Error

from .peer import ALL, Peer, live
from .test_requests import ready


def test_wishes_before_the_connection_are_asked_for_then() -> None:
    peer = Peer().start()
    first = peer.session.subscribe(["A", "B"], peer.now)
    peer.session.subscribe(["C"], peer.now)
    gone = peer.session.unsubscribe(["B"], peer.now)
    assert gone.done
    peer.greet(*ALL)
    assert peer.requests == [{"action": "subscribe", "tokens": ["A", "C"], "requestId": peer.requests[0]["requestId"]}]
    peer.accept("a-A", "a-C")
    assert first.done
    assert first.accepted == {"A": "a-A"}
    assert first.rejected == {"B": "CANCELLED"}


def test_two_names_one_token() -> None:
    peer = live("DOGE", caps=ALL)
    second = peer.session.subscribe(["doge"], peer.now)
    peer.act()
    peer.accept("a-DOGE")
    assert second.accepted == {"doge": "a-DOGE"}
    count = len(peer.requests)
    assert peer.session.unsubscribe(["DOGE"], peer.now).done
    peer.act()
    assert len(peer.requests) == count
    peer.value("a-DOGE", "1", 1)
    assert [name for _, name, _ in peer.values()] == ["doge"]
    peer.session.unsubscribe(["doge"], peer.now)
    peer.act()
    assert peer.requests[-1]["tokens"] == ["a-DOGE"]


def test_a_token_dropped_for_one_name_is_taken_back_for_the_other() -> None:
    peer = ready(*ALL)
    peer.session.subscribe(["DOGE"], peer.now)
    peer.session.subscribe(["a1"], peer.now)
    peer.session.unsubscribe(["DOGE"], peer.now)  # its address is not known yet, so it goes out by name
    peer.act()
    answered = 0
    while answered < len(peer.requests):
        asked = peer.requests[answered]
        answered += 1
        peer.accept(*dict.fromkeys("a1" for _ in asked["tokens"]), request=asked)
        peer.value("x")
    assert peer.requests[-1] | {"requestId": ""} == {"action": "subscribe", "tokens": ["a1"], "requestId": ""}
    assert answered < 10


def test_unconfirmed_requests_are_asked_again_on_a_new_session() -> None:
    for caps in ((), ALL):
        peer = ready(*caps)
        subscribe = peer.session.subscribe(["A"], peer.now)
        peer.act()
        peer.cut(4003)
        peer.back()
        peer.greet(*caps)
        assert peer.requests[-1]["tokens"] == ["A"]
        peer.accept("a-A")
        assert subscribe.accepted == {"A": "a-A"}


def test_refusals_that_may_pass_are_tried_again_at_the_next_connection() -> None:
    peer = ready(*ALL)
    peer.session.subscribe(["soon", "bad"], peer.now)
    peer.act()
    asked = peer.requests[-1]
    rejected = [{"token": "soon", "code": "TOKEN_NOT_FOUND"}, {"token": "bad", "code": "AMBIGUOUS_TOKEN"}]
    peer.say(
        "subscription",
        action="subscribe",
        tokens=["soon", "bad"],
        status="error",
        requestId=asked["requestId"],
        rejected=rejected,
    )
    peer.advance(5_000)
    assert len(peer.requests) == 1
    peer.cut()
    peer.back()
    peer.greet(*ALL, reason="unknown_session")
    assert peer.requests[-1]["tokens"] == ["soon"]


def test_an_address_that_is_gone_is_looked_up_by_name() -> None:
    peer = live("DOGE")
    peer.cut()
    peer.back()
    peer.greet(*ALL, reason="unknown_session")
    assert peer.requests[-1]["tokens"] == ["a-DOGE"]
    peer.refuse("a-DOGE", code="TOKEN_NOT_FOUND")
    assert peer.requests[-1]["tokens"] == ["DOGE"]
    peer.accept("b-DOGE")
    peer.value("b-DOGE", "1", 1)
    assert peer.values() == [("Snapshot", "DOGE", "1")]


def test_confirmed_tokens_come_first_when_asking_again() -> None:
    peer = live("A", "B")
    peer.cut(4003)
    peer.session.subscribe(["0"], peer.now)
    peer.back()
    peer.greet(*ALL)
    assert peer.requests[-1]["tokens"] == ["a-A", "a-B", "0"]


def test_late_and_foreign_answers_do_no_harm() -> None:
    peer = live("A")
    count = len(peer.requests)
    peer.say("subscription", action="subscribe", tokens=["zz"], status="success", requestId="r999")
    assert [event.code for event in peer.take(Error)] == ["INVALID_SERVER_MESSAGE"]
    assert len(peer.requests) == count
    peer.say("subscription", action="subscribe", tokens=["zz"], status="success", requestId="r1")
    assert peer.requests[-1]["action"] == "unsubscribe"  # nobody wants what a late answer names
    assert peer.requests[-1]["tokens"] == ["zz"]
    peer.value("zz", "1", 1)
    assert peer.values() == []


def test_every_request_ends_when_the_client_does() -> None:
    peer = live("A", max_retries=0)
    requests = [peer.session.subscribe(["B"], peer.now), peer.session.unsubscribe(["A"], peer.now)]
    peer.cut()
    assert all(request.done and request.error is peer.session.failure for request in requests)
