"""The venue: real sockets, frames byte for byte, faults on demand, and nothing shared with the collector."""

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import tokenwire_server
from tokenwire_server.sources.tape_file import TapeError
from tokenwire_server.sources.venue import Faults, TapeVenue, serve_tape

from .conftest import agg_trade, write_tape

FRAMES = [agg_trade(n, symbol) for n in range(1, 11) for symbol in ("BTCUSDT", "ETHUSDT")]
BTC = FRAMES[::2]
SUBSCRIBE = '{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":7}'


@pytest.fixture
def tape(tmp_path: Path) -> str:
    return write_tape(tmp_path / "tape", FRAMES)


@asynccontextmanager
async def client(
    venue: TapeVenue, path: str = "/stream", subscribe: str = SUBSCRIBE
) -> AsyncIterator[ClientConnection]:
    async with connect(venue.url + path, proxy=None) as socket:
        if subscribe:
            await socket.send(subscribe)
            assert json.loads(await socket.recv()) == {"result": None, "id": 7}
        yield socket


async def take(socket: ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(5):
        return [await socket.recv() for _ in range(count)]


async def silence(socket: ClientConnection) -> bool:
    try:
        async with asyncio.timeout(0.05):
            await socket.recv()
    except TimeoutError:
        return True
    return False


@pytest.mark.tapes
@pytest.mark.parametrize("path", ["/stream", "/ws"])
async def test_real_frames_are_served_verbatim(tapes: Path, path: str) -> None:
    file = tapes / "binance-futures-2021-07-22.txt"
    captured = [line[line.index(": ") + 2 :] for line in file.read_text().splitlines()]
    wanted = [frame for frame in captured if frame.startswith('{"stream":"sushiusdt@aggTrade"')]
    if path == "/ws":
        wanted = [frame[frame.index('"data":') + 7 : -1] for frame in wanted]
    async with TapeVenue(str(file), speed=0) as venue:
        request = SUBSCRIBE.replace("btcusdt", "sushiusdt")
        async with client(venue, path, request) as socket:
            assert await take(socket, len(wanted)) == wanted
            assert await silence(socket)
    assert len(wanted) == 40


@pytest.mark.parametrize("path", ["/stream?streams=btcusdt@aggTrade/nosuch@trade", "/ws/btcusdt@aggTrade"])
async def test_streams_named_in_the_path_need_no_request(tape: str, path: str) -> None:
    async with TapeVenue(tape, speed=0) as venue, client(venue, path, "") as socket:
        frames = await take(socket, 10)
    expected: list[Any] = [json.loads(frame) for frame in BTC]
    if path.startswith("/ws"):
        expected = [frame["data"] for frame in expected]
    assert [json.loads(frame) for frame in frames] == expected


async def test_raw_captures_are_wrapped_only_for_combined_clients(tmp_path: Path) -> None:
    raw = json.dumps(json.loads(BTC[0])["data"])
    path = write_tape(tmp_path / "raw", [raw])
    async with TapeVenue(path, speed=0) as venue:
        async with client(venue, "/ws") as socket:
            assert await take(socket, 1) == [raw]
        async with client(venue, "/stream") as socket:
            assert await take(socket, 1) == [f'{{"stream":"btcusdt@aggTrade","data":{raw}}}']


async def test_requests_are_answered(tape: str) -> None:
    async with TapeVenue(tape, speed=1e-6) as venue, client(venue) as socket:
        assert await take(socket, 1) == BTC[:1]
        for request, answer in (
            ('{"method":"LIST_SUBSCRIPTIONS","id":1}', {"result": ["btcusdt@aggTrade"], "id": 1}),
            ('{"method":"UNSUBSCRIBE","params":["btcusdt@aggTrade"],"id":2}', {"result": None, "id": 2}),
            ('{"method":"LIST_SUBSCRIPTIONS","id":3}', {"result": [], "id": 3}),
        ):
            await socket.send(request)
            assert json.loads(await socket.recv()) == answer
        for request in (
            "{",
            "[]",
            '{"method":"DANCE","id":1}',
            '{"method":"SUBSCRIBE","params":[],"id":1}',
            '{"method":"SUBSCRIBE","params":[5],"id":1}',
            json.dumps({"method": "SUBSCRIBE", "params": [f"s{n}@trade" for n in range(1_025)], "id": 1}),
        ):
            await socket.send(request)
            assert "code" in json.loads(await socket.recv())["error"]


async def test_the_replay_begins_with_the_subscription_and_anew_for_each_client(tape: str) -> None:
    async with TapeVenue(tape, speed=0) as venue:
        async with connect(venue.url + "/stream", proxy=None) as socket:
            assert await silence(socket)
        for _ in range(2):
            async with client(venue) as socket:
                assert await take(socket, 10) == BTC
        assert venue.connections == 3
        assert venue.frames == 20


async def test_following_clients_go_on_where_the_last_stopped(tape: str) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(disconnect_after=4), follow=True) as venue:
        seen: list[str | bytes] = []
        for count in (4, 4, 2):
            async with client(venue) as socket:
                seen += await take(socket, count)
        assert seen == BTC


