"""Sessions that survive their socket (I-54, I-58, I-59)."""

from typing import Any

import pytest

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.core.states import LinkState

from .conftest import Bench, Client, codes, kinds

CAPS = "batch,resume,details"


def start(bench: Bench, *tokens: str, caps: str = CAPS, **wishes: Any) -> tuple[Client, str]:
    """A resumable client with subscriptions, everything read."""
    client, data = bench.ask(caps, **wishes)
    client.subscribe(*tokens)
    client.read()
    return client, data["session"]


def back(
    bench: Bench, secret: str, position: int | None, caps: str = CAPS, **wishes: Any
) -> tuple[Client, dict[str, Any]]:
    return bench.ask(caps, session=secret, position=position, **wishes)


def updates(messages: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Address and version of all values."""
    return [
        (item["address"], item["version"])
        for message in messages
        if message["type"] in ("token_update", "token_batch")
        for item in message["data"].get("updates", [message["data"]])
    ]


def test_the_greeting_tells_what_a_client_would_hard_code(bench: Bench) -> None:
    _, data = bench.ask("batch,heartbeat,resume,details,nonsense")
    assert data["capabilities"] == ["batch", "heartbeat", "resume", "details"]
    assert data["resumed"] is False
    assert data["subscriptions"] == []
    assert data["stream"] == "stream-1"
    assert (data["heartbeatMs"], data["idleTimeoutMs"], data["resumeWindowMs"]) == (15_000, 20_000, 120_000)
    assert (data["maxMessageBytes"], data["maxBatch"], data["updateIntervalMs"]) == (1_048_576, 1_000, 5_000)


def test_what_was_sent_and_not_received_comes_once_more(bench: Bench) -> None:
    client, secret = start(bench, "token0", "token1")
    position = client.last
    bench.change("token0")
    bench.tick()
    lost = bytes(client.socket.buffer)
    bench.lose(client)
    bench.change("token0", 3)
    bench.tick()
    again, data = back(bench, secret, position)
    assert (data["resumed"], data["replayFrom"]) == (True, position + 1)
    assert [held["token"] for held in data["subscriptions"]] == ["token0", "token1"]
    assert data["connectionId"] != client.link.connection_id
    messages = again.read()
    assert kinds(messages) == ["token_batch", "token_batch"]
    assert updates(messages) == [("token0", 2), ("token0", 5)]
    assert again.frames[1].data == lost[2 if lost[1] < 126 else 4 :], "the replayed message is the one first sent"
    assert bench.hub.stats.resumes == {"resumed": 1}
    assert bench.hub.stats.replayed == 1


def test_nothing_is_numbered_while_nobody_is_there(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    position = client.last
    bench.lose(client)
    session = bench.hub.registry.find(secret)
    assert session is not None
    for _ in range(50):
        bench.change("token0")
        bench.tick()
    assert session.sequence == position
    again, _ = back(bench, secret, position)
    assert updates(again.read()) == [("token0", 51)]
    bench.change("token0")
    bench.tick()
    assert updates(again.read()) == [("token0", 52)]


def test_unsent_replies_wait_for_their_client(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    client.socket.write(b"\0" * 70_000)  # the reader stalls
    client.subscribe("token1", "nobody")
    bench.lose(client)
    again, data = back(bench, secret, client.last)
    assert [held["token"] for held in data["subscriptions"]] == ["token0", "token1"]
    messages = again.read()
    assert kinds(messages) == ["subscription", "subscription", "error", "token_batch"]


def test_every_position_that_is_held_is_served(bench: Bench) -> None:
    client, secret = start(bench, "token0", caps="resume,details")
    for _ in range(20):
        bench.change("token0")
        bench.tick()
        client.read()
    for position in range(client.last + 1):
        again, data = back(bench, secret, position, caps="resume,details", attempt=position)
        assert data["resumed"] is True
        again.read()
        assert again.last == client.last
        client = again


@pytest.mark.parametrize(
    ("position", "reason"), [(None, "position_ahead"), (99, "position_ahead"), (1, "position_evicted")]
)
def test_a_position_that_cannot_be_served_starts_anew_with_the_subscriptions(
    bench: Bench, position: int | None, reason: str
) -> None:
    client, secret = start(bench, "token0", "token1")
    client.send({"type": "ack", "data": {"sequence": client.last}})
    again, data = back(bench, secret, position)
    assert (data["resumed"], data["reason"]) == (False, reason)
    assert data["session"] != secret
    assert [held["token"] for held in data["subscriptions"]] == ["token0", "token1"]
    messages = again.read()
    assert codes(messages) == ["RESUME_FAILED"]
    assert updates(messages) == [("token0", 1), ("token1", 1)]
    assert bench.hub.registry.find(secret) is None
    client.read()
    assert client.closed_with == 4500


def test_an_unknown_session_starts_anew_without_anything(bench: Bench) -> None:
    for secret in ("nobody's", "", "\ud800", "x" * 10_000):
        again, data = back(bench, secret, 5)
        assert data["reason"] == "unknown_session"
        assert data["subscriptions"] == []
        assert codes(again.read()) == ["RESUME_FAILED"]


def test_a_session_is_not_given_to_other_capabilities(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    bench.lose(client)
    again, data = back(bench, secret, client.last, caps="resume,details")
    assert data["reason"] == "caps_changed"
    assert codes(again.read()) == ["RESUME_FAILED"]
    assert back(bench, secret, client.last)[1]["reason"] == "unknown_session"


def test_compression_and_heartbeat_belong_to_the_socket(bench: Bench) -> None:
    for index in range(20):
        bench.add(f"long-name-{index:050d}")
    client, secret = start(bench, *(f"long-name-{index:050d}" for index in range(20)))
    bench.lose(client)
    again, data = bench.ask(f"{CAPS},zstd,heartbeat", session=secret, position=2)
    assert data["resumed"] is True
    assert data["capabilities"] == ["batch", "heartbeat", "resume", "details", "zstd"]
    assert len(updates(again.read())) == 20
    assert again.frames[-1].opcode.name == "BINARY"


def test_a_new_socket_takes_the_session_over(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    bench.pass_time(6_000)
    again, data = back(bench, secret, client.last)
    assert data["resumed"] is True
    client.subscribe("token1")  # too late: it belongs to nobody now
    client.send({"type": "ack", "data": {"sequence": 1}})
    bench.change("token0")
    bench.tick()
    assert client.read() == []
    assert client.closed_with == 4500
    assert updates(again.read()) == [("token0", 2)]
    assert list(bench.hub.links) == [again.link]
    bench.pass_time(6_000)
    assert client.socket.aborted
    assert bench.hub.rejected == 0


def test_of_two_racing_attempts_the_later_one_wins_whichever_arrives_first(bench: Bench) -> None:
    client, secret = start(bench, "token0", attempt=1)
    bench.lose(client)
    winner, data = back(bench, secret, client.last, attempt=3)
    assert data["resumed"] is True
    loser = Client(bench, offer=bench_offer(secret, client.last, 2))
    assert loser.read() == []
    assert loser.closed_with == 4500
    assert bench.hub.rejected == 0, "it takes no place of those who are told that the instance is full"
    assert list(bench.hub.parting) == [loser.link]
    bench.hub.disconnect(loser.link)
    assert not bench.hub.parting
    bench.pass_time(5_000)
    late, data = back(bench, secret, client.last, attempt=2)
    assert data["resumed"] is True, "a winner over 5 s old is taken over by whoever comes"
    assert winner.link.state is LinkState.CLOSING
    assert bench.hub.stats.resumes == {"resumed": 2, "lost_race": 1}
    del late


def bench_offer(secret: str, position: int, attempt: int) -> Any:
    from tokenwire_server.core.grants import Offer

    return Offer(frozenset(CAPS.split(",")), session=secret, position=position, attempt=attempt)


def test_a_session_waits_for_two_minutes(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    bench.lose(client)
    bench.pass_time(119_000)
    assert bench.hub.registry.find(secret) is not None
    bench.pass_time(1_500)
    assert bench.hub.registry.find(secret) is None
    assert bench.hub.stats.evicted == {"expired": 1}
    assert bench.hub.sets.subscriptions == 0
    assert bench.hub.ledger.octets == bench.hub.ledger.frames == 0
    assert bench.hub.board.rows[0].holders == 0


@pytest.mark.parametrize("code", [1000, 1002, 1009])
def test_a_client_that_ends_in_good_order_or_breaks_the_framing_leaves_nothing(bench: Bench, code: int) -> None:
    client, secret = start(bench, "token0")
    bench.hub.closing(client.link, bench.now, code)
    bench.hub.disconnect(client.link)
    assert bench.hub.registry.find(secret) is None
    assert bench.hub.ledger.octets == 0


def test_a_page_that_goes_away_may_come_back(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    bench.hub.closing(client.link, bench.now, 1001)
    again, data = back(bench, secret, client.last)
    assert data["resumed"] is True
    bench.hub.disconnect(client.link)
    bench.change("token0")
    bench.tick()
    assert updates(again.read()) == [("token0", 2)]


def test_a_slow_consumer_may_come_back(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    client.socket.write(b"\0" * 70_000)
    for _ in range(8):
        client.link.last_byte_ms = bench.now
        bench.change("token0")
        bench.tick()
        bench.pass_time(5_000)
    assert client.link.close_with == (4001, "SLOW_CONSUMER")
    bench.hub.disconnect(client.link)
    again, data = back(bench, secret, client.last)
    assert data["resumed"] is True
    assert updates(again.read()) == [("token0", 9)]


def test_acks_free_memory_and_never_gate(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    for _ in range(100):
        bench.change("token0")
        bench.tick()
    client.read()
    held = bench.hub.ledger.octets
    client.send({"type": "ack", "data": {"sequence": client.last}})
    assert bench.hub.ledger.octets == 0 < held
    assert bench.hub.ledger.frames == 0
    client.send({"type": "ack", "data": {"sequence": client.last + 1}})
    assert codes(client.read()) == ["ACK_OUT_OF_RANGE"]
    client.send({"type": "ack", "data": {"sequence": 3}})  # late, and harmless
    assert client.read() == []
    assert back(bench, secret, 3)[1]["reason"] == "position_evicted"


@pytest.mark.parametrize("sequence", ["1", -1, 1.5, True, None, [], 2**53])
def test_an_ack_of_the_wrong_type_is_an_error(bench: Bench, sequence: object) -> None:
    client, _ = start(bench, "token0")
    client.send({"type": "ack", "data": {"sequence": sequence}})
    assert codes(client.read()) == ["INVALID_MESSAGE"]


def test_acks_and_pings_have_a_ceiling_of_their_own(bench: Bench) -> None:
    client, _ = start(bench, "token0")
    for _ in range(150):
        client.send({"type": "ack", "data": {"sequence": 1}})
    client.subscribe("token1")
    assert codes(client.read()) == []
    for _ in range(100):
        client.send({"type": "ping"})
    assert "RATE_LIMITED" in codes(client.read())


def test_the_ring_is_bounded_and_says_so(bench: Bench) -> None:
    client, secret = start(bench, "token0", caps="resume,details")
    for _ in range(1_100):
        bench.change("token0")
        bench.tick()
        client.read()
    session = bench.hub.registry.find(secret)
    assert session is not None
    assert session.ring is not None
    assert session.sequence - session.ring.floor == 1_024
    floor = session.ring.floor
    assert back(bench, secret, floor - 1, caps="resume,details")[1]["reason"] == "position_evicted"


def test_a_replay_on_request(bench: Bench) -> None:
    client, _ = start(bench, "token0", caps="resume,details")
    for _ in range(5):
        bench.change("token0")
        bench.tick()
    first = client.read()
    client.last = 3
    client.send({"type": "replay", "data": {"from": 4, "to": 6}})
    assert client.read() == first[:3]
    client.last = 8
    bench.change("token0")
    bench.tick()
    assert updates(client.read()) == [("token0", 7)]


def test_a_replay_of_what_is_not_kept_is_a_gap_and_then_values(bench: Bench) -> None:
    client, _ = start(bench, "token0", "token1", caps="resume,details")
    for _ in range(4):
        bench.change("token0")
        bench.tick()
    client.read()
    top = client.last
    session = client.link.session
    assert session.ring is not None
    session.ring.clear(top - 2)
    client.last = 1
    client.send({"type": "replay", "data": {"from": 2, "to": top}})
    messages = client.read()
    assert messages[0]["type"] == "gap"
    assert messages[0]["sequence"] == top
    gap = messages[0]["data"]
    assert (gap["from"], gap["repair"], gap["cause"]) == (2, "snapshot", "evicted")
    assert updates(messages[-2:]) == [("token0", 5), ("token1", 1)]


def test_no_number_is_assigned_during_a_replay(bench: Bench) -> None:
    """A long replay is paced by the socket; what changes meanwhile comes after it."""
    for index in range(60):
        bench.add(f"long-{index:0200d}", cap="9" * 400)
    names = [f"long-{index:0200d}" for index in range(60)]
    client, secret = start(bench, *names, caps="resume,details")
    for _ in range(4):
        for name in names:
            bench.change(name)
        bench.tick()
        client.read()
    top = client.last
    bench.lose(client)
    again = Client(bench, offer=type(client.link.offer)(frozenset({"resume", "details"}), session=secret, position=2))
    assert not again.link.writable, "the replay fills the socket"
    bench.change(names[0])
    bench.tick()
    again.send({"type": "replay", "data": {"from": 3, "to": 4}})
    assert again.link.session.sequence == top
    messages = again.read()
    assert again.last > top
    assert codes(messages) == ["REPLAY_UNAVAILABLE"]
    assert updates(messages)[-1] == (names[0], 6)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"from": 3, "to": 2}, "INVALID_MESSAGE"),
        ({"from": 0, "to": 2}, "INVALID_MESSAGE"),
        ({"from": 1}, "INVALID_MESSAGE"),
        ({"from": "1", "to": 2}, "INVALID_MESSAGE"),
        ({"from": 1, "to": 99}, "REPLAY_UNAVAILABLE"),
        ({"from": 98, "to": 99}, "REPLAY_UNAVAILABLE"),
    ],
)
def test_a_replay_that_makes_no_sense(bench: Bench, data: object, code: str) -> None:
    client, _ = start(bench, "token0")
    client.send({"type": "replay", "data": data})
    assert codes(client.read()) == [code]


def test_replay_is_unknown_without_resume(bench: Bench) -> None:
    client, _ = bench.ask("details")
    client.send({"type": "replay", "data": {"from": 1, "to": 1}})
    assert codes(client.read()) == ["UNKNOWN_TYPE"]


def test_memory_of_all_sessions_is_bounded_and_the_oldest_detached_goes_first() -> None:
    bench = Bench(tokens=5, config=HubConfig(resume_instance_bytes=20_000))
    secrets = []
    for _ in range(3):
        client, secret = start(bench, "token0", "token1")
        secrets.append(secret)
        bench.lose(client)
        bench.pass_time(1_000)
    live, secret = start(bench, *(f"token{n}" for n in range(5)))
    while bench.hub.registry.detached:
        for n in range(5):
            bench.change(f"token{n}")
        bench.tick()
        live.read()
        held = [s for s in secrets if bench.hub.registry.find(s) is not None]
        assert held == secrets[len(secrets) - len(held) :], "the oldest go first"
    for _ in range(50):
        for n in range(5):
            bench.change(f"token{n}")
        bench.tick()
        live.read()
        assert bench.hub.ledger.octets <= 20_000
    assert bench.hub.stats.evicted == {"memory": 3}
    assert back(bench, secret, 1)[1]["reason"] == "position_evicted"


def test_detached_sessions_are_counted() -> None:
    bench = Bench(tokens=1, config=HubConfig(max_connections=3))
    for _ in range(5):
        client, _ = start(bench, "token0")
        bench.lose(client)
    bench.pass_time(250)
    assert len(bench.hub.registry.detached) == 3
    assert bench.hub.stats.evicted == {"count": 2}


def test_a_full_instance_still_lets_its_own_client_back() -> None:
    bench = Bench(tokens=1, config=HubConfig(max_connections=1))
    client, secret = start(bench, "token0")
    bench.pass_time(6_000)
    again, data = back(bench, secret, client.last)
    assert data["resumed"] is True
    bench.lose(again)
    other = bench.client()
    refused = Client(bench, offer=bench_offer(secret, client.last, 1))
    assert codes(refused.read()) == ["MAX_CONNECTIONS"]
    bench.hub.disconnect(other.link)
    assert back(bench, secret, client.last)[1]["resumed"] is True, "being refused costs no session"


def test_a_shared_run_is_counted_once(bench: Bench) -> None:
    clients = [start(bench, "token0", "token1")[0] for _ in range(10)]
    before = bench.hub.ledger.octets
    bench.change("token0")
    bench.tick()
    alone = bench.hub.ledger.octets - before
    assert alone < 10 * 100 + 400, "ten rings hold an entry each, and one payload"
    for client in clients:
        client.read()
        client.send({"type": "ack", "data": {"sequence": client.last}})
    assert bench.hub.ledger.octets == 0


def test_what_became_stale_meanwhile_is_told_on_coming_back(bench: Bench) -> None:
    from tokenwire_server.core.staleness import SourceHealth

    bench.hub.staleness.sources["test"] = SourceHealth(1_000, bench.now)
    client, secret = start(bench, "token0")
    bench.lose(client)
    bench.pass_time(20_000)
    again, data = back(bench, secret, client.last)
    assert data["resumed"] is True
    assert codes(again.read()) == ["UPSTREAM_STALE"]


def test_shutdown_ends_sessions(bench: Bench) -> None:
    from tokenwire_schemas.errors import ErrorCode

    client, secret = start(bench, "token0")
    bench.hub.fail(client.link, ErrorCode.SERVER_SHUTDOWN, bench.now)
    bench.flush()
    assert kinds(client.read()) == ["error", "connection"]
    assert bench.hub.registry.find(secret) is None
    assert bench.hub.ledger.octets == 0


def test_a_ring_with_a_hole_is_announced_and_ends(bench: Bench) -> None:
    """It would be a defect; the replay must not search for the frame for ever."""
    client, secret = start(bench, "token0", caps="resume,details")
    for _ in range(3):
        bench.change("token0")
        bench.tick()
    client.read()
    session = bench.hub.registry.find(secret)
    assert session is not None
    assert session.ring is not None
    session.ring._runs.clear()
    bench.lose(client)
    again, data = back(bench, secret, 2, caps="resume,details")
    assert data["resumed"] is True
    messages = again.read()
    assert (messages[0]["type"], messages[0]["data"]["from"], messages[0]["data"]["to"]) == ("gap", 3, client.last)
    assert updates(messages) == [("token0", 4)]
