"""The blocking client: the same, from threads."""

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tokenwire import (
    ClientClosedError,
    Connected,
    ConnectionFailedError,
    ConnectionState,
    Snapshot,
    SubscriptionError,
    Update,
    aio,
    sync,
)
from tokenwire.sync import TokenClient

from ..live import ManualSource, quick, real_server


class Served:
    """The real server in a thread of its own."""

    def __init__(self, url: str, source: ManualSource, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self._source = source
        self._loop = loop

    def trade(self, symbol: str, price: str) -> None:
        self._loop.call_soon_threadsafe(self._source.trade, symbol, price)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    ready, done = threading.Event(), threading.Event()
    found: list[Served] = []

    async def serve() -> None:
        async with real_server() as (server, source):
            found.append(Served(server.url, source, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    yield found[0]
    done.set()
    thread.join()


def clients() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tokenwire"]


def test_a_loop_without_asyncio(served: Served) -> None:
    with TokenClient(served.url) as client:
        client.wait_connected(10)
        assert client.state is ConnectionState.CONNECTED
        result = client.subscribe(["PEPE", "nope"])
        assert result.accepted == {"PEPE": "PEPE-address"}
        assert result.rejected == {"nope": "TOKEN_NOT_FOUND"}
        for event in client:
            if isinstance(event, Snapshot):
                assert event.quote.price == "1"
                break
        assert client.latest["PEPE"].price == "1"
        assert client.metrics.connects == 1
        assert client.connections == 1
        assert len(client.checkpoint().shards) == 1
        client.unsubscribe("PEPE")
        assert dict(client.latest) == {}
        with pytest.raises(SubscriptionError):
            client.subscribe("nope")
    assert clients() == []
    assert client.metrics.connects == 1, "what is known stays readable"
    assert client.failure is None
    with pytest.raises(ClientClosedError):
        client.subscribe("PEPE")
    with pytest.raises(ClientClosedError):
        client.open()
    client.close()


def test_waiting_with_a_time_limit(served: Served) -> None:
    with TokenClient(served.url) as client:
        assert isinstance(client.next_event(10), Connected)
        with pytest.raises(TimeoutError):
            client.next_event(0.01)
        client.subscribe("SHIB")
        assert isinstance(client.next_event(10), Snapshot)
        served.trade("SHIB", "2")
        event = client.next_event(10)
        assert event is not None


def test_close_ends_a_loop_in_another_thread(served: Served) -> None:
    with TokenClient(served.url) as client:
        client.wait_connected(10)
        events: list[object] = []
        thread = threading.Thread(target=lambda: events.extend(client))
        thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_failure_is_raised_here() -> None:
    with TokenClient("ws://127.0.0.1:9", config=quick(max_retries=0)) as client:
        with pytest.raises(ConnectionFailedError):
            list(client)
        with pytest.raises(ConnectionFailedError):
            client.subscribe("DOGE")
        assert client.failure is not None
    assert clients() == []


def test_not_opened() -> None:
    client = TokenClient("ws://127.0.0.1:9")
    with pytest.raises(ClientClosedError):
        client.next_event()
    client.close()


PROGRAM = """
import sys
from tokenwire.sync import TokenClient
with TokenClient(sys.argv[1]) as client:
    client.subscribe(["DOGE"])
    print("waiting", flush=True)
    for event in client:
        pass
"""


def test_ctrl_c_ends_a_waiting_program(served: Served) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, served.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=20)
    assert program.returncode == -signal.SIGINT
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert "never retrieved" not in stderr
    assert "was destroyed" not in stderr


def test_a_program_that_forgets_to_close_ends(served: Served) -> None:
    text = "import sys\nfrom tokenwire.sync import TokenClient\nTokenClient(sys.argv[1]).open()"
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run([sys.executable, "-c", text, served.url], timeout=20, check=False, env=os.environ)
        assert done.returncode == 0
        return
    raise AssertionError("the program hangs")


def test_the_arguments_are_those_of_the_other_client() -> None:
    assert inspect.signature(TokenClient.__init__) == inspect.signature(aio.TokenClient.__init__)


def test_callbacks(served: Served) -> None:
    states, prices = [], []
    client = TokenClient(served.url)

    def value(event: Snapshot | Update) -> None:
        prices.append(event.quote.price)
        client.close()

    def state(state: ConnectionState) -> None:
        states.append((state, client.connections))
        raise ValueError("logged, and no more")

    client.on(Snapshot | Update, value)
    client.on_state(state)
    with client:
        client.subscribe("PEPE")
        client.run()
    assert prices
    assert states == [(ConnectionState.CONNECTED, 1)]


def test_after_a_fork_the_child_is_told(served: Served) -> None:
    text = """
import os, signal, sys
from tokenwire.sync import TokenClient
with TokenClient(sys.argv[1]) as client:
    client.wait_connected(10)
    if os.fork() == 0:
        signal.alarm(5)
        told = 0
        for call in (lambda: client.next_event(1), lambda: client.state, client.open, lambda: client.subscribe("a")):
            try:
                call()
            except Exception as error:
                told += getattr(error, "code", "") == "CLIENT_FORKED"
        client.close()
        os._exit(told)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 4
    client.drop_connections()
"""
    done = subprocess.run([sys.executable, "-c", text, served.url], timeout=30, check=False)
    assert done.returncode == 0


def test_a_time_limit_holds_even_if_the_other_thread_is_busy(served: Served) -> None:
    with TokenClient(served.url) as client:
        assert isinstance(client.next_event(10), Connected)
        assert client._loop is not None
        client._loop.call_soon_threadsafe(time.sleep, 2)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.next_event(0.1)
        assert time.monotonic() - started < 1.5


def test_an_interrupt_loses_no_event(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with TokenClient(served.url) as client:
        client.wait_connected(10)
        wait = sync._wait

        def interrupted(future: Any, seconds: float | None = None) -> Any:
            wait(future, seconds)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sync, "_wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.next_event(5)
        assert isinstance(client.next_event(0), Connected)


def test_streams_are_plain_iterators(served: Served) -> None:
    with TokenClient(served.url, config=quick()) as client:
        with client.trades("DOGE") as trades:
            with pytest.raises(TimeoutError):
                trades.next(0.3)
            served.trade("DOGE", "2")
            first = next(trades)
            assert (first.price, first.name) == ("2", "DOGE")
        with pytest.raises(StopIteration):
            next(trades)
        bars = client.klines("DOGE", "1m", history=5)
        assert next(bars).close == "2"
        assert client.get("trades", "DOGE", after=0)["data"][-1]["price"] == "2"


# --- streams ---------------------------------------------------------------------------------------------------------


def test_iterating_ends_when_the_client_is_closed_meanwhile(served: Served) -> None:
    with TokenClient(served.url, config=quick()) as client:
        stream = client.trades("DOGE", after=0)
        next(stream)
        client.close()
        for _ in range(100):
            if next(stream, None) is None:
                break
        else:
            pytest.fail("it does not end")
        stream.close()


def test_several_threads_may_take_from_one_stream(served: Served) -> None:
    seen: list[int | None] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while len(seen) < count:
                seen.append(stream.next(timeout=0.5).number)
        except TimeoutError:
            pass
        except BaseException as error:
            errors.append(error)

    with TokenClient(served.url, config=quick()) as client:
        count = 400
        for _ in range(count):
            served.trade("PEPE", "1")
        stream = client.trades("PEPE", after=0)
        threads = [threading.Thread(target=work) for _ in range(4)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
    assert errors == []
    assert len(set(seen)) == len(seen) >= count
