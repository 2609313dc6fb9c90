"""What a collector does in the course of time: pings, silence, the circuit, pace. In virtual time."""

import asyncio
import json
from itertools import pairwise
from random import Random

import pytest
from websockets.asyncio.server import ServerConnection

from tokenwire_server.ports import SourceState
from tokenwire_server.sources.bybit import bybit
from tokenwire_server.sources.coinbase import COINBASE
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.kraken import KRAKEN
from tokenwire_server.sources.okx import OKX
from tokenwire_server.sources.profile import Profile
from tokenwire_server.sources.reconnection import OPENS_AFTER

from .venues import BybitVenue, KrakenVenue, OkxVenue, Venue
from .world import HOST, PORT, World

LIVE, RECONNECTING = SourceState.LIVE, SourceState.RECONNECTING


def test_bybit_gets_its_ping_every_20_seconds_whatever_else_comes() -> None:
    world = World()
    venue = BybitVenue()

    async def chatter(socket: ServerConnection) -> None:
        async def talk() -> None:
            while True:
                await asyncio.sleep(1)
                await socket.send(venue.frame(int(world.now_s))[0])

        talking = asyncio.create_task(talk())
        try:
            await world.speak(venue)(socket)
        finally:
            talking.cancel()

    async def test() -> None:
        async with world.collecting(bybit(), "BTCUSDT") as source:
            await asyncio.sleep(200)
            assert source.reconnects == 0

    world.run(chatter, test)
    times = [at_s for at_s, text in world.heard if text == '{"op":"ping"}']
    assert 9 <= len(times) <= 10
    assert all(18 <= later - earlier <= 22 for earlier, later in pairwise(times))


def test_okx_is_pinged_when_it_is_idle_and_only_then() -> None:
    world = World()
    venue = OkxVenue()

    async def chatter(socket: ServerConnection) -> None:
        async def talk() -> None:
            for number in range(100):
                await asyncio.sleep(1)
                await socket.send(venue.frame(number)[0])

        talking = asyncio.create_task(talk())
        try:
            await world.speak(venue)(socket)
        finally:
            talking.cancel()

    async def test() -> None:
        async with world.collecting(OKX, "BTC-USDT") as source:
            await asyncio.sleep(250)
            assert source.reconnects == 0

    world.run(chatter, test)
    times = [at_s for at_s, text in world.heard if text == "ping"]
    assert times[0] == pytest.approx(125, abs=2)  # the last trade came at 100
    assert len(times) >= 5
    assert all(24 <= later - earlier < 30 for earlier, later in pairwise(times))


@pytest.mark.parametrize(("profile", "venue"), [(OKX, OkxVenue()), (bybit(), BybitVenue()), (KRAKEN, KrakenVenue())])
def test_a_venue_that_does_not_answer_its_own_ping_is_left(profile: Profile, venue: Venue) -> None:
    """The transport below may well go on answering: that is a venue whose application is dead."""
    world = World()

    async def test() -> None:
        async with world.collecting(profile, venue.symbol):
            await world.sink.until(lambda: RECONNECTING in world.sink.kinds, 100)
            assert 30 <= world.now_s <= 45
        assert LIVE in world.sink.kinds

    world.run(world.speak(venue, pongs=False), test)
    assert "no answer to our ping" in world.sink.states[-1][1]


def test_a_venue_that_keeps_failing_opens_the_circuit() -> None:
    world = World()
    good_from = [10**9]

    async def handler(socket: ServerConnection) -> None:
        if len(world.begun_s) >= good_from[0]:
            await world.speak(KrakenVenue())(socket)

    async def test() -> None:
        sink = world.sink
        async with world.collecting(KRAKEN, "BTC/USD"):
            await sink.until(lambda: sink.kinds.count(RECONNECTING) == OPENS_AFTER + 1, 5_000)
            good_from[0] = len(world.begun_s) + 1
            await sink.until(lambda: "circuit closed" in sink.states[-1][1], 5_000)

    world.run(handler, test)
    told = [detail.partition("; ")[2] for state, detail in world.sink.states if state is RECONNECTING]
    assert told[: OPENS_AFTER - 1] == [""] * (OPENS_AFTER - 1)
    assert told[OPENS_AFTER - 1 :] == [
        "circuit open for 60 s after 10 quick failures",
        "circuit open for 120 s after 11 quick failures",
    ]
    gaps = [later - earlier for earlier, later in pairwise(world.begun_s)]
    assert max(gaps[: OPENS_AFTER - 1]) <= 31
    assert 60 <= gaps[OPENS_AFTER - 1] <= 61
    assert 120 <= gaps[OPENS_AFTER] <= 121
    assert world.sink.states[-2:] == [(LIVE, "circuit half-open"), (LIVE, "circuit closed")]


def test_many_products_are_asked_for_in_paced_requests() -> None:
    world = World()
    symbols = [f"S{n}-USD" for n in range(250)]

    async def grant(socket: ServerConnection) -> None:
        listed: list[str] = []
        async for text in socket:
            assert isinstance(text, str)
            world.heard.append((world.now_s, text))
            listed += json.loads(text)["product_ids"]
            products = ",".join(f'"{product}"' for product in listed)
            await socket.send(
                f'{{"type":"subscriptions","channels":[{{"name":"matches","product_ids":[{products}]}}]}}'
            )

    async def test() -> None:
        source = Exchange(COINBASE, symbols, f"ws://{HOST}:{PORT}", rng=Random(1))
        task = asyncio.create_task(source.run(world.sink))
        await world.sink.until(lambda: LIVE in world.sink.kinds, 30)
        assert len(world.heard) == 3
        task.cancel()

    world.run(grant, test)
    times = [at_s for at_s, _ in world.heard]
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(times))
    assert [product for _, text in world.heard for product in json.loads(text)["product_ids"]] == symbols
