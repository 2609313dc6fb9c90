"""What sessions may cost, and what must not happen in the middle of a replay."""

import json

import pytest

from tokenwire_schemas import limits
from tokenwire_server.core.grants import Offer
from tokenwire_server.core.hub import HubConfig

from .conftest import WALL, Bench, Client, change_all, codes, kinds, resume_paced, session_of, wide_bench
from .test_resume import back, start, updates

LONG = "9" * 900


def test_a_client_that_never_acks_is_charged_for_what_it_holds_and_nobody_else_pays() -> None:
    bench = Bench(tokens=1_000, config=HubConfig(resume_instance_bytes=2_000_000))
    for first in range(0, 1_000, 100):
        bench.client().subscribe(*(f"token{number}" for number in range(first, first + 100)))
    crowd = list(bench.clients)
    hog, _ = start(bench, "token0")
    others = [start(bench, "token1") for _ in range(3)]
    for _ in range(200):
        for number in range(1_000):
            bench.change(f"token{number}")
        bench.tick()
        for client in crowd:
            client.socket.buffer.clear()
            client.link.writable = True
        hog.read()
        for client, _ in others:
            client.read()
            client.send({"type": "ack", "data": {"sequence": client.last - 1}})
            bench.now += 100
    assert bench.hub.ledger.octets < 200_000, "one payload a tick is held, not a thousand"
    assert hog.link.session.ring is not None
    assert hog.link.session.ring.floor == 0
    for client, _ in others:
        assert client.link.session.ring is not None
        assert client.link.session.ring.floor == client.last - 1


def test_the_largest_ring_gives_way_first() -> None:
    bench = Bench(tokens=50, config=HubConfig(resume_instance_bytes=60_000))
    large, _ = start(bench, *(f"token{number}" for number in range(49)))
    small, _ = start(bench, "token49")
    for _ in range(60):
        change_all(bench, [f"token{number}" for number in range(50)])
        large.read()
        small.read()
        assert bench.hub.ledger.octets <= 60_000
    assert small.link.session.ring is not None
    assert large.link.session.ring is not None
    assert small.link.session.ring.floor == 0
    assert large.link.session.ring.floor > 0
    assert large.link.session.ring.floor < large.last, "only as much as is needed"


def test_replies_that_wait_for_an_absent_client_are_counted_and_bounded(bench: Bench) -> None:
    client, secret = start(bench, "token0", caps="resume,details")
    client.socket.write(b"\0" * 70_000)
    client.subscribe(*(f"nobody-{number}" for number in range(300)))
    before = bench.hub.ledger.octets
    queued = session_of(bench, secret).outbox_bytes
    assert queued > 10_000
    bench.lose(client)
    assert bench.hub.ledger.octets == before + queued
    again, data = back(bench, secret, client.last, caps="resume,details")
    assert data["resumed"] is True
    again.read()
    bench.lose(again)
    assert bench.hub.ledger.octets - before < queued, "they were sent, and are in the ring now"
    bench.pass_time(121_000)
    assert bench.hub.ledger.octets == 0


def test_a_client_that_leaves_with_too_many_replies_waiting_loses_its_session(bench: Bench) -> None:
    client, secret = start(bench, "token0", caps="resume,details")
    client.socket.write(b"\0" * 70_000)
    client.subscribe(*("\U0001f600" * 250 + f"{number:04}" for number in range(900)))
    assert session_of(bench, secret).outbox_bytes > limits.MAX_OUTBOX_BYTES
    bench.lose(client)
    assert bench.hub.registry.find(secret) is None
    assert bench.hub.stats.evicted == {"replies": 1}
    assert bench.hub.ledger.octets == bench.hub.ledger.frames == 0


def test_versions_that_wait_for_an_absent_client_are_counted(bench: Bench) -> None:
    client, data = bench.ask("batch,resume,details", delivery="every")
    client.subscribe("token0")
    client.read()
    bench.lose(client)
    before = bench.hub.ledger.octets
    bench.change("token0", 100)
    bench.hub.flush_stream()
    assert bench.hub.ledger.octets - before == session_of(bench, data["session"]).stream_bytes > 5_000
    again, data = bench.ask("batch,resume,details", delivery="every", session=data["session"], position=client.last)
    again.read()
    again.send({"type": "ack", "data": {"sequence": again.last}})
    assert bench.hub.ledger.octets == 0


def test_no_reply_exceeds_a_message(bench: Bench) -> None:
    client, _ = bench.ask("details,resume")
    names = ["\U0001f600" * 250 + f"{number:04}" for number in range(1_000)]
    bench.now += 5_000
    client.send(
        json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": names}}, ensure_ascii=False)
    )
    messages = client.read()
    assert all(len(frame.data) <= limits.MAX_MESSAGE_BYTES for frame in client.frames)
    refusals = [message["data"] for message in messages if message["type"] == "subscription"]
    assert len(refusals) > 1
    assert [name for data in refusals for name in data["tokens"]] == names
    assert [entry["token"] for data in refusals for entry in data["rejected"]] == names
    assert len(messages[-1]["data"]["tokens"]) == 100


