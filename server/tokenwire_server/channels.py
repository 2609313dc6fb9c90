"""Channels: what else than its value can be had of a token, as topics of the hub (Interpretations I-60 to I-62).

=====================  =====================================================================
``trades``             every trade, with its number
``klines:INTERVAL``    every bar that closes or is corrected in time, and the open one
``book:DEPTH``         the best levels of the order book
``token:MS``           the token's value as soon as it changes, at most once in so many ms
=====================  =====================================================================
"""

from collections.abc import Callable, Iterator
from typing import Final

from tokenwire_schemas.codec import encode_data
from tokenwire_schemas.limits import MAX_PUSH_GAP_MS, MIN_PUSH_GAP_MS, STATE_GAP_MS
from tokenwire_server.core.board import Board
from tokenwire_server.core.topics import Topic, Topics
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.market.book import MAX_DEPTH_LEVELS, OrderBook
from tokenwire_server.market.books import BookRefusedError, MarketBooks
from tokenwire_server.market.decimals import canonical
from tokenwire_server.market.instants import rfc3339
from tokenwire_server.market.intervals import Interval, IntervalError, parse_interval
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.trades import Side, Trade

__all__ = ["Channels", "book_data", "kline_data", "transaction_data"]

_MAX_DIGITS: Final = 6
_RANGES: Final = {"token": (MIN_PUSH_GAP_MS, MAX_PUSH_GAP_MS), "book": (1, MAX_DEPTH_LEVELS)}
_SENT: Final = frozenset({BarEvent.CLOSED, BarEvent.REVISED})


class _Held:
    """The topics of one token that somebody holds; those of one kind together, since they are written together."""

    __slots__ = ("books", "by_channel", "klines", "pushes", "trades")

    def __init__(self) -> None:
        self.by_channel: dict[str, Topic] = {}
        self.trades: list[Topic] = []
        self.klines: list[Topic] = []
        self.books: list[Topic] = []
        self.pushes: list[Topic] = []

    def group(self, channel: str) -> list[Topic]:
        """Where a topic of this channel belongs."""
        match channel.partition(":")[0]:
            case "trades":
                return self.trades
            case "klines":
                return self.klines
            case "book":
                return self.books
        return self.pushes


class Channels:
    """Makes topics, and writes to those that are held. Whatever nobody holds costs a look into a dict."""

    def __init__(self, market: Market, books: MarketBooks, board: Board) -> None:
        self._market = market
        self._books = books
        self._board = board
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        """Topics that somebody holds."""
        return sum(len(held.by_channel) for held in self._held.values())

    # --- what clients ask for --------------------------------------------------------------------------------

    def name(self, text: str) -> str | None:
        """The one spelling of a channel; None: there is no such."""
        kind, colon, argument = text.partition(":")
        if kind == "trades" and not colon:
            return text
        if kind == "klines":
            try:
                interval = parse_interval(argument)
            except IntervalError:
                return None
            return f"klines:{interval.text}" if interval.text in self._market.bars.plan.index else None
        if kind in _RANGES and colon:
            number = _whole(argument, *_RANGES[kind])
            return None if number is None else f"{kind}:{number}"
        return None

    def names(self) -> str:
        """Which channels there are, in words."""
        intervals = ", ".join(f"klines:{interval.text}" for interval in self._market.bars.plan.intervals)
        return (
            f"token, token:MS ({MIN_PUSH_GAP_MS} to {MAX_PUSH_GAP_MS}), trades, {intervals}, and book:N "
            f"(1 to {MAX_DEPTH_LEVELS}) where the source has order books"
        )

    def topic(self, address: str, channel: str, topics: Topics) -> Topic | None:
        """The topic of a channel in its one spelling; None if the token has no such."""
        token = self._market.get(address)
        if token is None:
            return None
        held = self._held.get(address)
        topic = None if held is None else held.by_channel.get(channel)
        if topic is None:
            topic = self._create(token, channel, topics)
            if topic is not None:
                held = self._held.setdefault(address, _Held())
                held.by_channel[channel] = topic
                held.group(channel).append(topic)
                topic.on_idle = lambda: self._drop(address, channel)
        return topic

    def _create(self, token: TokenState, channel: str, topics: Topics) -> Topic | None:
        kind, _, argument = channel.partition(":")
        if kind == "trades":
            return Topic(topics, token.address, channel, b"transaction", recover=_recovery(token))
        if kind == "klines":
            state = self._open_bar(token, argument)
            return Topic(topics, token.address, channel, b"kline", state, STATE_GAP_MS)
        if kind == "book":
            try:
                book = self._books.hold(token.address)
            except BookRefusedError:
                return None
            state = _top(token, book, int(argument))
            return Topic(topics, token.address, channel, b"book", state, STATE_GAP_MS)
        return Topic(topics, token.address, channel, b"token_update", self._value(token), int(argument))

    def _drop(self, address: str, channel: str) -> None:
        held = self._held.get(address)
        if held is not None and channel in held.by_channel:
            group = held.group(channel)
            group.remove(held.by_channel.pop(channel))
            if group is held.books:
                self._books.release(address)
            if not held.by_channel:
                del self._held[address]

    def _open_bar(self, token: TokenState, text: str) -> Callable[[bool], bytes]:
        plan = self._market.bars.plan
        index = plan.index[text]

        def state(details: bool) -> bytes:
            bars = self._market.bars.get(token.address)
            bar = None if bars is None else bars.open_bar(index)
            if bar is None:
                return b""
            return kline_data(token, plan.intervals[index], bar, is_closed=False)[details]

        return state

    def _value(self, token: TokenState) -> Callable[[bool], bytes]:
        def state(details: bool) -> bytes:
            return self._board.row(token).payload(details) if token.has_value else b""

        return state

    # --- what happens ----------------------------------------------------------------------------------------

    def traded(self, token: TokenState, number: int, trade: Trade) -> None:
        """A trade was applied."""
        held = self._held.get(token.address)
        if held is not None:
            for topic in held.trades:
                topic.tell(*transaction_data(token, number, trade))
            for topic in held.klines:
                topic.touch()

    def traded_unnumbered(self, token: TokenState) -> None:
        """A trade was applied that could be given no number: it is in the bars alone."""
        held = self._held.get(token.address)
        if held is not None:
            for topic in held.klines:
                topic.touch()

    def bar_changed(self, address: str, change: BarChange) -> None:
        """A bar closed, or a closed one was corrected."""
        held = self._held.get(address)
        if held is not None and change.event in _SENT:
            channel = f"klines:{change.interval.text}"
            token = self._market.get(address)
            for topic in held.klines:
                if topic.channel == channel and token is not None:
                    topic.tell(*kline_data(token, change.interval, change.bar, is_closed=True))

    def book_changed(self, address: str) -> None:
        """An order book changed where a reader can see it."""
        held = self._held.get(address)
        if held is not None:
            for topic in held.books:
                topic.touch()

    def value_changed(self, token: TokenState) -> None:
        """A token has a new version."""
        held = self._held.get(token.address)
        if held is not None:
            for topic in held.pushes:
                topic.touch()


