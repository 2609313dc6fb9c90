"""What tests of the loader have in common: histories in virtual time, and what a single server would store."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenwire_server.bus.port import Outgoing
from tokenwire_server.history.port import History
from tokenwire_server.history.sqlite import SqliteHistory
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange
from tokenwire_server.market.batches import BatchBuilder
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.records import NumberedTrade, StoredToken
from tokenwire_server.market.retention import Retention
from tokenwire_server.market.trades import Trade
from tokenwire_server.ports import PartState
from tokenwire_server.sources import recording_events as raw
from tokenwire_server.stream.loader import Loader
from tokenwire_server.stream.records import read_raw

from .test_processor import PLAN, TOPICS

END_MS = 1 << 53
LONG_S = 300.0  # of virtual time
T = TypeVar("T")


class Kept(SqliteHistory):
    """A history whose threads are those of virtual time."""

    async def _in(self, pool: Any, work: Callable[[], T]) -> T:
        await asyncio.sleep(0.001)
        return work()


def opener(folder: Path) -> Callable[[], Any]:
    async def opened() -> History:
        return Kept._open(folder, Retention())

    return opened


Stored = tuple[
    dict[str, StoredToken], dict[str, list[NumberedTrade]], dict[tuple[str, int], list[Bar]]
]  # fmt: skip


async def stored(folder: Path) -> Stored:
    """Tokens, trades and closed bars."""
    history = Kept._open(folder, Retention())
    tokens = {token.info.address: token for token in await history.tokens()}
    trades = {address: await history.trades(address, 0, END_MS) for address in tokens}
    bars = {
        (address, interval.ms): [
            bar
            for bar in await history.bars(address, interval.ms, 0, END_MS, END_MS)
            if bar.open_ms + interval.ms <= token.now_ms
        ]
        for address, token in tokens.items()
        for interval in PLAN.intervals
    }
    await history.close()
    return tokens, trades, bars


async def by_recorder(folder: Path, records: Sequence[Outgoing]) -> Stored:
    """What a server of one process stores of the same."""

    def bar_changed(address: str, change: BarChange) -> None:
        builder.bar_changed(address, change)

    def traded(token: TokenState, number: int, trade: Trade) -> None:
        builder.traded(token, number, trade)

    market = Market(lambda token: None, 0, 100, bars=MarketBars(PLAN, bar_changed), on_trade=traded)
    builder = BatchBuilder(market)
    history = Kept._open(folder, Retention())
    await history.begin(0, "x")
    for number, (place, _, value) in enumerate(records):
        event = read_raw(value)
        if isinstance(event, raw.Tokens):
            market.add_tokens(event.source, event.tokens)
        elif isinstance(event, raw.Trades):
            for trade in event.trades:
                market.apply(event.source, trade)
        elif isinstance(event, raw.Clock) and place.partition == 0:  # all partitions are told
            market.advance(event.source, event.time_ms)
        if number % 100 == 0:
            batch = builder.take()
            if batch is not None:
                await history.commit(batch)
    batch = builder.take(is_last=True)
    assert batch is not None
    await history.commit(batch)
    await history.close()
    return await stored(folder)


class Told(list[tuple[str, PartState, str]]):
    """How the parts were, in order."""

    def __call__(self, part: str, state: PartState, reason: str, engine: str) -> None:
        self.append((part, state, reason))


@contextlib.asynccontextmanager
async def loading(bus: Any, folder: Path, **options: Any) -> Any:
    one = Loader(bus, TOPICS, options.pop("open_history", opener(folder)), **options)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        one.close()
        await task


async def loaded(one: Loader) -> None:
    """Return when everything is stored."""
    async with asyncio.timeout(LONG_S):
        while not (lags := one.lags()) or any(lags.values()):
            await asyncio.sleep(0.1)


async def ended(bus: Any, folder: Path) -> None:
    """A loader that is to end by itself."""
    async with asyncio.timeout(LONG_S):
        await Loader(bus, TOPICS, opener(folder)).run()
