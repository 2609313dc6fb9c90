"""Channels: every event once and in order, the newest state (I-60)."""

import pytest

from tokenwire_server.core.grants import Offer

from .conftest import Bench, Client, codes, kinds
from .topic_clients import CAPS, ask, numbers


@pytest.mark.parametrize("caps", [CAPS, "channels"])
def test_events_come_all_and_in_order(bench: Bench, caps: str) -> None:
    client = ask(bench, "trades", caps=caps, tokens=("token0", "token1"))
    client.read()
    bench.happen("token0", 2)
    bench.happen("token1")
    bench.happen("token0")
    bench.flush_topics()
    messages = client.read()
    assert numbers(messages) == [("token0", 1), ("token0", 2), ("token1", 1), ("token0", 3)]
    assert kinds(messages) == (["transaction_batch"] if "batch" in caps else ["transaction"] * 4)
    bench.flush_topics()
    bench.tick()
    assert client.read() == []


def test_of_a_state_the_newest_is_sent_after_its_gap(bench: Bench) -> None:
    client = ask(bench, "state")
    assert kinds(client.read()) == ["subscription"], "there is no state yet"
    for _ in range(3):
        bench.turn("token0")
    bench.flush_topics()
    assert numbers(client.read(), "kline") == [("token0", 3)]
    bench.turn("token0")
    bench.flush_topics()
    bench.turn("token0")
    bench.flush_topics()
    assert client.read() == [], "within 250 ms"
    bench.flush_topics(200)
    assert numbers(client.read(), "kline") == [("token0", 5)]
    bench.flush_topics(300)
    assert client.read() == [], "it did not change"


def test_whoever_subscribes_gets_the_state_at_once(bench: Bench) -> None:
    bench.turn("token0")
    client = ask(bench, "state", "token")
    messages = client.read()
    assert kinds(messages) == ["subscription", "token_batch", "kline"]
    assert messages[0]["data"]["channels"] == ["state", "token"]


def test_who_comes_while_a_state_is_not_due_gets_it_when_it_is(bench: Bench) -> None:
    first = ask(bench, "state")
    bench.turn("token0")
    bench.flush_topics()
    first.read()
    second, _ = bench.ask(CAPS)
    second.subscribe("token0", channels=["state"])
    assert kinds(second.read()) == ["subscription"], "the first would get the next state too soon"
    bench.flush_topics(200)
    assert second.read() == []
    bench.flush_topics()
    assert numbers(second.read(), "kline") == [("token0", 1)]
    assert first.read() == [], "it has this one"
    third, _ = bench.ask(CAPS)
    third.subscribe("token0", channels=["state"])
    third.subscribe("token0", action="unsubscribe")
    fourth, _ = bench.ask(CAPS)
    fourth.subscribe("token0", channels=["state"])
    bench.turn("token0")
    bench.flush_topics(250)
    assert [numbers(client.read(), "kline") for client in (first, second, third, fourth)] == [
        *([("token0", 2)],) * 2,
        [],
        [("token0", 2)],
    ]


def test_a_reader_who_lagged_does_not_get_one_state_twice(bench: Bench) -> None:
    client = ask(bench, "state")
    client.read()
    bench.hub.pause(client.link, bench.now)
    bench.turn("token0")
    bench.flush_topics()
    bench.turn("token0")
    assert client.read() == []
    bench.flush_topics(300)
    assert numbers(client.read(), "kline") == [("token0", 2)]


def test_events_go_before_the_state_that_follows_them(bench: Bench) -> None:
    client = ask(bench, "both")
    client.read()
    bench.turn("token0")
    bench.happen("token0")
    bench.flush_topics()
    assert numbers(client.read(), "kline") == [("token0", 1), ("token0", 1)]