def _whole(text: str, least: int, most: int) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS) or text.startswith("0"):
        return None
    return int(text) if least <= int(text) <= most else None


def _top(token: TokenState, book: OrderBook, depth: int) -> Callable[[bool], bytes]:
    return lambda details: book_data(token, book, depth)[details] if book.is_filled else b""


def _recovery(token: TokenState) -> Callable[[int, int, bool], Iterator[bytes]]:
    def recover(number: int, newer: int, details: bool) -> Iterator[bytes]:
        log = token.log
        count = 0 if log is None else log.newest - newer - max(number, log.oldest - 1)
        missed = log.after(number, count) if log is not None and count > 0 else ()
        return (transaction_data(token, *each)[details] for each in missed)

    return recover


def transaction_data(token: TokenState, number: int, trade: Trade) -> tuple[bytes, bytes]:
    """The encoded ``data`` of a ``transaction``, without and with details."""
    plain = encode_data(
        {
            "symbol": token.symbol,
            "price": canonical(trade.price),
            "volume": canonical(trade.amount),
            "side": "Buy" if trade.side is Side.BUY else "Sell",
            "timestamp": rfc3339(trade.time_ms),
            "address": token.address,
        }
    )
    return plain, plain[:-1] + b',"version":%d,"id":%b}' % (number, encode_data(trade.trade_id))


def kline_data(token: TokenState, interval: Interval, bar: Bar, *, is_closed: bool) -> tuple[bytes, bytes]:
    """The encoded ``data`` of a ``kline``, without and with details.

    Its version is the number of its trades, and one more once it is closed.
    """
    plain = encode_data(
        {
            "symbol": token.symbol,
            "interval": interval.text,
            "open_time": rfc3339(bar.open_ms),
            "close_time": rfc3339(bar.open_ms + interval.ms),
            "open": canonical(bar.open),
            "high": canonical(bar.high),
            "low": canonical(bar.low),
            "close": canonical(bar.close),
            "volume": canonical(bar.volume),
            "address": token.address,
            "closed": is_closed,
        }
    )
    more = {
        "turnover": canonical(bar.turnover),
        "buy_volume": canonical(bar.buy_volume),
        "buy_turnover": canonical(bar.buy_turnover),
        "trades": bar.trades,
        "revision": bar.revision,
    }
    return plain, plain[:-1] + b',"version":%d,' % (bar.trades + is_closed) + encode_data(more)[1:]


def book_data(token: TokenState, book: OrderBook, depth: int) -> tuple[bytes, bytes]:
    """The encoded ``data`` of a ``book``, without and with details. Its version is the book's revision."""
    top = book.top(depth)
    plain = encode_data(
        {
            "symbol": token.symbol,
            "depth": depth,
            "bids": top.bids,
            "asks": top.asks,
            "timestamp": rfc3339(top.time_ms),
            "stale": top.is_stale,
            "address": token.address,
        }
    )
    return plain, plain[:-1] + b',"version":%d}' % top.revision
