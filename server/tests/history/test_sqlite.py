"""The history in a SQLite file: the contract, and files that can't be used."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.sqlite import FILE_NAME, SqliteHistory
from tokenwire_server.market.retention import Retention

from .contract import BEGIN_MS, MINUTE, SECOND, A, HistoryContract, Reopen, bar, bars, batch, token, trade


@pytest.fixture
async def reopen(tmp_path: Path) -> AsyncIterator[Reopen]:
    opened: list[SqliteHistory] = []

    async def again(retention: Retention | None = None) -> SqliteHistory:
        for history in opened:
            await history.close()
        opened[:] = [await SqliteHistory.open(tmp_path, retention)]
        return opened[0]

    yield again
    for history in opened:
        await history.close()


class TestSqlite(HistoryContract):
    """All of the contract."""


async def damaged(tmp_path: Path, content: bytes | None) -> str:
    history = await SqliteHistory.open(tmp_path)
    await history.begin(None, "x")
    listed = [trade(n) for n in range(1, 5_000)]
    await history.commit(batch(1, [token(A, 5_000)], {A: listed}, 5_000))
    await history.close()
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    with pytest.raises(HistoryError) as caught:
        await SqliteHistory.open(tmp_path)
    return str(caught.value)


@pytest.mark.parametrize("content", [None, b"this is no database, but a text that is long enough" * 100])
async def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    message = await damaged(tmp_path, content)
    assert str(tmp_path / FILE_NAME) in message
    assert "the file is damaged: put a copy in its place, or move it away" in message


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    await (await SqliteHistory.open(tmp_path)).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HistoryError, match=r"newer version \(format 99, this one knows 1\)"):
        await SqliteHistory.open(tmp_path)


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    with pytest.raises(HistoryError, match="another program"):
        await SqliteHistory.open(tmp_path)


async def test_a_full_disk_loses_nothing_of_what_was_committed(tmp_path: Path, reopen: Reopen) -> None:
    history = await reopen()
    assert isinstance(history, SqliteHistory)
    await history.begin(None, "x")
    await history.commit(batch(1, [token(A, 1)], {A: [trade(1)]}, 1, bars={(A, SECOND): bars(bar(BEGIN_MS))}))
    (pages,) = history._writing.execute("PRAGMA page_count").fetchone()
    history._writing.execute(f"PRAGMA max_page_count = {pages + 1}")
    large = batch(2, [token(A, 5_000)], {A: [trade(n) for n in range(2, 5_000)]}, 5_000, offsets={"s": "2"})
    with pytest.raises(HistoryError, match="full; free some space"):
        await history.commit(large)
    assert await history.trades(A, 0, 10) == [trade(1)], "all or nothing"
    assert await history.bars(A, SECOND, 0, 1 << 53, 10) == [bar(BEGIN_MS)]
    history._writing.execute("PRAGMA max_page_count = 1000000")
    await history.commit(large)
    assert len(await history.trades(A, 0, 10_000)) == 4_999


async def test_another_program_that_writes_is_waited_for_and_then_named(tmp_path: Path, reopen: Reopen) -> None:
    history = await reopen()
    await history.begin(None, "x")
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryError, match="another program writes it"):
        await history.commit(batch(1))
    other.execute("ROLLBACK")
    other.close()
    await history.commit(batch(1))
    assert await history.tokens() == [token()]


async def test_much_is_pruned_in_pieces_that_batches_go_between(tmp_path: Path, reopen: Reopen) -> None:
    history = await reopen(retention=Retention(MINUTE, {}))
    await history.begin(None, "x")
    many = [trade(n) for n in range(1, 12_001)]
    await history.commit(batch(1, [token(A, 12_000, BEGIN_MS + 2 * MINUTE)], {A: many}, 12_000))
    assert await history.prune() == 12_000
    assert await history.oldest(A) is None
