"""What is read beside whoever writes, and who may write when somebody else is silent."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.history import postgres_view, postgres_writer
from tokenwire_server.history.port import ForeignHistoryError, HistoryError, HistoryTakenError
from tokenwire_server.history.postgres import PostgresHistory
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.postgres_view import NewestStored, PostgresView
from tokenwire_server.history.service import open_history, open_view
from tokenwire_server.market.records import Batch, NumberedTrade, StoredToken
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.settings import load

from .postgres_server import PostgresServer, environment_of, query

TOKEN = StoredToken(TokenInfo("x:A", "A"), "s", 7, 5_000, Decimal(3), 4_000)
TRADE = NumberedTrade(7, Trade("x:A", "id", Decimal(3), Decimal(1), Side.BUY, 4_000))
BATCH = Batch(number=1, tokens=[TOKEN], trades={"x:A": [TRADE]}, offsets={"log/0": "1:2:3:4"}, is_last=True)


@pytest.fixture
async def view(database: PostgresPlace) -> AsyncIterator[PostgresView]:
    found = await open_view(load(environ=environment_of(database)))
    assert found is not None
    yield found
    await found.close()


async def test_what_is_stored_is_seen_once_it_is_there(view: PostgresView, database: PostgresPlace) -> None:
    for _ in range(2):
        with pytest.raises(HistoryError, match="nothing was stored yet in tokenwire@"):
            await view.tokens()
    history = await PostgresHistory.open(database)
    await history.begin(0, "lineage", follows=True)
    assert await view.newest("x:A") is None
    await history.commit(BATCH)
    assert await view.newest("x:A") == NewestStored(7, 5_000)
    assert await view.trades("x:A", 0, 9) == [TRADE]
    assert await view.tokens() == [TOKEN]
    assert await view.offsets() == {"log/0": "1:2:3:4"}
    assert await view.followed() == "lineage"
    await history.close()


async def test_it_says_what_is_no_history_of_a_log(view: PostgresView, database: PostgresPlace) -> None:
    history = await PostgresHistory.open(database)
    await history.begin(0, "lineage")
    assert await view.followed() is None
    await history.close()


async def test_it_can_read_again_when_the_database_is_back(
    view: PostgresView, database: PostgresPlace, postgres: PostgresServer
) -> None:
    history = await PostgresHistory.open(database)
    await history.begin(0, "lineage", follows=True)
    await history.commit(BATCH)
    await history.close()
    assert await view.tokens() == [TOKEN]
    await asyncio.to_thread(postgres.kill)
    try:
        for _ in range(2):
            with pytest.raises(HistoryError, match="can't be used"):
                await view.tokens()
    finally:
        await asyncio.to_thread(postgres.start)
    assert await view.tokens() == [TOKEN]


async def test_tables_of_other_versions_are_not_read(
    view: PostgresView, database: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await PostgresHistory.open(database)).close()
    with monkeypatch.context() as patch:
        patch.setattr(postgres_view, "VERSION", 2)
        with pytest.raises(HistoryError, match=r"older version \(format 1, this one knows 2\)"):
            await view.tokens()
    query(database, "INSERT INTO migrations (version) VALUES (99)")
    with pytest.raises(HistoryError, match=r"newer version \(format 99"):
        await view.tokens()


async def test_without_a_database_there_is_no_view() -> None:
    assert await open_view(load(environ={})) is None


async def test_a_history_that_follows_a_log_is_no_other_servers(database: PostgresPlace) -> None:
    history = await PostgresHistory.open(database)
    assert (await history.begin(0, "lineage", follows=True)).stream == "lineage"
    await history.commit(Batch(number=1, numbered=7))
    await history.close()
    with pytest.raises(UserError, match="comes from Kafka by way of load"):
        await open_history(load(environ=environment_of(database)))
    history = await PostgresHistory.open(database)
    with pytest.raises(ForeignHistoryError, match="another log"):
        await history.begin(0, "another", follows=True)
    beginning = await history.begin(0, "lineage", follows=True)
    assert beginning.numbered == 7, "no numbers are skipped, however the one before ended"
    await history.close()


async def test_whoever_is_silent_is_replaced_and_can_not_write_any_more(
    database: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "MAX_SILENCE_S", 0.5)
    silent = await PostgresHistory.open(database, replaces_silent=True)
    await silent.begin(0, "lineage", follows=True)
    other = await PostgresHistory.open(database, replaces_silent=True)
    await other.begin(0, "lineage", follows=True)
    with pytest.raises(HistoryTakenError):
        await silent.commit(BATCH)
    await other.commit(BATCH)
    await other.close()
    with pytest.raises(HistoryTakenError, match="was taken over by"):
        await silent.commit(BATCH)
    await silent.close()


async def test_whoever_says_something_is_not_replaced(database: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_writer, "MAX_SILENCE_S", 2.5)
    lively = await PostgresHistory.open(database, replaces_silent=True)
    await lively.begin(0, "lineage", follows=True)

    async def speak() -> None:
        number = 0
        while True:
            number += 1
            await lively.commit(Batch(number=number))
            await asyncio.sleep(0.1)

    speaking = asyncio.create_task(speak())
    with pytest.raises(HistoryTakenError, match="in use by process"):
        await PostgresHistory.open(database, replaces_silent=True)
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    await lively.close()


async def test_whoever_does_not_promise_to_say_something_is_not_replaced(
    database: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "MAX_SILENCE_S", 0.1)
    history = await PostgresHistory.open(database)
    with pytest.raises(HistoryTakenError, match="in use by process"):
        await PostgresHistory.open(database, replaces_silent=True)
    await history.begin(0, "lineage")
    await history.close()
