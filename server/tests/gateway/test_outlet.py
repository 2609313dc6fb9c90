"""Bytes keep their order whichever way they take, and nothing goes to a socket that may be another's."""

import asyncio
import os
import random
import socket

import pytest
from websockets.asyncio.client import connect

from tokenwire_server.gateway.outlet import Outlet

from .conftest import Serve


class Peer(asyncio.Protocol):
    outlet: Outlet | None = None
    lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.outlet is not None:
            self.outlet.ended()


async def connected() -> tuple[asyncio.Transport, Peer, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Peer, sock=ours)
    return transport, protocol, theirs


async def read(theirs: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 65536), 5)
        assert more, "it was closed"
        data += more
    return data


async def test_a_reader_that_lags_gets_everything_in_order() -> None:
    transport, _, theirs = await connected()
    outlet = Outlet(transport)
    draw = random.Random(1)
    sent = b""
    got = b""
    ways = set()
    for _ in range(400):
        piece = draw.randbytes(draw.choice((10, 300, 40_000)))
        if draw.random() < 0.3:
            outlet.hold(piece)
            if draw.random() < 0.3:
                outlet.release()
        else:
            outlet.write(piece)
        sent += piece
        ways.add(outlet.get_write_buffer_size() > 0)
        if draw.random() < 0.3:
            outlet.release()
            got += await read(theirs, min(len(sent) - len(got), draw.choice((1, 100_000))))
    outlet.release()
    got += await read(theirs, len(sent) - len(got))
    assert got == sent
    assert ways == {True, False}, "the kernel took some at once, and refused others"
    transport.close()
    theirs.close()


async def test_what_the_transport_has_goes_first() -> None:
    transport, _, theirs = await connected()
    transport.write(b"answer to the handshake, ")
    outlet = Outlet(transport)
    outlet.write(b"then this")
    assert await read(theirs, 34) == b"answer to the handshake, then this"
    transport.close()
    theirs.close()


async def test_a_broken_connection_is_ended_by_its_transport() -> None:
    transport, protocol, theirs = await connected()
    outlet = protocol.outlet = Outlet(transport)
    theirs.close()
    for _ in range(20):
        outlet.write(b"x" * 1000)
        await asyncio.sleep(0.01)
    assert protocol.lost


@pytest.mark.parametrize("end", ["ended", "abort"])
async def test_the_next_owner_of_a_descriptor_gets_nothing(end: str) -> None:
    transport, _, theirs = await connected()
    outlet = Outlet(transport)
    outlet.write(b"before")
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    descriptor = transport.get_extra_info("socket").fileno()
    getattr(outlet, end)()
    transport.abort()
    await asyncio.sleep(0.05)
    os.dup2(write_end, descriptor)  # as if it had been opened anew
    outlet.write(b"after")
    await asyncio.sleep(0.05)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 100)
    for each in {read_end, write_end, descriptor}:
        os.close(each)
    theirs.close()


class EncryptedTransport:
    """A transport over TLS, as far as an outlet looks at it; its socket would take plain text."""

    def __init__(self, sock: socket.socket) -> None:
        self.extra = {"socket": sock, "sslcontext": object()}
        self.written = b""

    def get_extra_info(self, name: str) -> object:
        return self.extra.get(name)

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written += data


def test_nothing_goes_past_an_encrypting_transport() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport = EncryptedTransport(ours)
    Outlet(transport).write(b"secret")  # type: ignore[arg-type]
    assert transport.written == b"secret"
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    ours.close()
    theirs.close()


async def test_it_writes_itself_again_once_the_transport_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, _, theirs = await connected()
    outlet = Outlet(transport)
    sent = 0
    while not outlet.get_write_buffer_size():
        outlet.write(b"x" * 40_000)
        sent += 40_000
    await read(theirs, sent)
    while outlet.get_write_buffer_size():
        await asyncio.sleep(0.01)
    written: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(len(data)) or write(fd, data))
    outlet.write(b"one")
    outlet.write(b"three")
    assert written == [3, 5]
    transport.close()
    theirs.close()


async def test_a_lost_connection_lets_go_of_its_descriptor(serve: Serve) -> None:
    async with serve() as (server, _), connect(server.url) as client:
        await client.recv()
        (link,) = server.pipeline.hub.links
        outlet = link.socket
        assert isinstance(outlet, Outlet)
        assert outlet._fd >= 0
        client.transport.abort()
        while server.pipeline.hub.links:
            await asyncio.sleep(0.01)
        assert outlet._fd == -1


async def test_what_is_held_goes_before_what_is_written_and_with_the_connection() -> None:
    transport, _, theirs = await connected()
    outlet = Outlet(transport)
    outlet.hold(b"one, ")
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    outlet.write(b"two")
    assert await read(theirs, 8) == b"one, two"
    outlet.hold(b"never")
    outlet.abort()
    outlet.release()
    outlet.hold(b"again")
    assert await asyncio.get_running_loop().sock_recv(theirs, 10) == b""
    theirs.close()
