"""The client against servers that refuse, lie, fall silent, and against its own defects."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tokenwire import (
    Connected,
    ConnectionFailedError,
    ConnectionState,
    Event,
    Gap,
    Reconnecting,
    Resumed,
    Snapshot,
    TokenClient,
    TokenwireError,
    Update,
    callbacks,
)
from tokenwire.actions import Connect
from tokenwire.config import ClientConfig
from tokenwire.errors import ConfigError
from tokenwire.transport import RefusedError, Socket

from ..live import Peer, quick, scripted, tcp_server


async def everything(client: TokenClient) -> tuple[list[Event], ConnectionFailedError]:
    """All events up to the failure that ends them."""
    events: list[Event] = []
    with pytest.raises(ConnectionFailedError) as caught:  # noqa: PT012
        async with asyncio.timeout(20):
            while (event := await client.next_event()) is not None:
                events.append(event)
    assert client.state is ConnectionState.FAILED
    assert client.failure is caught.value
    return events, caught.value


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_for_good_fails_at_once(status: int) -> None:
    async with scripted(Peer.stay, lambda _: (status, {})) as url, TokenClient(url, config=quick()) as client:
        events, error = await everything(client)
        assert not [event for event in events if isinstance(event, Reconnecting)]
        assert str(status) in str(error)
        with pytest.raises(ConnectionFailedError):
            await client.subscribe("DOGE")
        with pytest.raises(ConnectionFailedError):
            await client.next_event()


async def test_a_failed_client_can_still_be_saved_and_closed() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.socket.close(4500, "another one")

    async with scripted(script) as url, TokenClient(url, config=quick()) as client:
        await client.subscribe("DOGE")
        await everything(client)
        (saved,) = client.checkpoint().shards
        assert "DOGE" in saved.names
        await client.close()
        await client.close()
        assert client.state is ConnectionState.FAILED
        assert client.checkpoint().shards == (saved,)


async def test_busy_is_tried_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    busy = scripted(script, lambda count: (503, {}) if count < 3 else None)
    async with busy as url, TokenClient(url, config=quick()) as client:
        await client.wait_connected()
        events = [await client.next_event() for _ in range(3)]
    assert [event.status for event in events if isinstance(event, Reconnecting)] == [503, 503]


async def test_retry_after_is_honoured() -> None:
    refused = lambda _: (429, {"Retry-After": "40"})  # noqa: E731
    async with scripted(Peer.stay, refused) as url, TokenClient(url, config=quick()) as client:
        event = await client.next_event()
    assert isinstance(event, Reconnecting)
    assert event.delay_ms >= 40_000


async def test_nobody_listens() -> None:
    async with tcp_server(b"") as port:
        pass_on = port
        async with TokenClient(f"ws://127.0.0.1:{pass_on}", config=quick(max_retries=2)) as client:
            events, error = await everything(client)
    assert len(events) >= 2
    assert all(isinstance(event, Reconnecting) for event in events)
    assert error.remedy


async def test_a_silent_port_is_given_up() -> None:
    config = quick(max_retries=0, connect_timeout_ms=50)
    async with tcp_server(None) as port, TokenClient(f"ws://127.0.0.1:{port}", config=config) as client:
        await everything(client)


async def test_closing_does_not_wait_for_a_silent_port() -> None:
    async with tcp_server(None) as port, asyncio.timeout(2):
        async with TokenClient(f"ws://127.0.0.1:{port}") as client:
            waiting = asyncio.create_task(client.subscribe("DOGE"))
            await asyncio.sleep(0.05)
        with pytest.raises(Exception, match="CLIENT_CLOSED"):
            await waiting


@pytest.mark.parametrize(
    "garbage",
    ["not json", "[1]", '{"type":"connection"}', b"\x00\xff\xfe", b"", '{"type":"token_update","sequence":-1}'],
)
async def test_garbage_never_breaks_the_client(garbage: str | bytes) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.socket.send(garbage)
            await peer.socket.close(1011)
        else:
            await peer.welcome()
            await peer.accept()
            await peer.stay()

    async with scripted(script) as url, TokenClient(url, config=quick()) as client:
        await client.subscribe("DOGE")
        assert client.state is ConnectionState.CONNECTED
        assert client.failure is None


@pytest.mark.parametrize(
    ("code", "comes_back"), [(1000, False), (1012, True), (3999, False), (4242, True), (4999, False)]
)
async def test_the_close_code_decides(code: int, comes_back: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        if peer.number == 1:
            await peer.socket.close(code, "because")
        await peer.stay()

    config = quick(backoff_base_ms=1, backoff_cap_ms=1)
    async with scripted(script) as url, TokenClient(url, config=config) as client:
        if comes_back:
            kinds = [type(await client.next_event()) for _ in range(3)]
            assert kinds[:2] == [Connected, Reconnecting]
        else:
            _, error = await everything(client)
            assert str(code) in str(error)


async def test_a_session_resumes_over_real_sockets() -> None:
    seen: list[tuple[str, str | None]] = []

    async def script(peer: Peer) -> None:
        path, secret = peer.request.path, peer.request.headers.get("X-Tokenwire-Session")
        seen.append((path, secret))
        caps = {"capabilities": ["resume", "details"], "session": "first-secret-of-128-bit", "resumed": peer.number > 1}
        if peer.number == 1:
            await peer.welcome(**caps)
            await peer.accept()
            peer.socket.transport.abort()
            return
        await peer.say(
            "connection",
            {
                "status": "connected",
                "connectionId": "00000000-0000-4000-8000-000000000002",
                "maxSubscriptions": 100,
                "replayFrom": 4,
                **caps,
            },
            sequence=4,
        )
        peer.sequence = 3
        await peer.value("DOGE", "2")
        await peer.stay()

    async with scripted(script) as url, TokenClient(url, token="key", config=quick()) as client:
        await client.subscribe("DOGE")
        kinds: list[type] = []
        async with asyncio.timeout(10):
            async for event in client:
                kinds.append(type(event))
                if isinstance(event, Update) and event.quote.price == "2":
                    assert event.replayed
                    break
    assert kinds == [Connected, Snapshot, Reconnecting, Resumed, Update]
    assert Gap not in kinds
    (first, none), (second, secret) = seen
    assert none is None
    assert secret == "first-secret-of-128-bit"
    assert "caps=" in first
    assert "seq=3" in second
    assert "secret" not in second


async def test_secrets_stay_out_of_logs_and_texts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refusing = scripted(Peer.stay, lambda _: (401, {}))
    async with refusing as url, TokenClient(url, token="very-secret", config=quick()) as client:
        events, error = await everything(client)
    own = [record for record in caplog.records if record.name != "websockets.server"]  # the other end's
    assert "very-secret" not in f"{own}{[record.getMessage() for record in own]}{events}{error}{error.__cause__!r}"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        TokenClient("ws://example.org", token="very-secret")
    assert "unencrypted" in caplog.text
    assert "very-secret" not in caplog.text


@pytest.mark.parametrize("where", ["received", "opened", "alive", "handle_timer"])
async def test_a_defect_is_told_with_its_cause(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    def defect(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    async with scripted(script) as url:
        client = TokenClient(url, config=quick(ping_interval_ms=20))
        async with client:
            assert client._shards is not None
            monkeypatch.setattr(type(client._shards.drivers[0].session), where, defect)
            _, error = await everything(client)
    assert error.code == "INTERNAL"
    assert isinstance(error.__cause__, ZeroDivisionError)


async def test_a_defect_of_the_opener_is_told_as_well() -> None:
    async def connect(action: Connect, heard: Callable[[], None]) -> Socket:
        raise KeyError("not a RefusedError")

    async with TokenClient("ws://example.org", connect=connect) as client:
        _, error = await everything(client)
    assert error.code == "INTERNAL"
    assert isinstance(error.__cause__, KeyError)


async def test_the_opener_can_be_replaced() -> None:
    asked: list[Connect] = []

    async def connect(action: Connect, heard: Callable[[], None]) -> Socket:
        asked.append(action)
        raise RefusedError(None, None, "no network in this test")

    async with TokenClient(
        "ws://example.org", connect=connect, headers={"X-More": "1"}, config=quick(max_retries=1)
    ) as client:
        _, error = await everything(client)
    assert len(asked) == 2
    assert ("X-More", "1") in asked[0].headers
    assert "no network in this test" in str(error)


async def test_a_redirect_is_final_and_says_where_to() -> None:
    asked: list[int] = []

    def status(count: int) -> tuple[int, dict[str, str]]:
        asked.append(count)
        return 307, {"Location": "ws://elsewhere.example/x?secret=1"}

    async with scripted(Peer.stay, status) as url, TokenClient(url, config=quick()) as client, asyncio.timeout(10):
        with pytest.raises(ConnectionFailedError, match=r"REDIRECTED.*elsewhere\.example/x"):
            await client.wait_connected()
        assert client.state is ConnectionState.FAILED
        await asyncio.sleep(0.1)
    assert asked == [1]


async def test_a_state_callback_that_never_returns_does_not_stop_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callbacks, "_FINISH_S", 0.05)

    async def stuck(_: ConnectionState) -> None:
        await asyncio.Event().wait()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async with scripted(script) as url, asyncio.timeout(10):
        client = TokenClient(url, config=quick())
        client.on_state(stuck)
        async with client:
            await client.wait_connected()
    assert "did not return" in caplog.text


def test_a_client_belongs_to_one_event_loop() -> None:
    client = TokenClient("ws://127.0.0.1:9", config=quick())

    async def first() -> None:
        client.open()
        await asyncio.sleep(0)

    async def second() -> None:
        for call in (client.next_event, client.wait_connected, client.close):
            with pytest.raises(TokenwireError, match="WRONG_EVENT_LOOP"):
                await call()
        with pytest.raises(TokenwireError, match="WRONG_EVENT_LOOP"):
            client.open()

    asyncio.run(first())
    asyncio.run(second())


async def test_who_waits_for_a_subscription_is_told_why_nothing_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tokenwire")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = ClientConfig(url="ws://x", backoff_base_ms=1, backoff_cap_ms=2)
    with pytest.raises(ConnectionFailedError):
        async with TokenClient(f"ws://127.0.0.1:{port}", max_retries=4, config=config) as client:
            await client.subscribe("DOGE")
    told = [record.getMessage() for record in caplog.records if "no connection" in record.getMessage()]
    assert len(told) == 1, "each reason once"
    assert str(port) in told[0]


@pytest.mark.parametrize(
    "setting",
    [{"ack": "chekpoint"}, {"overflow": "x"}, {"delivery": "all"}, {"capabilities": "resume"}, {"queue_events": 1.5},
     {"max_retries": "3"}],
)  # fmt: skip
def test_a_typo_in_a_setting_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TokenClient("ws://127.0.0.1", **setting)
