"""Half-sent, oversized and unread requests against real sockets, with a shortened patience."""

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from tokenwire_schemas import limits
from tokenwire_server.gateway.http_protocol import MAX_HEAD_BYTES, TimedHttpProtocol

TIMEOUT_S = 0.2
SLACK_S = 1.0
GET = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


class Impatient(TimedHttpProtocol):
    timeout_s = TIMEOUT_S
    max_head_bytes = 4_096


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than that to send a large head."""
    monkeypatch.setattr(Impatient, "timeout_s", 10.0)


class Upgraded(asyncio.Protocol):
    """What an upgrade hands the transport to: it only stays."""

    def __init__(self, **_: object) -> None:
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"upgraded")


class Site:
    """A listening server whose application can be slow, hungry or early."""

    def __init__(self) -> None:
        self.protocols: list[Impatient] = []
        self.answer_after = asyncio.Event()
        self.answer_after.set()
        self.events: list[str] = []
        self.port = 0

    async def app(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        await self.answer_after.wait()
        body = b"done!"
        if scope["path"] == "/reads":
            while True:
                message = await receive()
                self.events.append(message["type"])
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
        if scope["path"] == "/big":
            body = b"x" * 8_000_000
        length = str(len(body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Site"]:
        config = Config(self.app, interface="asgi3", http=Impatient, ws=Upgraded, lifespan="off", log_config=None)
        config.timeout_keep_alive = 1
        config.load()
        state = ServerState()

        def build() -> Impatient:
            self.protocols.append(Impatient(config=config, server_state=state, app_state={}))
            return self.protocols[-1]

        server = await asyncio.get_running_loop().create_server(build, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().serving() as serving:
        yield serving


async def all_of(reader: asyncio.StreamReader, within_s: float = TIMEOUT_S + SLACK_S) -> bytes:
    async with asyncio.timeout(within_s):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b"reset"


async def dribble(writer: asyncio.StreamWriter, data: bytes, pause_s: float) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_s)


def test_the_limits_in_force() -> None:
    assert TimedHttpProtocol.timeout_s * 1000 == limits.CONNECTION_TIMEOUT_MS == 5_000
    assert TimedHttpProtocol.max_head_bytes == MAX_HEAD_BYTES == 65_536


async def test_a_silent_peer_is_closed_without_a_word(site: Site) -> None:
    reader, writer = await site.connect()
    begin = time.monotonic()
    assert await all_of(reader) == b""
    assert time.monotonic() - begin >= TIMEOUT_S * 0.9
    writer.close()


@pytest.mark.parametrize(
    "part",
    [b"G", GET[:-2], b"GET / HTTP/1.1\r\nA: " + b"b" * 500, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"],
)
async def test_a_half_sent_head_gets_408(site: Site, part: bytes) -> None:
    reader, writer = await site.connect()
    writer.write(part)
    reply = await all_of(reader)
    assert reply.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close" in reply
    writer.close()


async def test_dribbling_buys_no_time(site: Site) -> None:
    reader, writer = await site.connect()
    begin = time.monotonic()
    dribbling = asyncio.create_task(dribble(writer, GET[:-1] * 3, 0.02))
    assert (await all_of(reader)).startswith((b"HTTP/1.1 408", b"reset"))
    assert time.monotonic() - begin < TIMEOUT_S + SLACK_S
    dribbling.cancel()
    writer.close()


async def test_empty_lines_do_not_hold_a_connection(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(GET)
    await reader.readuntil(b"done!")
    dribbling = asyncio.create_task(dribble(writer, b"\r\n" * 100, 0.02))
    await all_of(reader)
    dribbling.cancel()
    writer.close()


async def test_a_complete_request_leaves_no_timer(site: Site) -> None:
    reader, writer = await site.connect()
    site.answer_after.clear()
    writer.write(GET)
    await asyncio.sleep(TIMEOUT_S * 1.5)
    assert site.protocols[0]._request_timer is None
    site.answer_after.set()
    assert await reader.readuntil(b"done!")
    await asyncio.sleep(TIMEOUT_S * 1.5)  # idle, within keep-alive
    writer.write(GET)
    assert await reader.readuntil(b"done!")
    assert site.protocols[0]._request_timer is None
    writer.close()


async def test_a_half_sent_second_request_gets_408(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(GET)
    await reader.readuntil(b"done!")
    writer.write(GET[:10])
    assert (await all_of(reader)).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_a_pipelined_half_request_waits_for_the_answer_before_it(site: Site) -> None:
    reader, writer = await site.connect()
    site.answer_after.clear()
    writer.write(GET + GET[:10])
    await asyncio.sleep(TIMEOUT_S * 2)
    site.answer_after.set()
    reply = await all_of(reader)
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"done!HTTP/1.1 408" in reply
    writer.close()


async def test_a_stalled_body_gets_408_and_the_application_learns_of_it(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"POST /reads HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
    assert (await all_of(reader)).startswith(b"HTTP/1.1 408")
    assert site.events == ["http.request", "http.disconnect"]
    writer.close()


async def test_a_slow_but_steady_body_is_read(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"POST /reads HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
    await dribble(writer, b"0123456789", TIMEOUT_S / 5)
    assert (await reader.readuntil(b"done!")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_after_an_early_answer_a_body_gets_no_more_time(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
    await reader.readuntil(b"done!")
    dribbling = asyncio.create_task(dribble(writer, b"x" * 900, 0.02))
    assert await all_of(reader) in (b"", b"reset")
    dribbling.cancel()
    writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 5_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 1_000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("chunk", [1_000, 100_000])
async def test_a_large_head_gets_431(site: Site, head: bytes, chunk: int, patient: None) -> None:
    reader, writer = await site.connect()
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(head), chunk):
            writer.write(head[start : start + chunk])
            await writer.drain()
            await asyncio.sleep(0.001)
    assert (await all_of(reader)).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    writer.close()


async def test_an_endless_header_gets_431_before_it_ends(site: Site, patient: None) -> None:
    reader, writer = await site.connect()
    writer.write(b"GET / HTTP/1.1\r\nA: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            writer.write(b"b" * 1_000)
            await writer.drain()
            await asyncio.sleep(0.002)
    assert (await all_of(reader)).startswith((b"HTTP/1.1 431", b"reset"))
    writer.close()


async def test_a_head_within_the_limit_and_many_requests_in_a_row_are_fine(site: Site) -> None:
    reader, writer = await site.connect()
    large = b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"b" * 3_900 + b"\r\n\r\n"
    for _ in range(4):
        writer.write(large)
        assert (await reader.readuntil(b"done!")).startswith(b"HTTP/1.1 200")
    writer.write(large * 4)
    for _ in range(4):
        assert (await reader.readuntil(b"done!")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_what_is_no_http_gets_400(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert (await all_of(reader)).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    writer.close()


async def test_nonsense_behind_a_request_in_progress_does_not_get_into_its_answer(site: Site) -> None:
    reader, writer = await site.connect()
    site.answer_after.clear()
    writer.write(GET * 2 + b"\x16\x03 nonsense\r\n\r\n")
    assert await all_of(reader) == b""
    site.answer_after.set()
    await asyncio.sleep(0.01)
    writer.close()


async def test_a_broken_body_gets_400(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"POST /reads HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert (await all_of(reader)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_shutdown_does_not_wait_for_a_refused_peer(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"\x00")
    await reader.readuntil(b"Bad Request\n")
    site.protocols[0].shutdown()
    await asyncio.sleep(0.01)
    assert not site.protocols[0].connections
    writer.close()


async def test_an_upgraded_connection_has_no_timer(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert await reader.readexactly(8) == b"upgraded"
    protocol = site.protocols[0]
    assert protocol._request_timer is None
    assert protocol._write_timer is None
    await asyncio.sleep(TIMEOUT_S * 1.5)
    writer.write(b"x")
    assert await reader.readexactly(8) == b"upgraded"
    writer.close()


async def test_another_upgrade_is_answered_as_plain_http_and_ends(site: Site) -> None:
    reader, writer = await site.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    await reader.readuntil(b"done!")
    assert await all_of(reader, 1 + SLACK_S) == b""
    writer.close()


async def test_a_peer_that_never_reads_its_answer_is_aborted(site: Site) -> None:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    with raw:
        await loop.sock_connect(raw, ("127.0.0.1", site.port))
        await loop.sock_sendall(raw, b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(TIMEOUT_S * 4 + SLACK_S):
            while not site.protocols or site.protocols[0].connections:
                await asyncio.sleep(0.02)
    assert site.protocols[0]._write_timer is None


async def test_a_slow_reader_is_served(site: Site) -> None:
    reader, writer = await site.connect()
    while not site.protocols:
        await asyncio.sleep(0)
    site.protocols[0].timeout_s = 2.0  # so that no pause of a busy machine is one of the reader's
    begin_s = time.monotonic()
    writer.write(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
    received = len(await reader.readuntil(b"\r\n\r\n"))
    while received < 8_000_000:
        data = await reader.read(400_000)
        assert data, f"cut after {received} bytes"
        received += len(data)
        await asyncio.sleep(0.12)
    assert time.monotonic() - begin_s > site.protocols[0].timeout_s, "it was not slow"
    writer.close()


async def test_nothing_is_left_behind(site: Site) -> None:
    for data in (b"", GET[:5], GET, b"\x00", b"POST /reads HTTP/1.1\r\nContent-Length: 5\r\n\r\na"):
        _, writer = await site.connect()
        writer.write(data)
        await writer.drain()
        writer.transport.abort()
    await asyncio.sleep(0.1)
    assert len(site.protocols) == 5
    for protocol in site.protocols:
        assert protocol._request_timer is None
        assert protocol._write_timer is None
        assert protocol.timeout_keep_alive_task is None
        assert not protocol.connections


ON_ONE_SITE = [
    test
    for name, test in list(globals().items())
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["site"]
]


@pytest.mark.parametrize("test", ON_ONE_SITE)
def test_the_same_on_uvloop(test: Callable[[Site], Awaitable[None]]) -> None:
    """The server runs on uvloop where it installs; its transports differ in when they call what."""
    uvloop = pytest.importorskip("uvloop")

    async def run() -> None:
        async with Site().serving() as site:
            await test(site)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
