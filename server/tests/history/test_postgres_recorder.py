"""The recorder over a database that goes away and comes back: what waits, what gets numbers, what heals."""

import asyncio
import signal
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres import NUMBERS_AHEAD, PostgresHistory
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.recorder import HistoryState
from tokenwire_server.market.intervals import DEFAULT_INTERVALS
from tokenwire_server.market.trades import Side, Trade

from .postgres_server import PostgresServer, query
from .world import END_MS, Life, Sent, Step, unbroken

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
X = "venue:X"


def steps(count: int) -> list[Step]:
    return [
        Trade(X, f"id-{n}", Decimal(n % 7 + 1), Decimal(2), Side.BUY if n % 3 else Side.SELL, BEGIN_MS + n * 100)
        for n in range(count)
    ]


@pytest.fixture
async def life(database: PostgresPlace) -> AsyncIterator[Life]:
    life = await Life(database, Sent(), DEFAULT_INTERVALS, 1_000).open()
    yield life
    await life.end()


async def until(life: Life, state: HistoryState) -> None:
    async with asyncio.timeout(20):
        while life.recorder.status.state is not state:
            life.recorder._wake.set()
            await asyncio.sleep(0.01)


async def stored_as(life: Life, listed: list[Step]) -> None:
    """Every trade once, in order, and the bars of them all."""
    assert [trade.trade_id for _, trade in await life.history.trades(X, 0, END_MS)] == [
        step.trade_id for step in listed if isinstance(step, Trade)
    ]
    _, closed = unbroken(listed)
    for interval in DEFAULT_INTERVALS:
        wanted = [bar for (_, text, _), bar in sorted(closed.items()) if text == interval.text]
        found = await life.history.bars(X, interval.ms, 0, END_MS, END_MS)
        assert found[: len(wanted)] == wanted


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
async def test_while_the_database_is_away_trades_wait_with_their_numbers(
    life: Life, postgres: PostgresServer, number: signal.Signals
) -> None:
    listed = steps(30_000)
    life.feed(listed, 1_000)
    await life.recorder.settled()
    postgres.kill(number)
    try:
        life.feed(listed, 2_000)
        with pytest.raises(HistoryError, match="can't be used"):
            await life.recorder.settled()
        life.feed(listed, 29_000)
        assert life.recorder.status.state is HistoryState.FAILING
        assert life.market.unnumbered == 0
    finally:
        postgres.start()
    await until(life, HistoryState.OK)
    life.feed(listed, 30_000)
    await life.recorder.settled()
    assert (life.recorder.builder.given_up_trades, life.recorder.builder.given_up_bars) == (0, 0)
    await stored_as(life, listed)


async def test_kills_in_the_middle_of_batches_lose_and_double_nothing(life: Life, postgres: PostgresServer) -> None:
    listed = steps(20_000)
    for round_ in range(5):
        life.feed(listed, 3_000 * round_ + 3_000)
        storing = asyncio.ensure_future(life.recorder.settled())
        await asyncio.sleep(0.01 * round_)
        await asyncio.to_thread(postgres.kill, signal.SIGQUIT)
        await asyncio.to_thread(postgres.start)
        await asyncio.gather(storing, return_exceptions=True)
        await until(life, HistoryState.OK)
    life.feed(listed, len(listed))
    await life.recorder.settled()
    await stored_as(life, listed)


async def test_numbers_that_are_used_up_while_the_database_is_away_are_not_invented(
    life: Life, postgres: PostgresServer
) -> None:
    listed = steps(2_000)
    life.feed(listed, 1_000)
    await life.recorder.settled()
    numbers = life.market.numbers
    assert numbers.reserved == NUMBERS_AHEAD
    numbers.given = NUMBERS_AHEAD - 10  # as if so many more had been told to clients
    postgres.kill()
    try:
        life.feed(listed, 1_100)
        assert life.market.unnumbered == 90
        assert life.recorder.status.reason.startswith("no more trades can be numbered: all that the database was asked")
    finally:
        postgres.start()
    await until(life, HistoryState.OK)
    life.feed(listed, 2_000)
    assert life.market.unnumbered == 90
    await life.recorder.settled()
    bound = int(query(life.history._place, "SELECT value FROM meta WHERE key = 'reserved'")[0][0])  # type: ignore[union-attr]
    assert numbers.given <= bound == numbers.reserved
    assert len(await life.history.trades(X, 0, END_MS)) == 2_000 - 90


async def test_the_bound_is_in_the_database_before_a_number_is_given(life: Life, database: PostgresPlace) -> None:
    (row,) = query(database, "SELECT value FROM meta WHERE key = 'reserved'")
    assert int(row[0]) == life.market.numbers.reserved == NUMBERS_AHEAD
    life.market.numbers.given = NUMBERS_AHEAD // 2 + 1
    life.feed(steps(5), 5)
    await life.recorder.settled()
    (row,) = query(database, "SELECT value FROM meta WHERE key = 'reserved'")
    assert int(row[0]) == life.market.numbers.reserved > NUMBERS_AHEAD


async def test_the_end_waits_for_a_silent_database_for_some_seconds_only(
    database: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenwire_server.history.recorder.LAST_COMMIT_S", 0.2)
    life = await Life(database, Sent(), DEFAULT_INTERVALS, 1_000).open()
    life.feed(steps(10), 10)
    await life.recorder.settled()
    other = await PostgresHistory.open(PostgresPlace(**{**vars(database), "schema": "other"}))
    connection = other._writer._connection
    await connection.execute("BEGIN")
    await connection.execute("SELECT * FROM tokenwire.tokens FOR UPDATE")
    life.feed(steps(30), 30)
    async with asyncio.timeout(20):
        await life.end()
    assert life.recorder.lost_trades == 20
    await connection.execute("COMMIT")
    await other.close()
