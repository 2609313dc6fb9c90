"""delivery=every: each version in order (I-63)."""

from typing import Any

import pytest

from tokenwire_schemas import limits

from .conftest import Bench, Client, codes, kinds

CAPS = "batch,resume,details"


def ask(bench: Bench, caps: str = CAPS, **wishes: Any) -> tuple[Client, dict[str, Any]]:
    return bench.ask(caps, delivery="every", **wishes)


def versions(messages: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [
        (item["address"], item["version"])
        for message in messages
        if message["type"] in ("token_update", "token_batch")
        for item in message["data"].get("updates", [message["data"]])
    ]


def flush(bench: Bench) -> None:
    bench.hub.flush_stream()
    bench.flush()


@pytest.mark.parametrize("caps", [CAPS, "resume,details"])
def test_every_version_arrives_in_order(bench: Bench, caps: str) -> None:
    client, _ = ask(bench, caps)
    client.subscribe("token0", "token1")
    assert versions(client.read()) == [("token0", 1), ("token1", 1)]
    bench.change("token0", 3)
    bench.change("token1")
    bench.change("token0")
    bench.change("token2")
    flush(bench)
    messages = client.read()
    assert versions(messages) == [("token0", 2), ("token0", 3), ("token0", 4), ("token1", 2), ("token0", 5)]
    assert len(messages) == (1 if "batch" in caps else 5)
    bench.tick()
    assert client.read() == [], "the tick has nothing to add"


def test_it_needs_resume(bench: Bench) -> None:
    client, _ = ask(bench, "batch,details")
    client.subscribe("token0")
    client.read()
    bench.change("token0", 3)
    flush(bench)
    bench.tick()
    assert versions(client.read()) == [("token0", 4)]


def test_what_happened_before_the_subscription_is_not_for_it(bench: Bench) -> None:
    first, _ = ask(bench)
    first.subscribe("token0")
    first.read()
    bench.change("token0", 2)
    second, _ = ask(bench)
    second.subscribe("token0")
    bench.change("token0", 2)
    flush(bench)
    assert versions(first.read()) == [("token0", 2), ("token0", 3), ("token0", 4), ("token0", 5)]
    assert versions(second.read()) == [("token0", 3), ("token0", 4), ("token0", 5)]


def test_nothing_of_a_token_comes_after_its_unsubscribe(bench: Bench) -> None:
    client, _ = ask(bench)
    client.subscribe("token0", "token1")
    client.read()
    client.socket.write(b"\0" * 70_000)
    client.socket.buffer.clear()
    client.link.writable = False
    bench.change("token0")
    bench.change("token1")
    flush(bench)
    client.subscribe("token0", action="unsubscribe")
    bench.change("token0")
    messages = client.read()
    assert kinds(messages) == ["subscription", "token_batch"]
    assert versions(messages) == [("token1", 2)]


def test_versions_wait_unnumbered_for_a_client_that_is_away(bench: Bench) -> None:
    client, data = ask(bench)
    client.subscribe("token0")
    client.read()
    position = client.last
    bench.change("token0")
    flush(bench)  # sent, and lost on the way
    bench.lose(client)
    for _ in range(10):
        bench.change("token0")
        flush(bench)
    again, data = ask(bench, session=data["session"], position=position)
    assert data["resumed"] is True
    assert versions(again.read()) == [("token0", version) for version in range(2, 13)]
    bench.change("token0")
    flush(bench)
    assert versions(again.read()) == [("token0", 13)]


def test_a_queue_that_overflows_ends_the_session_and_says_so(bench: Bench) -> None:
    client, data = ask(bench)
    client.subscribe("token0")
    client.read()
    client.socket.write(b"\0" * 70_000)
    while client.link.close_with is None:
        bench.change("token0", 100)
        flush(bench)
        assert client.link.session.stream_bytes <= limits.RESUME_MAX_BYTES + 100 * 200
    assert client.link.close_with == (4003, "more than can be queued")
    bench.hub.disconnect(client.link)
    again, data = ask(bench, session=data["session"], position=client.last)
    assert data["reason"] == "unknown_session"
    assert codes(again.read()) == ["RESUME_FAILED"]
    assert bench.hub.streaming == 1


def test_a_session_that_is_away_overflows_too(bench: Bench) -> None:
    client, data = ask(bench)
    client.subscribe("token0")
    client.read()
    bench.lose(client)
    while bench.hub.registry.find(data["session"]) is not None:
        bench.change("token0", 100)
        flush(bench)
    assert bench.hub.stats.evicted == {"overflow": 1}
    assert bench.hub.streaming == 0
    assert bench.hub.board.rows[0].stream_holders == 0
    bench.change("token0")
    assert bench.hub.board.stream == [], "nobody wants single versions any more"


def test_the_log_between_two_flushes_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire_server.core.board.MAX_STREAM_LOG_BYTES", 5_000)
    torn, _ = ask(bench)
    torn.subscribe("token0")
    whole, _ = ask(bench)
    whole.subscribe("token1")
    bench.change("token1")
    bench.change("token0", 100)
    flush(bench)
    torn.read()
    assert torn.closed_with == 4003
    assert versions(whole.read()) == [("token1", 1), ("token1", 2)]


def test_a_client_that_asks_again_and_again_without_reading_is_cut(bench: Bench) -> None:
    client, _ = ask(bench)
    client.subscribe("token0", "token1", "token2", "token3", "token4")
    client.socket.write(b"\0" * 70_000)
    for _ in range(300):
        bench.now += 100
        client.subscribe("token0", "token1", "token2", "token3", "token4")
        if client.link.close_with is not None:
            break
    assert client.link.close_with is not None
    assert client.link.close_with[0] == 4001


def test_a_value_that_cannot_be_encoded_costs_its_holders_and_nobody_else(bench: Bench) -> None:
    client, _ = ask(bench)
    client.subscribe("token0")
    other, _ = ask(bench)
    other.subscribe("token1")
    client.read()
    other.read()
    bench.directory.values["token0"].cap = "\ud800"
    bench.change("token0")
    bench.change("token1")
    flush(bench)
    client.read()
    assert client.closed_with == 4003
    assert versions(other.read()) == [("token1", 2)]


@pytest.mark.parametrize("position", [None, 1])
def test_newest_values_never_come_before_older_versions(bench: Bench, position: int | None) -> None:
    """After a lost position the newest values are sent, and the log may still hold older versions."""
    other, _ = ask(bench)
    other.subscribe("token0")
    client, data = ask(bench)
    client.subscribe("token0")
    client.read()
    client.send({"type": "ack", "data": {"sequence": client.last}})
    bench.change("token0", 3)
    again, data = ask(bench, session=data["session"], position=position)
    assert data["reason"]
    bench.change("token0")
    flush(bench)
    assert versions(again.read()) == [("token0", 4), ("token0", 5)]


def test_a_gap_on_request_is_repaired_behind_what_waits(bench: Bench) -> None:
    client, _ = ask(bench)
    client.subscribe("token0")
    client.read()
    assert client.link.session.ring is not None
    client.link.session.ring.clear(client.last)
    bench.change("token0", 3)
    client.send({"type": "replay", "data": {"from": 1, "to": client.last}})
    flush(bench)
    assert versions(client.read()) == [("token0", 2), ("token0", 3), ("token0", 4), ("token0", 4)]


def test_what_was_taken_early_is_not_left_out_later(bench: Bench) -> None:
    """A subscribe takes the log's beginning; that must not count against the next log."""
    client, _ = ask(bench)
    client.subscribe("token0")
    other, _ = ask(bench)
    other.subscribe("token1", "token2")
    bench.change("token1", 3)
    client.subscribe("token0")
    flush(bench)  # nothing of this log is for the client
    client.read()
    for _ in range(3):
        bench.change("token0")
        bench.change("token1")
        flush(bench)
    assert versions(client.read()) == [("token0", 2), ("token0", 3), ("token0", 4)]
