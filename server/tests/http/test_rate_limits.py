"""Limits of REST clients: headers, refusals, who counts as one client, and bounded memory. In virtual time."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from limits import parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tokenwire_server.app import running
from tokenwire_server.gateway.http import HttpApp, build_http_app
from tokenwire_server.gateway.rate_limits import BoundedWindows, RateLimits, client_network
from tokenwire_server.settings import Settings, SettingsError, load

from .asgi import Reply, ask
from .market import make_pipeline

ADDRESS = "10.0.0.1"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def answered(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": b"fine"})


class Limited:
    """An application with a limit, asked from any address."""

    def __init__(self, limit: str, keys: tuple[str, ...] = (), max_clients: int = 100) -> None:
        self.clock = Clock()
        self.windows = BoundedWindows(self.clock, max_clients)
        self.app = RateLimits(answered, parse(limit), keys, self.windows)

    async def ask(
        self,
        address: str | None = ADDRESS,
        path: str = "/x",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        async def from_address(scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "client": None if address is None else (address, 1)}, receive, send)

        return await ask(from_address, path, method, headers)

    async def statuses(self, count: int, address: str = ADDRESS, **options: Any) -> list[int]:
        return [(await self.ask(address, **options)).status for _ in range(count)]


async def test_the_headers_count_down_to_a_refusal() -> None:
    limited = Limited("3/minute")
    limited.clock.now_s = 60 * 20_000 + 10.5
    for remaining in ("2", "1", "0"):
        reply = await limited.ask()
        assert reply.status == 200
        assert reply.headers["a"] == "b"
        assert reply.headers["ratelimit-limit"] == "3"
        assert reply.headers["ratelimit-policy"] == "3;w=60"
        assert (reply.headers["ratelimit-remaining"], reply.headers["ratelimit-reset"]) == (remaining, "50")
    refused = await limited.ask()
    assert refused.status == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert (refused.headers["retry-after"], refused.headers["ratelimit-remaining"]) == ("50", "0")
    assert "3 per 1 minute" in refused.json["detail"]
    assert await limited.statuses(1, "10.0.0.2") == [200]


@settings(max_examples=50, deadline=None)
@given(
    amount=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 90, allow_nan=False) | st.sampled_from([0, 20, 60]), min_size=1, max_size=60),
)
@example(amount=1, pauses=[20, 0])  # two at the very first instant of a window
def test_whoever_waits_as_told_is_let_in(amount: int, pauses: list[float]) -> None:
    async def run() -> None:
        limited = Limited(f"{amount}/minute")
        for pause in pauses:
            limited.clock.now_s += pause
            reply = await limited.ask()
            if reply.status == 429:
                limited.clock.now_s += int(reply.headers["retry-after"])
                assert (await limited.ask()).status == 200

    asyncio.run(run())


@settings(max_examples=50, deadline=None)
@given(amount=st.integers(1, 20), pauses=st.lists(st.floats(0, 20, allow_nan=False), min_size=30, max_size=150))
def test_no_window_lets_in_twice_the_limit_and_a_clock_window_never_more_than_it(
    amount: int, pauses: list[float]
) -> None:
    async def run() -> None:
        limited = Limited(f"{amount}/minute")
        allowed = []
        for pause in pauses:
            limited.clock.now_s += pause
            if (await limited.ask()).status == 200:
                allowed.append(limited.clock.now_s)
        for begin in allowed:
            assert sum(begin <= each < begin + 60 for each in allowed) < 2 * amount + 1
        windows = [int(each // 60) for each in allowed]
        assert all(windows.count(window) <= amount for window in windows)

    asyncio.run(run())


async def test_an_ended_window_counts_less_the_longer_ago_it_is() -> None:
    limited = Limited("10/minute")
    limited.clock.now_s = 60 * 20_000 + 1
    assert await limited.statuses(12) == [200] * 10 + [429] * 2
    limited.clock.now_s = 60 * 20_001 + 30
    assert await limited.statuses(7) == [200] * 5 + [429] * 2
    limited.clock.now_s = 60 * 20_010
    assert await limited.statuses(11) == [200] * 10 + [429]


@pytest.mark.parametrize(
    ("path", "method"), [("/health", "GET"), ("/metrics", "HEAD"), ("/x", "POST"), ("/x", "OPTIONS")]
)
async def test_what_is_exempt(path: str, method: str) -> None:
    limited = Limited("1/minute")
    assert await limited.statuses(5, path=path, method=method) == [200] * 5
    assert "ratelimit-limit" not in (await limited.ask(path=path, method=method)).headers
    assert await limited.statuses(2) == [200, 429]


async def test_a_known_key_has_a_limit_of_its_own_and_an_invented_one_has_not() -> None:
    limited = Limited("2/minute", keys=("first", "second"))
    assert await limited.statuses(3, headers={"x-api-key": "first"}) == [200, 200, 429]
    assert await limited.statuses(1, "10.0.0.9", headers={"x-api-key": "first"}) == [429]
    assert await limited.statuses(1, headers={"x-api-key": "second"}) == [200]
    invented = [(await limited.ask(headers={"x-api-key": f"k{number}"})).status for number in range(4)]
    assert invented == [200, 200, 429, 429]


async def test_no_more_clients_are_remembered_than_there_is_room_for() -> None:
    limited = Limited("2/minute", max_clients=50)
    assert await limited.statuses(3, "10.9.9.9") == [200, 200, 429]
    for number in range(49):
        await limited.ask(f"10.0.0.{number}")
    assert await limited.statuses(1, "10.9.9.9") == [429]
    for number in range(1_000):
        await limited.ask(f"10.0.{number // 256}.{number % 256}")
    assert len(limited.windows) == 50
    assert await limited.statuses(1, "10.9.9.9") == [200]  # forgotten: it asked longest ago


async def test_whoever_asks_all_the_time_is_not_forgotten() -> None:
    limited = Limited("100/minute", max_clients=50)
    for number in range(99):
        await limited.ask("10.9.9.9")
        await limited.ask(f"10.0.0.{number}")
    assert await limited.statuses(2, "10.9.9.9") == [200, 429]


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        ("not an address" * 100, ("not an address" * 100)[:64]),
    ],
)
def test_who_counts_as_one_client(host: str, client: str) -> None:
    assert client_network(host) == client


async def test_a_socket_without_an_address_is_one_client_too() -> None:
    limited = Limited("1/minute")
    assert [(await limited.ask(None)).status for _ in range(2)] == [200, 429]


async def test_the_storage_keeps_the_contract_of_the_library() -> None:
    windows = BoundedWindows(Clock())
    limiter = SlidingWindowCounterRateLimiter(windows)
    item = parse("2/minute")
    assert [await limiter.test(item, "a"), await limiter.hit(item, "a"), await limiter.hit(item, "a")] == [True] * 3
    assert not await limiter.hit(item, "a")
    assert not await limiter.hit(item, "b", cost=3)
    await limiter.clear(item, "a")
    assert await limiter.hit(item, "a")
    assert await windows.reset() == 2
    assert await windows.check()
    with pytest.raises(NotImplementedError):
        await windows.get("a")


def build(**options: Any) -> HttpApp:
    pipeline = make_pipeline()
    return build_http_app(pipeline, lambda: (b"", "text/plain"), Settings(**options), pipeline)


async def test_the_setting_limits_the_described_api_and_a_page_elsewhere_may_read_why() -> None:
    app = build(rest_rate_limit="2/hour", rest_api_keys=("k",))
    path, origin = "/api/v1/klines/PEPE", {"origin": "https://a.example"}
    replies = [await ask(app, path, headers=origin) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "RateLimit-Remaining" in reply.headers["access-control-expose-headers"]
    assert (await ask(app, "/api/v1/errors", "HEAD")).status == 429
    assert (await ask(app, path, headers={"x-api-key": "k"})).status == 200
    assert (await ask(app, "/health", headers=origin)).status == 200


async def test_nothing_is_limited_when_the_setting_says_so() -> None:
    app = build(rest_rate_limit="0")
    replies = [await ask(app, "/api/v1/klines/PEPE") for _ in range(700)]
    assert {reply.status for reply in replies} == {200}
    assert "ratelimit-limit" not in replies[-1].headers


async def test_the_default_is_ten_a_second_over_a_minute() -> None:
    reply = await ask(build(), "/api/v1/klines/PEPE")
    assert reply.headers["ratelimit-policy"] == "600;w=60"


async def get_status(port: int, forwarded_for: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /api/v1/errors HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {forwarded_for}\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "statuses"),
    [
        ((), ["1.1.1.1", "1.1.1.2", "1.1.1.3"], [200, 200, 429]),  # whoever invents addresses gains nothing
        (("127.0.0.1",), ["1.1.1.1", "1.1.1.1", "1.1.1.1", "1.1.1.2"], [200, 200, 429, 200]),
        (("127.0.0.0/8",), ["9.9.9.1, 1.1.1.1", "9.9.9.2, 1.1.1.1", "9.9.9.3, 1.1.1.1"], [200, 200, 429]),
        (("10.0.0.0/8",), ["1.1.1.1", "1.1.1.2", "1.1.1.3"], [200, 200, 429]),
    ],
)
async def test_only_a_trusted_proxy_says_who_asks(
    trusted: tuple[str, ...], forwarded_for: list[str], statuses: list[int]
) -> None:
    options = {"port": 0, "drain_s": 0, "rest_rate_limit": "2/hour", "trusted_proxies": trusted}
    async with running(Settings(**options), []) as started:
        assert [await get_status(started.port, each) for each in forwarded_for] == statuses


@pytest.mark.parametrize(
    ("given_text", "text"),
    [
        ("100/minute", "100/minute"),
        ("20 / Second", "20/second"),
        ("100 per 5 minutes", "100 per 5 minute"),
        ("7 per hours", "7/hour"),
        (" 0 ", "0"),
    ],
)
def test_limits_as_people_write_them(given_text: str, text: str) -> None:
    found = load(environ={"TOKENWIRE_REST_RATE_LIMIT": given_text}).rest_rate_limit
    assert found == text
    assert text == "0" or parse(found).amount == int(text.split("/", maxsplit=1)[0].split(maxsplit=1)[0])


@pytest.mark.parametrize("given_text", ["0/minute", "-1/minute", "1/day", "fast", "1/minute;2/hour", "9999999999/hour"])
def test_what_is_no_limit_is_told_how_one_looks(given_text: str) -> None:
    with pytest.raises(SettingsError, match="expected such as 600/minute"):
        load(environ={"TOKENWIRE_REST_RATE_LIMIT": given_text})


def test_proxies_and_keys_as_people_write_them() -> None:
    found = load(
        environ={"TOKENWIRE_TRUSTED_PROXIES": "10.0.0.0/8; ::1", "TOKENWIRE_REST_API_KEYS": "first;second word"}
    )
    assert found.trusted_proxies == ("10.0.0.0/8", "::1")
    assert [key.get_secret_value() for key in found.rest_api_keys] == ["first", "second word"]
    assert "first" not in repr(found)
    with pytest.raises(SettingsError, match="no IP address or network"):
        load(environ={"TOKENWIRE_TRUSTED_PROXIES": "proxy.example.org"})
