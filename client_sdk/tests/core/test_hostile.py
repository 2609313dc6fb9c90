"""Servers that lie, babble or break off: never an exception, never for ever (Spec, Error Handling)."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire.events import Error, Reconnecting
from tokenwire.states import ConnectionState

from .peer import ALL, Peer, live, update

GARBAGE: list[Any] = [
    "",
    "garbage",
    "{",
    "[]",
    "null",
    "17",
    '"text"',
    "[" * 100_000,
    "\ud800",
    b"\x00binary",
    {},
    {"type": "token_update"},
    {"type": 5, "sequence": 9, "timestamp": 1, "data": {}},
    {"type": "token_update", "sequence": "9", "timestamp": 1, "data": {}},
    {"type": "token_update", "sequence": -4, "timestamp": 1, "data": update("a-A")},
    {"type": "token_update", "sequence": 0, "timestamp": 1, "data": update("a-A")},
    {"type": "token_update", "sequence": 2**53, "timestamp": 1, "data": update("a-A")},
    {"type": "token_update", "sequence": 2**70, "timestamp": 1, "data": update("a-A")},
    {"type": "weather", "sequence": 0, "timestamp": 1, "data": {}},
    {"type": "heartbeat", "sequence": -1, "timestamp": 1, "data": {}},
    {"type": "heartbeat", "sequence": 2**60, "timestamp": 1, "data": {}},
    {"type": "heartbeat", "sequence": 3, "timestamp": 1, "data": []},
    {"type": "gap", "sequence": 3, "timestamp": 1, "data": {"from": 1}},
    {
        "type": "connection",
        "sequence": 3,
        "timestamp": 1,
        "data": {"status": "connected", "connectionId": "c", "maxSubscriptions": 1, "resumed": True},
    },
]


@pytest.mark.parametrize("message", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("caps", [(), ALL])
def test_garbage_is_an_event_and_the_stream_goes_on(message: Any, caps: tuple[str, ...]) -> None:
    peer = live("A", caps=caps)
    peer.raw(message)
    (event,) = peer.events()
    assert isinstance(event, Error)
    assert (event.code, event.level) == ("INVALID_SERVER_MESSAGE", "error")
    assert event.action
    assert not peer.closes
    peer.value("a-A", "1", 1)
    assert len(peer.values()) == 1


def test_a_numbered_message_of_the_wrong_shape_keeps_its_number() -> None:
    peer = live("A")
    peer.say("token_update", address="a-A", price=5, marketCap="0", volume={})
    assert [event.code for event in peer.take(Error)] == ["INVALID_SERVER_MESSAGE"]
    peer.value("a-A", "1", 1)
    assert len(peer.values()) == 1


def test_a_new_message_under_an_old_number() -> None:
    peer = live("A", caps=())
    peer.value("a-A", "1")
    peer.events()
    peer.advance(10)
    peer.value("a-A", "2", sequence=1)
    assert [event.code for event in peer.take(Error)] == ["INVALID_SERVER_MESSAGE"]
    assert peer.session.latest["A"].price == "1"


def test_events_about_garbage_are_coalesced() -> None:
    peer = live("A")
    for _ in range(5):
        peer.raw("junk")
    assert len(peer.take(Error)) == 1
    peer.advance(999)
    assert not peer.take(Error)
    peer.advance(1)
    (event,) = peer.take(Error)
    assert "(4 such messages)" in event.message
    assert peer.session.metrics.invalid_messages == 5


def test_the_tenth_within_a_minute_ends_the_socket() -> None:
    peer = live("A")
    for count in range(10):
        assert not peer.closes, count
        peer.raw("junk")
        peer.advance(100)
    assert [close.code for close in peer.closes] == [1002]
    assert peer.session.state is ConnectionState.RECONNECTING
    assert peer.take(Reconnecting)[0].delay_ms == 1000


def test_ten_over_a_longer_time_do_not() -> None:
    peer = live("A")
    for _ in range(30):
        peer.raw("junk")
        peer.advance(7_000)
    assert not peer.closes


def test_a_server_that_only_babbles_fails_in_the_end() -> None:
    peer = Peer(max_retries=3).start()
    for _ in range(4):
        peer.open()
        for _ in range(10):
            peer.raw("junk")
        if peer.session.state is not ConnectionState.FAILED:
            peer.back()
    assert peer.session.state is ConnectionState.FAILED


def test_data_before_the_greeting_is_not_taken() -> None:
    peer = Peer().start().open()
    peer.value("x", "1")
    assert [event.code for event in peer.take(Error)] == ["INVALID_SERVER_MESSAGE"]
    peer.advance(5_000)
    assert [close.code for close in peer.closes] == [1002]


def test_a_message_beyond_the_limit() -> None:
    peer = live("A")
    peer.raw("x" * 1_048_577)
    assert [close.code for close in peer.closes] == [1009]


def test_capabilities_that_were_not_asked_for_are_not_used() -> None:
    peer = Peer(capabilities=("batch",)).start().greet(*ALL)
    peer.session.subscribe(["A"], peer.now)
    peer.act()
    assert "requestId" not in peer.requests[-1]
    peer.cut()
    assert peer.back().headers == ()


def test_endless_subscriptions_cost_nothing() -> None:
    peer = live("A")
    for index in range(5_000):
        peer.say("subscription", action="subscribe", tokens=[f"z{index}"], status="success")
    assert len(peer.session._table.tokens) == 1
    assert len(peer.session._subscriptions.exchanges.queue) <= 5


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
TYPES = [
    "connection",
    "token_update",
    "token_batch",
    "subscription",
    "error",
    "heartbeat",
    "gap",
    "transaction",
    "kline",
    "x",
]
FIELDS = [
    "address",
    "price",
    "updates",
    "status",
    "action",
    "tokens",
    "code",
    "message",
    "level",
    "from",
    "to",
    "cause",
    "repair",
    "resumed",
    "session",
    "capabilities",
    "subscriptions",
    "requestId",
    "rejected",
    "echo",
    "maxSubscriptions",
    "connectionId",
    "version",
    "volume",
]
MESSAGES = st.builds(
    lambda kind, number, stamp, data: {"type": kind, "sequence": number, "timestamp": stamp, "data": data},
    st.sampled_from(TYPES),
    st.integers(-2, 12) | SHAPES,
    st.integers(0, 10) | SHAPES,
    st.dictionaries(
        st.sampled_from(FIELDS),
        SHAPES | st.sampled_from(["success", "error", "subscribe", "fatal", "connected", "a-A", "snapshot", ["a-A"]]),
        max_size=6,
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    messages=st.lists(MESSAGES.map(json.dumps) | st.text(max_size=20) | st.binary(max_size=20), max_size=25),
    greeted=st.booleans(),
)
def test_nothing_a_server_sends_raises(messages: list[str | bytes], greeted: bool) -> None:
    peer = live("A") if greeted else Peer().start().open()
    for message in messages:
        peer.raw(message)
        peer.advance(100)
    peer.advance(100_000)
    peer.events()


def test_mutated_conversations_never_raise() -> None:
    chance = random.Random(7)
    whole = [
        {
            "type": "connection",
            "sequence": 1,
            "timestamp": 1,
            "data": {
                "status": "connected",
                "connectionId": "c",
                "maxSubscriptions": 9,
                "capabilities": list(ALL),
                "session": "s",
                "stream": "m",
                "subscriptions": [],
            },
        },
        {
            "type": "subscription",
            "sequence": 2,
            "timestamp": 2,
            "data": {"action": "subscribe", "tokens": ["a-A"], "status": "success", "requestId": "r1"},
        },
        {"type": "token_batch", "sequence": 3, "timestamp": 3, "data": {"updates": [update("a-A", "1", 4)]}},
        {
            "type": "gap",
            "sequence": 9,
            "timestamp": 3,
            "data": {"from": 4, "to": 9, "cause": "evicted", "repair": "snapshot"},
        },
        {"type": "heartbeat", "sequence": 9, "timestamp": 4, "data": {"echo": "p1"}},
        {
            "type": "error",
            "sequence": 10,
            "timestamp": 4,
            "data": {"code": "RATE_LIMITED", "message": "m", "level": "error", "retryAfterMs": 5},
        },
    ]
    for _ in range(2_000):
        peer = Peer(random=chance.random).start().open()
        peer.session.subscribe(["A"], peer.now)
        for message in whole:
            text = json.dumps(message)
            for _ in range(chance.choice((0, 0, 1, 3))):
                at = chance.randrange(len(text))
                text = text[:at] + chance.choice('0123456789{}[]",:-eE.x') + text[at + chance.choice((0, 1)) :]
            peer.raw(text)
        peer.advance(30_000)
