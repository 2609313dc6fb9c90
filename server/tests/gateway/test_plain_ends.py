"""How streams of the plain paths end, and what that costs nobody else: slow readers, floods, limits, shutdown."""

import asyncio
import gc
import json
import os
import signal
import sys
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tokenwire_server.core.hub import HubConfig
from tokenwire_server.core.plain_hub import PlainConfig
from tokenwire_server.gateway import plain_streams
from tokenwire_server.gateway.plain_connection import MAX_PLAIN_MESSAGE_BYTES, PlainConnection
from tokenwire_server.settings import load

from .conftest import Serve
from .raw import BINARY, CLOSE, CONT, PING, PONG, RawPeer, frame
from .test_clients import last_words
from .test_plain import receive, url

TRANSACTIONS = "/ws/transactions/DOGE"


async def opcodes(peer: RawPeer) -> tuple[list[int], int | None]:
    """What comes up to the end, and the code of the close frame."""
    seen = []
    code = None
    while (last := await peer.read()) is not None:
        seen.append(last.opcode)
        if last.opcode == CLOSE:
            code = int.from_bytes(last.payload[:2], "big")
    return seen, code


async def closed(client: ClientConnection) -> int:
    return (await last_words(client))[1]


async def test_a_dead_reader_is_cut_and_the_others_lack_nothing(serve: Serve) -> None:
    async with serve(broadcast_channel_size=200) as (server, source):
        server.streams.hub.config = PlainConfig(channel_messages=200, close_timeout_ms=300)
        dead = await RawPeer.connect(server.port, path=TRANSACTIONS)
        dead.writer.transport.pause_reading()  # type: ignore[attr-defined]
        watching = await connect(url(server, TRANSACTIONS), max_queue=None)
        prices: list[int] = []

        async def watch() -> None:
            async for text in watching:
                prices.append(int(json.loads(text)["data"]["price"]))  # noqa: PERF401 - looked at meanwhile

        task = asyncio.create_task(watch())
        stats = server.streams.hub.stats
        sent = 0
        async with asyncio.timeout(60):
            while not stats.cuts:
                for _ in range(200):
                    sent += 1
                    source.trade("DOGE", str(sent))
                await asyncio.sleep(0.005)
            while len(server.streams.hub.consumers) > 1:  # it does not answer the close frame, so it is aborted
                await asyncio.sleep(0.05)
            source.trade("DOGE", str(sent + 1))
            while len(prices) < sent + 1:
                await asyncio.sleep(0.01)
        assert prices == list(range(1, sent + 2))
        assert stats.cuts == {"messages": 1}
        assert stats.closes == {4001: 1}
        await watching.close()
        await task
        await dead.close()


async def test_a_reader_that_was_slow_for_a_while_gets_everything(serve: Serve) -> None:
    async with serve(broadcast_channel_size=100_000) as (server, source):
        peer = await RawPeer.connect(server.port, path=TRANSACTIONS)
        transport: Any = peer.writer.transport
        transport.pause_reading()
        (room,) = server.streams.hub.rooms.values()
        sent = 0
        while not room.log_octets:
            for _ in range(200):
                sent += 1
                source.trade("DOGE", str(sent))
            await asyncio.sleep(0.005)
        transport.resume_reading()
        for number in range(sent):
            assert (await peer.message())["data"]["price"] == str(number + 1)
        assert room.log_octets == 0
        source.trade("DOGE", "7")
        assert (await peer.message())["data"]["price"] == "7"
        await peer.close()


async def test_a_setting_tells_how_far_a_client_may_lag(serve: Serve) -> None:
    assert load(environ={"BROADCAST_CHANNEL_SIZE": "77"}, env_file=os.devnull).broadcast_channel_size == 77
    async with serve(broadcast_channel_size=77) as (server, _):
        assert server.streams.hub.config.channel_messages == 77


async def test_plain_sockets_take_places_of_the_endpoint_and_give_them_back(serve: Serve) -> None:
    async with serve(HubConfig(max_connections=3)) as (server, _):
        held: list[Any] = [await connect(url(server, "/ws/DOGE")), await connect(server.url)]
        held.append(await connect(url(server, "/ws/klines/DOGE/1m")))
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, TRANSACTIONS))
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"] == "5"
        async with connect(server.url) as surplus:
            messages, code = await last_words(surplus)
        assert (messages[0]["data"]["code"], code) == ("MAX_CONNECTIONS", 1013)
        await held.pop(0).close()
        while server.endpoint.hub.guests > 1:
            await asyncio.sleep(0.01)
        held.append(await connect(server.url))
        with pytest.raises(InvalidStatus):
            await connect(url(server, TRANSACTIONS))
        for each in held:
            await each.close()


