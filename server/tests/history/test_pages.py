"""Pages from a small memory and a history are those from a memory that holds everything."""

import asyncio
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwire_server.market.bar_pages import Fill, PageRequest, page_of
from tokenwire_server.market.intervals import DEFAULT_INTERVALS
from tokenwire_server.market.trade_log import LogPlan, NumberedTrade, TradeLog
from tokenwire_server.market.trade_pages import TradeRequest, trade_page_of
from tokenwire_server.market.trades import Side, Trade

from ..market.test_bars import BEGIN_MS, clock_of, lives
from ..market.test_bars import Step as BarStep
from .test_replay import spread
from .world import SOURCE, Life, Sent, Step, scratch, unbroken

times = st.none() | st.integers(-90, 120).map(lambda n: BEGIN_MS + n * 60_000 + n % 3) | st.just(0)
bar_requests = st.tuples(
    st.sampled_from(range(5)), times, times, st.integers(1, 30) | st.just(1_000), st.sampled_from(list(Fill))
)
trade_requests = st.builds(
    TradeRequest,
    after=st.none() | st.integers(0, 50),
    before=st.none() | st.integers(1, 60),
    limit=st.integers(1, 20),
)


async def lived(steps: list[Step], cuts: list[int], folder: Path, log_size: int) -> Life:
    """Fed with stops, each a commit, a good end or a crash after which everything that was lost is fed again."""
    life = await Life(folder, Sent(), DEFAULT_INTERVALS, 3).open()
    for turn, count in enumerate(cuts):
        life.market._log_plan._most = life.market._log_plan.most = log_size
        life.feed(steps, min(life.at + count, len(steps)))
        if turn % 3 == 0:
            await life.recorder.settled()
        else:
            await (life.end() if turn % 3 == 1 else life.crash())
            life = await Life(folder, Sent(), DEFAULT_INTERVALS, 3).open()
    life.market._log_plan._most = life.market._log_plan.most = log_size
    life.feed(steps, len(steps))
    return life


@given(lives(), st.lists(st.integers(0, 60), max_size=4), st.lists(bar_requests, min_size=5, max_size=40))
@settings(max_examples=60, deadline=None)
def test_bars(
    steps: list[BarStep], cuts: list[int], requests: list[tuple[int, int | None, int | None, int, Fill]]
) -> None:
    async def run(listed: list[Step], folder: Path) -> None:
        life = await lived(listed, cuts, folder, 1_000)
        market, _ = unbroken(listed)
        for each in (life.market, market):
            each.advance(SOURCE, clock_of(steps) + 1_000)
        for token in market:
            ours, all_of_them = life.market.bars.get(token.address), market.bars.get(token.address)
            assert ours is not None
            assert all_of_them is not None
            now_ms = max(clock_of(steps) + 1_000, ours.now_ms)
            for index, from_ms, to_ms, limit, fill in requests:
                request = PageRequest(DEFAULT_INTERVALS[index], from_ms, to_ms, limit, fill)
                page = await life.pages.bar_page(token.address, ours, index, now_ms, request)
                wanted = page_of(all_of_them, index, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)
                assert page == wanted, request
        await life.end()

    with scratch() as folder:
        asyncio.run(run(spread(steps), folder))


@given(lives(), st.lists(st.integers(0, 60), max_size=3), st.lists(trade_requests, min_size=5, max_size=40))
@settings(max_examples=60, deadline=None)
def test_trades(steps: list[BarStep], cuts: list[int], requests: list[TradeRequest]) -> None:
    async def run(listed: list[Step], folder: Path) -> None:
        life = await lived(listed, cuts, folder, 3)
        for token in life.market:
            assert token.log is not None
            await life.recorder.settled()
            stored = await life.history.trades(token.address, 0, 10_000)
            for request in requests:
                page = await life.pages.trade_page(token.address, token.log, request)
                assert page.newest == token.log.newest
                assert page.oldest == stored[0].number
                assert list(page.trades) == wanted(stored, request)
        await life.end()

    with scratch() as folder:
        asyncio.run(run(spread(steps), folder))


def wanted(stored: list[NumberedTrade], request: TradeRequest) -> list[NumberedTrade]:
    after, before, limit = request
    found = [each for each in stored if before is None or each.number < before]
    if after is None:
        return found[-limit:]
    return [each for each in found if each.number > after][:limit]


def test_without_holes_they_are_those_of_a_long_log() -> None:
    """What the test above takes for right is what the pages of a log are."""
    log = TradeLog(LogPlan())
    stored = []
    for n in range(30):
        trade = Trade("A", str(n), Decimal(1), Decimal(1), Side.BUY, BEGIN_MS + n)
        stored.append(NumberedTrade(log.add(trade), trade))
    for request in (TradeRequest(), TradeRequest(3, 9, 4), TradeRequest(None, 9, 4), TradeRequest(28, None, 5)):
        assert list(trade_page_of(log, request).trades) == wanted(stored, request)
