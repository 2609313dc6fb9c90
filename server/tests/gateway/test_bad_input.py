"""Whatever bytes arrive: a clear end for who sent them, nothing for anybody else."""

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from tokenwire_schemas import limits
from tokenwire_server.gateway.connection import Connection
from tokenwire_server.gateway.handshake import ENDPOINT
from tokenwire_server.gateway.inbound import Inbound

from .conftest import Serve
from .raw import BINARY, CLOSE, CONT, PING, PONG, RawPeer, frame
from .test_clients import subscribe

DEFLATE = "permessage-deflate; client_max_window_bits"


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


Send = Callable[[RawPeer], Awaitable[None] | None]

ENDINGS: dict[str, tuple[Send, int, str | None]] = {
    "invalid UTF-8": (lambda p: p.write(frame(b"\xff\xfe{}")), 1007, "INVALID_JSON"),
    "binary": (lambda p: p.write(frame(b"{}", BINARY)), 1003, "BINARY_NOT_SUPPORTED"),
    "binary in fragments": (
        lambda p: p.write(frame(b"{", BINARY, fin=False) + frame(b"}", CONT)),
        1003,
        "BINARY_NOT_SUPPORTED",
    ),
    "oversize": (lambda p: p.write(frame(b"x" * (limits.MAX_MESSAGE_BYTES + 1))), 1009, "MESSAGE_TOO_LARGE"),
    "a header that claims 2^62 bytes": (lambda p: p.write(frame(b"", length=2**62)), 1009, "MESSAGE_TOO_LARGE"),
    "oversize in fragments": (
        lambda p: p.write(frame(b"x" * 600_000, fin=False) + frame(b"x" * 600_000, CONT)),
        1009,
        "MESSAGE_TOO_LARGE",
    ),
    "a compressed bomb": (
        lambda p: p.write(frame(deflated(b" " * 50_000_000), rsv1=True)),
        1009,
        "MESSAGE_TOO_LARGE",
    ),
    "endless fragments": (
        lambda p: p.write(frame(b"x", fin=False) + frame(b"x", CONT, fin=False) * 5000),
        1009,
        "MESSAGE_TOO_LARGE",
    ),
    "garbage instead of deflate": (lambda p: p.write(frame(b"\xff" * 20, rsv1=True)), 1002, None),
    "unmasked": (lambda p: p.write(frame(b"{}", mask=False)), 1002, None),
    "a reserved opcode": (lambda p: p.write(frame(b"", 0x3)), 1002, None),
    "a reserved bit": (lambda p: p.write(bytes((0xA1, 0x80)) + bytes(4)), 1002, None),
    "a continuation of nothing": (lambda p: p.write(frame(b"x", CONT)), 1002, None),
    "a long ping": (lambda p: p.write(frame(b"x" * 126, PING)), 1002, None),
    "a close frame of one byte": (lambda p: p.write(frame(b"x", CLOSE)), 1002, None),
}


@pytest.mark.parametrize("case", ENDINGS)
async def test_it_ends_with_its_code_and_others_go_on(serve: Serve, case: str) -> None:
    send, close_code, error_code = ENDINGS[case]
    async with serve() as (server, source):
        witness = await RawPeer.connect(server.port)
        witness.write(frame(subscribe("DOGE").encode()))
        for _ in range(3):
            await witness.message()
        peer = await RawPeer.connect(server.port, DEFLATE)
        send(peer)
        messages, code = await peer.ending()
        assert code == close_code
        if error_code is not None:
            assert messages[-2]["data"]["code"] == error_code
            assert messages[-2]["data"]["level"] == "fatal"
            assert messages[-1]["data"]["status"] == "error"
        source.trade("DOGE", "7")
        while (await witness.message())["data"].get("price") != "7":
            pass
        await peer.close()
        await asyncio.sleep(0.01)
        assert len(server.endpoint.hub.links) == 1
        await witness.close()


async def test_messages_in_fragments_with_pings_between_are_understood(serve: Serve) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port, DEFLATE)
        text = subscribe("DOGE").encode()
        await peer.message()
        peer.write(frame(text[:10], fin=False))
        peer.write(frame(b"hi", PING))
        pong = await peer.read()
        assert pong is not None
        assert (pong.opcode, pong.payload) == (PONG, b"hi")
        for byte in frame(text[10:], CONT):
            peer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await peer.message())["data"]["tokens"] == ["DOGE-address"]
        assert (await peer.message())["type"] == "token_update"
        peer.write(frame(deflated(subscribe("PEPE").encode()), rsv1=True))
        assert (await peer.message())["data"]["tokens"] == ["PEPE-address"]
        await peer.close()


async def test_many_messages_in_one_segment_are_answered_in_order(serve: Serve) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port)
        await peer.message()
        names = ["DOGE", "nobody", "PEPE"]
        peer.write(b"".join(frame(subscribe(name).encode()) for name in names))
        seen = [await peer.message() for _ in range(6)]
        assert [m["type"] for m in seen] == [
            "subscription", "token_update", "subscription", "error", "subscription", "token_update",
        ]  # fmt: skip
        await peer.close()


