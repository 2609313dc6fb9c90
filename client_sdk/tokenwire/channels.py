"""What comes of channels besides a token's value: trades, bars and order books (I-60 to I-62, I-78). Pure.

Prices and volumes are canonical decimal strings, times are Unix milliseconds; ``received_ms`` is the local clock when
the thing arrived.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from tokenwire_schemas.extension_messages import (
    Book as BookMessage,
)
from tokenwire_schemas.extension_messages import (
    BookData,
    Kline,
    KlineData,
    Transaction,
    TransactionBatch,
    TransactionData,
)

__all__ = ["Bar", "Book", "ChannelMessage", "Trade", "bar_of_row", "item", "items_of", "trade_of_row"]

_MAX_TIME_CHARS: Final = 40


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One trade. ``name`` is what the application called the token; ``side`` is the taker's, ``volume`` in base units.

    ``number`` counts the trades of the token without holes, None from a server that does not say. ``missed`` trades
    before this one could not be had; None: nobody knows how many. ``fetched``: it came over HTTP, to fill a hole.
    """

    name: str
    address: str
    symbol: str
    number: int | None
    trade_id: str | None
    price: str
    volume: str
    side: Literal["Buy", "Sell"]
    time_ms: int
    received_ms: int
    missed: int | None = 0
    fetched: bool = False


class Bar(msgspec.Struct, frozen=True, gc=False):
    """One bar of a token, from ``open_ms`` on and before ``close_ms``; ``closed``: it is over.

    ``volume`` is in base units, ``turnover`` in quote units; ``buy_volume`` and ``buy_turnover`` are the part whose
    taker bought. ``revision`` counts trades that came after it was closed. What a server does not say is None.
    ``fetched``: it came over HTTP. ``missed``: others before it may be missing or short of trades, and can't be had.
    """

    name: str
    address: str
    symbol: str
    interval: str
    open_ms: int
    close_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    closed: bool
    received_ms: int
    turnover: str | None = None
    buy_volume: str | None = None
    buy_turnover: str | None = None
    trades: int | None = None
    revision: int | None = None
    fetched: bool = False
    missed: bool = False


class Book(msgspec.Struct, frozen=True, gc=False):
    """The best levels of an order book, the best first: price and amount in base units.

    ``stale``: the server may have missed changes since. ``version`` rises with every change.
    """

    name: str
    address: str
    symbol: str
    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]
    time_ms: int
    stale: bool
    version: int | None
    received_ms: int


ChannelMessage = Transaction | TransactionBatch | Kline | BookMessage


def items_of(message: ChannelMessage) -> Iterator[tuple[TransactionData | KlineData | BookData, int | None]]:
    """The data of each item of ``message``, with its version."""
    datas: list[Any] = message.data.transactions if isinstance(message, TransactionBatch) else [message.data]
    for data in datas:
        yield data, _known(data.version)


def item(name: str, data: TransactionData | KlineData | BookData, received_ms: int) -> Trade | Bar | Book:
    """As the application gets it.

    Raises:
        ValueError: a time that is none.
    """
    if isinstance(data, TransactionData):
        return Trade(
            name,
            data.address,
            data.symbol,
            _known(data.version),
            _known(data.id),
            data.price,
            data.volume,
            data.side,
            _time_ms(data.timestamp),
            received_ms,
        )
    if isinstance(data, KlineData):
        return Bar(
            name,
            data.address,
            data.symbol,
            data.interval,
            _time_ms(data.open_time),
            _time_ms(data.close_time),
            data.open,
            data.high,
            data.low,
            data.close,
            data.volume,
            data.closed,
            received_ms,
            _known(data.turnover),
            _known(data.buy_volume),
            _known(data.buy_turnover),
            _known(data.trades),
            _known(data.revision),
        )
    return Book(
        name,
        data.address,
        data.symbol,
        tuple(data.bids),
        tuple(data.asks),
        _time_ms(data.timestamp),
        data.stale,
        _known(data.version),
        received_ms,
    )


class _TradeRow(msgspec.Struct, rename={"trade_id": "id", "volume": "amount"}):
    number: int
    trade_id: str
    symbol: str
    address: str
    price: str
    volume: str
    side: Literal["Buy", "Sell"]
    timestamp: str


class _BarRow(msgspec.Struct):
    symbol: str
    interval: str
    open_time: str
    close_time: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    closed: bool
    turnover: str | None = None
    buy_volume: str | None = None
    buy_turnover: str | None = None
    trades: int | None = None
    revision: int | None = None


def trade_of_row(name: str, row: Any, received_ms: int) -> Trade:
    """A trade from a row of ``/api/v1/trades``.

    Raises:
        ValueError: it is no such row.
    """
    found = msgspec.convert(row, _TradeRow)
    return Trade(
        name,
        found.address,
        found.symbol,
        found.number,
        found.trade_id,
        found.price,
        found.volume,
        found.side,
        _time_ms(found.timestamp),
        received_ms,
        fetched=True,
    )


def bar_of_row(name: str, address: str, row: Any, received_ms: int) -> Bar:
    """A bar from a row of ``/api/v1/klines``.

    Raises:
        ValueError: it is no such row.
    """
    found = msgspec.convert(row, _BarRow)
    return Bar(
        name,
        address,
        found.symbol,
        found.interval,
        _time_ms(found.open_time),
        _time_ms(found.close_time),
        found.open,
        found.high,
        found.low,
        found.close,
        found.volume,
        found.closed,
        received_ms,
        found.turnover,
        found.buy_volume,
        found.buy_turnover,
        found.trades,
        found.revision,
        fetched=True,
    )


def _known(value: Any) -> Any:
    return None if value is UNSET else value


def _time_ms(text: str) -> int:
    moment = datetime.fromisoformat(text[:_MAX_TIME_CHARS])
    if moment.tzinfo is None:
        raise ValueError(f"{text[:_MAX_TIME_CHARS]!r} has no time zone")
    seconds = moment.astimezone(UTC).timestamp()
    return round(seconds * 1_000)