async def test_a_looped_tape_repeats(tape: str) -> None:
    async with TapeVenue(tape, speed=0, loop=True) as venue, client(venue) as socket:
        assert await take(socket, 25) == [*BTC, *BTC, *BTC[:5]]


@pytest.mark.parametrize(
    ("faults", "numbers"),
    [
        (Faults(drop_every=3), [1, 2, 4, 5, 7, 8, 10]),
        (Faults(duplicate_every=5), [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]),
        (Faults(stall_after=4), [1, 2, 3, 4]),
    ],
)
async def test_faults_of_frames(tape: str, faults: Faults, numbers: list[int]) -> None:
    async with TapeVenue(tape, speed=0, faults=faults) as venue, client(venue) as socket:
        frames = await take(socket, len(numbers))
        assert [json.loads(frame)["data"]["a"] for frame in frames] == numbers
        assert await silence(socket)
        await asyncio.wait_for(await socket.ping(), 5)


async def test_garbage_shutdown_and_disconnect(tape: str) -> None:
    faults = Faults(garbage_every=2, shutdown_after=3, disconnect_after=5)
    async with TapeVenue(tape, speed=0, faults=faults) as venue, client(venue) as socket:
        frames = await take(socket, 8)
        assert [frame for frame in frames if frame in BTC] == BTC[:5]
        assert sum('"serverShutdown"' in str(frame) for frame in frames) == 1
        with pytest.raises(ConnectionClosed) as caught:
            await take(socket, 1)
        assert caught.value.rcvd is None  # cut, without a closing handshake


async def test_pace(tape: str) -> None:
    loop = asyncio.get_running_loop()
    async with TapeVenue(tape, speed=50) as venue:
        begun = loop.time()
        async with client(venue) as socket:
            await take(socket, 10)
        assert loop.time() - begun >= 1.8 / 50


async def test_other_paths_are_refused(tape: str) -> None:
    async with TapeVenue(tape) as venue, connect(venue.url + "/other", proxy=None) as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await take(socket, 1)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


async def test_the_entry_point_announces_and_stops_when_cancelled(tape: str) -> None:
    told: asyncio.Queue[tuple[str, Sequence[str]]] = asyncio.Queue()
    task = asyncio.create_task(
        serve_tape(tape, "127.0.0.1", 0, 0, Faults(), lambda url, symbols: told.put_nowait((url, symbols)))
    )
    url, symbols = await asyncio.wait_for(told.get(), 5)
    assert symbols == ("BTCUSDT", "ETHUSDT")
    async with connect(url + "/ws/btcusdt@aggTrade", proxy=None) as socket:
        assert len(await take(socket, 10)) == 10
    port = int(url.rpartition(":")[2])
    with pytest.raises(TapeError, match=f"cannot listen on 127.0.0.1:{port}.*choose another port"):
        await serve_tape(tape, "127.0.0.1", port, 0, None, lambda *_: None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_bad_arguments(tmp_path: Path, tape: str) -> None:
    with pytest.raises(ValueError, match="speed"):
        TapeVenue(tape, speed=-1)
    with pytest.raises(ValueError, match="drop_every"):
        Faults(drop_every=-1)
    other = write_tape(tmp_path / "okx", ['{"arg":{},"data":[]}', "[]", "x", '{"stream":"a@b"}'])
    with pytest.raises(TapeError, match="no Binance-format streams"):
        TapeVenue(other)
    with pytest.raises(TapeError, match="check the path"):
        TapeVenue(str(tmp_path / "missing"))


def test_the_venue_shares_no_parsing_with_the_collector() -> None:
    """Whatever the venue's modules import, and what those import: never the normaliser, nor what uses it."""
    root = Path(tokenwire_server.__file__).parent
    seen: set[str] = set()
    waiting = ["sources.venue"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        tree = ast.parse((root / f"{module.replace('.', '/')}.py").read_text())
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                inner = name.removeprefix("tokenwire_server.")
                if inner != name and (root / f"{inner.replace('.', '/')}.py").exists():
                    waiting.append(inner)
    assert seen == {"sources.venue", "sources.venue_peer", "sources.tape_file", "errors"}
