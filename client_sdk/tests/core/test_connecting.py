"""Connecting, backing off, giving up (Spec, Connection Management; I-44, I-45)."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire.backoff import RETRY_AFTER_CAP_MS, Backoff, needs_floor
from tokenwire.config import ClientConfig
from tokenwire.errors import ConfigError, ConnectionFailedError
from tokenwire.events import Connected, Error, Reconnecting, Snapshot
from tokenwire.states import ConnectionState

from .peer import ALL, URL, Peer, live


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://h/x",
        "example.org",
        "ws://",
        "ws:///path",
        "wss://h:99999999/",
        "ws://h/#x",
        "ws://h/a b",
        "ws://h/\r\nX: y",
    ],
)
def test_refuses_what_is_no_websocket_url(url: str) -> None:
    with pytest.raises(ConfigError, match="INVALID_CONFIG") as caught:
        ClientConfig(url=url)
    assert caught.value.remedy
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_retries": -1},
        {"queue_events": 0},
        {"idle_timeout_ms": 0},
        {"capabilities": ("ba tch",)},
        {"delivery": "every", "capabilities": ("batch",)},
        {"headers": (("X", "a\r\nY: b"),)},
        {"headers": (("X Y", "a"),)},
    ],
)
def test_refuses_settings_that_cannot_work(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ClientConfig(url=URL, **settings)  # type: ignore[arg-type]


def test_asks_for_capabilities_and_keeps_the_users_query() -> None:
    peer = Peer(url="wss://h:8443/p/x?token=a%2Fb&caps=zz&seq=7&flag", delivery="every").start()
    parts = urlsplit(peer.connects[0].url)
    assert (parts.scheme, parts.netloc, parts.path) == ("wss", "h:8443", "/p/x")
    assert parts.query == "token=a%2Fb&flag&caps=batch,heartbeat,resume,details&delivery=every"
    assert peer.connects[0].headers == ()
    assert peer.connects[0].deflate


def test_deflate_is_offered_beside_zstd_and_headers_are_kept() -> None:
    peer = Peer(capabilities=("zstd",), headers=(("Authorization", "Bearer x"),)).start()
    assert peer.connects[0].deflate
    assert peer.connects[0].headers == (("Authorization", "Bearer x"),)


def test_nothing_asked_leaves_the_url_alone() -> None:
    assert Peer(capabilities=()).start().connects[0].url == URL


def test_first_connection() -> None:
    peer = Peer().start()
    assert peer.session.state is ConnectionState.CONNECTING
    peer.greet(*ALL)
    assert peer.session.state is ConnectionState.CONNECTED
    (event,) = peer.events()
    assert event == Connected("c-1", tuple(sorted(ALL)), None, peer.wall, "m1")
    assert peer.session.max_subscriptions == 100


def test_start_twice_is_one_connection() -> None:
    peer = Peer().start().start()
    assert len(peer.connects) == 1


def test_backs_off_doubling_to_the_cap_and_fails_after_the_last_try() -> None:
    peer = Peer(max_retries=7).start()
    delays = []
    for _ in range(7):
        peer.session.refused(None, None, "refused", peer.now, peer.wall)
        event = peer.events()[-1]
        assert isinstance(event, Reconnecting)
        delays.append(event.delay_ms)
        assert peer.session.state is ConnectionState.RECONNECTING
        peer.back()
    assert delays == [1000, 2000, 4000, 8000, 16000, 30000, 30000]
    peer.session.refused(None, None, "refused", peer.now, peer.wall)
    assert peer.session.state is ConnectionState.FAILED
    assert isinstance(peer.session.failure, ConnectionFailedError)
    assert peer.session.failure.code == "RETRIES_EXHAUSTED"
    assert peer.session.next_deadline() is None


def test_backoff_starts_over_only_after_stability() -> None:
    peer = Peer(stable_ms=30_000).start()
    for expected in (1, 2):
        peer.greet()
        peer.advance(1000)
        peer.cut()
        assert peer.take(Reconnecting)[-1].attempt == expected
        peer.back()
    peer.greet()
    for _ in range(31):
        peer.advance(1000)
        peer.session.alive(peer.now)
    peer.cut()
    assert peer.take(Reconnecting)[-1].attempt == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "UNAUTHORIZED"),
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
        (400, "HANDSHAKE_REFUSED"),
        (426, "HANDSHAKE_REFUSED"),
    ],
)
def test_refusals_for_good(status: int, code: str) -> None:
    peer = Peer().start()
    request = peer.session.subscribe(["A"], peer.now)
    peer.session.refused(status, None, "no", peer.now, peer.wall)
    assert peer.session.state is ConnectionState.FAILED
    assert peer.session.failure is not None
    assert peer.session.failure.code == code
    assert request.done
    assert request.error is peer.session.failure
    assert peer.session.subscribe(["B"], peer.now).error is peer.session.failure


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 302, None])
def test_refusals_that_may_pass(status: int | None) -> None:
    peer = Peer(random=lambda: 0.5).start()
    peer.session.refused(status, None, "no", peer.now, peer.wall)
    (event,) = peer.take(Reconnecting)
    assert (event.status, event.code) == (status, None)
    assert event.delay_ms == (1000 if status in {429, 503} else 500)


def test_honours_retry_after_within_reason() -> None:
    peer = Peer(random=lambda: 0.0).start()
    peer.session.refused(503, 45_000, "busy", peer.now, peer.wall)
    assert peer.take(Reconnecting)[-1].delay_ms == 45_000
    peer.back()
    peer.session.refused(429, 10**12, "busy", peer.now, peer.wall)
    assert peer.take(Reconnecting)[-1].delay_ms == RETRY_AFTER_CAP_MS


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4501, 4777, 3000, 0, 99999])
def test_close_codes_that_end_it(code: int) -> None:
    peer = live()
    peer.cut(code, "bye")
    assert peer.session.state is ConnectionState.FAILED
    assert peer.session.failure is not None
    assert peer.session.failure.remedy


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4000, 4001, 4002, 4003, 4005, 4444])
def test_close_codes_after_which_it_comes_back(code: int | None) -> None:
    peer = live(random=lambda: 0.0)
    peer.cut(code)
    (event,) = peer.take(Reconnecting)
    assert event.code == (1006 if code is None else code)
    assert event.delay_ms == (1000 if code in {1001, 1012, 1013, 4001, 4005} else 0)
    peer.back()


def test_the_application_may_override_the_range() -> None:
    peer = live(also_reconnect=(1000,))
    peer.cut(1000)
    assert peer.session.state is ConnectionState.RECONNECTING


def test_full_instance_says_so_before_it_greets() -> None:
    peer = Peer(random=lambda: 0.0).start().open()
    peer.say("error", 1, code="MAX_CONNECTIONS", message="full", level="fatal")
    peer.say("connection", 2, status="error", connectionId="c", maxSubscriptions=100)
    peer.cut(None)
    error, reconnecting = peer.events()
    assert isinstance(error, Error)
    assert (error.code, error.level) == ("MAX_CONNECTIONS", "fatal")
    assert isinstance(reconnecting, Reconnecting)
    assert reconnecting.delay_ms == 1000  # by the announced reason, though the close frame was lost
    assert peer.session.state is ConnectionState.RECONNECTING


def test_fatal_error_names_the_failure_and_the_code_decides() -> None:
    peer = live()
    peer.say("error", code="UNAUTHORIZED", message="expired", level="fatal")
    assert peer.session.state is ConnectionState.CONNECTED
    peer.cut(4501)
    assert peer.session.failure is not None
    assert peer.session.failure.code == "UNAUTHORIZED"


def test_server_that_announces_the_end_and_stays() -> None:
    peer = live()
    peer.say("error", code="INTERNAL_ERROR", message="oops", level="fatal")
    peer.advance(4999)
    assert not peer.closes
    peer.advance(1)
    assert [close.code for close in peer.closes] == [None]
    assert peer.session.state is ConnectionState.RECONNECTING


def test_silent_connect_is_given_up_here_too() -> None:
    peer = Peer().start()
    peer.advance(6_000)
    assert [close.code for close in peer.closes] == [None]
    assert peer.take(Reconnecting)[0].cause == "no connection in time"
    peer.open()  # too late
    assert len(peer.closes) == 2


def test_server_that_does_not_greet() -> None:
    peer = Peer().start().open()
    peer.advance(4_999)
    assert not peer.closes
    peer.advance(1)
    assert [close.code for close in peer.closes] == [1002]
    assert peer.session.state is ConnectionState.RECONNECTING


def test_late_reports_of_an_old_socket_are_ignored() -> None:
    peer = live()
    peer.cut(None)
    before = peer.session.metrics.reconnects
    peer.cut(1000)
    peer.raw("junk")
    peer.session.refused(401, None, "", peer.now, peer.wall)
    assert peer.session.metrics.reconnects == before
    assert peer.session.state is ConnectionState.RECONNECTING


def test_watchdog_uses_the_servers_figure_and_any_sign_of_life() -> None:
    peer = Peer(random=lambda: 0.0).start().greet(idleTimeoutMs=8_000)
    peer.advance(7_000)
    peer.session.alive(peer.now)
    peer.advance(7_999)
    assert not peer.closes
    peer.advance(1)
    assert [close.code for close in peer.closes] == [None]
    assert "nothing received" in peer.take(Reconnecting)[0].cause


@pytest.mark.parametrize("figure", [0, -5, 1])
def test_nonsense_idle_timeout_is_kept_within_reason(figure: int) -> None:
    peer = Peer().start().greet(idleTimeoutMs=figure)
    peer.advance(999)
    assert not peer.closes


def test_pings_after_quiet() -> None:
    peer = Peer(ping_interval_ms=3_000).start().greet()
    pings = peer.pings
    peer.advance(2_999)
    peer.session.alive(peer.now)
    peer.advance(2_999)
    assert peer.pings == pings
    peer.advance(1)
    assert peer.pings == pings + 1
    assert not peer.sent


def test_close_is_final() -> None:
    peer = live("A")
    request = peer.session.subscribe(["B"], peer.now)
    peer.session.close(peer.now)
    peer.act()
    assert [close.code for close in peer.closes] == [1000]
    assert peer.session.is_closed
    assert request.error is not None
    assert request.error.code == "CLIENT_CLOSED"
    peer.cut(1000)
    assert peer.session.next_deadline() is None
    assert peer.session.failure is None
    assert peer.session.subscribe(["C"], peer.now).error is not None


def test_close_while_dialing_drops_the_try() -> None:
    peer = Peer().start()
    peer.session.close(peer.now)
    peer.act()
    assert [close.code for close in peer.closes] == [None]
    peer.open()
    assert peer.closes[-1].code == 1000


def test_attempts_rise_strictly() -> None:
    peer = live()
    seen = []
    for _ in range(4):
        peer.cut()
        query = parse_qs(urlsplit(peer.back().url).query)
        seen.append(int(query["attempt"][0]))
        assert query["seq"] == ["1"]
        peer.session.refused(502, None, "", peer.now, peer.wall)
        query = parse_qs(urlsplit(peer.back().url).query)
        seen.append(int(query["attempt"][0]))
        peer.open()
    assert seen == sorted(set(seen))


@given(
    base=st.integers(1, 5_000),
    cap=st.integers(1, 60_000),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60),
    floor=st.booleans(),
)
def test_delays_keep_their_bounds(base: int, cap: int, draws: list[float], floor: bool) -> None:
    rest = iter(draws)
    backoff = Backoff(base, cap, None, lambda: next(rest))
    for index in range(len(draws)):
        delay = backoff.next_delay(floor=floor)
        assert delay is not None
        assert delay <= min(cap, max(base * 2**index, base))
        assert not floor or delay >= min(base, cap)


@given(retries=st.integers(0, 20))
def test_exactly_so_many_tries(retries: int) -> None:
    backoff = Backoff(1, 10, retries, lambda: 0.5)
    delays = [backoff.next_delay() for _ in range(retries + 2)]
    assert None not in delays[:retries]
    assert delays[retries:] == [None, None]
    backoff.reset()
    assert (backoff.next_delay() is None) == (retries == 0)


def test_floor_codes() -> None:
    assert [code for code in range(900, 5000) if needs_floor(code)] == [1001, 1012, 1013, 4001, 4005]


def test_a_reason_that_repeats_the_error_is_told_once() -> None:
    peer = live("A")
    peer.say("error", code="SERVER_SHUTDOWN", message="going down", level="fatal")
    peer.cut(1012, "SERVER_SHUTDOWN")
    (event,) = peer.take(Reconnecting)
    assert event.cause == "SERVER_SHUTDOWN"


@pytest.mark.parametrize("told", [0, 7])
def test_the_servers_limit_of_tokens(told: int) -> None:
    peer = Peer().start().greet(*ALL, maxSubscriptions=told)
    assert peer.session.max_subscriptions == max(told, 1)


def test_closing_and_saving_what_has_failed() -> None:
    peer = live("A")
    peer.value("a-A", "1", 1)
    peer.cut(4500, "another one")
    assert peer.session.state is ConnectionState.FAILED
    failure = peer.session.failure
    before = peer.session.checkpoint()
    assert (before.position, before.names, before.versions) == (peer.number - 1, {"A": "a-A"}, {})
    peer.session.close(peer.now)
    peer.session.close(peer.now)
    peer.act()
    assert peer.session.is_closed
    assert peer.session.state is ConnectionState.FAILED
    assert peer.session.failure is failure
    assert peer.closes == []
    assert peer.session.next_deadline() is None
    request = peer.session.subscribe(["B"], peer.now)
    assert request.error is failure
    assert len(peer.take(Snapshot)) == 1  # what came before is still there
    assert peer.session.checkpoint().position == peer.number
