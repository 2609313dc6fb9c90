"""The hub in virtual time: what a strict client sees, whatever it asks for."""

import json

import pytest

from tokenwire_schemas import limits
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.hub import HubConfig

from .conftest import WALL, Bench, Client, codes, kinds


def test_the_first_message_is_the_connection(bench: Bench) -> None:
    client = Client(bench)
    (message,) = client.read()
    assert message["type"] == "connection"
    assert message["sequence"] == 1
    assert message["data"] == {
        "status": "connected",
        "connectionId": "00000000-0000-4000-8000-000000000000",
        "maxSubscriptions": 100,
    }


def test_a_value_follows_a_subscribe_at_once_and_then_every_tick_that_changed_it(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0")
    assert kinds(client.read()) == ["subscription", "token_update"]
    bench.tick()
    assert client.read() == []
    bench.change("token0", times=3)
    bench.change("token1")
    bench.tick()
    (update,) = client.read()
    assert update["data"]["price"] == "4"


def test_partial_failure_gives_each_outcome_its_reply(bench: Bench) -> None:
    bench.directory.symbols = {"TWIN": ["token1", "token2"], "ONE": ["token3"]}
    client = bench.client()
    client.subscribe("token0", "nobody", "ONE", 17, "TWIN", "token0", "\ud800", "")
    success, failure, *errors_and_updates = client.read()
    assert success["data"] == {"action": "subscribe", "tokens": ["token0", "token3"], "status": "success"}
    assert failure["data"]["tokens"] == ["nobody", "17", "TWIN", "\\ud800", ""]
    assert failure["data"]["status"] == "error"
    assert codes(errors_and_updates) == ["TOKEN_NOT_FOUND", "INVALID_TOKEN", "AMBIGUOUS_TOKEN"]
    assert "token1, token2" in errors_and_updates[2]["data"]["message"]
    assert kinds(errors_and_updates[3:]) == ["token_update", "token_update"]


def test_subscribing_again_sends_the_value_again(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0")
    client.read()
    client.subscribe("token0")
    assert kinds(client.read()) == ["subscription", "token_update"]
    assert bench.hub.sets.subscriptions == 1


def test_after_an_unsubscribe_nothing_of_the_token_comes(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0", "token1")
    client.read()
    bench.change("token0")
    bench.change("token1")
    client.subscribe("token0", "never-heard-of", action="unsubscribe")
    (reply,) = client.read()
    assert reply["data"] == {"action": "unsubscribe", "tokens": ["token0", "never-heard-of"], "status": "success"}
    bench.tick()
    assert [message["data"]["address"] for message in client.read()] == ["token1"]


def test_the_101st_token_is_refused_and_the_first_hundred_are_kept() -> None:
    bench = Bench(tokens=105)
    client = bench.client()
    client.subscribe(*(f"token{n}" for n in range(103)))
    messages = client.read()
    assert len(messages[0]["data"]["tokens"]) == 100
    assert messages[1]["data"]["tokens"] == ["token100", "token101", "token102"]
    assert codes(messages) == ["SUBSCRIPTION_LIMIT"]
    client.subscribe("token0", "token104")
    assert client.read()[0]["data"]["tokens"] == ["token0"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ("NaN", "INVALID_JSON"),
        ("[]", "INVALID_MESSAGE"),
        ('"text"', "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        ('{"type": 1}', "INVALID_MESSAGE"),
        ('{"type": "connection"}', "UNKNOWN_TYPE"),
        ('{"type": "subscription"}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "data": []}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "data": {"action": "watch", "tokens": ["a"]}}', "INVALID_ACTION"),
        ('{"type": "subscription", "data": {"action": "subscribe"}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "data": {"action": "subscribe", "tokens": []}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "data": {"action": "subscribe", "tokens": "a"}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "sequence": "1", "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "sequence": -1, "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "sequence": true, "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "sequence": 1e400, "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "sequence": ' + "9" * 10_000 + ', "data": {}}', "INVALID_MESSAGE"),
        ('{"type": "subscription", "timestamp": null, "data": {}}', "INVALID_MESSAGE"),
        (
            json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": ["a"] * 1001}}),
            "BATCH_LIMIT",
        ),
    ],
)
def test_a_bad_message_is_answered_and_survived(bench: Bench, text: str, code: str) -> None:
    client = bench.client()
    client.send(text)
    (error,) = client.read()
    assert error["data"]["code"] == code
    assert error["data"]["level"] == "error"
    client.subscribe("token0")
    assert kinds(client.read()) == ["subscription", "token_update"]


def test_the_tenth_protocol_error_within_a_minute_is_fatal(bench: Bench) -> None:
    client = bench.client()
    for _ in range(limits.PROTOCOL_ERRORS_MAX - 1):
        client.send("?")
        bench.now += 6_000
    assert codes(client.read()) == ["INVALID_JSON"] * 9
    bench.now += limits.PROTOCOL_ERRORS_WINDOW_MS - 9 * 6_000  # the first is just out of the window
    client.send("?")
    assert codes(client.read()) == ["INVALID_JSON"]
    client.send("?")
    error, connection = client.read()
    assert error["data"]["level"] == "fatal"
    assert connection["data"]["status"] == "error"
    assert client.closed_with == 4502


def test_a_skip_in_the_clients_own_numbers_is_told_once(bench: Bench) -> None:
    client = bench.client()
    for sequence in (7, 8, 10, 20):
        client.send(
            {"type": "subscription", "sequence": sequence, "data": {"action": "subscribe", "tokens": ["token0"]}}
        )
    assert codes(client.read()) == ["SEQUENCE_GAP"]


def test_the_client_beyond_the_limit_is_told_and_closed_and_its_place_never_leaks() -> None:
    bench = Bench(tokens=1, config=HubConfig(max_connections=2))
    first, second = bench.client(), bench.client()
    for _ in range(limits.MAX_REJECTED_SOCKETS):
        third = Client(bench)
        assert not third.admitted
        messages = third.read()
        assert codes(messages) == ["MAX_CONNECTIONS"]
        assert kinds(messages) == ["error", "connection"]
        assert third.closed_with == 1013
    assert not bench.hub.may_upgrade()
    for client in bench.clients[2:]:
        bench.hub.disconnect(client.link)
    assert bench.hub.may_upgrade()
    bench.hub.disconnect(first.link)
    bench.hub.disconnect(first.link)
    assert Client(bench).admitted
    assert len(bench.hub.links) == 2
    assert second.closed_with is None


def test_large_messages_are_compressed_and_small_ones_are_not() -> None:
    bench = Bench(tokens=100)
    bench.add("rich", cap="1" * 2_000)
    client = bench.client(deflate=True)
    client.subscribe(*(f"token{n}" for n in range(99)), "rich")
    before = len(client.socket.buffer)
    raw = bytes(client.socket.buffer)
    assert before
    assert raw[0] == 0xC1, "the reply is over 1 KB"
    messages = client.read()
    assert len(messages[0]["data"]["tokens"]) == 100
    assert len(messages) == 101
    bench.change("rich")
    bench.change("token1")
    bench.tick()
    first_bytes = bytes(client.socket.buffer)
    assert b'"address":"token1"' in first_bytes
    assert b"1" * 100 not in first_bytes
    assert len(client.read()) == 2


def test_numbers_stay_contiguous_across_digit_boundaries_in_one_tick() -> None:
    bench = Bench(tokens=100)
    client, late = bench.client(), None
    client.subscribe(*(f"token{n}" for n in range(100)))
    client.read()
    for round_ in range(105):
        if round_ == 50:
            late = bench.client(deflate=True)
            late.subscribe(*(f"token{n}" for n in range(100)))
            late.read()
        for n in range(0, 100, 1 + round_ % 3):
            bench.change(f"token{n}")
        bench.tick()
        client.read()
        if late is not None:
            late.read()
    assert client.last > 10_00


def test_a_closing_client_gets_no_more_updates(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0")
    client.read()
    bench.hub.fail(client.link, ErrorCode.SERVER_SHUTDOWN, bench.now)
    bench.flush()
    said = bytes(client.socket.buffer)
    bench.change("token0")
    bench.tick()
    assert bytes(client.socket.buffer) == said
    error, connection = client.read()
    assert error["data"] == {
        "code": "SERVER_SHUTDOWN",
        "message": "The server is shutting down.",
        "level": "fatal",
    }
    assert connection["data"]["status"] == "disconnected"
    assert client.closed_with == 1012
    client.subscribe("token1")
    assert client.read() == []


def test_frames_of_every_length_class_decode() -> None:
    bench = Bench(tokens=1)
    for size in (10, 65_000, 65_200, 65_400, 70_000):
        bench.add(f"cap{size}", cap="1" * size)
    client = bench.client()
    for address in list(bench.directory.values):
        client.subscribe(address)
        assert client.read()[-1]["data"]["address"] == address


def test_the_longest_legal_request_gets_its_whole_answer(bench: Bench) -> None:
    client = bench.client()
    names = [f'{number:04}"' + "\U0001f600" * 251 for number in range(1000)]
    client.subscribe(*names)
    (refused, error) = client.read()
    assert len(refused["data"]["tokens"]) == 1000
    assert error["data"]["code"] == "TOKEN_NOT_FOUND"
    assert client.closed_with is None


def test_a_value_that_cannot_be_encoded_spoils_only_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bench.client()
    client.subscribe("token0", "token1")
    client.read()
    monkeypatch.setattr(bench.directory.values["token0"], "data", lambda: 1 / 0)
    bench.change("token0")
    bench.change("token1")
    bench.tick()
    assert [message["data"]["address"] for message in client.read()] == ["token1"]
    assert bench.hub.stats.bad_rows == 1


def test_only_tokens_that_somebody_holds_are_encoded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bench.client()
    client.subscribe("token0")
    client.read()
    monkeypatch.setattr(bench.directory.values["token1"], "data", lambda: pytest.fail("nobody wants it"))
    bench.change("token0")
    bench.change("token1")
    bench.tick()
    assert len(client.read()) == 1
    client.subscribe("token0", action="unsubscribe")
    client.read()
    assert all(row.holders == 0 for row in bench.hub.board.rows)


def test_timestamps_never_decrease(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0")
    assert bench.hub.pump(client.link, 1) == b""
    bench.change("token0")
    for write, data in bench.hub.tick(bench.now, 5):  # the clock was set back
        write(data)
    stamps = [message["timestamp"] for message in client.read()]
    assert stamps == sorted(stamps)
    assert stamps[0] > 5


def test_a_tick_that_breaks_off_is_made_up_for_by_the_next(bench: Bench) -> None:
    clients = [bench.client() for _ in range(3)]
    for client in clients:
        client.subscribe("token0")
        client.read()
    bench.change("token0")
    ticking = bench.hub.tick(bench.now, WALL)
    write, data = next(ticking)
    write(data)
    ticking.close()  # as when a write raises
    bench.tick()
    assert [[m["data"]["price"] for m in client.read()][-1] for client in clients] == ["2", "2", "2"]
    bench.tick()
    assert [client.read() for client in clients] == [[], [], []]


def test_who_was_not_reached_when_a_tick_broke_off_and_then_lags_still_gets_the_value(bench: Bench) -> None:
    clients = [bench.client(), bench.client()]
    for client in clients:
        client.subscribe("token0")
        client.read()
    bench.change("token0")
    sending = bench.hub.tick(bench.now, WALL)
    write, data = next(sending)
    write(data)
    sending.close()
    reached, missed = clients if clients[0].socket.buffer else reversed(clients)
    (expected,) = reached.read()
    bench.hub.pause(missed.link, bench.now)
    bench.tick()
    (update,) = missed.read()
    assert update["data"] == expected["data"]
