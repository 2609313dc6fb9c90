"""One socket: what opens it, and how it says why not."""

import asyncio
import base64
import hashlib
import logging
import re
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tokenwire.actions import Connect
from tokenwire.transport import RefusedError, SocketClosedError, opener
from tokenwire_schemas import limits

from ..live import Peer, scripted, tcp_server

SECRET = "s3cret-value"


def connect_action(url: str, timeout_ms: int = 5_000, deflate: bool = True) -> Connect:
    return Connect(url, (("X-Tokenwire-Session", SECRET), ("Authorization", f"Bearer {SECRET}")), timeout_ms, deflate)


def ignore() -> None:
    pass


async def refusal(url: str, timeout_ms: int = 5_000, tls: ssl.SSLContext | None = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await opener(tls, "test")(connect_action(url, timeout_ms), ignore)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("status", [401, 404, 429, 503])
async def test_the_status_of_a_refusal_is_told(status: int) -> None:
    async with scripted(Peer.stay, lambda _: (status, {"Retry-After": "7"})) as url:
        refused = await refusal(url)
    assert (refused.status, refused.retry_after_ms) == (status, 7_000)
    assert str(status) in refused.text


async def test_retry_after_may_be_a_date_or_nonsense() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    headers = iter([{"Retry-After": soon}, {"Retry-After": "soon"}, {"Retry-After": "9" * 5_000}, {}])
    async with scripted(Peer.stay, lambda _: (503, next(headers))) as url:
        dated = (await refusal(url)).retry_after_ms
        assert dated is not None
        assert 50_000 < dated <= 60_000
        assert (await refusal(url)).retry_after_ms is None
        assert (await refusal(url)).retry_after_ms == 24 * 3_600_000
        assert (await refusal(url)).retry_after_ms is None


async def test_redirects_are_not_followed() -> None:
    """The session's secret is in a header, which must not go to another server."""
    asked = []

    async def elsewhere(peer: Peer) -> None:
        asked.append(peer)

    async with scripted(elsewhere) as other, scripted(Peer.stay, lambda _: (302, {"Location": f"{other}?x=1"})) as url:
        refused = await refusal(url)
    assert refused.status == 302
    assert other in refused.text
    assert not asked


async def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    refused = await refusal(f"ws://127.0.0.1:{port}/x")
    assert refused.status is None
    assert refused.text.startswith("cannot connect: ")


async def test_a_name_without_an_address() -> None:
    assert (await refusal("ws://nowhere.invalid/x")).text.startswith("cannot connect: ")


async def test_a_port_that_accepts_and_stays_silent() -> None:
    async with tcp_server(None) as port:
        refused = await refusal(f"ws://127.0.0.1:{port}/x", timeout_ms=50)
    assert refused.text == "no WebSocket within 50 ms"


async def test_a_server_of_another_protocol() -> None:
    async with tcp_server(b"220 mail.example ESMTP\r\n") as port:
        refused = await refusal(f"ws://127.0.0.1:{port}/x")
    assert refused.text.startswith("the server does not speak WebSocket here: ")


async def test_tls_where_there_is_none() -> None:
    async with tcp_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        refused = await refusal(f"wss://127.0.0.1:{port}/x")
    assert refused.text.startswith("TLS failed: ")


async def test_a_server_that_hangs_up() -> None:
    async with tcp_server(b"") as port:
        text = (await refusal(f"wss://127.0.0.1:{port}/x")).text
    assert text.removeprefix("cannot connect: ") in ("the other side hung up", "Connection reset by peer")


async def test_what_is_too_large_ends_the_socket() -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.send("x" * (limits.MAX_MESSAGE_BYTES + 1))
        await peer.stay()

    async with scripted(script) as url:
        web_socket = await opener(None, "test")(connect_action(url), ignore)
        with pytest.raises(SocketClosedError) as caught:
            await web_socket.receive()
        assert "exceeds limit" in caught.value.reason
        await web_socket.wait_closed()


@pytest.mark.parametrize("deflate", [True, False])
async def test_compression_is_offered_only_when_asked_for(deflate: bool) -> None:
    async with scripted(Peer.stay) as url:
        web_socket = await opener(None, "test")(connect_action(url, deflate=deflate), ignore)
        assert web_socket.compression == ("permessage-deflate" if deflate else None)
        await web_socket.close(1000, "")


async def test_pings_and_pongs_count_as_life() -> None:
    beats = asyncio.Queue[None]()

    async def script(peer: Peer) -> None:
        await peer.socket.recv()
        await peer.socket.ping()
        await peer.stay()

    async with scripted(script) as url:
        web_socket = await opener(None, "test")(connect_action(url), lambda: beats.put_nowait(None))
        await web_socket.ping()
        await beats.get()
        await web_socket.send("go")
        await beats.get()
        await web_socket.close(1000, "")


async def test_the_end_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def script(peer: Peer) -> None:
        await peer.socket.close(4002, "move along")

    caplog.set_level(logging.INFO)
    async with scripted(script) as url:
        web_socket = await opener(None, "test")(connect_action(url), ignore)
        with pytest.raises(SocketClosedError) as caught:
            await web_socket.receive()
        assert (caught.value.code, caught.value.reason) == (4002, "move along")
        with pytest.raises(SocketClosedError):
            await web_socket.send("late")
        with pytest.raises(SocketClosedError):
            await web_socket.ping()
        web_socket.abort()
    assert SECRET not in caplog.text


async def test_pings_of_a_peer_who_never_reads_fill_no_memory() -> None:
    """Each is answered; the answers wait here when the peer takes none."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        with suppress(OSError):
            for _ in range(1_000):
                writer.write((b"\x89\x7d" + b"x" * 125) * 1_000)
                await writer.drain()
        writer.transport.abort()
        finished.set()

    finished = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(20):
        web_socket = await opener(None, "test")(connect_action(f"ws://127.0.0.1:{port}/x", deflate=False), ignore)
        with pytest.raises(SocketClosedError):
            await web_socket.receive()
        connection = web_socket._connection  # type: ignore[attr-defined]
        assert connection.transport.get_write_buffer_size() < 4 << 20
        assert not finished.is_set(), "it was this side that ended it"
        await web_socket.wait_closed()
        await finished.wait()


async def test_a_proxy_is_used_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with scripted(Peer.stay) as url:
        web_socket = await opener(None, "test")(connect_action(url), ignore)
        await web_socket.close(1000, "")
        with pytest.raises(RefusedError):
            await opener(None, "test", "http://127.0.0.1:9")(connect_action(url), ignore)