def test_sockets_that_lost_their_session_are_few_and_take_nobody_s_place() -> None:
    bench = Bench(tokens=1, config=HubConfig(max_connections=2))
    client, secret = start(bench, "token0")
    taken = [client]
    for attempt in range(1, 120):
        offer = Offer(frozenset({"batch", "resume", "details"}), session=secret, position=1, attempt=attempt)
        taken.append(Client(bench, offer=offer))
    for _ in range(60):
        offer = Offer(frozenset({"batch", "resume", "details"}), session=secret, position=1, attempt=0)
        taken.append(Client(bench, offer=offer))
    assert len(bench.hub.links) == 1
    assert bench.hub.rejected == 0
    assert bench.hub.may_upgrade()
    aborted = [client for client in taken if client.socket.aborted]
    for client in aborted:
        bench.hub.disconnect(client.link)
    assert aborted
    bench.client()
    full = Client(bench)
    assert codes(full.read()) == ["MAX_CONNECTIONS"]
    for client in taken:
        bench.hub.disconnect(client.link)
    assert not bench.hub.parting


def test_beyond_fifty_of_them_the_oldest_is_cut_at_once() -> None:
    bench = Bench(tokens=1)
    client, secret = start(bench, "token0")
    clients = [client]
    for attempt in range(1, 200):
        offer = Offer(frozenset({"batch", "resume", "details"}), session=secret, position=1, attempt=attempt)
        clients.append(Client(bench, offer=offer))
    assert len(bench.hub.parting) == limits.MAX_REJECTED_SOCKETS
    kept = [client.link for client in clients if not client.socket.aborted]
    assert kept == [client.link for client in clients[-limits.MAX_REJECTED_SOCKETS - 1 :]], "also in one burst"
    for client in clients:
        bench.hub.disconnect(client.link)
    assert not bench.hub.parting


def test_an_ack_is_welcome_however_much_waits() -> None:
    """A session that was closed as slow and comes back with a full outbox can live again."""
    bench, names = wide_bench()
    client, secret = start(bench, *names, caps="resume,details")
    for _ in range(12):
        change_all(bench, names)
        client.read()
    position = client.last - 700
    client.socket.write(b"\0" * 70_000)
    while client.link.close_with is None:
        bench.now += 100
        client.link.last_byte_ms = bench.now
        client.subscribe("nobody")
    assert client.link.close_with[0] == 4001
    bench.lose(client)
    again = resume_paced(bench, secret, position)
    again.send({"type": "ack", "data": {"sequence": position}})
    again.subscribe("nobody")
    assert again.link.close_with is None
    again.read()
    change_all(bench, names)
    assert len(updates(again.read())) == len(names)


def test_acks_and_pings_pass_when_the_rate_of_messages_is_used_up(bench: Bench) -> None:
    client, _ = start(bench, "token0")
    while client.link.limiter is None or client.link.limiter.may_read(bench.now, small=False):
        client.subscribe("token0")
    client.read()
    held = bench.hub.ledger.frames
    for message in ({"type": "ack", "data": {"sequence": 1}}, {"type": "ping", "data": {"echo": 1}}):
        assert bench.hub.admit(client.link, bench.now, small=True)
        bench.hub.receive(client.link, json.dumps(message), bench.now)
    bench.flush()
    assert kinds(client.read()) == ["heartbeat"]
    assert bench.hub.ledger.frames < held
    assert bench.hub.admit(client.link, bench.now, small=True)
    bench.hub.receive(
        client.link, '{"type":"subscription","data":{"action":"subscribe","tokens":["token1"]}}', bench.now
    )
    bench.flush()
    assert codes(client.read()) == ["RATE_LIMITED"], "but nothing else does"


def test_acks_of_nonsense_are_warned_of_once_a_second(bench: Bench) -> None:
    client, _ = start(bench, "token0")
    for _ in range(50):
        client.send({"type": "ack", "data": {"sequence": 10**9}})
    assert codes(client.read()) == ["ACK_OUT_OF_RANGE"]
    bench.now += 1_000
    client.send({"type": "ack", "data": {"sequence": 10**9}})
    assert codes(client.read()) == ["ACK_OUT_OF_RANGE"]


def test_an_ack_in_the_middle_of_a_run_frees_what_it_covers(bench: Bench) -> None:
    client, secret = start(bench, "token0", "token1", "token2", caps="resume,details")
    change_all(bench, ["token0", "token1", "token2"])
    client.read()
    client.send({"type": "ack", "data": {"sequence": client.last - 1}})
    assert back(bench, secret, client.last - 2, caps="resume,details")[1]["reason"] == "position_evicted"


