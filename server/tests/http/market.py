"""A market to ask about, with virtual time."""

from decimal import Decimal

from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000  # 2023-11-14T22:00:00Z
PEPE = "PEPE-address"


def make_pipeline() -> Pipeline:
    """PEPE has yet to trade, IDLE never will, TWICE is ambiguous."""
    pipeline = Pipeline(100, lambda: 0, lambda: BEGIN_MS)
    pipeline.tokens("test", [TokenInfo(PEPE, "PEPE"), TokenInfo("X1", "TWICE"), TokenInfo("X2", "TWICE")])
    pipeline.tokens("test", [TokenInfo("IDLE-address", "IDLE"), TokenInfo("venue:BTC/USD", "BTC/USD")])
    pipeline.clock("test", BEGIN_MS)
    return pipeline


def trade(
    pipeline: Pipeline,
    second: float,
    price: str,
    amount: str = "2",
    side: Side = Side.BUY,
    *,
    address: str = PEPE,
    late: bool = False,
) -> None:
    """A trade so many seconds after the beginning; the clock moves there, unless it is ``late``."""
    time_ms = BEGIN_MS + int(second * 1000)
    if not late:
        pipeline.clock("test", time_ms)
    pipeline.trades("test", [Trade(address, f"{second}:{price}", Decimal(price), Decimal(amount), side, time_ms)])
