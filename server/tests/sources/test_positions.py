"""Where a source goes on after the process ended: nothing in between is lost, in virtual time."""

import asyncio
import json
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.ports import Resumable
from tokenwire_server.sources.binance import binance
from tokenwire_server.sources.continuity import Continuity
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.frames import VenueTrade
from tokenwire_server.sources.positions import Position, Positions, furthest, read_positions

from .test_refill import numbers, page, with_trades
from .world import T0, World


def trade(number: int | None, symbol: str = "BTCUSDT") -> VenueTrade:
    return VenueTrade(symbol, Trade(symbol, str(number), Decimal(1), Decimal(1), Side.BUY, T0), number)


def told(positions: Positions, now_s: float = 1e9) -> dict[str, list[object]]:
    text = positions.due(now_s)
    return {} if text is None else json.loads(text)


def test_it_is_the_newest_trade_of_each_symbol_told_now_and_then() -> None:
    positions = Positions()
    assert positions.due(0) is None
    positions.delivered([trade(4), trade(5), trade(9, "ETHUSDT"), trade(3), trade(None, "NONE")])
    assert told(positions, 1.0) == {"BTCUSDT": [5, "5", T0], "ETHUSDT": [9, "9", T0]}
    assert positions.due(2.0) is None, "nothing is new"
    positions.delivered([trade(6)])
    assert positions.due(1.05) is None
    assert told(positions, 1.11)["BTCUSDT"][0] == 6


def test_it_stays_before_an_open_hole() -> None:
    positions = Positions()
    positions.delivered([trade(1)])
    positions.opened("BTCUSDT")
    positions.opened("BTCUSDT")
    positions.delivered([trade(5), trade(8)])
    assert told(positions) == {"BTCUSDT": [1, "1", T0]}
    positions.settled("BTCUSDT")
    assert told(positions, 2e9) == {}
    positions.settled("BTCUSDT")
    assert told(positions, 2e9) == {"BTCUSDT": [8, "8", T0]}


@given(st.text() | st.sampled_from(['{"BTCUSDT":[1,"1"]}', '{"BTCUSDT":["1","1",1]}', "[]", "\ud800"]))
def test_a_text_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_positions(text)


def at(number: int, trade_id: str = "") -> Position:
    return Position(number, trade_id or str(number), T0 + number)


SYMBOLS = ["A", "B", "C", "D"]
told_by_some = st.lists(st.dictionaries(st.sampled_from(SYMBOLS), st.integers(0, 9).map(at)), max_size=5)


@given(told_by_some, st.randoms(use_true_random=False))
def test_the_furthest_of_each_symbol_counts_whoever_told_it_and_in_whatever_order(
    several: list[dict[str, Position]], random: Random
) -> None:
    wanted = frozenset("ABC")
    found = furthest(several, wanted)
    told = {symbol: [each[symbol].number for each in several if symbol in each] for symbol in SYMBOLS}
    assert found == {symbol: at(max(told[symbol])) for symbol in wanted if told[symbol]}
    random.shuffle(several)
    assert furthest(several, wanted) == found


@given(st.permutations(["x", "y", "z"]))
def test_of_equal_numbers_the_one_told_last_counts(ids: list[str]) -> None:
    assert furthest([{"A": at(5, each)} for each in ids], ["A"]) == {"A": at(5, ids[-1])}


def test_it_is_read_again_for_the_symbols_that_are_still_wanted() -> None:
    positions = Positions()
    positions.delivered([trade(5), trade(9, "ETHUSDT")])
    text = positions.due(1)
    assert text is not None
    found = furthest([read_positions(text)], ["BTCUSDT", "NEW"])
    assert list(found) == ["BTCUSDT"]
    again, continuity = Positions(), Continuity()
    again.resume(found, continuity)
    hole = continuity.observe(trade(8))
    assert hole is not None
    assert (hole.first, hole.last, hole.after_id) == (6, 7, "5")


def test_a_source_that_starts_again_fetches_what_came_meanwhile() -> None:
    assert isinstance(Exchange(binance(), ["BTCUSDT"]), Resumable)
    before = World()

    async def first() -> None:
        async with before.collecting(binance(), "BTCUSDT", rest=True):
            await before.sink.until(lambda: len(before.sink.all) == 3, 100)
            await asyncio.sleep(2)

    before.run(with_trades((0, 1), (1, 2), (0, 3)), first)
    position = before.sink.offsets[-1]
    assert json.loads(position)["BTCUSDT"][0] == 3, "the last one too, once it is quiet"

    after = World()

    async def answer(url: str) -> object:
        return page(4, 5, 6)

    after.answer = answer  # type: ignore[assignment]

    async def second() -> None:
        async with after.collecting(binance(), "BTCUSDT", rest=True, positions=[position]) as source:
            await after.sink.until(lambda: len(after.sink.all) == 4, 100)
            assert (source.gaps, source.missed, source.backfilled) == (1, 0, 3)
            assert "fromId=4" in after.asked[0][1]

    after.run(with_trades((0, 7)), second)
    assert numbers(after) == [4, 5, 6, 7]


@pytest.mark.parametrize("rest", [True, False])
def test_what_cannot_be_had_any_more_is_told(rest: bool, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    positions = ['{"BTCUSDT":[1,"1",1700000000000]}', '{"BTCUSDT":[3,"3",1700000000000]}', "rubbish"]

    async def test() -> None:
        async with world.collecting(binance(), "BTCUSDT", rest=rest, positions=positions) as source:
            await world.sink.until(lambda: bool(world.sink.gaps), 200)
            assert source.missed == 3

    world.run(with_trades((0, 7)), test)
    assert caplog.text.count("position left aside") == 1
