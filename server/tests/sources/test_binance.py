"""The collector: on real loopback sockets against the venue, and in virtual time against a scripted one."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import async_solipsism
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tokenwire_server.ports import SourceState
from tokenwire_server.sources.binance import Binance
from tokenwire_server.sources.venue import Faults, TapeVenue

from .conftest import RecordingSink, agg_trade, write_tape

FRAMES = [agg_trade(n, symbol) for n in range(1, 11) for symbol in ("BTCUSDT", "ETHUSDT")]
LIVE, RECONNECTING = SourceState.LIVE, SourceState.RECONNECTING


@pytest.fixture
def tape(tmp_path: Path) -> str:
    return write_tape(tmp_path / "tape", FRAMES)


async def no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def running(source: Binance, sink: RecordingSink) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run(sink))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def ids(sink: RecordingSink, symbol: str = "BTCUSDT") -> list[int]:
    return [int(trade.trade_id) for trade in sink.all if trade.address == f"binance:{symbol}"]


async def test_trades_of_the_symbols_arrive(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0) as venue:
        source = Binance(["btcusdt", "ETHUSDT"], venue.url)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 20)
    assert sink.order[:2] == ["tokens", "state"]
    assert sink.order.index("clock") < sink.order.index("trades")
    assert [info.address for info in sink.infos] == ["binance:BTCUSDT", "binance:ETHUSDT"]
    assert ids(sink) == ids(sink, "ETHUSDT") == list(range(1, 11))
    assert sink.kinds[:2] == [SourceState.STARTING, LIVE]
    assert not sink.reasons
    assert (source.gaps, source.reconnects, source.name) == (0, 0, "binance")


@pytest.mark.tapes
async def test_a_real_tape_over_the_wire_equals_its_lines(tapes: Path, sink: RecordingSink) -> None:
    file = tapes / "binance-futures-2021-07-22.txt"
    events = []
    for line in file.read_text().splitlines():
        event = json.loads(line[line.index(": ") + 2 :])["data"]
        if event["e"] == "aggTrade" and event["s"] in ("CTKUSDT", "SUSHIUSDT"):
            events.append(event)
    async with TapeVenue(str(file), speed=0) as venue, running(Binance(["CTKUSDT", "SUSHIUSDT"], venue.url), sink):
        await sink.until(lambda: len(sink.all) == len(events))
    assert [(t.address, t.trade_id, t.time_ms) for t in sink.all] == [
        (f"binance:{e['s']}", str(e["a"]), e["T"]) for e in events
    ]
    assert [str(t.price) for t in sink.all] == [e["p"] for e in events]


async def test_a_dropped_frame_is_a_counted_gap(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(drop_every=4)) as venue:
        source = Binance(["BTCUSDT"], venue.url)
        async with running(source, sink):
            await sink.until(lambda: 10 in ids(sink))
    assert ids(sink) == [1, 2, 3, 5, 6, 7, 9, 10]
    assert (source.gaps, source.missed) == (2, 2)
    assert sink.gaps == {"binance:BTCUSDT": 2}


async def test_garbage_is_rejected_and_passed(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(garbage_every=2)) as venue:
        source = Binance(["BTCUSDT"], venue.url)
        async with running(source, sink):
            await sink.until(lambda: sink.reasons.total() == 5)
    assert ids(sink) == list(range(1, 11))
    assert set(sink.reasons) == {"not_json", "not_an_object", "bad_symbol"}


async def test_duplicates_are_handed_on_for_the_market_to_drop(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(duplicate_every=5)) as venue:
        source = Binance(["BTCUSDT"], venue.url)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 12)
    assert source.gaps == 0


async def test_it_reconnects_and_goes_on(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(disconnect_after=4), follow=True) as venue:
        source = Binance(["BTCUSDT"], venue.url, sleep=no_wait)
        async with running(source, sink):
            await sink.until(lambda: 10 in ids(sink))
    assert ids(sink) == list(range(1, 11))
    assert (source.reconnects, source.gaps) == (2, 0)
    assert RECONNECTING in sink.kinds


async def test_an_announced_shutdown_is_obeyed_at_once(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(shutdown_after=4)) as venue:
        source = Binance(["BTCUSDT"], venue.url, sleep=no_wait)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 8)
        assert venue.connections >= 2
    assert ids(sink) == [1, 2, 3, 4, 1, 2, 3, 4]
    assert (RECONNECTING, f"{venue.url}: the venue shuts down") in sink.states


async def test_a_stalled_venue_is_alive_but_silent(tape: str, sink: RecordingSink) -> None:
    async with TapeVenue(tape, speed=0, faults=Faults(stall_after=4)) as venue:
        source = Binance(["BTCUSDT"], venue.url)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 4 and LIVE in sink.kinds)
            assert sink.kinds[-1] is LIVE
            assert source.reconnects == 0


async def test_a_refused_subscription_is_told(sink: RecordingSink) -> None:
    async def refuse(socket: ServerConnection) -> None:
        async for _ in socket:
            await socket.send('{"error":{"code":2,"msg":"Invalid request"},"id":1}')

    async with serve(refuse, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(Binance(["BTCUSDT"], f"ws://127.0.0.1:{port}", sleep=no_wait), sink):
            await sink.until(lambda: sink.reasons["subscribe_refused"] >= 2)
    assert LIVE not in sink.kinds
    assert "Invalid request" in sink.states[1][1]


async def test_what_was_not_asked_for_is_rejected_and_klines_are_not(sink: RecordingSink) -> None:
    async def send(socket: ServerConnection) -> None:
        await socket.send(agg_trade(1, "OTHER"))
        await socket.send(agg_trade(1).replace("aggTrade", "trade").replace('"a":', '"t":'))
        await socket.send('{"stream":"btcusdt@kline_1m","data":{"e":"kline","s":"BTCUSDT","k":{}}}')
        await socket.send(agg_trade(1).encode())
        await socket.wait_closed()

    async with serve(send, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        source = Binance(["BTCUSDT"], f"ws://127.0.0.1:{port}")
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 1)
    assert sink.reasons == {"not_subscribed": 2}
    assert source.ignored == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": []}, "1 to 1024 symbols"),
        ({"symbols": [f"S{n}" for n in range(1_025)]}, "1 to 1024 symbols"),
        ({"symbols": ["BTC/USDT"]}, "not a Binance symbol"),
        ({"symbols": ["A"], "stream": "depth"}, "stream must be"),
        ({"symbols": ["A"], "url": "http://x"}, "not a WebSocket URL"),
        ({"symbols": ["A"], "url": "ws://x:99999"}, "not a WebSocket URL"),
        ({"symbols": ["A"], "url": "nonsense"}, "not a WebSocket URL"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Binance(**arguments)


# --- In virtual time -----------------------------------------------------------------------------------------

Handler = Callable[[ServerConnection], Awaitable[None]]
HOST, PORT = "venue.test", 9443
T0 = 1_700_000_000_000  # the wall clock when virtual time is 0


class Story:
    """A scripted venue on a virtual network, and when its connections began."""

    def __init__(self) -> None:
        self.begun_s: list[float] = []
        self.requests: list[tuple[float, Any]] = []
        self.sink = RecordingSink()

    def tell(self, handler: Handler, test: Callable[["Story"], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def serve_one(socket: ServerConnection) -> None:
            self.begun_s.append(self.now_s)
            await handler(socket)

        async def main() -> None:
            async with serve(serve_one, HOST, PORT, ping_interval=None, close_timeout=1, **options):
                await test(self)

        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            runner.run(main())

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def source(self, *symbols: str, **options: Any) -> Binance:
        options.setdefault("rng", Random(1))
        return Binance(
            symbols or ("BTCUSDT",),
            f"ws://{HOST}:{PORT}",
            clock=lambda: T0 + int(self.now_s * 1_000),
            **options,
        )

    async def grant_one(self, socket: ServerConnection) -> None:
        """Answer one request."""
        request = json.loads(await socket.recv())
        self.requests.append((self.now_s, request))
        await socket.send(json.dumps({"result": None, "id": request["id"]}))

    async def grant(self, socket: ServerConnection) -> None:
        """Answer requests until the connection ends."""
        with suppress(ConnectionClosed):
            while True:
                await self.grant_one(socket)


def test_backoff_doubles_to_a_cap_with_full_jitter() -> None:
    story = Story()
    slept: list[float] = []
    asked: list[tuple[float, float]] = []

    class Rng(Random):
        def uniform(self, a: float, b: float) -> float:
            asked.append((a, b))
            return b / 2

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(seconds)

    async def hang_up(socket: ServerConnection) -> None:
        await socket.close()

    async def test(story: Story) -> None:
        async with running(story.source(rng=Rng(), sleep=sleep), story.sink):
            await story.sink.until(lambda: len(slept) == 8, 600)

    story.tell(hang_up, test)
    assert asked == [(0, ceiling) for ceiling in (1, 2, 4, 8, 16, 30, 30, 30)]
    assert slept == [ceiling / 2 for _, ceiling in asked]


def test_a_stable_connection_resets_the_backoff() -> None:
    story = Story()
    lives = iter([0, 0, 0, 45, 0, 0])
    ceilings: list[float] = []

    class Rng(Random):
        def uniform(self, a: float, b: float) -> float:
            ceilings.append(b)
            return b

    async def live(socket: ServerConnection) -> None:
        if life_s := next(lives, 0):
            await story.grant_one(socket)
            await asyncio.sleep(life_s)

    async def test(story: Story) -> None:
        async with running(story.source(rng=Rng()), story.sink):
            await story.sink.until(lambda: len(ceilings) == 6, 600)

    story.tell(live, test)
    assert ceilings == [1, 2, 4, 1, 2, 4]


def test_shutdown_reconnects_at_once_but_not_in_a_loop() -> None:
    story = Story()

    async def shut_down(socket: ServerConnection) -> None:
        await socket.send('{"e":"serverShutdown","E":1}')
        await socket.wait_closed()

    async def test(story: Story) -> None:
        async with running(story.source(), story.sink):
            await story.sink.until(lambda: story.sink.kinds.count(RECONNECTING) == 3, 60)

    story.tell(shut_down, test)
    assert story.begun_s[1] - story.begun_s[0] < 0.01
    assert story.begun_s[2] - story.begun_s[1] > 0.01


def test_silence_of_a_minute_reconnects_while_the_clock_stands_still() -> None:
    story = Story()
    final: list[float] = []

    async def go_dead(socket: ServerConnection) -> None:
        await story.grant_one(socket)
        await socket.send(agg_trade(1, time_ms=T0))
        socket.transport.pause_reading()  # nothing is read or answered any more, pings neither
        await asyncio.sleep(1_000)

    async def test(story: Story) -> None:
        async with running(story.source(), story.sink):
            await story.sink.until(lambda: RECONNECTING in story.sink.kinds, 200)
            final.append(story.now_s)

    story.tell(go_dead, test)
    assert final[0] == pytest.approx(60, abs=2)
    assert "no byte for 60 s" in story.sink.states[-1][1]
    # Without a sign of life the time is not told: the sink must be able to see that the feed is stale.
    assert T0 + 18_000 <= max(story.sink.clocks) <= T0 + 21_000


def test_a_quiet_living_connection_stays_and_tells_the_time() -> None:
    story = Story()

    async def trade_once(socket: ServerConnection) -> None:
        await socket.send(agg_trade(1, time_ms=T0 - 250))
        await story.grant(socket)

    async def test(story: Story) -> None:
        source = story.source()
        async with running(source, story.sink):
            await asyncio.sleep(600)
            assert source.reconnects == 0

    story.tell(trade_once, test)
    clocks = story.sink.clocks
    assert len(clocks) > 500
    assert T0 + 598_000 <= clocks[-1] <= T0 + 600_000
    assert max(b - a for a, b in pairwise(clocks)) < 3_000


def test_a_connection_is_renewed_before_a_day() -> None:
    story = Story()

    async def test(story: Story) -> None:
        async with running(story.source(), story.sink):
            await story.sink.until(lambda: RECONNECTING in story.sink.kinds, 90_000)
            await story.sink.until(lambda: story.sink.kinds.count(LIVE) == 2, 10)

    story.tell(story.grant, test)
    assert 23 * 3_600 < story.begun_s[1] - story.begun_s[0] < 24 * 3_600


def test_many_streams_are_asked_for_within_the_venues_limits() -> None:
    story = Story()

    async def test(story: Story) -> None:
        async with running(story.source(*(f"S{n}USDT" for n in range(1_024))), story.sink):
            await story.sink.until(lambda: LIVE in story.sink.kinds, 30)
            assert len(story.requests) == 6

    story.tell(story.grant, test)
    times = [at_s for at_s, _ in story.requests]
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))
    named = [stream for _, request in story.requests for stream in request["params"]]
    assert named == [f"s{n}usdt@aggTrade" for n in range(1_024)]
    assert len({request["id"] for _, request in story.requests}) == 6


def test_no_reply_to_the_subscription_reconnects() -> None:
    story = Story()

    async def ignore(socket: ServerConnection) -> None:
        async for _ in socket:
            pass

    async def test(story: Story) -> None:
        async with running(story.source(), story.sink):
            await story.sink.until(lambda: RECONNECTING in story.sink.kinds, 30)

    story.tell(ignore, test)
    assert "no reply to SUBSCRIBE" in story.sink.states[-1][1]


def test_a_refused_handshake_waits_as_long_as_the_venue_says() -> None:
    story = Story()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(seconds)

    def refuse(socket: ServerConnection, request: Request) -> Response:
        return Response(429, "Too Many Requests", Headers({"Retry-After": "120", "Content-Length": "0"}))

    async def test(story: Story) -> None:
        async with running(story.source(sleep=sleep), story.sink):
            await story.sink.until(lambda: len(slept) == 2, 600)

    story.tell(story.grant, test, process_request=refuse)
    assert slept == [120, 120]
    assert "HTTP 429" in story.sink.states[1][1]


def test_the_clock_is_told_before_the_trades_it_judges() -> None:
    """After a long outage the sink's idea of now is old; trades must not look as if from the future."""
    story = Story()

    async def trade_then_vanish(socket: ServerConnection) -> None:
        await story.grant_one(socket)
        await socket.send(agg_trade(len(story.begun_s), time_ms=T0 + int(story.now_s * 1_000)))
        await asyncio.sleep(1)

    async def wait_long(seconds: float) -> None:
        await asyncio.sleep(3_600)

    async def test(story: Story) -> None:
        async with running(story.source(sleep=wait_long), story.sink):
            await story.sink.until(lambda: len(story.sink.all) == 3, 10_000)

    story.tell(trade_then_vanish, test)
    told = [what for what in story.sink.order if what in ("clock", "trades")]
    assert told[:2] == ["clock", "trades"]
    for number, trade in enumerate(story.sink.all):
        trades_before = [i for i, what in enumerate(told) if what == "trades"][number]
        assert told[trades_before - 1] == "clock"
        assert trade.time_ms in story.sink.clocks
