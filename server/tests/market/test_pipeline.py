"""What the pipeline adds to the market: who is alive, and who hears of trades and bars."""

import json
from dataclasses import dataclass
from decimal import Decimal

from tokenwire_server.market.bars import BarEvent
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink

BEGIN_MS = 1_700_000_040_000


@dataclass
class Quiet:
    """A source that says nothing by itself."""

    name: str = "test"
    cadence_ms: int = 1_000

    async def run(self, sink: Sink) -> None:
        """Nothing."""


def test_a_source_that_states_values_is_alive() -> None:
    now_ms = [0]
    pipeline = Pipeline(10, lambda: now_ms[0], lambda: BEGIN_MS)
    pipeline.add_source(Quiet())
    now_ms[0] = 7
    one = Decimal(1)
    pipeline.values("test", [TokenValue("venue:X", one, one, one, one, one, BEGIN_MS)])
    assert pipeline.hub.staleness.sources["test"].alive_ms == 7


def test_listeners_hear_of_trades_by_number_and_of_bars_that_close() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo("venue:X", "X")])
    heard: list[object] = []
    pipeline.trade_listeners.append(lambda token, number, trade: heard.append((token.symbol, number, trade.trade_id)))
    pipeline.bar_listeners.append(lambda address, change: heard.append((address, change.event, change.interval.text)))
    for name, time_ms in (("a", BEGIN_MS), ("b", BEGIN_MS + 1_000)):
        pipeline.trades("test", [Trade("venue:X", name, Decimal(1), Decimal(1), Side.BUY, time_ms)])
    assert heard == [("X", 1, "a"), ("X", 2, "b"), ("venue:X", BarEvent.CLOSED, "1s")]


def traded(pipeline: Pipeline, *names: str) -> None:
    pipeline.trades("test", [Trade("venue:X", name, Decimal(1), Decimal(1), Side.BUY, BEGIN_MS) for name in names])


def test_a_hole_at_the_source_shows_in_the_numbers() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo("venue:X", "X")])
    numbers: list[int] = []
    pipeline.trade_listeners.append(lambda token, number, trade: numbers.append(number))
    traded(pipeline, "a")
    pipeline.gap("test", "venue:X", 50)
    traded(pipeline, "b")
    pipeline.gap("test", "venue:X", 0)  # nobody knows how many
    pipeline.gap("another", "venue:X", 9)
    pipeline.gap("test", "venue:NOBODY", 9)
    traded(pipeline, "c")
    assert numbers == [1, 52, 54]


def test_open_bars_go_on_while_no_numbers_can_be_had() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo("venue:X", "X")])
    traded(pipeline, "a")
    topic = pipeline.topic("venue:X", "klines:1m", pipeline.hub.topics)
    assert topic is not None
    pipeline.market.numbers.reserved = pipeline.market.numbers.given
    traded(pipeline, "b")
    assert topic.is_touched
    assert b'"trades":2' in topic.newest(details=True)


def test_what_is_brought_back_is_what_nobody_brings_otherwise() -> None:
    pipeline = Pipeline(10, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo("venue:X", "X")])
    traded(pipeline, *(str(number) for number in range(1_500)))
    topic = pipeline.topic("venue:X", "trades", pipeline.hub.topics)
    assert topic is not None
    assert topic.recover is not None
    for number, newer, first, last in ((0, 0, 501, 1_500), (3, 5, 501, 1_495), (1_400, 10, 1_401, 1_490)):
        found = [json.loads(data)["version"] for data in topic.recover(number, newer, True)]
        assert (found[0], found[-1], len(found)) == (first, last, last - first + 1)
    assert list(topic.recover(1_500, 0, True)) == []
    assert list(topic.recover(1_498, 10, True)) == []
