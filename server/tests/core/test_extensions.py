"""Capabilities one by one: what they add, and that a strict client never sees any of it."""

import json
from typing import Any

import jsonschema
import pytest

from tokenwire_schemas.schema_files import SCHEMAS
from tokenwire_server.core.hub import HubConfig

from .conftest import Bench, Client, codes, kinds


def prices(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["address"], item["price"]) for item in message["data"]["updates"]]


def test_a_batch_holds_what_changed_under_one_number(bench: Bench) -> None:
    client, data = bench.ask("batch")
    assert data == {
        "status": "connected",
        "connectionId": "00000000-0000-4000-8000-000000000000",
        "maxSubscriptions": 100,
        "capabilities": ["batch"],
    }
    client.subscribe("token0", "token1", "token2")
    messages = client.read()
    assert kinds(messages) == ["subscription", "token_batch"]
    assert prices(messages[1]) == [("token0", "1"), ("token1", "1"), ("token2", "1")]
    bench.change("token2", 2)
    bench.change("token0")
    bench.tick()
    (message,) = client.read()
    assert prices(message) == [("token0", "2"), ("token2", "3")]
    assert list(message["data"]["updates"][0]) == ["address", "price", "marketCap", "volume"]
    assert bench.hub.stats.conflated == 1


def test_a_batch_is_split_at_1000_updates_and_512_kib() -> None:
    bench = Bench(config=HubConfig(max_subscriptions=3_000))
    for index in range(2_500):
        bench.add(f"t{index}")
    client, _ = bench.ask("batch")
    for start in range(0, 2_500, 500):
        client.subscribe(*(f"t{index}" for index in range(start, start + 500)))
    snapshots = [message for message in client.read() if message["type"] == "token_batch"]
    assert sum(len(message["data"]["updates"]) for message in snapshots) == 2_500
    for index in range(2_500):
        bench.change(f"t{index}")
    bench.tick()
    assert [len(message["data"]["updates"]) for message in client.read()] == [1_000, 1_000, 500]
    for index in range(200):
        bench.directory.values[f"t{index}"].cap = "9" * 5_000
        bench.change(f"t{index}")
    bench.tick()
    messages = client.read()
    assert len(messages) == 2
    assert all(len(json.dumps(message["data"], separators=(",", ":"))) <= 524_288 for message in messages)
    assert bench.hub.stats.updates == 2_500 * 2 + 200


def test_details_add_version_and_source_time_and_nothing_of_the_client(bench: Bench) -> None:
    clients = [bench.ask("details")[0] for _ in range(2)]
    for client in clients:
        client.send(
            {
                "type": "subscription",
                "data": {"action": "subscribe", "tokens": ["token0", "nobody", 7], "requestId": "r-1"},
            }
        )
    first, second = (client.read() for client in clients)
    assert [message["data"] for message in first] == [message["data"] for message in second]
    success, failure, missing, unusable, value = (message["data"] for message in first)
    assert success == {
        "action": "subscribe",
        "tokens": ["token0"],
        "status": "success",
        "requestId": "r-1",
        "active": 1,
    }
    assert failure["rejected"] == [
        {"token": "nobody", "code": "TOKEN_NOT_FOUND"},
        {"token": "7", "code": "INVALID_TOKEN"},
    ]
    assert missing["tokens"] == ["nobody"]
    assert missing["requestId"] == "r-1"
    assert (missing["category"], missing["retryable"], missing["retryAfterMs"]) == ("subscription", True, 60_000)
    assert unusable["tokens"] == ["7"]
    assert (unusable["retryable"], "retryAfterMs" in unusable) == (False, False)
    assert value["version"] == 1
    assert value["sourceTime"] == 1_699_999_999_000


@pytest.mark.parametrize("request_id", ["", "x" * 129, 5, None, "\ud800", ["a"]])
def test_a_request_id_that_cannot_be_echoed_is_an_error(bench: Bench, request_id: object) -> None:
    client, _ = bench.ask("details")
    data = {"action": "subscribe", "tokens": ["token0"], "requestId": request_id}
    client.send({"type": "subscription", "data": data})
    assert codes(client.read()) == ["INVALID_MESSAGE"]
    strict = bench.client()
    strict.send({"type": "subscription", "data": data})
    assert kinds(strict.read()) == ["subscription", "token_update"], "without details it is an unknown field"


def test_known_values_are_not_sent_again(bench: Bench) -> None:
    client, data = bench.ask("details")
    bench.change("token1")

    def subscribe(stream: str, **known: int) -> list[tuple[str, int]]:
        request = {"action": "subscribe", "tokens": ["token0", "token1"], "known": known, "stream": stream}
        client.send({"type": "subscription", "data": request})
        messages = client.read()
        assert messages[0]["data"]["tokens"] == ["token0", "token1"]
        return [(message["data"]["address"], message["data"]["version"]) for message in messages[1:]]

    stream = data["stream"]
    assert subscribe(stream, token0=1, token1=1) == [("token1", 2)]
    assert subscribe(stream, token0=0, token1=2) == [("token0", 1)]
    assert subscribe(stream, token0=9, token1=9) == []
    assert subscribe("another", token0=1, token1=2) == [("token0", 1), ("token1", 2)]


