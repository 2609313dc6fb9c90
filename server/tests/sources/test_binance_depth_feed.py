"""The collector of order books: in virtual time against a venue with a true book, and on real loopback sockets."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import pairwise

import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve

from tokenwire_server.market import book as market_book
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.sources import binance_depth_feed as module
from tokenwire_server.sources import binance_depth_splice
from tokenwire_server.sources.binance import Binance
from tokenwire_server.sources.binance_depth_splice import SpliceTimes
from tokenwire_server.sources.http_get import HttpError, Reply

from .binance_depth_venue import DepthVenue, Desk, play

BTC, ETH = "binance:BTCUSDT", "binance:ETHUSDT"


def test_a_wanted_book_is_the_venues_and_follows_it() -> None:
    async def test(desk: Desk) -> None:
        await asyncio.sleep(5)
        assert (desk.depth.connections, desk.venue.asked) == (0, [])
        book = desk.books.hold(BTC)
        assert await desk.right(book) < 1
        for _ in range(20):
            revision = book.revision
            await desk.until(lambda: book.revision != revision)  # noqa: B023 - awaited here
            await desk.right(book, wait_s=0.1)
        assert [request["params"] for request in desk.venue.heard] == [["btcusdt@depth@100ms"]]
        assert len(desk.venue.asked) == 1
        assert book.time_ms == 1_700_000_000_000 + desk.venue.updates["BTCUSDT"]
        assert not desk.sink.reasons

    play(DepthVenue("BTCUSDT", "ETHUSDT"), test)


def test_a_hole_makes_the_book_stale_until_it_is_mended() -> None:
    async def test(desk: Desk) -> None:
        book = desk.books.hold(BTC)
        await desk.right(book)
        await asyncio.sleep(2)
        for _ in range(3):
            desk.venue.spoil = lambda frame: None
            await asyncio.sleep(0.15)
            desk.venue.spoil = lambda frame: frame
            await desk.until(lambda: book.is_stale, 1)
            assert await desk.right(book) < 2
        assert desk.sink.reasons == {"book_hole": 3}

    play(DepthVenue("BTCUSDT"), test)


def test_repeated_and_broken_frames_do_no_harm() -> None:
    seen: list[str] = []

    def spoil(frame: str) -> str | None:
        seen.append(frame)
        spoilt = {3: "<html>", 4: frame.replace('"U"', '"V"'), 5: seen[-2:][0], 6: '{"stream":"x","data":3}'}
        return spoilt.get(len(seen), frame)

    async def test(desk: Desk) -> None:
        desk.venue.spoil = spoil
        book = desk.books.hold(BTC)
        await desk.until(lambda: len(seen) > 20)
        assert await desk.right(book) < 0.2
        assert desk.sink.reasons == {"not_json": 1, "bad_update_id": 1, "no_data": 1, "book_hole": 1}
        assert desk.depth.connections == 1

    play(DepthVenue("BTCUSDT"), test)


def test_a_lost_connection_makes_the_book_stale_at_once_and_is_made_anew() -> None:
    async def test(desk: Desk) -> None:
        book = desk.books.hold(BTC)
        await desk.right(book)
        desk.venue.sockets[-1].transport.abort()
        assert await desk.until(lambda: book.is_stale) < 0.1
        assert await desk.right(book) < 5
        assert desk.depth.connections == 2
        await desk.venue.sockets[-1].send('{"e":"serverShutdown","E":1770123456789}')
        await desk.until(lambda: desk.depth.connections == 3)
        await desk.right(book)

    play(DepthVenue("BTCUSDT"), test)


def test_what_nobody_wants_any_more_is_unsubscribed_and_the_connection_closed() -> None:
    async def test(desk: Desk) -> None:
        both = [desk.books.hold(BTC), desk.books.hold(ETH)]
        await desk.right(both[0])
        await desk.right(both[1], "ETHUSDT")
        desk.books.release(BTC)
        await desk.until(lambda: len(desk.venue.heard) == 2)
        await desk.right(both[1], "ETHUSDT")
        desk.books.release(ETH)
        await desk.until(lambda: desk.venue.sockets[0].state.name == "CLOSED")
        assert [(request["method"], request["params"]) for request in desk.venue.heard[:2]] == [
            ("SUBSCRIBE", ["btcusdt@depth@100ms", "ethusdt@depth@100ms"]),
            ("UNSUBSCRIBE", ["btcusdt@depth@100ms"]),
        ]
        await asyncio.sleep(60)
        assert desk.depth.connections == 1
        await desk.right(desk.books.hold(ETH), "ETHUSDT")
        assert desk.depth.connections == 2
        assert not desk.sink.reasons

    play(DepthVenue("BTCUSDT", "ETHUSDT"), test)


def test_a_book_dropped_and_wanted_again_at_once_comes_again() -> None:
    async def test(desk: Desk) -> None:
        await desk.right(desk.books.hold(BTC))
        desk.books.release(BTC)
        again = desk.books.hold(BTC)
        assert not again.is_filled
        await desk.right(again)

    play(DepthVenue("BTCUSDT", interval_s=1_000.0), test)


def test_a_quiet_market_has_a_book() -> None:
    async def test(desk: Desk) -> None:
        book = desk.books.hold(BTC)
        waited_s = await desk.right(book)
        assert 0.9 < waited_s < 2

    play(DepthVenue("BTCUSDT", interval_s=1_000.0), test, times=SpliceTimes(quiet_ms=1_000))


def test_snapshots_are_paced_and_streams_asked_for_together() -> None:
    symbols = [f"S{number}USDT" for number in range(12)]

    async def test(desk: Desk) -> None:
        books = {symbol: desk.books.hold(f"binance:{symbol}") for symbol in symbols}
        for symbol, book in books.items():
            await desk.right(book, symbol)
        times = [at_s for at_s, _ in desk.venue.asked]
        assert all(later - sooner >= module.SNAPSHOT_INTERVAL_S - 0.001 for sooner, later in pairwise(times))
        assert len(times) == 12
        assert len(desk.venue.heard) == 1

    play(DepthVenue(*symbols), test)


@pytest.mark.parametrize(
    ("answer", "least_s", "most_s"),
    [
        (Reply(429, b"", "7"), 7.0, 12.0),
        (Reply(418, b""), 60.0, 65.0),
        (Reply(503, b""), 1.0, 5.0),
        (Reply(503, b"", "20"), 20.0, 25.0),
        (Reply(200, b"<html>maintenance</html>"), 1.0, 5.0),
        (Reply(200, b'{"lastUpdateId":1,"bids":[["-1","1"]],"asks":[]}'), 1.0, 5.0),
        (None, 1.0, 5.0),
    ],
)
def test_a_snapshot_that_fails_is_fetched_again_later(answer: Reply | None, least_s: float, most_s: float) -> None:
    async def test(desk: Desk) -> None:
        def fail(path: str) -> Reply:
            if len(desk.venue.asked) > 1:
                return desk.venue.snapshot(path)
            if answer is None:
                raise HttpError("TimeoutError: ")
            return answer

        desk.venue.answer = fail
        book = desk.books.hold(BTC)
        await desk.right(book, wait_s=100)
        (first_s, _), (second_s, _) = desk.venue.asked
        assert least_s <= second_s - first_s + 0.06 < most_s
        assert desk.sink.reasons == {"depth_snapshot": 1}

    play(DepthVenue("BTCUSDT"), test)


def test_where_one_book_was_too_many_none_is_fetched_for_a_while() -> None:
    async def test(desk: Desk) -> None:
        desk.venue.answer = lambda path: Reply(429, b"", "30")
        both = desk.books.hold(BTC), desk.books.hold(ETH)
        await desk.until(lambda: bool(desk.venue.asked))
        desk.venue.answer = desk.venue.snapshot
        await desk.right(both[0], wait_s=100)
        await desk.right(both[1], "ETHUSDT", wait_s=100)
        first_s, second_s, *_ = (at_s for at_s, _ in desk.venue.asked)
        assert second_s - first_s >= 29.9

    play(DepthVenue("BTCUSDT", "ETHUSDT"), test)


def test_a_venue_that_fell_silent_is_left_though_the_connection_stands() -> None:
    async def test(desk: Desk) -> None:
        book = desk.books.hold(BTC)
        await desk.right(book)
        desk.venue.sockets[0].transport.pause_reading()  # it answers no ping either
        desk.venue.spoil = lambda frame: None
        assert 59 <= await desk.until(lambda: book.is_stale, wait_s=100) < 62
        desk.venue.spoil = lambda frame: frame
        await desk.right(book)

    play(DepthVenue("BTCUSDT"), test)


def test_a_refused_subscription_is_tried_again_with_growing_pauses() -> None:
    async def test(desk: Desk) -> None:
        desk.venue.refuse = '{"error":{"code":2,"msg":"Invalid request"},"id":1}'
        book = desk.books.hold(BTC)
        await asyncio.sleep(60)
        assert 3 <= desk.depth.connections <= 40
        desk.venue.refuse = ""
        await desk.right(book, wait_s=100)
        assert desk.sink.reasons["subscribe_refused"] == desk.depth.connections - 1

    play(DepthVenue("BTCUSDT"), test)


def test_a_subscription_without_an_answer_is_given_up() -> None:
    async def test(desk: Desk) -> None:
        desk.venue.refuse = '{"e":"kline"}'
        desk.books.hold(BTC)
        assert 10 <= await desk.until(lambda: desk.depth.connections == 2) < 20

    play(DepthVenue("BTCUSDT"), test)


def test_a_crossed_book_is_fetched_anew() -> None:
    async def test(desk: Desk) -> None:
        book = desk.books.hold(BTC)
        await desk.right(book)
        desk.venue.spoil = lambda frame: re.sub(r'"b": \[.*\], "a"', '"b": [["500", "1"]], "a"', frame)
        await desk.until(lambda: book.is_stale)
        desk.venue.spoil = lambda frame: frame
        await desk.right(book)
        assert desk.sink.reasons["book_crossed"] >= 1

    play(DepthVenue("BTCUSDT"), test)


def test_a_book_whose_price_left_its_snapshot_is_refreshed_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_book, "MAX_DEPTH_LEVELS", 5)
    monkeypatch.setattr(binance_depth_splice, "SNAPSHOT_LEVELS", 12)
    venue = DepthVenue("BTCUSDT")

    def cut(path: str) -> Reply:
        body = json.loads(venue.snapshot(path).body)
        return Reply(200, json.dumps({**body, "bids": body["bids"][:12], "asks": body["asks"][:12]}).encode())

    def fall(frame: str) -> str:
        """The best bid goes, in the truth as well."""
        event = json.loads(frame)
        bids = venue.books["BTCUSDT"][0]
        best = max(bids)
        del bids[best]
        event["data"]["b"] = [each for each in event["data"]["b"] if float(each[0]) != best] + [[str(best), "0"]]
        return json.dumps(event)

    async def test(desk: Desk) -> None:
        venue.answer = cut
        book = desk.books.hold(BTC)
        await desk.until(lambda: not book.is_stale)
        venue.spoil = fall
        await asyncio.sleep(2.05)
        venue.spoil = lambda frame: frame
        least = 5
        for _ in range(40):
            await asyncio.sleep(0.1)
            assert not book.is_stale
            rows = book.top(5).bids
            best = sorted(venue.books["BTCUSDT"][0], reverse=True)[:5]
            assert [int(price) for price, _ in rows] == best[: len(rows)]
            least = len(rows)
        assert least == 5
        assert 2 <= len(venue.asked) < 10
        assert not desk.sink.reasons

    play(venue, test)


async def _served(venue: DepthVenue, test: Callable[[str, str], Awaitable[None]]) -> None:
    async def rest(request: web.Request) -> web.Response:
        answer = venue.answer(str(request.rel_url))
        return web.Response(status=answer.status, body=answer.body)

    app = web.Application()
    app.router.add_get("/{tail:.*}", rest)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with serve(venue.talk, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await test(f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


async def test_over_real_sockets_a_binance_source_has_books() -> None:
    async def test(url: str, rest_url: str) -> None:
        pipeline = Pipeline(100, lambda: int(asyncio.get_running_loop().time() * 1_000), lambda: 1_700_000_000_000)
        source = Binance(["BTCUSDT"], url, rest_url)
        pipeline.add_source(source)
        running = asyncio.create_task(source.run(pipeline))
        try:
            await asyncio.sleep(0)
            book = pipeline.look_at_book(BTC)
            async with asyncio.timeout(10):
                while not venue.is_shown_by(book):
                    await asyncio.sleep(0.005)
        finally:
            running.cancel()
            await asyncio.wait((running,))
        assert book.is_stale
        assert Decimal(book.top(1).bids[0][0]) < Decimal(book.top(1).asks[0][0])

    class Both(DepthVenue):
        async def _feed(self, socket: ServerConnection, streams: set[str]) -> None:
            while not any("@depth" in stream for stream in streams):  # the other connection is for trades
                await asyncio.sleep(0.01)
            await super()._feed(socket, streams)

    venue = Both("BTCUSDT")
    await _served(venue, test)


async def test_without_rest_there_are_no_books() -> None:
    pipeline = Pipeline(100, lambda: 0, lambda: 0)
    source = Binance(["BTCUSDT"], "ws://127.0.0.1:1")
    pipeline.add_source(source)
    running = asyncio.create_task(source.run(pipeline))
    await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))
    assert not pipeline.books.is_offered(BTC)