def test_a_slow_reader_gets_every_event_and_the_newest_state(bench: Bench) -> None:
    client = ask(bench, "trades", "state")
    client.read()
    bench.hub.pause(client.link, bench.now)
    for _ in range(5):
        bench.happen("token0")
        bench.turn("token0")
        bench.flush_topics(300)
    messages = client.read()
    assert numbers(messages) == [("token0", number) for number in range(1, 6)]
    assert numbers(messages, "kline") == [("token0", 5)]
    bench.happen("token0")
    bench.flush_topics()
    assert numbers(client.read()) == [("token0", 6)], "and it is live again"


def test_a_defect_of_a_state_costs_nobody_else_anything(bench: Bench) -> None:
    client = ask(bench, "state", "trades", tokens=("token0", "token1"))
    client.read()

    def broken(details: bool) -> bytes:
        raise RuntimeError

    bench.directory.topics["token0", "state"].state = broken
    bench.turn("token0")
    bench.turn("token1")
    bench.happen("token0")
    bench.flush_topics()
    messages = client.read()
    assert numbers(messages) == [("token0", 1)]
    assert numbers(messages, "kline") == [("token1", 1)]
    assert bench.hub.stats.bad_rows == 1


def test_a_flush_that_breaks_off_leaves_nobody_without_an_event(bench: Bench) -> None:
    clients = [ask(bench, "trades") for _ in range(3)]
    other = ask(bench, "trades", "state")
    for client in (*clients, other):
        client.read()
    bench.happen("token0", 2)
    sending = bench.hub.flush_topics(bench.now, 1_700_000_000_000)
    write, data = next(sending)
    write(data)
    sending.close()
    bench.flush()
    for client in (*clients, other):
        assert numbers(client.read()) == [("token0", 1), ("token0", 2)]


def test_what_a_session_still_waits_for_is_not_overtaken(bench: Bench) -> None:
    clients = [ask(bench, "trades") for _ in range(2)]
    for client in clients:
        client.read()
    bench.happen("token0")
    sending = bench.hub.flush_topics(bench.now, 1_700_000_000_000)
    next(sending)[0](b"")  # reached, and its bytes lost: only the other one matters here
    sending.close()
    missed = next(client for client in clients if client.link.session.stream)
    bench.happen("token0")
    for write, data in bench.hub.flush_topics(bench.now, 1_700_000_000_000):  # before it was pumped
        if write == missed.socket.write:
            write(data)
    bench.flush()
    assert numbers(missed.read()) == [("token0", 1), ("token0", 2)]


def test_compressed_events_do_not_spoil_the_window_of_the_values(bench: Bench) -> None:
    names = [f"token{number}" for number in range(40)]
    for name in names[5:]:
        bench.add(name)
    clients = [Client(bench, True, Offer(frozenset({"batch", "channels"}))) for _ in range(2)]
    for client in clients:
        client.subscribe(*names)
    clients[0].subscribe("token0", channels=["trades"])
    for round_number in range(6):
        for client in clients:
            client.read()
        for name in names:
            bench.change(name)
        if round_number % 2:
            bench.happen("token0", 30)
            bench.flush_topics()
        bench.tick()
    for client in clients:
        assert len(client.read()[-1]["data"]["updates"]) == 40


