"""Tokens that were accepted once and are refused later: told, kept, and asked for again."""

import pytest

from tokenwire.events import Error

from .peer import ALL, Peer, live


def again(peer: Peer, code: int = 1012, **greeting: int) -> None:
    peer.cut(code)
    peer.back()
    peer.greet(*ALL, reason="unknown_session", **greeting)
    peer.events()


def refusals(peer: Peer) -> list[tuple[str, tuple[str, ...]]]:
    return [(event.code, event.names) for event in peer.take(Error)]


def partly(peer: Peer, accepted: str, refused: str, code: str) -> None:
    asked = peer.requests[-1]
    same = {"action": "subscribe", "requestId": asked["requestId"]}
    peer.say("subscription", **same, tokens=[accepted], status="success")
    rejected = [{"token": refused, "code": code}]
    peer.say("subscription", **same, tokens=[refused], status="error", rejected=rejected)


def alive(peer: Peer, ms: int) -> None:
    """Time passes on a socket that does not fall silent."""
    for _ in range(ms // 1_000):
        peer.advance(1_000)
        peer.session.alive(peer.now)


def test_a_smaller_limit_after_a_restart_ends_no_wish() -> None:
    peer = live("A", "B")
    again(peer, maxSubscriptions=1)
    partly(peer, "a-A", "a-B", "SUBSCRIPTION_LIMIT")
    assert refusals(peer) == [("SUBSCRIPTION_LIMIT", ("B",))]
    assert set(peer.session.desired) == {"A", "B"}
    count = len(peer.requests)
    alive(peer, 4_000)
    assert len(peer.requests) == count
    alive(peer, 2_000)
    assert peer.requests[-1]["tokens"] == ["a-B"]
    peer.accept("a-B")
    peer.value("a-B", "2", 2)
    assert peer.values() == [("Snapshot", "B", "2")]


@pytest.mark.parametrize("code", ["SUBSCRIPTION_LIMIT", "TOKEN_NOT_FOUND", "INVALID_TOKEN"])
def test_asking_again_becomes_slow_and_is_told_once(code: str) -> None:
    peer = live("A")
    again(peer)
    asked: list[int] = []
    for _ in range(300):
        if len(peer.requests) > len(asked):
            asked += [peer.now] * (len(peer.requests) - len(asked))
            peer.refuse(*peer.requests[-1]["tokens"], code=code)
            peer.act()
        alive(peer, 1_000)
    assert refusals(peer) == [(code, ("A",))]
    times = sorted(set(asked))
    steps = [round((later - earlier) / 1_000) for earlier, later in zip(times[-3:], times[-2:], strict=False)]
    assert steps == [60, 60]
    assert len(times) < 15


def test_each_new_session_asks_at_once() -> None:
    peer = live("A", "B")
    for _ in range(3):
        again(peer)
        assert peer.requests[-1]["tokens"] == ["a-A", "a-B"]
        partly(peer, "a-A", "a-B", "SUBSCRIPTION_LIMIT")
        peer.events()


def test_another_refusal_after_it_was_accepted_is_told_again() -> None:
    peer = live("A")
    for _ in range(2):
        again(peer)
        peer.refuse("a-A", code="SUBSCRIPTION_LIMIT")
        assert refusals(peer) == [("SUBSCRIPTION_LIMIT", ("A",))]
        alive(peer, 6_000)
        peer.accept("a-A")


def test_a_name_never_accepted_is_forgotten_as_before() -> None:
    peer = live()
    peer.session.subscribe(["A"], peer.now)
    peer.act()
    peer.refuse("A", code="SUBSCRIPTION_LIMIT")
    assert peer.session.desired == ()
    assert refusals(peer) == []
    count = len(peer.requests)
    alive(peer, 100_000)
    assert len(peer.requests) == count


def test_a_refused_name_can_be_given_up() -> None:
    peer = live("A")
    again(peer)
    peer.refuse("a-A", code="SUBSCRIPTION_LIMIT")
    request = peer.session.unsubscribe(["A"], peer.now)
    peer.act()
    peer.accept("a-A")
    assert request.done
    count = len(peer.requests)
    alive(peer, 100_000)
    assert len(peer.requests) == count
