"""Where a source goes on after the process ended: nothing in between is lost, in virtual time."""

import asyncio
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.ports import Resumable
from tokenwire_server.sources.binance import binance
from tokenwire_server.sources.continuity import Continuity
from tokenwire_server.sources.exchange import Exchange
from tokenwire_server.sources.frames import VenueTrade
from tokenwire_server.sources.positions import Positions, read_positions

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


@given(st.text() | st.from_type(type(None)).map(lambda _: '{"BTCUSDT":[1,"1"]}'))
def test_a_text_of_something_else_means_nothing(text: str) -> None:
    assert read_positions(text, ["BTCUSDT"]) == {}


def test_it_is_read_again_for_the_symbols_that_are_still_wanted() -> None:
    positions = Positions()
    positions.delivered([trade(5), trade(9, "ETHUSDT")])
    text = positions.due(1)
    assert text is not None
    found = read_positions(text, ["BTCUSDT", "NEW"])
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
        async with after.collecting(binance(), "BTCUSDT", rest=True, position=position) as source:
            await after.sink.until(lambda: len(after.sink.all) == 4, 100)
            assert (source.gaps, source.missed, source.backfilled) == (1, 0, 3)
            assert "fromId=4" in after.asked[0][1]

    after.run(with_trades((0, 7)), second)
    assert numbers(after) == [4, 5, 6, 7]


@pytest.mark.parametrize("rest", [True, False])
def test_what_cannot_be_had_any_more_is_told(rest: bool) -> None:
    world = World()

    async def test() -> None:
        position = '{"BTCUSDT":[3,"3",1700000000000]}'
        async with world.collecting(binance(), "BTCUSDT", rest=rest, position=position) as source:
            await world.sink.until(lambda: bool(world.sink.gaps), 200)
            assert source.missed == 3

    world.run(with_trades((0, 7)), test)
