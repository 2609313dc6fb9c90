"""Channels: what was missed comes back, within bounds, or is said to be lost (I-60)."""

import pytest

from tokenwire_schemas import limits

from .conftest import Bench, kinds
from .topic_clients import CAPS, ask, numbers


def test_events_wait_for_a_client_that_is_away_and_what_was_lost_is_replayed(bench: Bench) -> None:
    client, data = bench.ask(CAPS)
    client.subscribe("token0", channels=["trades"])
    client.read()
    position = client.last
    bench.happen("token0", 2)
    bench.flush_topics()  # sent, and lost on the way
    bench.lose(client)
    bench.happen("token0", 3)
    bench.flush_topics()
    again, data = bench.ask(CAPS, session=data["session"], position=position)
    assert data["resumed"] is True
    assert data["subscriptions"] == [{"token": "token0", "channels": ["trades"]}]
    assert numbers(again.read()) == [("token0", number) for number in range(1, 6)]


def test_a_new_session_after_an_evicted_position_holds_the_same_channels(bench: Bench) -> None:
    client, data = bench.ask(CAPS)
    client.subscribe("token0", channels=["trades", "token"])
    client.read()
    position = client.last
    for _ in range(limits.RESUME_MAX_FRAMES + 5):
        bench.happen("token0")
        bench.flush_topics()
        client.read()
    bench.lose(client)
    again, data = bench.ask(CAPS, session=data["session"], position=position)
    assert data["reason"] == "position_evicted"
    assert data["subscriptions"] == [{"token": "token0", "channels": ["token", "trades"]}]
    again.read()
    bench.happen("token0")
    bench.flush_topics()
    assert numbers(again.read()) == [("token0", limits.RESUME_MAX_FRAMES + 6)]
    assert bench.directory.idle == [], "its topic was never idle"


def test_an_overflow_of_events_ends_the_session_with_4003(bench: Bench) -> None:
    client = ask(bench, "trades")
    other = ask(bench, "trades")
    client.read()
    other.read()
    bench.hub.pause(client.link, bench.now)
    for _ in range(200):
        bench.happen("token0", 100)
        bench.flush_topics()
        other.read()
    assert client.link.close_with == (4003, "more than can be queued")
    bench.happen("token0")
    bench.flush_topics()
    assert numbers(other.read()) == [("token0", 20_001)], "nobody else is disturbed"


def test_more_events_at_once_than_can_be_kept_end_the_sessions_that_hold_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenwire_server.core.topics.MAX_STREAM_LOG_BYTES", 1_000)
    torn, sound = ask(bench, "trades"), ask(bench, "trades", tokens=("token1",))
    torn.read()
    sound.read()
    bench.happen("token1")
    bench.happen("token0", 20)
    bench.flush_topics()
    torn.read()
    assert torn.link.close_with == (4003, "more than can be queued")
    assert numbers(sound.read()) == [("token1", 1)]


def test_missed_events_are_brought_back_by_a_subscribe_that_says_what_is_known(bench: Bench) -> None:
    keeper = ask(bench, "trades")
    bench.happen("token0", 5)
    bench.flush_topics()
    bench.happen("token0", 2)  # not flushed yet
    client, _ = bench.ask(CAPS)
    client.subscribe("token0", channels=["trades"], after={"token0": 3}, stream="stream-1")
    assert numbers(client.read()) == [("token0", 4), ("token0", 5)]
    bench.flush_topics()
    assert numbers(client.read()) == [("token0", 6), ("token0", 7)]
    assert numbers(keeper.read())[-1] == ("token0", 7)
    other, _ = bench.ask(CAPS)
    other.subscribe("token0", channels=["trades"], after={"token0": 3}, stream="another")
    assert numbers(other.read()) == [], "numbers of another stream mean nothing"


def test_a_gap_says_that_events_must_be_fetched_and_states_follow(bench: Bench) -> None:
    client = ask(bench, "trades", "state")
    bench.turn("token0")
    bench.flush_topics()
    for _ in range(limits.RESUME_MAX_FRAMES):
        bench.happen("token0")
        bench.flush_topics(1)
        client.read()
    client.send({"type": "replay", "data": {"from": 1, "to": 2}})
    gap, state = client.read()
    assert gap["type"] == "gap"
    assert gap["data"]["repair"] == "rest"
    assert numbers([state], "kline") == [("token0", 1)]


def test_only_so_much_of_what_was_missed_is_brought_back(bench: Bench) -> None:
    keeper = ask(bench, "trades")
    bench.happen("token0", 10_000)
    bench.flush_topics()
    keeper.read()
    client, _ = bench.ask(CAPS)
    client.subscribe("token0", channels=["trades"], after={"token0": 1}, stream="stream-1")
    brought = numbers(client.read())
    assert brought == [("token0", number) for number in range(2, len(brought) + 2)]
    assert 4_000 < len(brought) < 6_000, "half a mebibyte"
    bench.happen("token0")
    bench.flush_topics()
    assert numbers(client.read()) == [("token0", 10_001)], "the hole shows"
    for _ in range(limits.INBOUND_BURST):
        client.subscribe("token0")
    answered = kinds(client.read()).count("subscription")
    assert 0 < answered < limits.INBOUND_BURST // 4, "it costs what it makes the server send"


def test_what_a_client_has_coming_is_not_brought_back_as_well(bench: Bench) -> None:
    client = ask(bench, "trades")
    client.read()
    bench.hub.pause(client.link, bench.now)
    bench.happen("token0", 3)
    bench.flush_topics()
    client.subscribe("token0", channels=["trades"], after={"token0": 0}, stream="stream-1")
    assert numbers(client.read()) == [("token0", 1), ("token0", 2), ("token0", 3)]


def test_what_is_brought_back_leaves_room_for_what_comes(bench: Bench) -> None:
    bench.directory.events.update(token0=700, token1=700)
    client, _ = bench.ask("channels,details")
    client.subscribe("token0", "token1", channels=["trades"], after={"token0": 0, "token1": 0}, stream="stream-1")
    bench.happen("token0")
    bench.flush_topics()
    assert client.link.close_with is None
    assert numbers(client.read())[-1] == ("token0", 701)


def test_a_burst_beyond_the_bound_is_written_to_nobody_at_once(bench: Bench) -> None:
    client = ask(bench, "trades")
    client.read()
    bench.happen("token0", 60_000)
    bench.now += 50
    written = sum(len(data) for _, data in bench.hub.flush_topics(bench.now, 1_700_000_000_000))
    assert written <= limits.RESUME_MAX_BYTES
    assert client.link.close_with == (4003, "more than can be queued")
