"""Odd trades of any source: used, counted, told of once."""

from decimal import Decimal

import pytest

from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink

NOW_MS = 1_774_089_000_000
DAY_MS = 86_400_000


class Silent:
    """A source that says nothing by itself."""

    name = "test"
    cadence_ms = 1_000

    def __init__(self, is_replay: bool) -> None:
        self.is_replay = is_replay

    async def run(self, sink: Sink) -> None:
        """Nothing."""


def told(times_ms: list[int], prices: str, *, is_replay: bool) -> tuple[int, dict[str, int], dict[str, int]]:
    """Trades applied, doubts and rejections by reason."""
    pipeline = Pipeline(10, lambda: 0, lambda: NOW_MS)
    pipeline.add_source(Silent(is_replay))
    pipeline.tokens("test", [TokenInfo("v:X", "X")])
    pipeline.clock("test", NOW_MS)
    for number, (time_ms, price) in enumerate(zip(times_ms, prices.split(), strict=True)):
        pipeline.trades("test", [Trade("v:X", str(number), Decimal(price), Decimal(1), Side.BUY, time_ms)])
    doubts = {kind: count for (_, kind), count in pipeline.doubts.items()}
    return pipeline.market.trades, doubts, {reason: count for (_, reason), count in pipeline.rejections.items()}


def test_a_jump_and_an_old_trade_are_used_and_counted() -> None:
    times_ms = [NOW_MS - 5, NOW_MS - 4, NOW_MS - 3, NOW_MS - DAY_MS - 1]
    assert told(times_ms, "1 1.5 4 9", is_replay=False) == (4, {"price_jump": 1, "time_old": 1}, {})


@pytest.mark.parametrize(
    ("time_ms", "live", "replayed"),
    [
        (NOW_MS + 60_000, (1, {}, {}), (1, {}, {})),
        (NOW_MS + 60_001, (0, {}, {"time_in_future": 1}), (1, {"time_ahead": 1}, {})),
        (NOW_MS + DAY_MS, (0, {}, {"time_in_future": 1}), (1, {"time_ahead": 1}, {})),
        (NOW_MS + DAY_MS + 1, (0, {}, {"time_in_future": 1}), (0, {}, {"time_in_future": 1})),
        (1_000, (0, {}, {"time_too_old": 1}), (1, {"time_old": 1}, {})),
        (0, (0, {}, {"time_too_old": 1}), (0, {}, {"time_too_old": 1})),
    ],
)
def test_only_live_trades_are_refused_for_their_time(
    time_ms: int, live: tuple[object, ...], replayed: tuple[object, ...]
) -> None:
    assert told([time_ms], "1", is_replay=False) == live
    assert told([time_ms], "1", is_replay=True) == replayed


def test_the_log_tells_of_the_first_of_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        told([NOW_MS] * 5, "1 9 1 9 1", is_replay=False)
    assert [record.message for record in caplog.records] == ["data in doubt"]
