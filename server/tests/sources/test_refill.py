"""Holes in the course of time: fetched late, slowly, in parts, or not at all. In virtual time."""

import asyncio
import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tokenwire_server.sources import refill as refill_module
from tokenwire_server.sources.binance import binance
from tokenwire_server.sources.bybit import bybit
from tokenwire_server.sources.continuity import Hole
from tokenwire_server.sources.exchange import MAX_HOLD_S
from tokenwire_server.sources.http_get import Reply

from .conftest import agg_trade
from .venues import BybitVenue
from .venues.base import time_ms
from .world import T0, Handler, World


def page(*numbers: int) -> Reply:
    rows = ",".join(f'{{"a":{n},"p":"1","q":"1","T":{T0},"m":true}}' for n in numbers)
    return Reply(200, f"[{rows}]".encode())


def with_trades(*frames: tuple[float, int]) -> Handler:
    """Binance trades, each after so many seconds."""

    async def handler(socket: ServerConnection) -> None:
        request = json.loads(str(await socket.recv()))
        await socket.send(f'{{"result":null,"id":{request["id"]}}}')
        for after_s, number in frames:
            await asyncio.sleep(after_s)
            await socket.send(agg_trade(number, time_ms=T0))
        await asyncio.sleep(10_000)

    return handler


def numbers(world: World) -> list[int]:
    return [int(trade.trade_id) for trade in world.sink.all]


def test_live_trades_wait_for_a_slow_page_but_not_for_ever() -> None:
    world = World()

    async def slow(url: str) -> Reply:
        await asyncio.sleep(9)
        return page(2, 3)

    world.answer = slow

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: len(world.sink.all) == 3, 100)
            assert numbers(world) == [1, 4, 5]
            assert world.now_s == pytest.approx(1 + MAX_HOLD_S, abs=0.6)
            await world.sink.until(lambda: len(world.sink.all) == 6, 100)
            assert (source.missed, source.backfilled) == (0, 2)

    world.run(with_trades((0, 1), (1, 4), (1, 5), (6, 6)), test)
    assert numbers(world) == [1, 4, 5, 6, 2, 3]


def test_the_newest_may_be_in_rest_a_little_later() -> None:
    world = World()
    answers = [page(2), page(), page(3)]

    async def late(url: str) -> Reply:
        return answers.pop(0)

    world.answer = late

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: len(world.sink.all) == 4, 100)
            assert source.missed == 0

    world.run(with_trades((0, 1), (0, 4)), test)
    assert numbers(world) == [1, 2, 3, 4]
    urls = [url for _, url in world.asked]
    assert [url.partition("fromId=")[2].partition("&")[0] for url in urls] == ["2", "3", "3"]


def test_429_is_honoured() -> None:
    world = World()
    answers = [Reply(429, b"", "9"), page(2, 3)]

    async def busy(url: str) -> Reply:
        return answers.pop(0)

    world.answer = busy

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: len(world.sink.all) == 4, 100)
            assert source.missed == 0

    world.run(with_trades((0, 1), (0, 4)), test)
    (first_s, _), (second_s, _) = world.asked
    assert 9 <= second_s - first_s < 11


@pytest.mark.parametrize("status", [418, 429])
def test_a_venue_that_wants_peace_for_long_is_left_in_peace(status: int) -> None:
    world = World()

    async def banned(url: str) -> Reply:
        return Reply(status, b"<html>", "300")

    world.answer = banned

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: sum(world.sink.gaps.values()) == 4, 200)
            assert source.missed == 4
            await asyncio.sleep(400)

    world.run(with_trades((0, 1), (0, 4), (100, 7)), test)
    assert len(world.asked) == 1, "nobody asks before 300 s are over, and then nothing is missing that is fresh"
    assert numbers(world) == [1, 4, 7]
    assert world.sink.reasons["backfill_failed"] == 2


def test_a_venue_without_rest_is_asked_rarely() -> None:
    world = World()

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: source.gaps == 50 and source.missed == 50, 2_000)

    world.run(with_trades(*((1.0, n) for n in range(1, 103, 2))), test)
    assert len(world.asked) < 20, "the circuit of REST opens"
    assert sorted(numbers(world)) == list(range(1, 103, 2))


