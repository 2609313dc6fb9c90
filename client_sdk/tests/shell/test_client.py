"""The client against the real server."""

import asyncio
import gc
import os
from collections.abc import Callable

import pytest

from tokenwire import (
    ClientClosedError,
    Connected,
    ConnectionState,
    Event,
    InvalidUrlError,
    Reconnecting,
    Resumed,
    Snapshot,
    SubscriptionError,
    TokenClient,
    TokenwireError,
    Update,
)

from ..live import Peer, quick, real_server, scripted


async def until(client: TokenClient, wanted: Callable[[Event], bool]) -> Event:
    async with asyncio.timeout(10):
        async for event in client:
            if wanted(event):
                return event
    raise AssertionError("the stream ended")


def has_price(price: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Update | Snapshot) and event.quote.price == price


async def test_from_connecting_to_a_new_price() -> None:
    async with real_server() as (server, source), TokenClient(server.url) as client:
        assert client.state is ConnectionState.CONNECTING
        result = await client.subscribe(["DOGE", "nope", "PEPE", "DOGE"])
        assert result.accepted == {"DOGE": "DOGE-address", "PEPE": "PEPE-address"}
        assert result.rejected == {"nope": "TOKEN_NOT_FOUND"}
        assert client.state is ConnectionState.CONNECTED
        assert isinstance(await until(client, lambda _: True), Connected)
        first = await until(client, lambda event: isinstance(event, Snapshot))
        assert isinstance(first, Snapshot)
        assert (first.quote.name, first.quote.price) == ("DOGE", "1")
        source.trade("DOGE", "2.5")
        await until(client, has_price("2.5"))
        assert client.latest["DOGE"].price == "2.5"
        assert set(client.latest) == {"DOGE", "PEPE"}
        assert client.metrics.updates >= 2
        assert client.metrics.state is ConnectionState.CONNECTED
    assert [event async for event in client] == []


async def test_nothing_accepted_is_an_error() -> None:
    async with real_server() as (server, _), TokenClient(server.url) as client:
        with pytest.raises(SubscriptionError) as caught:
            await client.subscribe("nope")
        assert caught.value.rejected == {"nope": "TOKEN_NOT_FOUND"}
        assert caught.value.code == "TOKEN_NOT_FOUND"
        with pytest.raises(ValueError, match="at least one"):
            await client.subscribe([])
        with pytest.raises(TypeError, match="not int"):
            await client.subscribe(["DOGE", 7])  # type: ignore[list-item]
        assert (await client.subscribe("PEPE")).accepted == {"PEPE": "PEPE-address"}


async def test_without_waiting() -> None:
    async with real_server() as (server, _), TokenClient(server.url) as client:
        await client.subscribe(["DOGE"], wait=False)
        await until(client, has_price("1"))


async def test_after_an_unsubscribe_nothing_comes() -> None:
    async with real_server() as (server, source), TokenClient(server.url) as client:
        await client.subscribe(["DOGE", "PEPE"])
        await client.unsubscribe("DOGE")
        await client.unsubscribe("never-subscribed")
        source.trade("DOGE", "3")
        source.trade("PEPE", "4")
        seen = []
        await until(client, lambda event: bool(seen.append(event)) or has_price("4")(event))
        assert not any(has_price("3")(event) for event in seen)
        assert "DOGE" not in client.latest


async def test_a_cut_socket_heals_itself() -> None:
    async with real_server() as (server, source), TokenClient(server.url, config=quick()) as client:
        await client.subscribe(["DOGE"])
        await until(client, has_price("1"))
        client.drop_connections()
        lost = await until(client, lambda event: isinstance(event, Reconnecting))
        assert isinstance(lost, Reconnecting)
        assert lost.attempt == 1
        assert client.state is ConnectionState.RECONNECTING
        back = await until(client, lambda event: isinstance(event, Connected | Resumed))
        granted = back.capabilities if isinstance(back, Connected) else ("resume",)
        assert isinstance(back, Resumed) == ("resume" in granted)
        source.trade("DOGE", "7")
        await until(client, has_price("7"))


async def test_callbacks_run_in_order_and_survive_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []

    async def connected(event: Connected) -> None:
        await asyncio.sleep(0)
        calls.append("connected")

    def fails(event: Snapshot) -> None:
        calls.append("fails")
        raise LookupError("a mistake of the application")

    async with real_server() as (server, _), TokenClient(server.url) as client:

        async def ends(event: Snapshot) -> None:
            calls.append("ends")
            await client.close()

        client.on(Connected, connected)
        client.on(Snapshot, fails)
        client.on(Snapshot, ends)
        await client.subscribe(["DOGE"])
        async with asyncio.timeout(10):
            await client.run()
    assert calls == ["connected", "fails", "ends"]
    assert "a mistake of the application" in caplog.text
    assert "Snapshot(" in caplog.text


