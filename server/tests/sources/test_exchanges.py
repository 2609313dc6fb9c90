"""Every exchange's collector, on real sockets, against its venue on loopback."""

import ast
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection

import tokenwire_server.sources
from tokenwire_server.market.trades import Side
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources import parse_source
from tokenwire_server.sources.exchange import Exchange

from .conftest import RecordingSink
from .venues import ALL, CoinbaseVenue, KrakenVenue, OkxVenue, Script, Venue
from .venues.base import T0_MS, bought

LIVE, RECONNECTING = SourceState.LIVE, SourceState.RECONNECTING
JUNK: tuple[str | bytes, ...] = (
    "<html><body>502 Bad Gateway</body></html>",
    b"\x00\xff\xfe\x80",
    "[]",
    "{}",
    '"text"',
    "[" * 50_000,
    '{"channel":{"data":[]},"topic":5,"type":[],"arg":"x","e":{}}',
)

venues = pytest.mark.parametrize("make", ALL, ids=lambda venue: venue.kind)
numbered = pytest.mark.parametrize("make", [venue for venue in ALL if venue.numbered], ids=lambda venue: venue.kind)


def say(*numbers: int, then: Script | None = None) -> Script:
    """Send these trades, each in a frame of its own; then stay silent."""

    async def script(venue: Venue, socket: ServerConnection) -> None:
        for number in numbers:
            for frame in venue.frame(number):
                await socket.send(frame)
        if then is not None:
            await then(venue, socket)

    return script


async def hang_up(venue: Venue, socket: ServerConnection) -> None:
    await socket.close()


def collector(venue: Venue, *, rest: bool = True, waits: list[float] | None = None) -> Exchange:
    tail = f"|{venue.rest_url}" if rest else ""
    source = parse_source(f"{venue.kind}:{venue.symbol}@{venue.url}{tail}")
    assert isinstance(source, Exchange)
    asked = [] if waits is None else waits

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await asyncio.sleep(0)

    source._sleep = sleep
    source._reconnection._rng = Random(1)
    return source


@asynccontextmanager
async def running(source: Exchange, sink: Sink) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run(sink))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def ids(sink: RecordingSink) -> list[int]:
    return [int(trade.trade_id) for trade in sink.all]


@venues
async def test_trades_arrive_with_the_takers_side(make: type[Venue], sink: RecordingSink) -> None:
    async with make(say(1, 2, 3)) as venue:
        source = collector(venue)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 3 and LIVE in sink.kinds)
        assert not venue.rest_requests
    address = f"{venue.kind}:{venue.symbol}"
    assert [(info.address, info.symbol) for info in sink.infos] == [(address, venue.symbol)]
    assert {trade.address for trade in sink.all} == {address}
    assert [trade.price for trade in sink.all] == [Decimal("101.5"), Decimal("102.5"), Decimal("103.5")]
    assert {trade.amount for trade in sink.all} == {Decimal("0.25")}
    assert [trade.side for trade in sink.all] == [Side.BUY if bought(n) else Side.SELL for n in (1, 2, 3)]
    assert [trade.time_ms for trade in sink.all] == [T0_MS + 1_000 * n for n in (1, 2, 3)]
    assert sink.kinds == [SourceState.STARTING, LIVE]
    assert not sink.reasons
    assert (source.gaps, source.reconnects, source.name) == (0, 0, venue.kind)


@numbered
async def test_a_hole_is_fetched_and_delivered_in_order(make: type[Venue], sink: RecordingSink) -> None:
    async with make(say(1, 2, 6, 7, 9)) as venue:
        venue.history = range(1, 10)
        source = collector(venue)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 9)
        assert venue.rest_requests
    assert ids(sink) == list(range(1, 10))
    assert [trade.side for trade in sink.all] == [Side.BUY if bought(n) else Side.SELL for n in range(1, 10)]
    assert (source.gaps, source.missed, source.backfilled) == (2, 0, 4)
    assert not sink.gaps


@venues
async def test_a_hole_over_a_reconnection_is_fetched(make: type[Venue], sink: RecordingSink) -> None:
    async with make(say(1, 2, then=hang_up), say(40, 41)) as venue:
        venue.history = range(1, 41)
        source = collector(venue)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 41)
    assert ids(sink) == list(range(1, 42))
    assert (source.gaps, source.missed, source.reconnects) == (1, 0, 1)
    told = {(name, event): count for name, event, count in source.tally()}
    assert (told[venue.kind, "reconnect"], told[venue.kind, "trade_backfilled"]) == (1, source.backfilled)
    assert source.backfilled >= 37
    assert not sink.gaps


