"""The history in PostgreSQL: the contract, over a real server that is killed, fills up, or says no."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres import ROWS_AT_ONCE, PostgresHistory, PostgresReservation, _paced
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.records import Batch, NumberedTrade
from tokenwire_server.market.retention import Retention
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.validation.trades import fits

from .contract import BEGIN_MS, MINUTE, SECOND, A, B, HistoryContract, Reopen, bar, bars, batch, token, trade
from .postgres_server import PASSWORD, PostgresServer, query
from .world import vanish


@pytest.fixture
async def reopen(database: PostgresPlace) -> AsyncIterator[Reopen]:
    opened: list[PostgresHistory] = []

    async def again(retention: Retention | None = None) -> PostgresHistory:
        for history in opened:
            vanish(history)
        opened[:] = [await PostgresHistory.open(database, retention)]
        return opened[0]

    yield again
    for history in opened:
        await history.close()


class TestPostgres(HistoryContract):
    """All of the contract."""


@pytest.fixture
async def history(database: PostgresPlace) -> AsyncIterator[PostgresHistory]:
    history = await PostgresHistory.open(database)
    await history.begin(None, "lineage")
    yield history
    await history.close()


def some(number: int, first: int, count: int = 3) -> Batch:
    """A batch of trades with a bar, a late one and an offset: all of it, or nothing."""
    trades = [trade(n) for n in range(first, first + count)]
    late = {(A, MINUTE): bars(bar(BEGIN_MS, "5", 1, 1))}
    return batch(
        number, [token(A, first + count - 1)], {A: trades}, first + count - 1,
        bars={(A, SECOND): bars(bar(BEGIN_MS + number * SECOND))}, late=late, offsets={"s": str(number)},
    )  # fmt: skip


async def state(history: PostgresHistory) -> tuple[list[int], list[Bar], int]:
    """Numbers of trades, bars of a second, late trades in the minute."""
    minute = await history.bars(A, MINUTE, 0, 1 << 53, 10)
    seconds = await history.bars(A, SECOND, 0, 1 << 53, 10)
    return [number for number, _ in await history.trades(A, 0, 1_000)], seconds, sum(each.trades for each in minute)


# --- What goes wrong between here and there --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
async def test_between_commits_the_server_is_killed(
    history: PostgresHistory, postgres: PostgresServer, number: signal.Signals
) -> None:
    await history.commit(some(1, 1))
    assert await history.oldest(A) == 1
    postgres.kill(number)
    try:
        for _ in range(2):
            with pytest.raises(HistoryError, match="can't be used"):
                await history.commit(some(2, 4))
            with pytest.raises(HistoryError, match="can't be used"):
                await history.oldest(A)
    finally:
        postgres.start()
    await history.commit(some(2, 4))
    assert await state(history) == ([1, 2, 3, 4, 5, 6], [bar(BEGIN_MS + SECOND), bar(BEGIN_MS + 2 * SECOND)], 2)


@pytest.mark.parametrize("is_committed", [False, True])
async def test_a_connection_is_lost_at_commit_and_nobody_knows_the_outcome(
    history: PostgresHistory, monkeypatch: pytest.MonkeyPatch, is_committed: bool
) -> None:
    await history.commit(some(1, 1))
    connection = history._writer._connection
    execute = connection.execute

    async def cut(sql: str, *arguments: object) -> object:
        if sql == "COMMIT":
            if is_committed:
                await execute(sql)
            connection.terminate()
            raise ConnectionResetError("the line is cut")
        return await execute(sql, *arguments)

    monkeypatch.setattr(
        type(connection), "execute", lambda self, *a: cut(*a) if self is connection else _plain(self, *a)
    )
    _plain = type(connection).execute
    lost = some(2, 4)
    lost = replace(lost, tokens=[*lost.tokens, token(B, 1)], trades={**lost.trades, B: [trade(1, B)]})
    with pytest.raises(HistoryError, match="the line is cut"):
        await history.commit(lost)
    monkeypatch.undo()
    await history.commit(lost)
    last = some(3, 7)
    tokens = [token("another:C"), *last.tokens, token(B, 2)]
    await history.commit(replace(last, tokens=tokens, trades={**last.trades, B: [trade(2, B)]}))
    numbers, _, late = await state(history)
    assert (numbers, late) == ([1, 2, 3, 4, 5, 6, 7, 8, 9], 3)
    assert [number for number, _ in await history.trades(B, 0, 9)] == [1, 2], "of a token that the lost one brought"


@pytest.mark.parametrize("at", range(6))
async def test_a_backend_is_killed_at_each_statement_of_a_batch(
    history: PostgresHistory, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    await history.commit(some(1, 1))
    connection = history._writer._connection
    calls = 0

    def before(name: str) -> None:
        original = getattr(type(connection), name)

        async def called(self: object, *arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                postgres.sql(f"SELECT pg_terminate_backend({connection.get_server_pid()}, 5000)")
            return await original(self, *arguments, **named)

        monkeypatch.setattr(type(connection), name, called)

    for name in ("execute", "fetchval", "copy_records_to_table"):
        before(name)
    with pytest.raises(HistoryError):
        await history.commit(some(2, 4))
    monkeypatch.undo()
    await history.commit(some(2, 4))
    assert await state(history) == ([1, 2, 3, 4, 5, 6], [bar(BEGIN_MS + SECOND), bar(BEGIN_MS + 2 * SECOND)], 2)


async def test_a_commit_that_is_given_up_leaves_nothing_half_done(
    history: PostgresHistory, database: PostgresPlace
) -> None:
    await history.commit(some(1, 1))
    _, seconds, _ = await state(history)
    other = await PostgresHistory.open(replace(database, schema="other"))  # a connection to hold a row with
    connection = other._writer._connection
    await connection.execute("BEGIN")
    await connection.execute("SELECT * FROM tokenwire.tokens FOR UPDATE")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(history.commit(some(2, 4)), 0.2)
    await history.reserve(7)  # although what was given up may still wait there, with our lock
    await connection.execute("COMMIT")
    await other.close()
    assert await state(history) == ([1, 2, 3], seconds, 1)
    await history.commit(some(2, 4))
    assert (await state(history))[0] == [1, 2, 3, 4, 5, 6]


# --- One writer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire_server.history.postgres_writer.TAKE_OVER_S", 0.2)


@pytest.mark.usefixtures("hurried")
async def test_a_second_writer_is_told_who_the_first_is(history: PostgresHistory, database: PostgresPlace) -> None:
    with pytest.raises(HistoryError, match=r"is in use by process \d+ on \S+, since 20\S+ .*stop it, or name another"):
        await PostgresHistory.open(database)
    other = await PostgresHistory.open(replace(database, schema="another"))
    await other.close()
    await history.commit(some(1, 1))


async def test_after_the_first_is_gone_a_second_may_write(database: PostgresPlace) -> None:
    first = await PostgresHistory.open(database)
    opening = asyncio.create_task(PostgresHistory.open(database))
    await asyncio.sleep(0.1)
    assert not opening.done()
    vanish(first)
    await (await opening).close()


async def test_whoever_was_replaced_while_cut_off_can_commit_nothing(
    history: PostgresHistory, database: PostgresPlace
) -> None:
    await history.commit(some(1, 1))
    history._writer._connection.terminate()
    second = await PostgresHistory.open(database)
    await second.begin(3, "x")
    await second.commit(some(1, 4))
    await second.close()
    for _ in range(2):
        with pytest.raises(HistoryError, match=r"was taken over by process .* while this process was cut off"):
            await history.commit(some(2, 4))
    with pytest.raises(HistoryError, match="was taken over"):
        await history.reserve(1 << 40)
    assert (await state(history))[0] == [1, 2, 3, 4, 5, 6], "those of the second"


async def test_a_lock_alone_does_not_let_a_stale_writer_commit(
    history: PostgresHistory, database: PostgresPlace
) -> None:
    """As behind a pooler that takes connections for its own: the lock is held, the epoch is not ours."""
    query(database, "UPDATE writer SET epoch = epoch + 1")
    with pytest.raises(HistoryError, match="was taken over"):
        await history.commit(some(1, 1))
    assert await history.oldest(A) is None


async def test_whoever_takes_over_waits_for_what_is_being_committed(
    history: PostgresHistory, database: PostgresPlace
) -> None:
    async def work(connection: object) -> None:
        with pytest.raises(Exception, match="could not obtain lock on row"):
            query(database, "SELECT * FROM writer FOR UPDATE NOWAIT")

    await history._writer.transact(work)


async def test_what_is_promised_does_not_depend_on_how_the_database_is_set_up(
    database: PostgresPlace, postgres: PostgresServer
) -> None:
    for given_, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        postgres.sql(f"ALTER DATABASE {database.database} SET synchronous_commit = {given_}")
        history = await PostgresHistory.open(database)
        assert await history._writer._connection.fetchval("SHOW synchronous_commit") == expected
        await history.close()


async def test_a_large_batch_lets_others_have_their_turn() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    at = [turns async for _ in _paced((n,) for n in range(10 * ROWS_AT_ONCE))]
    counting.cancel()
    assert max(Counter(at).values()) == ROWS_AT_ONCE
    assert len(at) == 10 * ROWS_AT_ONCE


# --- What it can't be ------------------------------------------------------------------------------------------------


async def refused(place: PostgresPlace) -> str:
    with pytest.raises(HistoryError) as caught:
        await PostgresHistory.open(place)
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_wrong_password(database: PostgresPlace) -> None:
    message = await refused(replace(database, password="wrong"))
    assert "check TIMESCALE_USER and TIMESCALE_PASSWORD" in message
    assert "wrong;" not in message


async def test_a_missing_database(database: PostgresPlace) -> None:
    assert "create the database, or name another with TIMESCALE_DB" in await refused(replace(database, database="none"))


async def test_an_unreachable_host(database: PostgresPlace) -> None:
    message = await refused(replace(database, port=1))
    assert "check TIMESCALE_HOST, TIMESCALE_PORT" in message


async def test_a_user_who_may_not_create(database: PostgresPlace, postgres: PostgresServer) -> None:
    postgres.sql(f"ALTER DATABASE {database.database} OWNER TO admin")
    assert "permission denied for database" in await refused(database)
    postgres.sql("CREATE SCHEMA tokenwire AUTHORIZATION tokenwire", database.database)
    await (await PostgresHistory.open(database)).close()


async def test_tables_of_a_newer_version_are_left_alone(database: PostgresPlace) -> None:
    await (await PostgresHistory.open(database)).close()
    query(database, "INSERT INTO migrations (version) VALUES (99)")
    assert "written by a newer version (format 99, this one knows 1)" in await refused(database)


async def test_tables_of_another_program_are_left_alone(database: PostgresPlace) -> None:
    query(database, "CREATE SCHEMA tokenwire CREATE TABLE bars (beer text)")
    assert "holds tables of another program; name another schema" in await refused(database)


async def test_texts_that_it_could_not_hold(database: PostgresPlace, postgres: PostgresServer) -> None:
    postgres.sql(f"CREATE DATABASE {database.database}_l OWNER tokenwire ENCODING 'LATIN1' TEMPLATE template0")
    message = await refused(replace(database, database=f"{database.database}_l"))
    assert "has the encoding LATIN1; make one with ENCODING 'UTF8'" in message


async def test_making_the_tables_is_all_or_nothing(database: PostgresPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenwire_server.history import postgres_schema

    broken = {1: [*postgres_schema.MIGRATIONS[1], "CREATE TABLE nonsense (a nonsense)"]}
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", broken)
    assert 'type "nonsense" does not exist' in await refused(database)
    monkeypatch.undo()
    assert query(database, "SELECT FROM pg_tables WHERE schemaname = 'tokenwire'") == []
    await (await PostgresHistory.open(database)).close()


async def test_older_tables_are_brought_up_to_date_and_keep_what_they_hold(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch, database: PostgresPlace
) -> None:
    from tokenwire_server.history import postgres_schema

    history = await reopen()
    await history.begin(None, "x")
    await history.commit(some(1, 1))
    later = {**postgres_schema.MIGRATIONS, 2: ["ALTER TABLE tokens ADD COLUMN note text"]}
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", later)
    monkeypatch.setattr(postgres_schema, "VERSION", 2)
    history = await reopen()
    assert [row[0] for row in query(database, "SELECT version FROM migrations ORDER BY version")] == [1, 2]
    assert query(database, "SELECT note FROM tokens") == [(None,)]
    assert len(await history.trades(A, 0, 10)) == 3


# --- Numbers ---------------------------------------------------------------------------------------------------------


async def test_the_bound_of_numbers_is_in_the_database(history: PostgresHistory, database: PostgresPlace) -> None:
    reservation = PostgresReservation(history)
    assert reservation.upto is None
    with pytest.raises(HistoryError, match="not reserved yet"):
        reservation.reserve_now(1)
    await reservation.reserve(1 << 40)
    await reservation.reserve(5)
    reservation.reserve_now(1 << 40)
    with pytest.raises(HistoryError, match="not reserved yet"):
        reservation.reserve_now((1 << 40) + 1)
    vanish(history)
    again = await PostgresHistory.open(database)
    assert again.reserved == 1 << 40
    assert (await again.begin(again.reserved, "x")).numbered == 1 << 40
    await again.close()


# --- Exactly ---------------------------------------------------------------------------------------------------------


def decimals() -> st.SearchStrategy[Decimal]:
    """As sources may deliver them: 38 digits before the point and 38 after, in any spelling."""
    plain = st.decimals(min_value=0, max_value=Decimal(10) ** 38 - 1, places=38, allow_nan=False)
    spelled = st.builds(lambda n, e: Decimal(n).scaleb(e), st.integers(0, 10**38 - 1), st.integers(-38, 37))
    return st.one_of(plain, spelled).filter(fits)


@given(st.lists(decimals(), min_size=8, max_size=8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_come_back_as_they_were(postgres: PostgresServer, numbers: list[Decimal]) -> None:
    if not hasattr(postgres, "kept"):
        postgres.kept = postgres.place()  # type: ignore[attr-defined]

    async def run() -> None:
        history = await PostgresHistory.open(postgres.kept)  # type: ignore[attr-defined]
        await history.begin(0, "x")
        first = max((number for number, _ in await history.trades_before(B, 1 << 53, 1)), default=0) + 1
        given_bar = Bar(BEGIN_MS, *numbers, 1, BEGIN_MS, BEGIN_MS)
        traded = Trade(B, f"i{first}", numbers[0], numbers[1], Side.BUY, BEGIN_MS)
        await history.commit(
            batch(1, [token(B, first)], {B: [NumberedTrade(first, traded)]}, bars={(B, SECOND): bars(given_bar)})
        )
        (found,) = await history.bars(B, SECOND, 0, 1 << 53, 9)
        ((_, found_trade),) = await history.trades(B, first - 1, 9)
        await history.close()
        assert found == given_bar
        assert found_trade == traded
        for before, after in zip(numbers, (found.open, found.high, found.low, found.close), strict=False):
            assert f"{before:f}" == f"{after:f}", "with all its digits"

    asyncio.run(run())


async def test_rows_are_what_people_who_ask_by_sql_expect(history: PostgresHistory, database: PostgresPlace) -> None:
    await history.commit(some(1, 1))
    rows = query(
        database,
        "SELECT address, extract(epoch FROM open_time)::bigint, close, extract(epoch FROM last_time) * 1000 FROM bars"
        f" JOIN tokens ON tokens.id = bars.token WHERE interval_ms = {SECOND}",
    )
    assert rows == [(A, (BEGIN_MS + SECOND) // 1_000, 2, BEGIN_MS + SECOND + 9)]


async def test_much_is_pruned_in_pieces_that_batches_go_between(reopen: Reopen) -> None:
    history = await reopen(retention=Retention(MINUTE, {}))
    await history.begin(None, "x")
    many = [trade(n) for n in range(1, 12_001)]
    await history.commit(batch(1, [token(A, 12_000, BEGIN_MS + 2 * MINUTE)], {A: many}, 12_000))
    assert await history.prune() == 12_000
    assert await history.oldest(A) is None


async def test_it_says_what_it_is(history: PostgresHistory) -> None:
    assert history.engine.startswith("postgresql 1")