async def test_states_are_told_in_order() -> None:
    states: list[ConnectionState] = []

    async def slow(state: ConnectionState) -> None:
        await asyncio.sleep(0.01)
        states.append(state)

    async with real_server() as (server, _), TokenClient(server.url, config=quick()) as client:
        client.on_state(slow)
        await client.wait_connected()
        client.drop_connections()
        await until(client, lambda event: isinstance(event, Reconnecting))
        await client.wait_connected()
    assert states == [ConnectionState.CONNECTED, ConnectionState.RECONNECTING, ConnectionState.CONNECTED]


async def test_two_loops_are_an_error() -> None:
    async with real_server() as (server, _), TokenClient(server.url) as client:
        await client.wait_connected()
        assert isinstance(await client.next_event(), Connected)
        other = asyncio.create_task(client.next_event())
        await asyncio.sleep(0)
        with pytest.raises(TokenwireError, match="ALREADY_ITERATING"):
            await client.next_event()
        await client.close()
        assert await other is None


async def test_a_cancelled_wait_loses_no_event() -> None:
    async with real_server() as (server, source), TokenClient(server.url) as client:
        await client.subscribe(["DOGE"])
        await until(client, has_price("1"))
        prices = [str(price) for price in range(2, 22)]
        seen = []
        for price in prices:
            source.trade("DOGE", price)
            with pytest.raises(TimeoutError):  # noqa: PT012 - which step times out does not matter
                async with asyncio.timeout(0.02):
                    while True:
                        event = await client.next_event()
                        assert isinstance(event, Update)
                        seen.append(event)
        await asyncio.sleep(0.1)
        while client.latest["DOGE"].price != (seen[-1].quote.price if seen else None):
            event = await client.next_event()
            assert isinstance(event, Update)
            seen.append(event)
        sequences = [event.sequence for event in seen]
        assert sequences == sorted(set(sequences))
        assert seen[-1].quote.price == prices[-1]


async def test_the_socket_is_read_while_nobody_iterates() -> None:
    async with real_server() as (server, source), TokenClient(server.url, config=quick(), queue_events=5) as client:
        await client.subscribe(["DOGE"])
        for price in range(2, 14):
            source.trade("DOGE", str(price))
            async with asyncio.timeout(10):
                while client.latest["DOGE"].price != str(price):
                    await asyncio.sleep(0.005)
        await client.unsubscribe("PEPE")
        assert client.metrics.conflated_in_client > 0
        await until(client, has_price("13"))


async def test_a_client_that_is_not_open_says_so() -> None:
    client = TokenClient("ws://127.0.0.1:1")
    with pytest.raises(ClientClosedError):
        await client.subscribe("DOGE")
    with pytest.raises(ClientClosedError):
        await client.next_event()
    assert dict(client.latest) == {}
    assert client.failure is None
    await client.close()
    await client.close()
    with pytest.raises(ClientClosedError):
        client.open()
    with pytest.raises(InvalidUrlError):
        TokenClient("tcp://example.org")
    with pytest.raises(ValueError, match="max_connections"):
        TokenClient("ws://example.org", max_connections=0)


async def test_nothing_is_left_behind() -> None:
    def open_files() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    async with real_server() as (server, _):
        async with TokenClient(server.url):  # warm up: imports, caches
            pass
        tasks, files = len(asyncio.all_tasks()), open_files()
        for ending in range(4):
            async with TokenClient(server.url, config=quick()) as client:
                if ending == 0:
                    continue  # closed while the socket is being opened
                await client.subscribe(["DOGE"])
                if ending == 1:
                    client.drop_connections()
                if ending == 2:
                    waiting = asyncio.create_task(client.next_event())
                    await asyncio.sleep(0)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
            assert len(asyncio.all_tasks()) == tasks, [task.get_name() for task in asyncio.all_tasks()]
        async with asyncio.timeout(10):
            while open_files() > files:  # the server's ends go a moment later
                await asyncio.sleep(0.01)


async def test_a_cancelled_program_closes_its_sockets() -> None:
    async def program(url: str) -> None:
        async with TokenClient(url) as client:
            await client.subscribe(["DOGE"])
            opened.set()
            async for _ in client:
                pass

    opened = asyncio.Event()
    async with real_server() as (server, _):
        tasks = len(asyncio.all_tasks())
        running = asyncio.create_task(program(server.url))
        await opened.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(asyncio.all_tasks()) <= tasks + 1  # the server's own, for the socket that ended


async def test_a_close_that_is_cancelled_leaves_nothing_either() -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        peer.socket.transport.pause_reading()  # never sees the close frame
        await release.wait()
        peer.socket.transport.abort()

    release = asyncio.Event()
    async with scripted(script) as url:
        client = TokenClient(url)
        client.open()
        await client.wait_connected()
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert not [name for name in names if name.startswith("tokenwire")]
        release.set()