def test_the_bound_of_events_is_for_each_flush(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire_server.core.topics.MAX_STREAM_LOG_BYTES", 1_000)
    torn = ask(bench, "trades")
    bench.happen("token0", 20)
    bench.flush_topics()
    assert torn.link.close_with is not None
    client = ask(bench, "trades")
    client.read()
    for _ in range(10):
        bench.happen("token0", 2)
        bench.flush_topics()
    assert len(numbers(client.read())) == 20


def test_a_batch_of_events_has_its_bounds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ask(bench, "trades")
    client.read()
    bench.happen("token0", 2_500)
    bench.flush_topics()
    messages = client.read()
    assert [len(message["data"]["transactions"]) for message in messages] == [1_000, 1_000, 500]
    monkeypatch.setattr("tokenwire_server.core.topic_delivery.MAX_BATCH_BYTES", 1_000)
    bench.happen("token0", 30)
    bench.flush_topics()
    assert sum(len(message["data"]["transactions"]) for message in client.read()) == 30
    assert max(len(frame.data) for frame in client.frames[-4:]) < 1_200


def test_topics_are_idle_once_their_last_session_has_ended(bench: Bench) -> None:
    first, second = (ask(bench, "trades", caps="channels") for _ in range(2))
    bench.lose(first)
    assert bench.directory.idle == []
    bench.lose(second)
    assert bench.directory.idle == [("token0", "trades", True)]
    assert (len(bench.hub.topics), bench.hub.topics.subscriptions) == (0, 0)


def test_no_heartbeat_is_due_where_events_are_sent(bench: Bench) -> None:
    client = ask(bench, "trades", caps="channels,heartbeat")
    client.read()
    for _ in range(8):
        bench.happen("token0")
        bench.flush_topics()
        client.link.last_byte_ms = bench.now
        bench.pass_time(5_000)
    assert set(kinds(client.read())) == {"transaction"}


def test_values_and_states_have_their_share_while_events_wait(bench: Bench) -> None:
    client = ask(bench, "trades", "token", "state", tokens=("token0", "token1"))
    client.read()
    bench.hub.pause(client.link, bench.now)
    bench.change("token0")
    bench.turn("token1")
    bench.happen("token0", 1_500)
    bench.tick()
    bench.flush_topics()
    seen = b""
    for _ in range(30):
        bench.happen("token0", 700)
        bench.flush_topics()
        if not client.link.writable:
            seen += bytes(client.socket.buffer)
            client.socket.buffer.clear()
            bench.hub.resume(client.link, bench.now)
            bench.flush()
    assert b'"token_batch"' in seen
    assert b'"kline"' in seen


def test_who_holds_only_channels_is_told_of_their_sources(bench: Bench) -> None:
    client = ask(bench, "trades", "state")
    client.read()
    bench.hub.source_lost("test", bench.now)
    bench.flush()
    assert codes(client.read()) == ["UPSTREAM_UNAVAILABLE"]
    bench.hub.source_lost("another", bench.now)
    bench.flush()
    assert codes(client.read()) == []


def test_a_flush_that_breaks_off_leaves_everybody_able_to_decode(bench: Bench) -> None:
    names = [f"token{number}" for number in range(40)]
    for name in names[5:]:
        bench.add(name)
    clients = [Client(bench, True, Offer(frozenset({"batch", "channels"}))) for _ in range(3)]
    for client in clients:
        client.subscribe(*names)
        client.subscribe("token0", channels=["trades"])
    for round_number in range(8):
        for name in names:
            bench.change(name)
        bench.tick()
        for client in clients:
            assert len(client.read()[-1]["data"]["updates"]) == 40
        if round_number == 4:
            bench.happen("token0", 30)
            sending = bench.hub.flush_topics(bench.now, 1_700_000_000_000)
            write, data = next(sending)
            write(data)
            sending.close()
            bench.flush()


def test_a_heartbeat_is_due_to_who_got_nothing(bench: Bench) -> None:
    bench.turn("token0")
    client, _ = bench.ask(CAPS + ",heartbeat")
    client.subscribe("token0", channels=["state"])
    client.read()
    heard = []
    for _ in range(5):
        bench.pass_time(5_000)
        for _ in range(2):
            other, _ = bench.ask(CAPS)
            other.subscribe("token0", channels=["state"])
            other.link.last_byte_ms = bench.now
        bench.flush_topics(300)
        client.link.last_byte_ms = bench.now
        heard += client.read()
    assert "heartbeat" in kinds(heard)


def test_who_comes_in_the_middle_of_a_long_gap_does_not_wait_for_its_end(bench: Bench) -> None:
    bench.turn("token0")
    ask(bench, "state")
    bench.directory.topics["token0", "state"].gap_ms = 60_000
    bench.turn("token0")
    bench.flush_topics(300)
    client, _ = bench.ask(CAPS)
    client.subscribe("token0", channels=["state"])
    assert kinds(client.read()) == ["subscription", "kline"]