def test_one_tick_larger_than_the_window_keeps_its_end() -> None:
    bench = Bench(tokens=1_100, config=HubConfig(max_subscriptions=2_000))
    client, _ = bench.ask("resume,details")
    for first in (0, 550):
        bench.now += 10_000
        client.subscribe(*(f"token{number}" for number in range(first, first + 550)))
    client.read()
    change_all(bench, [f"token{number}" for number in range(1_100)])
    received = client.read()
    ring = client.link.session.ring
    assert ring is not None
    assert client.last - ring.floor == 1_024
    client.send({"type": "replay", "data": {"from": ring.floor + 1, "to": client.last}})
    client.last = ring.floor
    assert client.read() == received[-1_024:]


def test_one_tick_with_more_bytes_than_the_window_keeps_its_end() -> None:
    bench = Bench(tokens=100, config=HubConfig(resume_max_bytes=20_000))
    for number in range(100):
        bench.directory.values[f"token{number}"].cap = LONG
    client, secret = start(bench, *(f"token{number}" for number in range(100)), caps="resume,details")
    change_all(bench, [f"token{number}" for number in range(100)])
    client.read()
    ring = session_of(bench, secret).ring
    assert ring is not None
    assert 15 <= client.last - ring.floor <= 20
    bench.lose(client)
    again, data = back(bench, secret, ring.floor, caps="resume,details")
    assert data["resumed"] is True
    again.read()
    assert again.last == client.last


def test_a_socket_that_lost_its_session_gets_nothing_but_the_close(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    client.socket.write(b"\0" * 70_000)
    for _ in range(3):
        client.link.last_byte_ms = bench.now
        bench.pass_time(2_500)
    assert client.link.stall_warning
    back(bench, secret, client.last)
    client.socket.buffer.clear()
    bench.hub.resume(client.link, bench.now)
    assert bench.hub.pump(client.link, WALL) == b"", "the close frame is out already"
    assert client.read() == []


def test_a_heartbeat_of_the_old_socket_is_not_sent_on_the_new_one(bench: Bench) -> None:
    client, secret = start(bench, "token0")
    client.socket.write(b"\0" * 70_000)
    client.send({"type": "ping", "data": {"echo": "old"}})
    bench.lose(client)
    again, _ = back(bench, secret, client.last)
    assert again.read() == []


def test_pending_counts_tokens(bench: Bench) -> None:
    client, _ = bench.ask("heartbeat")
    client.subscribe("token0", "token1", "token2")
    client.read()
    client.socket.write(b"\0" * 70_000)
    client.socket.buffer.clear()
    bench.change("token0")
    bench.change("token1")
    bench.tick()
    client.subscribe("nobody")
    client.send({"type": "ping"})
    client.send({"type": "ping"})
    assert [m["data"]["pending"] for m in client.read() if m["type"] == "heartbeat"] == [2, 2]


def test_a_value_that_fails_only_in_detail_spoils_only_itself(bench: Bench) -> None:
    client, _ = bench.ask("details,batch")
    client.subscribe("token0", "token1")
    strict = bench.client()
    strict.subscribe("token1")
    client.read()
    strict.read()
    bench.directory.values["token0"].source_time_ms = None  # type: ignore[assignment]
    bench.change("token0")
    bench.change("token1")
    bench.tick()
    assert updates(client.read()) == [("token1", 2)]
    assert kinds(strict.read()) == ["token_update"]
    assert bench.hub.stats.bad_rows == 1


@pytest.mark.parametrize("tokens", [1, 100])
def test_unsubscribing_filters_a_full_queue_once(tokens: int) -> None:
    bench = Bench(tokens=100)
    client, _ = bench.ask("batch,resume,details", delivery="every")
    names = [f"token{number}" for number in range(100)]
    client.subscribe(*names)
    client.read()
    client.link.writable = False
    for name in names:
        bench.change(name, 5)
    bench.hub.flush_stream()
    client.subscribe(*names[:tokens], action="unsubscribe")
    session = client.link.session
    assert len(session.stream or ()) == 5 * (100 - tokens)
    assert session.stream_bytes == sum(len(payload) for _, payload in session.stream or ())


def test_a_batch_is_split_by_its_exact_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_server.core import delivery
    from tokenwire_server.core.ring import batch_data

    for most in range(40, 80):
        monkeypatch.setattr(delivery, "MAX_BATCH_BYTES", most)
        payloads = [b"x" * 10] * 20
        batches = delivery._split(payloads)
        assert [payload for batch in batches for payload in batch] == payloads
        assert all(len(batch_data(batch)) <= most for batch in batches)
        assert all(len(batch_data((*batch, b"x" * 10))) > most for batch in batches[:-1]), "no smaller than needed"