def test_of_a_long_hole_the_newest_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill_module, "MAX_BACKFILL_TRADES", 2_500)
    world = World()

    async def answer(url: str) -> Reply:
        start = int(url.partition("fromId=")[2].partition("&")[0])
        return page(*range(start, start + int(url.rpartition("=")[2])))

    world.answer = answer

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: len(world.sink.all) == 2_502, 100)
            assert (source.backfilled, source.missed) == (2_500, 97_498)

    world.run(with_trades((0, 1), (0, 100_000)), test)
    assert numbers(world) == [1, *range(97_500, 100_001)]
    times = [at_s for at_s, _ in world.asked]
    assert len(times) == 3
    assert all(later - earlier >= 0.25 for earlier, later in pairwise(times))


def test_a_venue_that_gives_crumbs_cannot_keep_the_collector_busy_for_ever() -> None:
    world = World()

    async def crumbs(url: str) -> Reply:
        return page(int(url.partition("fromId=")[2].partition("&")[0]))

    world.answer = crumbs

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: source.missed > 0, 200)
            assert world.now_s < 40
            assert source.backfilled + source.missed == 9_000

    world.run(with_trades((0, 1), (0, 9_002)), test)


def test_what_is_held_back_goes_out_when_the_source_ends() -> None:
    world = World()

    async def never(url: str) -> Reply:
        await asyncio.sleep(1_000)
        raise AssertionError

    world.answer = never

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=True):
            await asyncio.sleep(2)
            assert numbers(world) == [1]

    world.run(with_trades((0, 1), (1, 4), (0, 7)), test)
    assert numbers(world) == [1, 4, 7]
    assert world.sink.gaps == {"binance:BTCUSDT": 4}


def test_unnumbered_trades_are_joined_at_the_last_known_one() -> None:
    world = World()
    venue = BybitVenue()
    # The first page does not have the newest yet, the third no longer reaches back to the last known one.
    shown = [range(2, 55), range(2, 71), range(100, 171)]

    async def recent(url: str) -> Reply:
        venue.history = shown.pop(0)
        request: Any = type("Request", (), {"path": "/v5/market/recent-trade", "query": _query(url), "rel_url": url})()
        return Reply(200, (venue.page(request).text or "").encode())

    world.answer = recent
    live = [(1, 20), (60, 61), (165, 166)]

    async def handler(socket: ServerConnection) -> None:
        turn = len(world.begun_s) - 1
        request = json.loads(str(await socket.recv()))
        for frame in venue.answer(request):
            await socket.send(frame)
        for number in live[min(turn, 2)]:
            await socket.send(venue.frame(number)[0])
        await asyncio.sleep(40 if turn < 2 else 10_000)

    async def test() -> None:
        async with world.collecting(bybit(), "BTCUSDT", rest=True) as source:
            await world.sink.until(lambda: "166" in {trade.trade_id for trade in world.sink.all}, 500)
            assert source.gaps == 2

    world.run(handler, test)
    assert not venue.complaints
    assert not shown
    first, second = numbers(world).index(60), numbers(world).index(165)
    assert numbers(world)[:first] == [1, *range(20, 60)]
    assert numbers(world)[first : second + 2] == [60, 61, *range(111, 165), 165, 166]
    assert list(world.sink.gaps.items()) == [("bybit:BTCUSDT", 0)], "a hole, and nobody knows of how many"


async def test_of_a_page_without_the_last_known_trade_only_newer_ones_are_taken() -> None:
    """Older ones were delivered so long ago that the market may not know them any more."""
    venue = BybitVenue()
    venue.history = range(1, 21)

    async def get(url: str) -> Reply:
        request: Any = type("Request", (), {"path": "/v5/market/recent-trade", "query": _query(url), "rel_url": url})()
        return Reply(200, (venue.page(request).text or "").encode())

    plan = bybit().backfill
    assert plan is not None
    refill = refill_module.Refill(plan, "http://rest.test", get, lambda: T0, Random(1))
    hole = Hole("BTCUSDT", "bybit:BTCUSDT", "withdrawn", time_ms(10), "15", time_ms(15))
    filled = await refill.fill(hole)
    assert [item.trade.trade_id for item in filled.trades] == ["10", "11", "12", "13", "14"]
    assert not filled.complete


def _query(url: str) -> dict[str, str]:
    return dict(part.split("=") for part in url.partition("?")[2].split("&"))