async def test_who_comes_and_goes_leaves_nothing_behind(serve: Serve) -> None:
    async with serve() as (server, source):
        hub = server.streams.hub
        for _ in range(3):
            paths = [
                f"/ws/{kind}" for kind in ("DOGE", "PEPE", "transactions/DOGE", "klines/DOGE/1m", "klines/SHIB/1s")
            ]
            peers = [await RawPeer.connect(server.port, path=path) for path in paths * 20]
            for symbol in ("DOGE", "PEPE", "SHIB"):
                source.trade(symbol, "3")
            await asyncio.sleep(0.05)
            assert server.endpoint.hub.guests == 100
            assert len(hub.rooms) == 5
            for number, peer in enumerate(peers):
                if number % 3 == 0:
                    peer.writer.transport.abort()
                else:
                    if number % 3 == 1:
                        peer.write(frame(b"", CLOSE))
                    peer.writer.close()
            while hub.consumers:
                await asyncio.sleep(0.01)
            assert server.endpoint.hub.guests == 0
            assert hub.rooms == server.streams._tokens == {}
        await asyncio.sleep(0.1)
        del peers, peer
        gc.collect()
        assert not any(isinstance(thing, PlainConnection) for thing in gc.get_objects())
        assert hub.stats.opened == hub.stats.closed == 300


async def test_shutdown_sends_what_is_pending_and_closes_1001(serve: Serve) -> None:
    async with serve() as (server, source):
        clients = [await connect(url(server, "/ws/DOGE")) for _ in range(20)]
        source.trade("DOGE", "16")  # is sent at once …
        await asyncio.sleep(0.001)
        source.trade("DOGE", "17")  # … and this would be sent soon
        await asyncio.gather(server.streams.drain(0), *(one.wait_closed() for one in clients))
        for client in clients:
            messages, code = await last_words(client)
            assert code == 1001
            assert messages[-1]["price"] == 17


async def test_the_closes_of_a_shutdown_are_spread_and_no_new_stream_opens(serve: Serve) -> None:
    async with serve(drain_s=1) as (server, _):
        clients = [await connect(url(server, "/ws/DOGE")) for _ in range(20)]
        endings = [asyncio.create_task(closed(client)) for client in clients]
        server.server.should_exit = True
        while not server.streams.hub.stats.closes:
            await asyncio.sleep(0.01)
        assert server.streams.hub.stats.closes[1001] < 10
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(server, "/ws/DOGE"))
        assert refused.value.response.status_code == 503
    assert set(await asyncio.gather(*endings)) == {1001}


async def test_who_does_not_answer_the_close_is_aborted(serve: Serve) -> None:
    async with asyncio.timeout(10), serve() as (server, _):
        server.streams.hub.config = PlainConfig(close_timeout_ms=200)
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
    assert await opcodes(peer) == ([CLOSE], 1001)
    await peer.close()


async def test_ctrl_c_ends_the_process_well() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokenwire_server", "--port", "0", "--drain", "0.2"),
        env={**os.environ, "TOKENWIRE_ENV_FILE": os.devnull},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        banner = (await process.stdout.readline()).decode()
        base = banner.split()[-1].partition("/api")[0]
        async with connect(f"{base}/ws/klines/DOGE/1s") as client:
            await receive(client, 1)
            process.send_signal(signal.SIGINT)
            assert await closed(client) == 1001
        await process.stdout.read()
        assert await process.wait() == 0


async def test_a_silent_client_is_pinged_and_closed_4000(serve: Serve) -> None:
    async with serve() as (server, _):
        server.streams.hub.config = PlainConfig(ping_interval_ms=300, idle_timeout_ms=800, close_timeout_ms=300)
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
        seen, code = await opcodes(peer)
        assert set(seen[:-1]) == {PING}
        assert (seen[-1], code) == (CLOSE, 4000)
        await peer.close()
        async with connect(url(server, "/ws/DOGE")) as client:  # it answers pings
            await asyncio.sleep(1.5)
            assert client.state.name == "OPEN"


ENDINGS: dict[str, tuple[bytes, int]] = {
    "a message that is too large": (frame(b"x" * (MAX_PLAIN_MESSAGE_BYTES + 1)), 1009),
    "a header that claims 2^62 bytes": (frame(b"", length=2**62), 1009),
    "too large in fragments": (frame(b"x" * 40_000, fin=False) + frame(b"x" * 40_000, CONT), 1009),
    "endless fragments": (frame(b"x", fin=False) + frame(b"x", CONT, fin=False) * 5000, 1009),
    "unmasked": (frame(b"{}", mask=False), 1002),
    "a reserved opcode": (frame(b"", 0x3), 1002),
    "compressed without agreement": (frame(b"xx", rsv1=True), 1002),
    "a continuation of nothing": (frame(b"x", CONT), 1002),
    "a long ping": (frame(b"x" * 126, PING), 1002),
    "its own close": (frame((1000).to_bytes(2, "big"), CLOSE), 1000),
}