@pytest.mark.parametrize(
    "fields",
    [
        {"known": "x"},
        {"known": ["token0"]},
        {"known": {"token0": "1"}},
        {"known": {"token0": -1}},
        {"known": {"token0": True}},
        {"known": {"\ud800": 2**60}},
        {"known": {"token0": 1}, "stream": 5},
        {"known": {}, "stream": ""},
        {"known": {str(n): n for n in range(10_001)}},
    ],
)
def test_known_with_nonsense_is_an_error_and_changes_nothing(bench: Bench, fields: dict[str, object]) -> None:
    client, _ = bench.ask("details")
    client.send({"type": "subscription", "data": {"action": "subscribe", "tokens": ["token0"], **fields}})
    assert codes(client.read()) == ["INVALID_MESSAGE"]
    assert not client.link.session.tokens.rows


def test_a_heartbeat_comes_after_15_s_without_a_message(bench: Bench) -> None:
    client, _ = bench.ask("heartbeat")
    client.subscribe("token0")
    client.read()
    quiet = 0
    for step in range(1, 200):
        client.link.last_byte_ms = bench.now
        if step % 40 == 7:
            bench.change("token0")
            bench.tick()
        bench.pass_time(250)
        messages = client.read()
        quiet = quiet + 250 if kinds(messages) != ["token_update"] else 250
        if kinds(messages) == ["heartbeat"]:
            raise AssertionError("no heartbeat is due while values come every 10 s")
    for _ in range(4):
        waited = 0
        while not (messages := client.read()):
            client.link.last_byte_ms = bench.now
            bench.pass_time(250)
            waited += 250
            assert waited <= 15_250
        assert kinds(messages) == ["heartbeat"]
        assert messages[0]["data"] == {"pending": 0}
        assert waited >= 5_000


def test_without_the_capability_no_heartbeat_message_is_sent(bench: Bench) -> None:
    client, _ = bench.ask("batch")
    for _ in range(20):
        client.link.last_byte_ms = bench.now
        bench.pass_time(5_000)
    assert client.read() == []


@pytest.mark.parametrize("caps", ["", "heartbeat", "resume"])
@pytest.mark.parametrize("echo", ["a1", 7, 1.5, "", -3])
def test_a_ping_is_answered_whoever_sends_it(bench: Bench, caps: str, echo: object) -> None:
    client = bench.ask(caps)[0]
    client.send({"type": "ping", "data": {"echo": echo}})
    (message,) = client.read()
    assert (message["type"], message["sequence"]) == ("heartbeat", 1)
    assert message["data"] == {"echo": echo, "pending": 0}
    client.send({"type": "ping"})
    assert client.read()[0]["data"] == {"pending": 0}


@pytest.mark.parametrize("echo", [None, True, [], "x" * 129, "\ud800", 2**53, 1e300])
def test_an_echo_that_cannot_come_back_is_an_error(bench: Bench, echo: object) -> None:
    client, _ = bench.ask("heartbeat")
    client.send({"type": "ping", "data": {"echo": echo}})
    assert codes(client.read()) == ["INVALID_MESSAGE"]


def test_zstd_sends_large_messages_as_binary_and_others_as_text(bench: Bench) -> None:
    client, data = bench.ask("zstd,batch", deflate=True)
    assert data["capabilities"] == ["batch", "zstd"]
    for index in range(100):
        bench.add(f"more{index:040d}")
    client.subscribe(*(f"more{index:040d}" for index in range(100)))
    for _ in range(12):
        for index in range(100):
            bench.change(f"more{index:040d}")
        bench.tick()
        message = client.read()[-1]
        assert len(message["data"]["updates"]) == 100
    assert {frame.opcode.name for frame in client.frames} == {"TEXT", "BINARY"}
    assert not any(frame.rsv1 for frame in client.frames)


def test_a_strict_client_sees_what_it_saw_before(bench: Bench) -> None:
    """The same session beside clients with every capability, and alone: byte for byte the same."""

    def session(bench: Bench, company: int) -> bytes:
        others: list[Client] = []
        for number in range(company):
            delivery = "every" if number % 2 else "latest"
            other, _ = bench.ask("batch,heartbeat,resume,details,zstd", delivery=delivery)
            other.subscribe("token0", "token1", "token3")
            others.append(other)
        client = Client(bench)
        client.read()  # its connectionId alone differs
        client.subscribe("token0", "token1", "nobody")
        for step in range(30):
            bench.change("token0", 3)
            bench.change(f"token{step % 3}")
            bench.tick()
            if step == 10:
                client.subscribe("token2")
            if step == 15:
                client.subscribe("token1", action="unsubscribe")
            if company and step == 20:
                bench.lose(others.pop())
            client.link.last_byte_ms = bench.now
            bench.pass_time(5_000)
        return bytes(client.socket.buffer)

    alone = session(Bench(tokens=5), 0)
    crowd = session(bench, 4)
    assert alone == crowd


def test_every_extended_message_fits_its_schema(bench: Bench) -> None:
    seen: set[str] = set()
    for delivery in ("latest", "every"):
        client, _ = bench.ask("batch,heartbeat,resume,details", delivery=delivery)
        client.subscribe("token0", "nobody")
        client.send({"type": "ping", "data": {"echo": "x"}})
        bench.change("token0")
        bench.tick()
        client.read()
        assert client.link.session.ring is not None
        client.link.session.ring.clear(3)
        client.last = 0
        client.send({"type": "replay", "data": {"from": 1, "to": 6}})
        client.read()
        for frame in client.frames:
            message = json.loads(frame.data)
            jsonschema.validate(message, SCHEMAS[f"extended/server/{message['type']}"])
            seen.add(message["type"])
    assert seen == {"connection", "subscription", "error", "token_batch", "heartbeat", "gap"}
