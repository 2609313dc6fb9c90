"""A whole server with its history in PostgreSQL: over restarts, kills, and a database that goes away."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.app import running
from tokenwire_server.errors import UserError
from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.settings import Settings

from ..cli.command import run
from .postgres_server import PASSWORD, PostgresServer, environment_of, query
from .test_server import Feed, all_klines, get, trades

SYMBOL_TRADES = "/api/v1/trades/PEPE?limit=5&after=10"


def settings(place: PostgresPlace, **more: Any) -> Settings:
    return Settings(
        timescale_host=place.host, timescale_port=place.port, timescale_db=place.database, timescale_user=place.user,
        timescale_password=place.password, port=0, update_interval_s=0.05, drain_s=0, rest_rate_limit="0", **more,
    )  # fmt: skip


async def test_after_a_restart_everything_is_as_it_was(database: PostgresPlace) -> None:
    feed = Feed(trades(4_000))
    async with running(settings(database), [feed]) as server:
        await feed.delivered.wait()
        assert server.pipeline.recorder is not None
        await server.pipeline.recorder.settled()
        bars = {interval: await all_klines(server, interval) for interval in ("1s", "1m", "1h")}
        first = await get(server, SYMBOL_TRADES)
        ready = await get(server, "/ready")
        assert ready["history"]["state"] == "ok"
        assert re.fullmatch(r"(timescaledb \S+, )?postgresql \d+\S*", ready["history"]["engine"])
    again = Feed(trades(4_000))
    async with running(settings(database), [again]) as server:
        await again.delivered.wait()
        assert again.resumed == "4000"
        assert {interval: await all_klines(server, interval) for interval in bars} == bars
        assert await get(server, SYMBOL_TRADES) == first
        assert [row["number"] for row in first["data"]] == [11, 12, 13, 14, 15]


async def test_while_the_database_is_away_prices_go_on_and_the_past_is_a_503(
    database: PostgresPlace, postgres: PostgresServer
) -> None:
    feed = Feed(trades(4_000))
    async with running(settings(database), [feed]) as server:
        await feed.delivered.wait()
        recorder = server.pipeline.recorder
        assert recorder is not None
        await recorder.settled()
        postgres.kill(signal.SIGQUIT)
        try:
            answer = await get(server, SYMBOL_TRADES, 503)
            assert "can't be used" in answer["detail"]
            assert PASSWORD not in str(answer)
            server.pipeline.trades("feed", trades(4_010)[4_000:])
            async with asyncio.timeout(20):
                while (await get(server, "/ready"))["history"]["state"] != "failing":
                    await asyncio.sleep(0.05)
            assert (await get(server, "/ready"))["ready"] is True
            assert (await get(server, "/api/v1/tokens/PEPE"))["price"] == "4010"
        finally:
            await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(20):
            while (await get(server, "/ready"))["history"]["state"] != "ok":
                await asyncio.sleep(0.05)
        await get(server, SYMBOL_TRADES)
        await recorder.settled()
    assert query(database, "SELECT count(*), count(DISTINCT trade_id) FROM trades") == [(4_010, 4_010)]


async def test_two_places_for_one_history_are_refused(database: PostgresPlace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"either --data \(TOKENWIRE_DATA\) or TIMESCALE_HOST .*, not both"):
        settings(database, data=tmp_path)


async def test_without_asyncpg_it_says_what_to_install(
    database: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(
        UserError, match=r"TIMESCALE_HOST needs asyncpg; install it: pip install 'tokenwire\[timescale\]'"
    ):
        async with running(settings(database), []):
            pass


async def test_what_can_t_be_opened_is_said_in_a_line(database: PostgresPlace) -> None:
    async def fails(**more: Any) -> str:
        with pytest.raises(UserError) as caught:
            async with running(settings(database).model_copy(update=more), []):
                pass
        return str(caught.value)

    assert "check TIMESCALE_HOST" in await fails(timescale_port=1)
    assert "create the database" in await fails(timescale_db="nowhere")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_command_keeps_its_history_there_and_tells_nobody_the_password(
    database: PostgresPlace, number: signal.Signals
) -> None:
    environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull, **environment_of(database)}
    said = ""
    newest = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenwire_server", "--port", "0", "--drain", "0", "--log-level", "debug",
             "--source", "simulator"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            lines = ""
            while "stop with Ctrl-C" not in lines:
                line = process.stdout.readline()
                assert line, lines
                lines += line
            found = re.search(r"ws://127\.0\.0\.1:(\d+)/api", lines)
            assert found is not None
            assert f"kept in PostgreSQL, {database.database} on" in lines
            counted: Any = 0
            while counted <= newest:
                ((counted,),) = query(database, "SELECT coalesce(sum(trades), 0)::bigint FROM tokens")
            newest = counted
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/ready", timeout=10) as reply:
                said += reply.read().decode()
        finally:
            process.send_signal(number)
            said += lines + process.communicate(timeout=30)[0]
    assert PASSWORD not in said
    assert "history opened" in said
    ((count, distinct),) = query(database, "SELECT count(*), count(DISTINCT (token, number)) FROM trades")
    assert count == distinct > 0


def test_what_is_imported_is_exported_again(
    database: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files as by way of a directory."""
    monkeypatch.chdir(tmp_path)
    rows = [f"id-{n},PEPE,{n % 91 + 1}.0{n % 7},0.5,buy,{1_700_000_000_000 + n * 700}" for n in range(3_000)]
    Path("trades.csv").write_text("\n".join(["id,symbol,price,amount,side,timestamp", *rows]) + "\n")
    assert run("import", "trades.csv", "--data", "kept") == 0
    for what in ("bars", "trades"):
        assert run("export", "--data", "kept", "--what", what, "-o", f"{what}-file.csv") == 0
    for name, value in environment_of(database).items():
        monkeypatch.setenv(name, value)
    assert run("export", "-o", "none.csv") == 2
    assert "there is no history in tokenwire@127.0.0.1" in capsys.readouterr().err
    assert run("import", "trades.csv") == 0
    assert run("import", "trades.csv") == 0
    assert "0 trades imported, 3000 were there already, 0 rejected" in capsys.readouterr().out
    for what in ("bars", "trades"):
        assert run("export", "--what", what, "-o", f"{what}-database.csv") == 0
        assert Path(f"{what}-database.csv").read_text() == Path(f"{what}-file.csv").read_text()
    assert run("export", "--symbol", "pepe", "--interval", "1m", "-o", "one.csv") == 0
    assert run("export", "--symbol", "nobody", "-o", "one.csv") == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run("export", "-o", "one.csv") == 2
    assert "name what to export: --data DIR, or TIMESCALE_HOST" in capsys.readouterr().err
    assert run("import", "trades.csv") == 2
    assert "name where to import to: --data DIR, or TIMESCALE_HOST" in capsys.readouterr().err


def test_what_is_collected_goes_there_too(
    database: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(database).items():
        monkeypatch.setenv(name, value)
    assert run("collect", "--source", "simulator", "--duration", "1", "--log-level", "error") == 0
    said = capsys.readouterr()
    ((count,),) = query(database, "SELECT count(*) FROM trades")
    found = re.search(r"(\d+) trades of \d+ tokens in PostgreSQL, ", said.out)
    assert found is not None
    assert int(found[1]) == count > 0
    assert list(tmp_path.iterdir()) == []
