"""What the pipeline adds to the market: who is alive, and who hears of trades and bars."""

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
