"""Wrong passwords and missing rights in PostgreSQL: what to look at is told, it is waited for, and nothing is lost."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tokenwire_server import waiting
from tokenwire_server.collect_command import CollectRequest, collect
from tokenwire_server.errors import AwayError
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.postgres import PostgresHistory
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.history.postgres_view import PostgresView
from tokenwire_server.history.recorder import HistoryState
from tokenwire_server.market.intervals import DEFAULT_INTERVALS
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.settings import Settings
from tokenwire_server.sources import build_sources

from ..services.granted import granted_sql
from ..services.ports import free_port
from .postgres_server import USER, PostgresServer, environment_of, query
from .world import END_MS, Life, Sent

SECRET = "hunter2"
X = "venue:X"
BEGIN_MS = 1_700_000_000_000
_PATIENCE_S = 60


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.05)


async def why(act: Callable[[], Awaitable[object]]) -> str:
    """What it says instead; empty: it works."""
    try:
        await act()
    except HistoryError as error:
        return str(error)
    return ""


async def test_with_what_the_page_grants_all_works_and_without_it_is_said(postgres: PostgresServer) -> None:
    place = PostgresPlace(
        host="127.0.0.1", port=postgres.port, database="granted", user="page_loader", password=SECRET, sslmode="disable"
    )

    async def write() -> None:
        history = await PostgresHistory.open(place)
        await history.begin(0, "lineage", follows=True)
        await history.close()

    async def read() -> None:
        view = await PostgresView.view(replace(place, user="page_gateway"))
        try:
            await view.tokens()
            await view.offsets()
            await view.followed()
        finally:
            await view.close()

    statements = re.findall(r"^[A-Z][^;]*;$", granted_sql("granted", "page", SECRET), re.MULTILINE)
    lists = "grant the user of TIMESCALE_USER what deploy/README.md lists"
    expected = [
        "password authentication failed.*; check TIMESCALE_USER and TIMESCALE_PASSWORD",
        *['database "granted" does not exist; create the database, or name another with TIMESCALE_DB'] * 2,
        *[f"permission denied for database.*; {lists}"] * 4,
    ]
    for words, statement in zip(expected, statements, strict=False):
        said = await why(write)
        assert re.search(words, said), statement
        assert SECRET not in said
        postgres.sql(statement, "granted" if "SCHEMA" in statement else "postgres")
    assert "CREATE SCHEMA" in statement
    for statement in statements[len(expected) :]:
        postgres.sql(statement, "granted")
    assert "nothing was stored yet" in await why(read)
    assert (await why(write), await why(read)) == ("", "")

    for right in ("USAGE ON SCHEMA tokenwire", "SELECT ON ALL TABLES IN SCHEMA tokenwire"):
        postgres.sql(f"REVOKE {right} FROM page_gateway", "granted")
        assert lists in await why(read), right
        postgres.sql(f"GRANT {right} TO page_gateway", "granted")
        assert await why(read) == ""
    postgres.sql("REVOKE TEMPORARY ON DATABASE granted FROM page_loader")
    assert lists in await why(write)


@pytest.fixture
async def life(database: PostgresPlace) -> AsyncIterator[Life]:
    life = await Life(database, Sent(), DEFAULT_INTERVALS, 1_000).open()
    yield life
    await life.end()


async def test_who_loses_a_right_while_it_writes_loses_no_trade(
    life: Life, database: PostgresPlace, postgres: PostgresServer
) -> None:
    listed = [Trade(X, f"id-{n}", Decimal(n % 7 + 1), Decimal(2), Side.BUY, BEGIN_MS + n * 100) for n in range(3_000)]

    async def is_now(state: HistoryState) -> bool:
        life.recorder._wake.set()
        return life.recorder.status.state is state

    life.feed(listed, 1_000)
    await life.recorder.settled()
    postgres.sql(f"REVOKE INSERT ON tokenwire.trades FROM {USER}", database.database)
    life.feed(listed, 2_000)
    await until(lambda: is_now(HistoryState.FAILING))
    assert "permission denied for table trades; grant the user of TIMESCALE_USER" in life.recorder.status.reason
    postgres.sql(f"GRANT INSERT ON tokenwire.trades TO {USER}", database.database)
    await until(lambda: is_now(HistoryState.OK))
    life.feed(listed, 3_000)
    await life.recorder.settled()
    found = [trade.trade_id for _, trade in await life.history.trades(X, 0, END_MS)]
    assert found == [trade.trade_id for trade in listed]


# --- servers that are started before the database is as it is to be ---------------------------------------------------


async def ready(port: int) -> dict[str, Any]:
    try:
        async with aiohttp.request("GET", f"http://127.0.0.1:{port}/ready") as reply:
            body: dict[str, Any] = json.loads(await reply.text())
            assert (reply.status == 200) is body["ready"]
            return body
    except aiohttp.ClientError:
        return {"ready": False}


async def test_run_waits_for_a_database_that_refuses_it_and_then_serves(
    database: PostgresPlace, postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.sql("CREATE ROLE late NOLOGIN")
    postgres.sql(f"GRANT CREATE ON DATABASE {database.database} TO late")
    port = free_port()
    variables = environment_of(replace(database, user="late")) | {"TIMESCALE_PASSWORD": SECRET}
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-m", "tokenwire_server", "run", "--port", str(port), "--drain", "0",
            env={**os.environ, "TOKENWIRE_ENV_FILE": os.devnull, **variables}, stdout=log, stderr=log,
        )  # fmt: skip
    try:

        async def waits() -> bool:
            assert process.returncode is None
            return (await ready(port)).get("history", {}).get("state") == "failing"

        await until(waits)
        body = await ready(port)
        assert body["role"] == "run"
        assert "check TIMESCALE_USER and TIMESCALE_PASSWORD" in body["reason"]
        assert SECRET not in str(body)
        postgres.sql(f"ALTER ROLE late LOGIN PASSWORD '{SECRET}'")

        async def serves() -> bool:
            assert process.returncode is None
            return (await ready(port)).get("history", {}).get("state") == "ok"

        await until(serves)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = (tmp_path / "log").read_text()
    assert SECRET not in said
    assert "Traceback" not in said
    assert query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'tokenwire'")[0][0] > 0


async def test_collect_waits_likewise_as_long_as_it_is_to_collect(
    database: PostgresPlace, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_RETRY_S", 0.1)
    settings = Settings(
        timescale_host=database.host, timescale_port=database.port, timescale_db="not_yet", timescale_user=USER,
        timescale_password=database.password, source=("simulator",),
    )  # fmt: skip
    with pytest.raises(AwayError, match='database "not_yet" does not exist; create the database, or name another'):
        await collect(settings, build_sources(settings), CollectRequest(duration_s=0.2))
    port = free_port()
    collecting = asyncio.create_task(
        collect(settings, build_sources(settings), CollectRequest(duration_s=1.5, health_port=port))
    )

    async def waits() -> bool:
        return "TIMESCALE_DB" in str(await ready(port))

    await until(waits)
    postgres.sql(f"CREATE DATABASE not_yet OWNER {USER}")
    summary = await collecting
    assert summary.trades > 0
    assert query(replace(database, database="not_yet"), "SELECT count(*) FROM trades")[0][0] == summary.trades
