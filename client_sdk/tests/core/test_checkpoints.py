"""A process that goes on where an earlier one stopped (I-54, I-55)."""

import pytest

from tokenwire.checkpoint import Checkpoint
from tokenwire.errors import CheckpointError
from tokenwire.events import Connected, Gap, Reconnecting, Resumed, Snapshot, Update

from .peer import ALL, Peer, live, update
from .test_resume import query, resumed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"position":-1}',
        '{"position":"1"}',
        '{"format":2}',
        '{"attempt":-1}',
        b"\xff\xfe",
        "[" * 100_000,
        '{"position":9007199254740993}',
    ],
)
def test_nonsense_is_no_checkpoint(text: str | bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.from_json(text)
    assert isinstance(caught.value, ValueError)
    assert caught.value.code == "INVALID_CHECKPOINT"


def test_a_checkpoint_survives_its_text() -> None:
    made = Checkpoint(session="s", position=7, attempt=3, stream="m", names={"A": "a", "B": None}, versions={"a": 2})
    assert Checkpoint.from_json(made.to_json()) == made
    assert Checkpoint.from_json(made.to_json().encode()) == made


def test_a_new_process_goes_on_after_what_was_taken() -> None:
    peer = live("A", "B")
    peer.value("a-A", "1", 1)
    peer.value("a-B", "1", 1)
    peer.value("a-A", "2", 2)
    taken = [peer.session.next_event(), peer.session.next_event()]
    assert None not in taken
    saved = Checkpoint.from_json(peer.session.checkpoint().to_json())
    assert saved.position == peer.number - 1
    assert saved.versions == {"a-A": 1, "a-B": 1}
    other = Peer(checkpoint=saved).start()
    assert other.session.desired == ("A", "B")
    assert other.connects[0].headers == (("X-Tokenwire-Session", "secret-1"),)
    assert query(other)["seq"] == [str(saved.position)]
    assert int(query(other)["attempt"][0]) > saved.attempt
    other.number = saved.position
    resumed(other, saved.position + 1, "a-A", "a-B")
    other.number = saved.position
    other.value("a-A", "2", 2)
    first, second = other.events()
    assert isinstance(first, Resumed)
    assert (second.quote.name, second.quote.price, second.missed) == ("A", "2", 0)
    # B's value was taken by the process before: it is fetched for `latest`, and is no event.
    assert [(one["action"], one["tokens"]) for one in other.requests] == [("subscribe", ["a-B"])]
    other.number = saved.position + 1
    other.accept("a-B")
    other.value("a-B", "1", 1)
    assert other.events() == []
    assert other.session.latest["B"].price == "1"


def test_a_checkpoint_within_a_batch_takes_the_rest_of_it() -> None:
    peer = live("A", "B")
    peer.say("token_batch", updates=[update("a-A", "1", 1), update("a-B", "1", 1)])
    peer.session.next_event()
    saved = peer.session.checkpoint()
    other = Peer(checkpoint=saved).start()
    other.number = saved.position
    resumed(other, saved.position + 1, "a-A", "a-B")
    other.number = saved.position
    other.say("token_batch", updates=[update("a-A", "1", 1), update("a-B", "1", 1)])
    assert other.values() == [("Snapshot", "B", "1")]


def test_a_checkpoint_before_the_new_session_was_noticed() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1)
    last = peer.number
    peer.cut()
    peer.back()
    peer.greet(*ALL, reason="unknown_session", session="secret-2")
    assert peer.session.checkpoint().position == last - 1
    assert isinstance(peer.session.next_event(), Snapshot)
    assert isinstance(peer.session.next_event(), Reconnecting)
    before = peer.session.checkpoint()
    assert (before.session, before.position) == ("secret-1", last)
    assert isinstance(peer.session.next_event(), Connected)
    after = peer.session.checkpoint()
    assert (after.session, after.position) == ("secret-2", 0)
    assert isinstance(peer.session.next_event(), Gap)
    assert peer.session.checkpoint().position == 1


def test_a_lost_session_after_a_restart_is_told() -> None:
    saved = Checkpoint(session="s", position=41, attempt=1, stream="m1", names={"A": "a-A"}, versions={"a-A": 5})
    peer = Peer(checkpoint=saved).start()
    peer.greet(*ALL, reason="unknown_session", session="s2")
    connected, gap = peer.events()
    assert connected.reason == "unknown_session"
    assert (gap.first, gap.last) == (42, None)
    assert "known" not in peer.requests[-1]  # the value is not at hand in this process
    peer.accept("a-A")
    peer.value("a-A", "5", 5)
    peer.value("a-A", "9", 9)
    assert peer.values() == [("Update", "A", "9")]
    assert peer.session.latest["A"].price == "9"


def test_ids_of_an_earlier_process_are_not_taken_for_own_ones() -> None:
    peer = live("A")
    other = Peer(checkpoint=peer.session.checkpoint()).start()
    request = other.session.subscribe(["B"], other.now)
    other.number = peer.number
    resumed(other, peer.number, "a-A")
    old = peer.requests[0]
    other.say("subscription", action="subscribe", tokens=["a-Z"], status="success", requestId=old["requestId"])
    assert not request.done
    assert "B" not in request.accepted


def test_a_checkpoint_without_a_session_restores_the_wishes() -> None:
    peer = live("A", caps=())
    saved = peer.session.checkpoint()
    assert (saved.session, saved.position) == (None, 0)
    other = Peer(checkpoint=saved).start().greet()
    assert other.requests[-1]["tokens"] == ["a-A"]
    assert [type(event) for event in other.events()] == [Connected]


@pytest.mark.parametrize("caps", [(), ("batch",), ("details",), ("resume", "details"), ALL])
@pytest.mark.parametrize("outcome", ["resumed", "evicted", "unknown", "new stream"])
def test_values_are_at_hand_after_a_restart(caps: tuple[str, ...], outcome: str) -> None:
    peer = live("A", caps=caps)
    peer.value("a-A", "5", 7)
    assert len(peer.take(Snapshot)) == 1
    other = Peer(checkpoint=peer.session.checkpoint()).start()
    assert (other.connects[0].headers != ()) == ("resume" in caps)
    assert "A" not in other.session.latest
    held = [{"token": "a-A", "channels": ["token"]}]
    if "resume" not in caps or outcome in {"unknown", "new stream"}:
        other.greet(*caps, **({"stream": "m2"} if outcome == "new stream" else {}))
    elif outcome == "resumed":
        other.greet(*caps, sequence=peer.number, resumed=True, subscriptions=held)
    else:
        other.greet(*caps, reason="position_evicted", subscriptions=held)
    if "resume" in caps and outcome == "evicted":
        assert other.requests == []  # its values come unasked
    else:
        (request,) = other.requests
        assert request["tokens"] == ["a-A"]
        assert "known" not in request
        other.accept("a-A")
    other.value("a-A", "5", 7)
    assert other.session.latest["A"].price == "5"
    is_news = "details" not in caps or outcome == "new stream"
    assert len(other.take(Snapshot, Update)) == is_news  # with versions it is known to have been taken before
    other.value("a-A", "6", 8)
    assert [event.quote.price for event in other.take(Snapshot, Update)] == ["6"]
