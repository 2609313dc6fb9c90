"""The hub in virtual time: heartbeats, floods, slow readers, stale sources; nothing waits, grows or stays."""

from tokenwire_schemas import limits
from tokenwire_schemas.errors import ErrorCode
from tokenwire_server.core.staleness import SourceHealth

from .conftest import Bench, codes, kinds


def test_a_token_without_a_value_is_subscribed_in_silence(bench: Bench) -> None:
    bench.add("young", has_value=False)
    client = bench.client()
    client.subscribe("young")
    assert kinds(client.read()) == ["subscription"]
    bench.directory.values["young"].has_value = True
    bench.change("young")
    bench.tick()
    assert kinds(client.read()) == ["token_update"]


def test_a_flood_is_dropped_told_once_a_second_and_ended_after_ten(bench: Bench) -> None:
    client = bench.client()
    for _ in range(60):
        client.subscribe("token0")
    messages = client.read()
    assert kinds(messages).count("subscription") == limits.INBOUND_BURST
    assert codes(messages) == ["RATE_LIMITED"]
    assert messages[-1]["data"]["message"].startswith("1 messages dropped")
    notices = 0
    while client.closed_with is None:
        bench.now += 10
        client.subscribe("token0")
        notices += codes(client.read()).count("RATE_LIMITED")
        assert bench.now < 1_020_000
    assert client.closed_with == 4005
    assert 9 <= notices <= 11
    assert 10_000 <= bench.now - 1_000_000 <= 10_100


def test_silence_is_pinged_after_15_s_and_closed_after_20() -> None:
    bench = Bench()
    client = bench.client()
    bench.pass_time(14_750)
    assert not client.socket.buffer
    bench.pass_time(500)
    assert bytes(client.socket.buffer) == bench.hub.ping
    bench.pass_time(4_500)
    client.read()
    assert client.closed_with is None
    bench.pass_time(500)
    client.read()
    assert client.closed_with == 4000
    bench.pass_time(5_250)
    assert client.socket.aborted
    assert not bench.hub.links


def test_any_byte_keeps_a_connection_alive() -> None:
    bench = Bench()
    client = bench.client()
    for _ in range(20):
        bench.pass_time(15_000)
        client.link.last_byte_ms = bench.now
    client.read()
    assert client.closed_with is None
    pings = [frame for frame in client.frames if frame.opcode.name == "PING"]
    assert 19 <= len(pings) <= 20


def test_a_full_socket_gets_nothing_until_it_drains_and_then_the_newest() -> None:
    bench = Bench(tokens=100)
    slow, fast = bench.client(), bench.client()
    names = [f"token{n}" for n in range(100)]
    for client in (slow, fast):
        client.subscribe(*names)
        client.read()
    for round_ in range(50):
        for name in names:
            bench.change(name)
        bench.tick()
        if round_ % 5 == 0:
            fast.read()
    assert len(slow.socket.buffer) < 2 * limits.WRITE_HIGH_WATER_BYTES
    assert slow.link.session.is_behind
    fast.read()
    newest: dict[str, str] = {}
    for message in slow.read():
        newest[message["data"]["address"]] = message["data"]["price"]
    assert newest == dict.fromkeys(names, "51")
    assert not slow.link.session.is_behind
    bench.change("token0")
    bench.tick()
    assert [m["data"]["price"] for m in slow.read()] == ["52"]


def test_a_reader_stalled_5_s_is_warned_and_one_stalled_30_s_is_closed() -> None:
    bench = Bench(tokens=1)
    client = bench.client()
    client.subscribe("token0")
    bench.hub.pause(client.link, bench.now)
    client.link.writable = False
    client.socket.buffer += b""
    bench.pass_time(5_500)
    bench.hub.resume(client.link, bench.now)
    bench.flush()
    assert "SLOW_CONSUMER" in codes(client.read())
    client.socket.buffer += b"x"
    bench.hub.pause(client.link, bench.now)
    for _ in range(31):
        client.link.last_byte_ms = bench.now  # it sends, yet does not read
        bench.pass_time(1_000)
    assert client.link.close_with is not None
    assert client.link.close_with[0] == 4001