@numbered
@pytest.mark.parametrize("status", [404, 500, 200])
async def test_a_hole_that_cannot_be_fetched_is_told(make: type[Venue], status: int, sink: RecordingSink) -> None:
    async with make(say(1, 2, 6, 7)) as venue:
        venue.rest_script = lambda _: web.Response(status=status, text="<html>sorry</html>")
        source = collector(venue)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 4 and bool(sink.gaps), 20)
    assert ids(sink) == [1, 2, 6, 7]
    assert sink.gaps == {f"{venue.kind}:{venue.symbol}": 3}
    assert (source.gaps, source.missed, source.backfilled) == (1, 3, 0)
    assert sink.reasons == {"backfill_failed": 1}


@numbered
async def test_what_rest_does_not_know_is_told(make: type[Venue], sink: RecordingSink) -> None:
    async with make(say(1, 2, 7)) as venue:
        venue.history = [1, 2, 3, 6, 7]
        source = collector(venue)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 5 and bool(sink.gaps), 20)
    assert sorted(ids(sink)) == [1, 2, 3, 6, 7]
    assert (source.missed, source.backfilled) == (2, 2)


@venues
async def test_without_rest_a_hole_is_told_at_once(make: type[Venue], sink: RecordingSink) -> None:
    async with make(say(1, 2, then=hang_up), say(6, 7)) as venue:
        source = collector(venue, rest=False)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 4)
        assert not venue.rest_requests
    assert ids(sink) == [1, 2, 6, 7]
    # A venue without numbers: that there is a hole is known, not how many trades are in it.
    assert sink.gaps == {f"{venue.kind}:{venue.symbol}": 3 if venue.numbered else 0}
    assert source.gaps == 1


@venues
async def test_repeated_trades_are_folded_once(make: type[Venue]) -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: T0_MS)
    async with make(say(1, 2, 2, 3, then=hang_up), say(2, 3, 4)) as venue:
        if isinstance(venue, KrakenVenue):
            venue.snapshot = (1, 2, 3)
        if isinstance(venue, CoinbaseVenue):
            venue.last_match = 2
        source = collector(venue, rest=venue.numbered)
        async with running(source, pipeline), asyncio.timeout(5):
            while pipeline.market.trades < 4:
                await asyncio.sleep(0.01)
    assert pipeline.market.trades == 4
    assert pipeline.market.duplicates >= 3
    assert not pipeline.rejections


async def test_a_snapshot_in_any_order_is_no_hole(sink: RecordingSink) -> None:
    async with KrakenVenue(say(4)) as venue:
        venue.snapshot = (3, 2, 1)
        source = collector(venue, rest=False)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 4)
    assert ids(sink) == [1, 2, 3, 4]
    assert source.gaps == 0


async def test_several_exchanges_feed_one_market() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: T0_MS)
    async with CoinbaseVenue(say(1, 2, 3)) as one, KrakenVenue(say(1, 2)) as other:
        sources = [collector(one), collector(other)]
        for source in sources:
            pipeline.add_source(source)
        async with running(sources[0], pipeline), running(sources[1], pipeline), asyncio.timeout(5):
            while pipeline.market.trades < 5 or set(pipeline.source_states().values()) != {LIVE}:
                await asyncio.sleep(0.01)
    prices = {token.address: token.price for token in pipeline.market}
    assert prices == {"coinbase:BTC-USD": Decimal("103.5"), "kraken:BTC/USD": Decimal("102.5")}
    assert pipeline.resolve("BTC/USD").address == "kraken:BTC/USD"


@venues
async def test_garbage_is_counted_and_passed(make: type[Venue]) -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: T0_MS)

    async def script(venue: Venue, socket: ServerConnection) -> None:
        for frame in (*JUNK, *venue.spoilt()):
            await socket.send(frame)
        for frame in venue.frame(1):
            await socket.send(frame.replace("101.5", "-101.5"))
        for frame in venue.frame(2):
            await socket.send(frame)

    async with make(script) as venue:
        spoilt = venue.spoilt()
        source = collector(venue, rest=False)
        async with running(source, pipeline), asyncio.timeout(5):
            while pipeline.market.trades < 1:
                await asyncio.sleep(0.01)
        assert source.reconnects == 0
    counted = {reason: count for (_, reason), count in pipeline.rejections.items()}
    assert counted.pop("price_not_positive") == 1
    assert sum(counted.values()) == len(JUNK) + len(spoilt)
    assert {"bad_side", "bad_id", "not_json"} <= counted.keys()
    token = pipeline.market.get(f"{venue.kind}:{venue.symbol}")
    assert token is not None
    assert token.price == Decimal("102.5")


async def test_one_bad_trade_does_not_spoil_its_frame(sink: RecordingSink) -> None:
    async def script(venue: Venue, socket: ServerConnection) -> None:
        (frame,) = venue.frame(1, 2, 3)
        await socket.send(frame.replace("102.5", '"x"').replace('""x""', '"x"'))

    for make in (KrakenVenue, ALL[3]):
        before = len(sink.all)
        async with make(script) as venue, running(collector(venue, rest=False), sink):
            await sink.until(lambda start=before: len(sink.all) == start + 2)  # type: ignore[misc]
        assert ids(sink)[before:] == [1, 3]
    assert sink.reasons == {"bad_price": 2}