async def test_a_ping_flood_is_answered_up_to_its_ceiling(serve: Serve) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port)
        await peer.message()
        peer.write(frame(b"", PING) * 1000)
        peer.write(frame(b"", CLOSE))
        pongs = 0
        while (answer := await peer.read()) is not None:
            pongs += answer.opcode == PONG
        assert limits.INBOUND_CONTROL_RATE_PER_S <= pongs <= limits.INBOUND_CONTROL_RATE_PER_S + 50
        await peer.close()


async def test_a_close_is_echoed_and_the_slot_is_free(serve: Serve) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port)
        await peer.message()
        peer.write(frame((1000).to_bytes(2, "big") + b"bye", CLOSE))
        assert await peer.ending() == ([], 1000)
        assert server.endpoint.hub.links == {}
        await peer.close()


async def test_a_reset_in_the_middle_of_a_message_frees_everything(serve: Serve) -> None:
    async with serve() as (server, source):
        peer = await RawPeer.connect(server.port)
        peer.write(frame(subscribe("DOGE").encode()))
        await asyncio.sleep(0.02)
        peer.write(frame(b"x" * 1000)[:500])
        await asyncio.sleep(0.02)
        peer.writer.transport.abort()
        await asyncio.sleep(0.02)
        source.trade("DOGE", "3")
        assert server.endpoint.hub.links == {}
        assert len(server.endpoint.hub.sets) == 0


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; client_no_context_takeover"),
        (DEFLATE, "permessage-deflate; client_no_context_takeover"),
        (
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate; client_no_context_takeover",
        ),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; nonsense=1", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("x-webkit-deflate-frame", None),
    ],
)
async def test_compression_is_negotiated_only_on_terms_we_keep(serve: Serve, offer: str, answer: str | None) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port, offer)
        found = [line for line in peer.head.split("\r\n") if line.lower().startswith("sec-websocket-extensions")]
        assert found == ([f"Sec-WebSocket-Extensions: {answer}"] if answer else [])
        await peer.close()


async def test_a_dead_reader_costs_the_others_nothing(serve: Serve) -> None:
    tokens = [f"TOKEN{n}" for n in range(100)]
    async with serve(tokens=tokens) as (server, source), aiohttp.ClientSession() as session:
        dead = await RawPeer.connect(server.port)
        dead.writer.transport.pause_reading()  # type: ignore[attr-defined]
        dead.write(frame(subscribe(*tokens).encode()))
        async with session.ws_connect(server.url) as healthy:
            await healthy.send_str(subscribe(*tokens))
            last = 0
            for round_ in range(80):
                for token in tokens:
                    source.trade(token, str(round_ + 2))
                while True:
                    message = json.loads((await healthy.receive(5)).data)
                    last += 1
                    assert message["sequence"] == last
                    data = message["data"]
                    if data.get("address") == "TOKEN99-address" and data["price"] == str(round_ + 2):
                        break
        stuck = next(iter(server.endpoint.hub.links))
        assert stuck.session.is_behind
        assert stuck.socket.get_write_buffer_size() < 3 * limits.WRITE_HIGH_WATER_BYTES
        await dead.close()


async def test_a_flood_is_handled_in_slices_and_what_is_dropped_is_not_even_parsed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    parsed: list[int] = []
    handle, parse = Connection._handle_bytes, Inbound.parse
    monkeypatch.setattr(Connection, "_handle_bytes", lambda *args: sizes.append(len(args[2])) or handle(*args))
    monkeypatch.setattr(Inbound, "parse", lambda *args: parsed.append(len(args[1])) or parse(*args))
    bomb = frame(deflated(b'{"type":"' + b" " * 900_000 + b'"}'), rsv1=True)
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port, DEFLATE)
        await peer.message()
        peer.write(bomb * 500)
        errors = [await peer.message() for _ in range(2)]
        assert [error["data"]["code"] for error in errors] == ["UNKNOWN_TYPE", "RATE_LIMITED"]
        await peer.close()
    assert max(sizes) <= 16_384
    assert len(parsed) < 10, "a message of 900 KB counts as 54"


async def test_a_fatal_error_is_told_though_a_close_frame_came_with_it(serve: Serve) -> None:
    async with serve() as (server, _):
        peer = await RawPeer.connect(server.port)
        peer.write(frame(b"{}", BINARY) + frame((1000).to_bytes(2, "big"), CLOSE))
        messages, code = await peer.ending()
        assert messages[1]["data"]["code"] == "BINARY_NOT_SUPPORTED"
        assert code == 1003
        await peer.close()


HEAD = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEAD % (b"//[", b""), 404),
        (HEAD % (b"/nowhere", b""), 404),
        (HEAD % (ENDPOINT.encode(), b"Sec-WebSocket-Version: 13\r\n"), 400),
        (HEAD % (ENDPOINT.encode(), b"Origin: a\r\nOrigin: b\r\n"), 400),
        (HEAD % (ENDPOINT.encode(), b"Sec-WebSocket-Extensions: ;;\r\n"), 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD % (ENDPOINT.encode(), b""), 0),
        (HEAD % (ENDPOINT.encode(), b"") + frame(b"{}"), 400),
    ],
)
async def test_odd_upgrades_are_refused(serve: Serve, request_bytes: bytes, status: int) -> None:
    async with serve() as (server, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 %d " % status) if status else not answer
        assert b"101 Switching" not in answer
        assert not server.endpoint.hub.links
        writer.close()
        await writer.wait_closed()