@pytest.mark.parametrize("case", ENDINGS)
async def test_it_ends_with_its_code_and_others_go_on(serve: Serve, case: str) -> None:
    data, code = ENDINGS[case]
    async with serve() as (server, source), connect(url(server, "/ws/DOGE")) as witness:
        server.streams.hub.config = PlainConfig(close_timeout_ms=300)
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
        peer.write(data)
        assert await opcodes(peer) == ([CLOSE], code)
        source.trade("DOGE", "5")
        assert (await receive(witness, 1))[0]["price"] == 5
        await peer.close()
        assert server.endpoint.defects == 0


async def test_what_a_client_says_is_ignored_and_its_pings_are_answered(serve: Serve) -> None:
    async with serve() as (server, source):
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
        peer.write(
            frame(b"hello") + frame(b"\xff", BINARY) + frame(b"a", fin=False) + frame(b"b", CONT) + frame(b"x", PING)
        )
        answer = await peer.read()
        assert answer is not None
        assert (answer.opcode, answer.payload) == (PONG, b"x")
        source.trade("DOGE", "5")
        assert (await peer.message())["price"] == 5
        assert server.streams.hub.stats.messages_in == 3
        await peer.close()


async def test_fragments_beyond_the_rate_are_no_protocol_error(serve: Serve) -> None:
    async with serve() as (server, source):
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
        peer.write(frame(b"x") * 60 + frame(b"a", fin=False) + frame(b"b", CONT))
        while server.streams.hub.stats.messages_in < 61:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # until a message is welcome again
        peer.write(frame(b"y") + frame(b"z", PING))
        answer = await peer.read()
        assert answer is not None
        assert (answer.opcode, answer.payload) == (PONG, b"z")
        source.trade("DOGE", "5")
        assert (await peer.message())["price"] == 5
        await peer.close()


async def test_a_flood_is_dropped_and_after_a_while_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_schemas import limits

    monkeypatch.setattr(limits, "RATE_SUSTAINED_MS", 300)
    async with serve() as (server, source), connect(url(server, "/ws/DOGE"), max_queue=None) as witness:
        server.streams.hub.config = PlainConfig(close_timeout_ms=300)
        peer = await RawPeer.connect(server.port, path="/ws/DOGE")
        reading = asyncio.create_task(opcodes(peer))
        while not reading.done():
            peer.write(frame(b"x" * 100) * 500)
            source.trade("DOGE", "5")
            await asyncio.sleep(0.01)
        seen, code = await reading
        assert code == 4005
        assert seen[-1] == CLOSE
        assert server.streams.hub.stats.dropped_in > 1000
        assert (await receive(witness, 1))[0]["price"] == 5
        await peer.close()


async def test_a_defect_costs_one_client_at_most_and_the_market_nothing(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("a defect")

    async with serve() as (server, source), connect(url(server, "/ws/DOGE")) as healthy:
        unlucky = await RawPeer.connect(server.port, path="/ws/DOGE")
        with monkeypatch.context() as patch:
            patch.setattr(plain_streams, "trade_message", broken)
            source.trade("DOGE", "2")
        assert server.endpoint.defects == 1
        (_, victim) = server.streams.hub.consumers
        (room,) = server.streams.hub.rooms.values()
        room.live[victim] = type("Broken", (), {"write": broken, "abort": lambda _: victim.abort()})().write
        source.trade("DOGE", "3")
        assert (await receive(healthy, 1))[0]["price"] == 3
        assert await opcodes(unlucky) == ([], None)
        assert server.endpoint.defects == 2
        assert server.pipeline.market.get("DOGE-address").price == 3  # type: ignore[union-attr]
        await unlucky.close()


async def test_metrics_tell_who_listens_and_what_was_sent(serve: Serve) -> None:
    async with (
        serve() as (server, source),
        connect(url(server, "/ws/DOGE")) as client,
        aiohttp.ClientSession() as session,
    ):
        source.trade("DOGE", "2")
        await receive(client, 1)
        async with session.get(f"http://127.0.0.1:{server.port}/metrics") as response:
            metrics = await response.text()
    for line in (
        'tokenwire_stream_clients{stream="trades"} 1.0',
        'tokenwire_stream_clients{stream="klines"} 0.0',
        "tokenwire_streams 1.0",
        "tokenwire_stream_messages_total 1.0",
        "tokenwire_stream_clients_behind 0.0",
    ):
        assert line in metrics, line


async def test_a_client_that_leaves_while_messages_come_is_no_defect(serve: Serve) -> None:
    async with serve() as (server, source):
        for number in range(30):
            client = await connect(url(server, "/ws/DOGE"))
            source.trade("DOGE", str(number + 1))
            closing = asyncio.create_task(client.close())
            source.trade("DOGE", str(number + 2))
            await closing
        assert server.endpoint.defects == 0