REFUSALS: dict[str, Sequence[str]] = {
    "binance": ['{"error":{"code":2,"msg":"Invalid request: unknown variant"},"id":1}'],
    "coinbase": ['{"type":"error","message":"Failed to subscribe","reason":"BTC-USD is not a valid product"}'],
    "kraken": [
        '{"error":"Currency pair not supported BTC/USD","method":"subscribe","req_id":1,"success":false,'
        '"symbol":"BTC/USD","time_in":"2023-09-25T09:21:10.428340Z","time_out":"2023-09-25T09:21:10.428375Z"}'
    ],
    "bybit": [
        '{"success":false,"ret_msg":"error:handler not found,topic:publicTrade.BTCUSDT","conn_id":"7","op":"subscribe"}'
    ],
    "okx": [
        '{"event":"error","code":"60018","msg":"Wrong URL or channel:trades,instId:BTC-USDT doesn\'t exist. Please use '
        'the correct URL, channel and parameters referring to API document.","connId":"a4d3ae55"}'
    ],
}


@venues
async def test_a_refused_subscription_is_told(make: type[Venue], sink: RecordingSink) -> None:
    async with make(refuse=REFUSALS[make.kind]) as venue, running(collector(venue), sink):
        await sink.until(lambda: sink.reasons["subscribe_refused"] >= 2)
    assert LIVE not in sink.kinds
    assert "SUBSCRIBE refused" in sink.states[1][1]


@venues
async def test_a_refused_handshake_waits_as_long_as_the_venue_says(make: type[Venue], sink: RecordingSink) -> None:
    waits: list[float] = []
    async with make(status=429) as venue, running(collector(venue, waits=waits), sink):
        await sink.until(lambda: sink.kinds.count(RECONNECTING) >= 3)
    assert waits[:2] == [7, 7]
    assert sink.states[1][1] == f"{venue.url}: HTTP 429"


@pytest.mark.parametrize("make", [venue for venue in ALL if venue.shutdown], ids=lambda venue: venue.kind)
async def test_an_announced_shutdown_is_obeyed_at_once(make: type[Venue], sink: RecordingSink) -> None:
    waits: list[float] = []

    async def shut_down(venue: Venue, socket: ServerConnection) -> None:
        assert venue.shutdown is not None
        await socket.send(venue.shutdown)
        await asyncio.sleep(60)

    async with make(say(1, then=shut_down), say(2)) as venue, running(collector(venue, waits=waits), sink):
        await sink.until(lambda: len(sink.all) == 2)
    assert not waits
    assert sink.states[-2 if sink.kinds[-1] is LIVE else -1] == (RECONNECTING, f"{venue.url}: the venue shuts down")


async def test_one_refused_pair_of_several_leaves_the_others(sink: RecordingSink) -> None:
    granted = '{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}'
    refused = REFUSALS["okx"][0].replace("BTC-USDT", "NO-USDT")

    class Picky(OkxVenue):
        def answer(self, request: Any) -> Sequence[str]:
            return [granted, refused]

    async with Picky(say(1)) as venue:
        source = parse_source(f"okx:BTC-USDT,NO-USDT@{venue.url}")
        assert isinstance(source, Exchange)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 1 and LIVE in sink.kinds)
    assert sink.reasons == {"subscribe_refused": 1}
    assert RECONNECTING not in sink.kinds


async def test_an_aggregate_of_matches_is_no_hole_but_its_place_is_known(sink: RecordingSink) -> None:
    async def script(venue: Venue, socket: ServerConnection) -> None:
        (frame,) = venue.frame(9)
        await socket.send(frame.replace('"count":"1"', '"count":"4"'))  # 6 to 9

    async with OkxVenue(say(5, then=script), say(5, 5)) as venue:
        source = collector(venue, rest=False)
        async with running(source, sink):
            await sink.until(lambda: len(sink.all) == 2)
    assert ids(sink) == [5, 9]
    assert source.gaps == 0


def test_what_is_said_to_be_pure_is() -> None:
    """Time, randomness and everything outside come in as arguments."""
    outside = {"asyncio", "aiohttp", "websockets", "socket", "time", "logging", "threading", "os"}
    folder = Path(tokenwire_server.sources.__file__).parent
    names = ["frames", "continuity", "holds", "breaker", "reconnection", "event_clock", "retry_after", "profile"]
    names += ["coinbase", "kraken", "bybit", "okx", *(f"{venue.kind}_format" for venue in ALL)]
    for name in names:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in imported} & outside, name


def test_the_venues_know_nothing_of_the_normalisers() -> None:
    allowed = {"aiohttp", "asyncio", "collections", "datetime", "json", "types", "typing", "websockets"}
    for file in (Path(__file__).parent / "venues").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, file
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.module or "").split(".")[0] in allowed, file