def test_a_client_that_asks_and_never_reads_fills_its_own_queue_only(bench: Bench) -> None:
    client = bench.client()
    bench.hub.pause(client.link, bench.now)
    sent = 0
    while client.link.close_with is None:
        bench.now += 60
        client.subscribe("token0")
        sent += 1
        assert sent < 1000
    assert client.link.close_with[0] == 4001
    assert sent == limits.MAX_OUTBOX_FRAMES + 1


def test_stale_values_are_told_once_an_episode(bench: Bench) -> None:
    bench.hub.staleness.sources["test"] = SourceHealth(cadence_ms=1_000, now=bench.now)
    holder, other = bench.client(), bench.client()
    holder.subscribe("token0", "token1")
    holder.read()

    def live(ms: int) -> None:
        for _ in range(ms // 5_000):
            bench.pass_time(5_000)
            for client in (holder, other):
                client.link.last_byte_ms = bench.now

    live(20_000)
    assert codes(holder.read()) == ["UPSTREAM_STALE"]
    assert codes(other.read()) == []
    live(20_000)
    assert codes(holder.read()) == []
    holder.subscribe("token2")
    assert codes(holder.read()) == [], "the episode was told already"
    for address in list(bench.directory.values):
        bench.change(address)
    bench.pass_time(1_000)
    live(20_000)
    assert codes(holder.read()) == ["UPSTREAM_STALE"]
    other.subscribe("token1")
    assert codes(other.read()) == ["UPSTREAM_STALE"]


def test_a_blocked_client_catches_up_with_a_single_tick_it_missed(bench: Bench) -> None:
    client = bench.client()
    client.subscribe("token0")
    client.read()
    bench.hub.pause(client.link, bench.now)
    bench.change("token0")
    bench.tick()
    bench.hub.resume(client.link, bench.now)
    bench.flush()
    assert [message["data"]["price"] for message in client.read()] == ["2"]


def test_an_idle_hub_never_fires_a_timer_early() -> None:
    bench = Bench()
    bench.now += 123  # off the wheel's grid
    client = bench.client()
    start = bench.now
    while not client.socket.buffer:
        bench.pass_time(7, step=7)
    assert 15_000 <= bench.now - start <= 15_250 + 7


def test_a_long_message_counts_as_several(bench: Bench) -> None:
    client = bench.client()
    long = {"type": "subscription", "data": {"action": "subscribe", "tokens": ["token0"], "x": "y" * 1_000_000}}
    client.send(long)
    assert kinds(client.read()) == ["subscription", "token_update"]
    client.subscribe("token0")
    assert codes(client.read()) == ["RATE_LIMITED"]
    bench.now += 2_000
    client.subscribe("token0")
    assert kinds(client.read()) == ["subscription", "token_update"]


def test_an_unfinished_message_has_20_s() -> None:
    bench = Bench()
    client, patient = bench.client(), bench.client()
    bench.hub.hold(client.link, 100, bench.now)
    for second in range(21):
        for one in (client, patient):
            one.link.last_byte_ms = bench.now
            bench.hub.hold(client.link, 100 + second, bench.now)
        bench.pass_time(1_000)
    error, connection = (message for message in client.read())
    assert error["data"]["level"] == "fatal"
    assert connection["data"]["status"] == "error"
    assert client.closed_with == 1008
    patient.read()
    assert patient.closed_with is None


def test_unfinished_messages_of_all_clients_together_are_bounded() -> None:
    bench = Bench()
    clients = [bench.client() for _ in range(70)]
    for client in clients:
        bench.hub.hold(client.link, 1_000_000, bench.now)
    bench.flush()
    ended = [client for client in clients if codes(client.read()) == ["MESSAGE_TOO_LARGE"]]
    assert ended == clients[67:]
    for client in clients:
        bench.hub.disconnect(client.link)
    assert bench.hub.held_bytes == 0


def test_a_new_episode_of_staleness_is_told_even_after_everything_was_unsubscribed(bench: Bench) -> None:
    bench.hub.staleness.sources["test"] = SourceHealth(cadence_ms=1_000, now=bench.now)
    client = bench.client()

    def live(ms: int) -> None:
        for _ in range(ms // 5_000):
            client.link.last_byte_ms = bench.now
            bench.pass_time(5_000)

    client.subscribe("token0")
    live(20_000)
    assert codes(client.read()) == ["UPSTREAM_STALE"]
    client.subscribe("token0", action="unsubscribe")
    bench.change("token0")
    live(5_000)
    client.subscribe("token0")
    assert codes(client.read()) == []
    live(20_000)
    assert codes(client.read()) == ["UPSTREAM_STALE"]


def test_a_stalled_socket_gets_neither_pings_nor_pongs(bench: Bench) -> None:
    client = bench.client()
    assert bench.hub.receive_control(client.link, bench.now)
    bench.hub.pause(client.link, bench.now)
    assert not bench.hub.receive_control(client.link, bench.now)
    bench.now += 14_000
    client.link.last_byte_ms = bench.now
    bench.pass_time(2_000)
    assert not client.socket.buffer


def test_a_reader_that_is_slow_but_moves_is_kept() -> None:
    bench = Bench(tokens=1)
    client = bench.client()
    client.socket.buffer += b"x" * 100
    bench.hub.pause(client.link, bench.now)
    for _ in range(60):
        client.link.last_byte_ms = bench.now
        del client.socket.buffer[:1]
        bench.pass_time(1_000)
    assert client.link.close_with is None


def test_silence_is_judged_before_the_stall() -> None:
    bench = Bench(tokens=1)
    client = bench.client()
    bench.hub.pause(client.link, bench.now)
    bench.pass_time(45_000)
    assert client.link.close_with is not None
    assert client.link.close_with[0] == 4000


def test_a_flood_that_pauses_begins_anew(bench: Bench) -> None:
    client = bench.client()
    for _ in range(40):
        bench.now += 2_500  # longer than the notice interval: each burst is its own flood
        for _ in range(100):
            client.subscribe("token0")
        assert client.closed_with is None
        client.read()


def test_an_ended_connection_lets_go_of_its_socket(bench: Bench) -> None:
    client = bench.client()
    bench.hub.disconnect(client.link)
    assert client.link.socket is not client.socket
    assert client.link.session.write != client.socket.write


def test_a_lost_source_is_told_to_who_holds_its_tokens_at_most_once_a_minute(bench: Bench) -> None:
    bench.add("elsewhere", source="other")
    holder, other = bench.client(), bench.client()
    holder.subscribe("token0", "token1")
    other.subscribe("elsewhere")
    for client in (holder, other):
        client.read()
    for _ in range(3):
        bench.hub.source_lost("test", bench.now)
        bench.flush()
        bench.now += 10_000
    assert codes(holder.read()) == ["UPSTREAM_UNAVAILABLE"]
    assert codes(other.read()) == []
    bench.now += 60_000
    bench.hub.source_lost("test", bench.now)
    bench.flush()
    assert codes(holder.read()) == ["UPSTREAM_UNAVAILABLE"]


def test_latency_is_from_a_changes_arrival_to_its_tick(bench: Bench) -> None:
    observed: list[float] = []

    class Observer:
        def observe(self, milliseconds: float, /) -> None:
            observed.append(milliseconds)

    bench.hub.stats.latency = Observer()
    client = bench.client()
    client.subscribe("token0")
    bench.change("token0")
    bench.change("token1")  # nobody waits for it
    bench.now += 123
    bench.tick()
    assert observed == [123]


def test_what_waited_for_a_full_socket_is_dropped_when_the_connection_ends(bench: Bench) -> None:
    client = bench.client()
    bench.hub.pause(client.link, bench.now)
    client.subscribe("token0", "token1")
    bench.hub.fail(client.link, ErrorCode.INTERNAL_ERROR, bench.now)
    bench.flush()
    assert kinds(client.read()) == ["error", "connection"]
    assert client.closed_with == 1011
