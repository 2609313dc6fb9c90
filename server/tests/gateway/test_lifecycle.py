"""What connections leave behind (nothing), and time on real sockets."""

import asyncio
import gc
import resource
from pathlib import Path

import aiohttp
import pytest

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.core.link import Link
from tokenwire_server.core.states import LinkState
from tokenwire_server.gateway.connection import Connection
from tokenwire_server.gateway.server import GatewayServer

from .conftest import Serve
from .raw import CLOSE, PING, RawPeer, frame
from .test_clients import subscribe


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


async def test_a_thousand_connections_come_and_go(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * 1000 + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"this test needs {wanted} open files, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    async with serve() as (server, _):
        hub = server.endpoint.hub
        files = len(list(Path("/proc/self/fd").iterdir()))
        for round_ in range(2):
            peers: list[RawPeer] = []
            while len(peers) < 1000:
                peers += await asyncio.gather(*(RawPeer.connect(server.port, "permessage-deflate") for _ in range(100)))
            for peer in peers:
                peer.write(frame(subscribe("DOGE", "PEPE").encode()))
            await asyncio.gather(*(peer.message() for peer in peers))
            while hub.sets.subscriptions < 2000:
                await asyncio.sleep(0.01)
            assert len(hub.links) == 1000
            assert len(hub.sets) == 1
            surplus = await RawPeer.connect(server.port)
            messages, code = await surplus.ending()
            assert (messages[0]["data"]["code"], code) == ("MAX_CONNECTIONS", 1013)
            await surplus.close()
            for number, peer in enumerate(peers):
                if number % 3 == 0:
                    peer.writer.transport.abort()
                else:
                    if number % 3 == 1:
                        peer.write(frame(b"", CLOSE))
                    peer.writer.close()
            while hub.links or hub.rejected:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            del peers, peer, surplus
            assert hub.sets.subscriptions == len(hub.sets) == 0
            assert alive(Connection) == 0, f"round {round_}"
        assert len(list(Path("/proc/self/fd").iterdir())) <= files + 2
        assert server.endpoint.hub.stats.opened == server.endpoint.hub.stats.closed == 2002
        # The wheel remembers links for a heartbeat at most, but not their sockets.
        assert {type(link.socket).__name__ for link in gc.get_objects() if isinstance(link, Link)} <= {"_Gone"}


async def test_pings_come_and_a_silent_peer_is_closed_4000(serve: Serve) -> None:
    async with serve(HubConfig(heartbeat_ms=300, idle_timeout_ms=800, close_timeout_ms=300)) as (server, _):
        peer = await RawPeer.connect(server.port)
        await peer.message()
        ping = await peer.read()
        assert ping is not None
        assert ping.opcode == PING
        code = None
        while (last := await peer.read()) is not None:
            if last.opcode == CLOSE:
                code = int.from_bytes(last.payload[:2], "big")
        assert code == 4000
        await peer.close()


async def test_a_half_sent_upgrade_does_not_stay(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_server.gateway.http_protocol import TimedHttpProtocol

    monkeypatch.setattr(TimedHttpProtocol, "timeout_s", 0.2)
    async with serve() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /api/v1/ws/token-data HTTP/1.1\r\nUpgrade: webs")
        assert b" 408 " in await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_nobody_is_let_in_before_the_market_was_read(serve: Serve) -> None:
    is_loading = True
    async with serve(socketio=True) as (server, _), aiohttp.ClientSession() as session:
        server.pipeline.hub.is_loading = lambda: is_loading
        base = f"http://127.0.0.1:{server.port}"
        for path in ("/api/v1/ws/token-data", "/ws/PEPE", "/socket.io/?EIO=4&transport=websocket"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(base + path)
            assert refused.value.status == 503
            assert refused.value.headers is not None
            assert int(refused.value.headers["Retry-After"]) > 0
        is_loading = False
        async with session.ws_connect(f"{base}/api/v1/ws/token-data") as socket:
            assert (await socket.receive_json())["type"] == "connection"


async def test_ready_turns_503_while_draining_and_metrics_tell_what_happened(serve: Serve) -> None:
    async with serve(drain_s=1) as (server, _), aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{server.port}"
        peer = await RawPeer.connect(server.port)
        peer.write(frame(b"{"))
        await peer.message()
        assert (await peer.message())["data"]["code"] == "INVALID_JSON"
        async with session.get(f"{base}/health") as response:
            assert (response.status, await response.text()) == (200, "OK")
        async with session.get(f"{base}/ready") as response:
            assert response.status == 200
        async with session.get(f"{base}/metrics") as response:
            metrics = await response.text()
        for line in (
            'tokenwire_connections{state="connected"} 1.0',
            'tokenwire_errors_total{code="INVALID_JSON"} 1.0',
            'tokenwire_connection_state_changes_total{from="connecting",to="connected"} 1.0',
            'tokenwire_source_state{source="manual",state="live"} 1.0',
        ):
            assert line in metrics
        others = [await RawPeer.connect(server.port) for _ in range(10)]
        server.server.should_exit = True
        await asyncio.sleep(0.3)
        async with session.get(f"{base}/ready") as response:
            assert response.status == 503
        untold = [link for link in server.endpoint.hub.links if link.state is LinkState.CONNECTED]
        assert 0 < len(untold) < 11, "the closes are spread over the drain time"
        endings = await asyncio.gather(*(other.ending() for other in others), peer.ending())
        assert {code for _, code in endings} == {1012}
        for other in others:
            await other.close()
        await peer.close()


async def test_a_defect_costs_only_the_connection_it_happens_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as (server, source):
        healthy, unlucky = await RawPeer.connect(server.port), await RawPeer.connect(server.port)
        healthy.write(frame(subscribe("DOGE").encode()))
        for _ in range(3):
            await healthy.message()

        def broken(*_: object) -> None:
            raise RuntimeError("a defect")

        hub = server.endpoint.hub
        with monkeypatch.context() as patch:
            patch.setattr(hub, "receive", broken)
            unlucky.write(frame(b"{}"))
            messages, code = await unlucky.ending()
        assert (messages[-2]["data"]["code"], code) == ("INTERNAL_ERROR", 1011)
        with monkeypatch.context() as patch:
            patch.setattr(hub, "tick", broken)
            patch.setattr(hub, "timers", broken)
            await asyncio.sleep(0.4)
        assert server.endpoint.defects > 3
        source.trade("DOGE", "5")
        while (await healthy.message())["data"].get("price") != "5":
            pass
        await healthy.close()
        await unlucky.close()


async def test_a_write_that_fails_ends_its_connection_and_no_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as (server, _):
        healthy, unlucky = await RawPeer.connect(server.port), await RawPeer.connect(server.port)
        for peer in (healthy, unlucky):
            await peer.message()
        hub = server.endpoint.hub
        victim = list(hub.links)[1]
        pump = hub.pump

        def broken(link: Link, wall: int) -> bytes:
            if link is victim:
                raise RuntimeError("a defect")
            return pump(link, wall)

        monkeypatch.setattr(hub, "pump", broken)
        unlucky.write(frame(subscribe("DOGE").encode()))
        assert await unlucky.ending() == ([], None)
        healthy.write(frame(subscribe("DOGE").encode()))
        assert (await healthy.message())["data"]["status"] == "success"
        assert server.endpoint.defects >= 1
        await healthy.close()
        await unlucky.close()


async def test_a_server_that_cannot_start_says_so(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no start")

    monkeypatch.setattr(GatewayServer, "startup", broken)
    with pytest.raises(RuntimeError, match="no start"):
        async with serve():
            pass


async def test_who_does_not_answer_the_farewell_is_cut_at_the_end_of_the_drain(serve: Serve) -> None:
    async with serve(HubConfig(close_timeout_ms=200)) as (server, _):
        peer = await RawPeer.connect(server.port)
        await peer.message()
    assert server.endpoint.hub.links == {} or all(link.state is LinkState.CLOSING for link in server.endpoint.hub.links)
    frames = []
    while (last := await peer.read()) is not None:
        frames.append(last.opcode)
    assert frames[-1] == CLOSE
    await peer.close()


async def test_a_second_signal_ends_the_drain_at_once(serve: Serve) -> None:
    async with asyncio.timeout(10), serve(HubConfig(close_timeout_ms=30_000), drain_s=600) as (server, _):
        peers = [await RawPeer.connect(server.port) for _ in range(5)]
        server.server.should_exit = True
        await asyncio.sleep(0.2)
        assert any(link.state is LinkState.CONNECTED for link in server.endpoint.hub.links)
        server.server.force_exit = True
    for peer in peers:
        await peer.close()
