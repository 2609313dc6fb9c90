"""Replays: what is sent meanwhile, what breaks one off, and what it costs (I-58, I-70)."""

import json
from typing import Any

from tokenwire_schemas.errors import ErrorCode

from .conftest import Bench, Client, change_all, codes, kinds, resume_paced, session_of, wide_bench
from .test_resume import back, start, updates

LONG = "9" * 900


def interrupted(delivery: Any = "latest") -> tuple[Bench, list[str], str, int, Client]:
    """A session in the middle of its replay: bench, tokens, secret, last number before, the client it goes to."""
    bench, names = wide_bench()
    client, data = bench.ask("resume,details", delivery=delivery)
    client.subscribe(*names)
    client.read()
    for _ in range(6):
        change_all(bench, names)
        client.read()
    bench.lose(client)
    return bench, names, data["session"], client.last, resume_paced(bench, data["session"], 3, delivery)


def test_no_number_is_given_when_a_replay_breaks_off() -> None:
    bench, names, _, _, again = interrupted("every")
    again.subscribe("nobody")
    while again.link.close_with is None:
        change_all(bench, names)
    assert again.link.close_with[0] == 4003
    again.read()
    assert again.closed_with == 4003


def test_a_shutdown_in_the_middle_of_a_replay_is_a_bare_close() -> None:
    bench, _, _, _, again = interrupted()
    bench.hub.fail(again.link, ErrorCode.SERVER_SHUTDOWN, bench.now)
    assert codes(again.read()) == []
    assert again.closed_with == 1012


def test_a_flood_in_the_middle_of_a_replay_is_a_bare_close_and_the_session_goes_on() -> None:
    bench, _, secret, top, again = interrupted()
    again.subscribe("nobody")
    bench.hub.fail(again.link, ErrorCode.RATE_LIMITED, bench.now)
    assert codes(again.read()) == []
    assert again.closed_with == 4005
    bench.hub.disconnect(again.link)
    assert session_of(bench, secret).sequence == top
    last, data = back(bench, secret, again.last, caps="resume,details", attempt=2)
    assert data["resumed"] is True
    assert codes(last.read()) == ["TOKEN_NOT_FOUND"]


def test_live_values_wait_for_the_end_of_a_replay_that_was_asked_for() -> None:
    bench, names = wide_bench()
    client, _ = start(bench, *names, caps="resume,details")
    for _ in range(4):
        change_all(bench, names)
        client.read()
    top = client.last
    client.send({"type": "replay", "data": {"from": 3, "to": top}})
    assert client.link.session.replay is not None
    change_all(bench, names)
    client.last = 2
    messages = client.read()
    assert client.last == top + len(names)
    assert updates(messages)[-1] == (names[-1], 6)


def test_each_gap_is_announced_also_when_asked_for_in_a_row(bench: Bench) -> None:
    client, _ = start(bench, "token0", caps="resume,details")
    for _ in range(10):
        bench.change("token0")
        bench.tick()
    client.read()
    ring = client.link.session.ring
    assert ring is not None
    ring.clear(client.last)
    client.socket.write(b"\0" * 70_000)
    client.socket.buffer.clear()
    client.link.writable = False
    client.send({"type": "replay", "data": {"from": 2, "to": 4}})
    client.send({"type": "replay", "data": {"from": 6, "to": 8}})
    messages = client.read()
    assert [(m["data"]["from"], m["data"]["to"]) for m in messages if m["type"] == "gap"] == [(2, 4)]
    assert codes(messages) == ["REPLAY_UNAVAILABLE"]


def test_a_replay_costs_what_it_makes_the_server_send() -> None:
    bench, names = wide_bench()
    client, _ = start(bench, *names, caps="resume,details")
    for _ in range(10):
        change_all(bench, names)
        client.read()
    client.send({"type": "replay", "data": {"from": 3, "to": client.last}})
    client.last = 2
    client.read()
    client.subscribe("nobody")
    assert codes(client.read()) == ["RATE_LIMITED"]


def test_newest_values_of_a_gap_in_a_replay_come_behind_the_versions_that_wait() -> None:
    bench, _, secret, _, again = interrupted("every")
    session = session_of(bench, secret)
    assert session.ring is not None
    session.ring.clear(session.sequence)
    bench.change("token0", 3)  # in the log, not flushed yet
    messages = again.read()
    bench.hub.flush_stream()
    bench.flush()
    seen = [version for address, version in updates([*messages, *again.read()]) if address == "token0"]
    assert "gap" in kinds(messages)
    assert seen == sorted(seen)
    assert seen[-3:] == [9, 10, 10]


def asked_for_a_replay(bench: Bench, client: Client) -> None:
    """The request is read, and nothing was written for it yet."""
    request = {"type": "replay", "data": {"from": 2, "to": client.last}}
    assert bench.hub.admit(client.link, bench.now)
    bench.hub.receive(client.link, json.dumps(request), bench.now)
    assert client.link.session.replay is not None
    client.last = 1


def test_a_tick_between_a_request_and_its_replay_waits(bench: Bench) -> None:
    client, _ = start(bench, "token0", caps="resume,details")
    asked_for_a_replay(bench, client)
    bench.change("token0")
    bench.tick()
    assert updates(client.read()) == [("token0", 1), ("token0", 2)]


def test_an_end_between_a_request_and_its_replay_takes_no_number(bench: Bench) -> None:
    client, secret = start(bench, "token0", caps="resume,details")
    top = client.last
    asked_for_a_replay(bench, client)
    bench.hub.fail(client.link, ErrorCode.RATE_LIMITED, bench.now)
    bench.flush()
    assert client.read() == []
    assert client.closed_with == 4005
    session = session_of(bench, secret)
    assert (session.sequence, session.outbox or None) == (top, None), "the session goes on, without a fatal error"
