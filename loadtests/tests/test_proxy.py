"""The proxy over real sockets: it changes nothing unless told to, and each fault is what its plan says."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from loadtests.faults.plans import Direction, Plan, random_plans
from loadtests.faults.proxy import FaultProxy

CONTENT = random.Random(1).randbytes(300_000)


class Far:
    """The server behind the proxy: it sends ``greeting`` and keeps what comes."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.greeting = greeting
        self.received = bytearray()
        self.error: Exception | None = None
        self.over = asyncio.Event()
        self.accepted = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.write(self.greeting)
        self.accepted.set()
        try:
            while data := await reader.read(65_536):
                self.received += data
        except OSError as error:
            self.error = error
        self.over.set()
        writer.close()


@asynccontextmanager
async def joined(plan: Plan, far: Far) -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A proxy between ``far`` and a connection to it."""
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    async with (
        server,
        asyncio.timeout(30),
        FaultProxy(server.sockets[0].getsockname()[1], lambda number: plan) as proxy,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer
        finally:
            writer.transport.abort()
    assert proxy.open_connections == 0


GENTLE = [Plan(), Plan(slice_bytes=999), Plan(latency_ms=20), Plan(latency_ms=5, slice_bytes=4096, bytes_per_s=10**7)]


@pytest.mark.parametrize("plan", GENTLE, ids=str)
async def test_bytes_pass_unchanged_both_ways(plan: Plan) -> None:
    far = Far(CONTENT)
    async with joined(plan, far) as (proxy, reader, writer):
        writer.write(CONTENT)
        writer.write_eof()
        received = await reader.read(-1)
        await far.over.wait()
    assert received == CONTENT
    assert far.received == CONTENT
    assert proxy.counts == {"connections": 1, "bytes_down": len(CONTENT), "bytes_up": len(CONTENT)}


async def test_latency_delays_at_least_as_long_as_it_says() -> None:
    loop = asyncio.get_running_loop()
    async with joined(Plan(latency_ms=80), Far(b"x")) as (_, reader, _writer):
        begin = loop.time()
        assert await reader.read(1) == b"x"
        assert loop.time() - begin >= 0.07


async def test_bandwidth_is_a_ceiling() -> None:
    loop = asyncio.get_running_loop()
    async with joined(Plan(bytes_per_s=100_000), Far(CONTENT)) as (_, reader, _writer):
        begin = loop.time()
        await reader.readexactly(20_000)
        assert loop.time() - begin >= 0.09


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_a_cut_down_ends_after_exactly_that_byte(after: int) -> None:
    far = Far(CONTENT)
    async with joined(Plan(direction="down", cut_after=after), far) as (proxy, reader, _):
        assert await reader.read(-1) == CONTENT[:after]
        await far.over.wait()
    assert proxy.counts["cut"] == 1
    assert proxy.counts["reset"] == 0


@pytest.mark.parametrize("after", [1, 100_000])
async def test_a_cut_up_ends_after_exactly_that_byte(after: int) -> None:
    far = Far()
    async with joined(Plan(direction="up", cut_after=after), far) as (_, reader, writer):
        writer.write(CONTENT)
        assert await _until_end(reader) == b""
        await far.over.wait()
    assert far.received == CONTENT[:after]


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    """What comes before the end; a close with unread data may show as a reset."""
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""


async def test_a_reset_is_seen_as_one_by_both_sides() -> None:
    far = Far()
    async with joined(Plan(direction="up", cut_after=3, reset=True), far) as (proxy, reader, writer):
        writer.write(b"abcdef")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        await far.over.wait()
    assert isinstance(far.error, ConnectionResetError)
    assert proxy.counts["reset"] == 1


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_half_open_swallows_one_direction_and_tells_nobody(direction: Direction) -> None:
    far = Far(b"0123456789" if direction == "down" else b"")
    async with joined(Plan(direction=direction, swallow_after=4), far) as (proxy, reader, writer):
        await far.accepted.wait()
        writer.write(b"0123456789")
        if direction == "down":
            assert await reader.readexactly(4) == b"0123"
            await _until(lambda: bytes(far.received) == b"0123456789")
            assert not reader.at_eof()
        else:
            await _until(lambda: bytes(far.received) == b"0123" and proxy.counts["swallowed_bytes"] == 6)
            assert far.writer is not None
            far.writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
        assert not far.over.is_set()
    assert proxy.counts["half_open"] == 1


async def test_a_blackhole_swallows_both_directions() -> None:
    far = Far(b"0123456789")
    async with joined(Plan(direction="down", blackhole_after=10), far) as (proxy, reader, writer):
        assert await reader.readexactly(0) == b""
        await _until(lambda: proxy.counts["blackhole"] == 1)
        writer.write(b"lost")
        await _until(lambda: proxy.counts["swallowed_bytes"] == 4)
        assert far.received == b""
        assert not far.over.is_set()


async def test_a_stalled_reader_fills_its_senders_buffers() -> None:
    far = Far()
    async with joined(Plan(direction="up", stall_after=0), far) as (proxy, _, writer):
        writer.transport.set_write_buffer_limits(0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer.write(bytes(16_000_000))
        await _until(lambda: proxy.counts["stall"] == 1)
        draining = asyncio.create_task(writer.drain())
        await asyncio.sleep(0)
        assert writer.transport.get_write_buffer_size() > 0
        assert not draining.done()
        draining.cancel()
    assert far.received == b""


async def test_a_stall_can_pass() -> None:
    far = Far(CONTENT)
    async with joined(Plan(direction="down", stall_after=0, stall_ms=20), far) as (proxy, reader, _):
        assert await reader.readexactly(len(CONTENT)) == CONTENT
        assert proxy.counts["stall"] == 1


async def test_exactly_one_byte_is_corrupted() -> None:
    async with joined(Plan(corrupt_at=70_000), Far(CONTENT)) as (proxy, reader, _):
        received = await reader.readexactly(len(CONTENT))
    differing = [at for at, (ours, theirs) in enumerate(zip(received, CONTENT, strict=True)) if ours != theirs]
    assert differing == [70_000]
    assert proxy.counts["corrupt"] == 1


async def test_everything_can_be_cut_or_changed_from_outside() -> None:
    far = Far(b"x")
    async with joined(Plan(), far) as (proxy, reader, writer):
        assert await reader.readexactly(1) == b"x"
        proxy.change(Plan(direction="up", swallow_after=0))
        writer.write(b"lost")
        await _until(lambda: proxy.counts["swallowed_bytes"] == 4)
        assert proxy.cut_all() == 1
        assert await reader.read(-1) == b""
        await far.over.wait()
    assert far.received == b""


async def test_no_new_connections_while_it_plays_dead() -> None:
    async with FaultProxy(1) as proxy:
        proxy.accepting = False
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.transport.abort()
    assert proxy.counts == {"connections": 1, "refused": 1}


async def test_a_dead_target_resets_the_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with FaultProxy(unused.getsockname()[1]) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.transport.abort()
    assert proxy.counts["unreachable"] == 1


async def test_it_ends_by_itself() -> None:
    far = Far()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1], lifetime_s=0.05) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read(-1) == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_an_observer_sees_what_was_sent_and_not_what_arrived() -> None:
    seen = bytearray()
    far = Far(b"0123456789")
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)

    def observe(number: int, direction: Direction, data: bytes) -> None:
        if direction == "down":
            seen.extend(data)

    port = server.sockets[0].getsockname()[1]
    async with server, FaultProxy(port, lambda number: Plan(cut_after=3), observer=observe) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read(-1) == b"012"
        writer.close()
    assert seen == b"0123456789"


def test_it_stays_on_loopback() -> None:
    with pytest.raises(ValueError, match="loopback"):
        FaultProxy(80, host="192.0.2.1")


def test_plans_are_the_same_for_the_same_seed() -> None:
    plans, again = random_plans(7, corrupt=True), random_plans(7, corrupt=True)
    made = [plans(number) for number in range(200)]
    assert [again(number) for number in reversed(range(200))] == made[::-1]
    assert made != [random_plans(8, corrupt=True)(number) for number in range(200)]
    for fault in ("cut_after", "swallow_after", "blackhole_after", "stall_after", "corrupt_at"):
        assert any(getattr(plan, fault) is not None for plan in made)


async def _until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds; the surrounding time-out ends a vain wait."""
    while not condition():
        await asyncio.sleep(0.001)
