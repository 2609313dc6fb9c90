"""SDK clients that follow trades and bars, in a process of their own, and write down what they deliver.

``python -m loadtests.distributed.watchers ORDERS HISTORY``: the first file says who follows what (:class:`Orders`), the
second one gets the history. The process ends once every client has come to the last trade and bar, or on SIGTERM; its
last line of output are counts. What the wire carried is seen before the SDK sees it.
"""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

from loadtests.distributed.fold import INTERVALS_MS, plain
from loadtests.faults.fleet import now_ms
from loadtests.faults.history import (
    BarDelivered,
    Closed,
    Entry,
    Followed,
    JsonlWriter,
    Opened,
    Started,
    TradeDelivered,
    alias,
)
from loadtests.faults.recorder import SocketRecorder
from tokenwire import TokenClient
from tokenwire.actions import Connect
from tokenwire.channels import Bar, Trade
from tokenwire.config import ClientConfig
from tokenwire.transport import Socket, SocketClosedError, opener

__all__ = ["Order", "Orders"]

_CAPABILITIES = ("batch", "heartbeat", "resume", "details")
_HISTORY_BARS = 1_000


class Order(msgspec.Struct, frozen=True):
    """What one client follows: trades of ``tokens`` (addresses), and the bars of ``charts`` in each of ``intervals``.
    ``whole``: from the very first trade and bar on, fetched over HTTP."""

    client: str
    tokens: list[str]
    charts: list[str]
    intervals: list[str]
    whole: bool


class Orders(msgspec.Struct, frozen=True):
    """All of them. ``last_trades``: the number of the last trade of each token, and ``last_bars`` the beginning of its
    last bar by ``address interval``; who has these is done."""

    url: str
    orders: list[Order]
    last_trades: dict[str, int]
    last_bars: dict[str, int]


class _Item(msgspec.Struct):
    """What a trade or bar on the wire has in it; each its own few."""

    address: str = ""
    version: int | None = None
    interval: str | None = None
    open_time: str | None = None
    closed: bool = False
    revision: int | None = None
    transactions: "list[_Item] | None" = None


class _Message(msgspec.Struct):
    type: str
    data: _Item


_decode = msgspec.json.Decoder(_Message).decode


class _Tapped:
    """A socket whose messages are seen on their way."""

    def __init__(self, inner: Socket, tell: Callable[[str | bytes], None], hear: Callable[[str], None]) -> None:
        self._inner = inner
        self._tell = tell
        self._hear = hear
        self.compression = inner.compression
        self.close = inner.close
        self.ping = inner.ping
        self.abort = inner.abort
        self.wait_closed = inner.wait_closed

    async def receive(self) -> str | bytes:
        text = await self._inner.receive()
        self._tell(text)
        return text

    async def send(self, text: str) -> None:
        self._hear(text)
        await self._inner.send(text)


class _Wire:
    """All sockets of one client, in the history and counted."""

    def __init__(self, client: str, watch: "_Watch") -> None:
        self._client = client
        self._watch = watch
        self._open = opener(None, "proof")
        self._seen: set[tuple[object, ...]] = set()
        self._fetched: set[tuple[object, ...]] = set()

    def fetched(self, trade: Trade) -> None:
        """A trade came over HTTP; on the wire it may have come before, or come later."""
        key = (trade.address, trade.number)
        self._watch.counts["wire_duplicates"] += key in self._seen
        self._fetched.add(key)

    async def open(self, action: Connect, heard: Callable[[], None]) -> Socket:
        inner = await self._open(action, heard)
        watch, client = self._watch, self._client
        watch.sockets += 1
        socket = watch.sockets
        recorder = SocketRecorder(client, socket, watch.add)
        watch.add(_opened(action, client, socket))

        def tell(text: str | bytes) -> None:
            data = text.encode() if isinstance(text, str) else text
            recorder.sent(now_ms(), data)
            self._count(data)

        tapped = _Tapped(inner, tell, lambda text: recorder.received(now_ms(), text))
        ended = asyncio.create_task(inner.wait_closed())
        ended.add_done_callback(lambda _: watch.add(Closed(now_ms(), client, socket)))
        watch.keep(ended)
        return tapped

    def _count(self, data: bytes) -> None:
        try:
            message = _decode(data)
        except msgspec.DecodeError:
            return
        item = message.data
        keys: list[tuple[object, ...]] = []
        if message.type == "transaction":
            keys = [(item.address, item.version)]
        elif message.type == "transaction_batch":
            keys = [(each.address, each.version) for each in item.transactions or ()]
        elif message.type == "kline" and item.closed:
            keys = [(item.address, item.interval, item.open_time, item.revision)]
        for key in keys:
            self._watch.counts["wire"] += 1
            self._watch.counts["wire_duplicates"] += key in self._seen or key in self._fetched
            self._seen.add(key)


