"""Order books of the simulator: repeatable, plausible, and only where somebody looks."""

import asyncio
from itertools import pairwise

import pytest

from tokenwire_server.market.book import MAX_DEPTH_LEVELS, BookCondition, BookSnapshot, OrderBook
from tokenwire_server.market.books import MarketBooks
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.sources.simulation import Simulation
from tokenwire_server.sources.simulator import BOOK_INTERVAL_MS, Simulator
from tokenwire_server.validation.trades import fits

from .conftest import RecordingSink
from .test_simulation import T0, Time


def opened(seed: int = 7, for_ms: int = 1_000, scenario: str = "calm") -> Simulation:
    simulation = Simulation(seed, tokens=40, scenario=scenario)
    for now_ms in range(T0, T0 + for_ms, 25):
        simulation.step(now_ms)
    return simulation


def test_a_seed_determines_every_book() -> None:
    one, two, other = opened(7), opened(7), opened(8)
    doge = one.tokens()[1].address
    assert one.book(doge, T0) == two.book(doge, T0)
    assert one.book(doge, T0).bids != other.book(doge, T0).bids


def test_looking_changes_nothing() -> None:
    looked, other = opened(), opened()
    for info in looked.tokens():
        assert looked.book(info.address, T0) == looked.book(info.address, T0)
    assert looked.step(T0 + 5_000) == other.step(T0 + 5_000)


@pytest.mark.parametrize("scenario", ["calm", "crash"])
def test_the_price_lies_within_the_spread_and_all_numbers_are_usable(scenario: str) -> None:
    simulation = Simulation(3, scenario=scenario)
    last = {trade.address: trade.price for now in range(T0, T0 + 60_000, 250) for trade in simulation.step(now)}
    for info in simulation.tokens():
        found = simulation.book(info.address, T0)
        book = OrderBook(info.address)
        assert book.apply(found) is BookCondition.SOUND
        assert book.levels == 2 * MAX_DEPTH_LEVELS
        assert found.bids[0][0] <= last[info.address] <= found.asks[0][0]
        numbers = [number for side in (found.bids, found.asks) for level in side for number in level]
        assert all(fits(number) and number > 0 for number in numbers)


def test_a_trade_changes_some_amounts_and_leaves_most() -> None:
    simulation = opened()
    doge = simulation.tokens()[1].address
    before = dict(simulation.book(doge, T0).bids)
    traded = simulation.traded(doge)
    now_ms = T0 + 1_000
    while simulation.traded(doge) == traded:
        now_ms += 1
        simulation.step(now_ms)
    assert simulation.traded(doge) == traded + 1
    after = dict(simulation.book(doge, T0).bids)
    common = before.keys() & after.keys()
    assert len(common) > 40
    changed = sum(before[price] != after[price] for price in common)
    assert 1 <= changed <= len(common) // 4


class CountingBooks(MarketBooks):
    """Remembers when which book came."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[str, int]] = []

    def apply(self, source: str, address: str, update: object) -> BookCondition:
        assert isinstance(update, BookSnapshot)
        self.came.append((address, update.time_ms - T0))
        return super().apply(source, address, update)


async def test_the_source_delivers_what_is_wanted_and_nothing_else(sink: RecordingSink) -> None:
    books = CountingBooks()
    simulation = Simulation(1, tokens=10)
    pepe, doge, *_, slow = [info.address for info in simulation.tokens()]
    time = Time(3_000)

    async def sleep(seconds: float) -> None:
        match time.now_ms - T0:
            case 500:
                assert books.came == []
                books.hold(doge)
                books.hold(slow)
            case 1_050:
                books.lose("simulator", doge)
            case 2_000:
                books.release(doge)
                books.release(slow)
        await time.sleep(seconds)

    source = Simulator(simulation, clock=time.clock, sleep=sleep)
    source.use_books(books)
    with pytest.raises(asyncio.CancelledError):
        await source.run(sink)
    assert books.is_offered(pepe)
    times = [at_ms for address, at_ms in books.came if address == doge]
    assert times[0] == 525  # at the next step, however long the interval
    assert 1_075 in times  # as it was lost
    assert 1_900 <= max(times) <= 2_000
    steady = [at_ms for at_ms in times if at_ms > 525 and at_ms != 1_075]
    assert len(steady) >= 10
    assert all(later - sooner >= BOOK_INTERVAL_MS for sooner, later in pairwise(steady))
    assert {address for address, _ in books.came} == {doge, slow}
    traded = sum(trade.address == slow and trade.time_ms <= T0 + 2_000 for trade in sink.all)
    assert sum(address == slow for address, _ in books.came) <= traded  # each state once


async def test_a_book_that_is_wanted_again_comes_again(sink: RecordingSink) -> None:
    books = CountingBooks()
    simulation = Simulation(1, tokens=10)
    slow = simulation.tokens()[-1].address
    time = Time(200)

    async def sleep(seconds: float) -> None:
        if time.now_ms > T0:
            books.release(slow)
        book = books.hold(slow)
        assert not book.is_filled
        await time.sleep(seconds)

    source = Simulator(simulation, clock=time.clock, sleep=sleep)
    source.use_books(books)
    with pytest.raises(asyncio.CancelledError):
        await source.run(sink)
    assert [at_ms for _, at_ms in books.came] == list(range(25, 201, 25))


async def test_a_market_that_fell_silent_has_stale_books() -> None:
    time = Time(31_000)
    pipeline = Pipeline(1_000, time.clock, time.clock)
    simulation = Simulation(1, tokens=10, scenario="stalled", stall_after_ms=1_000)
    source = Simulator(simulation, clock=time.clock, sleep=time.sleep)
    pipeline.add_source(source)
    with pytest.raises(asyncio.CancelledError):
        await _run_looking(source, pipeline, simulation.tokens()[0].address)
    book = pipeline.book(simulation.tokens()[0].address)
    assert book is not None
    assert (book.is_filled, book.is_stale) == (True, False)
    assert 900 <= book.time_ms - T0 < 1_000
    for callback in pipeline.tick_callbacks:
        callback(0.0)
    assert book.is_stale


async def _run_looking(source: Simulator, pipeline: Pipeline, address: str) -> None:
    pipeline.books.offer(source.name, [address])
    pipeline.books.hold(address)
    await source.run(pipeline)
