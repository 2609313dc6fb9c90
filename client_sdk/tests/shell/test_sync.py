"""The blocking client: the same, from threads."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tokenwire import ClientClosedError, Connected, ConnectionFailedError, ConnectionState, Snapshot, SubscriptionError
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