def _opened(action: Connect, client: str, socket: int) -> Opened:
    query = parse_qs(urlsplit(action.url).query)
    headers = {name.lower(): value for name, value in action.headers}
    secret = headers.get("x-tokenwire-session")
    position = query.get("seq")
    return Opened(
        now_ms(), client, socket, None if secret is None else alias(secret),
        None if position is None else int(position[-1]),
    )  # fmt: skip


class _Watch:
    """All clients of the process."""

    def __init__(self, orders: Orders, add: Callable[[Entry], None]) -> None:
        self.add = add
        self.sockets = 0
        self.counts: Counter[str] = Counter()
        self.waiting: dict[tuple[str, str, str], None] = {}  # client, address, interval: not at the end yet
        self._orders = orders
        self._tasks: set[asyncio.Task[object]] = set()
        self.done = asyncio.Event()

    def keep(self, task: "asyncio.Task[object]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        for order in self._orders.orders:
            self.waiting |= {(order.client, address, ""): None for address in order.tokens}
            for interval in order.intervals:
                self.waiting |= {(order.client, address, interval): None for address in order.charts}
        clients = [asyncio.create_task(self._client(order)) for order in self._orders.orders]
        ended = asyncio.create_task(self.done.wait())
        await asyncio.wait([*clients, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (*clients, ended):
            task.cancel()
        for result in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _client(self, order: Order) -> None:
        name = order.client
        self.add(Started(now_ms(), name, 0))
        config = ClientConfig(
            url=self._orders.url,
            capabilities=_CAPABILITIES,
            max_retries=None,
            backoff_base_ms=200,
            backoff_cap_ms=2_000,
        )
        wire = _Wire(name, self)
        async with TokenClient(self._orders.url, config=config, connect=wire.open) as client:
            for address in order.tokens:
                self.add(Followed(now_ms(), name, 0, address, 0, order.whole))
            for address in order.charts:
                for interval in order.intervals:
                    self.add(Followed(now_ms(), name, 0, address, INTERVALS_MS[interval], order.whole))
            async with asyncio.TaskGroup() as group:
                if order.whole:
                    for address in order.tokens:
                        group.create_task(self._trades(client, wire, order, [address], after=0))
                else:
                    group.create_task(self._trades(client, wire, order, order.tokens, after=None))
                for interval in order.intervals:
                    group.create_task(self._bars(client, order, interval))

    async def _trades(
        self, client: TokenClient, wire: _Wire, order: Order, addresses: list[str], after: int | None
    ) -> None:
        async with client.trades(addresses, after=after) as stream:
            async for trade in stream:
                if trade.fetched:
                    wire.fetched(trade)
                self._trade(order, trade)

    def _trade(self, order: Order, trade: Trade) -> None:
        number = trade.number or 0
        self.counts["trades"] += 1
        self.counts["trades fetched"] += trade.fetched
        self.add(TradeDelivered(now_ms(), order.client, 0, trade.address, number, trade.trade_id or "", trade.missed))
        if number >= self._orders.last_trades[trade.address]:
            self._reached(order.client, trade.address, "")

    async def _bars(self, client: TokenClient, order: Order, interval: str) -> None:
        history = _HISTORY_BARS if order.whole else 0
        async with client.klines(order.charts, interval, history=history) as stream:
            async for bar in stream:
                self._bar(order, bar)

    def _bar(self, order: Order, bar: Bar) -> None:
        if bar.missed:
            self.counts["bars missed told"] += 1
        if not bar.closed:
            return
        self.counts["bars"] += 1
        self.counts["bars fetched"] += bar.fetched
        figures = (
            bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover, bar.buy_volume,
            bar.buy_turnover, bar.trades,
        )  # fmt: skip
        told = tuple(plain(Decimal(str(figure))) for figure in figures)
        self.add(
            BarDelivered(
                now_ms(), order.client, 0, bar.address, INTERVALS_MS[bar.interval], bar.open_ms, told, bar.missed
            )
        )
        if bar.open_ms >= self._orders.last_bars[f"{bar.address} {bar.interval}"]:
            self._reached(order.client, bar.address, bar.interval)

    def _reached(self, client: str, address: str, interval: str) -> None:
        self.waiting.pop((client, address, interval), None)
        if not self.waiting:
            self.done.set()


async def _main(orders: Orders, history: Path) -> int:
    logging.getLogger("tokenwire").setLevel(logging.ERROR)  # servers are killed on purpose
    with JsonlWriter(history) as writer:
        watch = _Watch(orders, writer.add)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watch.done.set)
        try:
            await watch.run()
        finally:
            counts = {**watch.counts, "sockets": watch.sockets, "waiting": len(watch.waiting)}
            print(json.dumps({**counts, "waits": [" ".join(key) for key in list(watch.waiting)[:20]]}), flush=True)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(SocketClosedError):
        sys.exit(
            asyncio.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Orders), Path(sys.argv[2])))
        )
