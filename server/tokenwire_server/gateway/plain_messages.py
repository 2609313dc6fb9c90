"""The messages of the plain paths, as JSON text. Decimals keep every digit, whether they are strings or numbers."""

import msgspec

from tokenwire_server.gateway.bar_rows import kline_row
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import PageBar
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.instants import rfc3339
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import TokenState
from tokenwire_server.market.trades import Trade

__all__ = ["kline_message", "trade_message", "transaction_message"]


def transaction_message(token: TokenState, trade: Trade) -> bytes:
    """A message of ``/ws/transactions/{symbol}``: price and volume (base units) as decimal strings."""
    return msgspec.json.encode(
        {
            "type": "transaction",
            "data": {
                "symbol": token.symbol,
                "price": canonical(trade.price),
                "volume": canonical(trade.amount),
                "side": trade.side,
                "timestamp": rfc3339(trade.time_ms),
            },
        }
    )


def trade_message(token: TokenState, trade: Trade) -> bytes:
    """A message of ``/ws/{symbol}``: price and amount (base units) as numbers whose digits are exact."""
    return msgspec.json.encode(
        {
            "id": trade.trade_id,
            "symbol": token.symbol,
            "price": msgspec.Raw(canonical(trade.price).encode()),
            "amount": msgspec.Raw(canonical(trade.amount).encode()),
            "side": trade.side,
            "timestamp": rfc3339(trade.time_ms),
        }
    )


def kline_message(token: TokenState, interval: Interval, bar: Bar, *, is_closed: bool) -> bytes:
    """A message of ``/ws/klines/{symbol}/{interval}``: a bar with the fields that REST gives it."""
    return b'{"type":"kline","data":%b}' % kline_row(token, interval, PageBar(bar, is_closed))
