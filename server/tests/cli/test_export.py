"""``tokenwire-server export`` and ``import``: round trips, and what can't be read or written."""

import csv
import os
import re
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenwire_server.history.lock import DirectoryLock

from .command import run

pytestmark = pytest.mark.usefixtures("own_folder")

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
HEADER = ["id", "symbol", "price", "amount", "side", "timestamp"]


def write(path: str, rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER) -> str:
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def some_trades(count: int = 3_000) -> list[list[Any]]:
    """Of two symbols; every seventh comes late."""
    return [
        [f"id-{n}", ("PEPE", "DOGE")[n % 2], f"{n % 91 + 1}.0{n % 7}", f"0.{n % 13 + 1}", ("buy", "SELL")[n % 3 // 2],
         BEGIN_MS + n * 700 - (n % 7 == 0) * 600_000]
        for n in range(count)
    ]  # fmt: skip


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_imported_is_exported_again(capsys: pytest.CaptureFixture[str]) -> None:
    trades = some_trades()
    assert run("import", write("trades.csv", trades), "--data", "kept") == 0
    assert capsys.readouterr().out == "3000 trades imported, 0 were there already, 0 rejected\n"
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.csv") == 0
    assert capsys.readouterr().out == "3000 trades in out.csv\n"
    back = rows_of("out.csv")
    assert {(row["id"], row["symbol"], row["price"], row["amount"], row["side"].upper()) for row in back} == {
        (i, s, f"{Decimal(p).normalize():f}", f"{Decimal(a).normalize():f}", side.upper())
        for i, s, p, a, side, _ in trades
    }
    assert back[0]["address"] == "posted:PEPE"
    assert back[0]["timestamp"] == "2023-11-14T21:50:00Z"
    # Elsewhere, and again.
    assert run("import", "out.csv", "--data", "other") == 0
    assert run("import", "out.csv", "--data", "kept") == 0
    assert "0 trades imported, 3000 were there already" in capsys.readouterr().out
    for folder, name in (("kept", "a.csv"), ("other", "b.csv")):
        assert run("export", "--data", folder, "-o", name) == 0
    one, other = rows_of("a.csv"), rows_of("b.csv")
    assert [{**row, "revision": ""} for row in one] == [{**row, "revision": ""} for row in other]
    assert bars_by_duckdb(trades) == {
        (row["symbol"], row["open_time"], *(Decimal(row[name]) for name in ("open", "high", "low", "close")),
         Decimal(row["turnover"]), int(row["trades"]))
        for row in one
        if row["interval"] == "1m"
    }  # fmt: skip


def bars_by_duckdb(trades: list[list[Any]]) -> set[tuple[Any, ...]]:
    """Closed bars of a minute: those that end by the symbol's newest trade."""
    with duckdb.connect() as database:
        database.execute("CREATE TABLE t (n INT, s TEXT, p DECIMAL(19,6), q DECIMAL(19,6), ms BIGINT)")
        for n, (_, symbol, price, amount, _, ms) in enumerate(trades):
            database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", [n, symbol, price, amount, ms])
        return set(
            database.execute(
                """
                SELECT s, strftime(make_timestamp(ms // 60000 * 60000000), '%Y-%m-%dT%H:%M:%SZ'), arg_min(p, (ms, n)),
                       max(p), min(p), arg_max(p, (ms, n)), sum(p * q), count(*)
                FROM t JOIN (SELECT s, max(ms) AS last FROM t GROUP BY s) USING (s)
                WHERE ms // 60000 * 60000 + 60000 <= last GROUP BY s, ms // 60000
                """
            ).fetchall()
        )


def test_parquet_holds_numbers_and_times_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    run("import", write("trades.csv", some_trades(500)), "--data", "kept")
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.parquet", "--symbol", "pepe") == 0
    table = pq.read_table("out.parquet")
    assert table.num_rows == 250
    assert table.schema.field("price").type == pa.decimal128(38, 18)
    assert table.schema.field("timestamp").type == pa.timestamp("ms", tz="UTC")
    assert run("import", "out.parquet", "--data", "other") == 0
    assert "250 trades imported" in capsys.readouterr().out
    assert run("export", "--data", "kept", "--interval", "1m", "-o", "bars.parquet") == 0
    assert set(pq.read_table("bars.parquet")["interval"].to_pylist()) == {"1m"}
    assert run("export", "--data", "other", "--what", "trades", "-o", "again.csv") == 0
    assert run("export", "--data", "kept", "--what", "trades", "-o", "first.csv", "--symbol", "posted:PEPE") == 0
    assert [row["timestamp"] for row in rows_of("again.csv")] == [row["timestamp"] for row in rows_of("first.csv")]


def test_a_number_that_does_not_fit_is_named_and_may_be_text(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "0.00000000000000000000000012345"
    run("import", write("t.csv", [["1", "X", tiny, "1", "buy", BEGIN_MS]]), "--data", "kept")
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.parquet") == 2
    assert f"price {tiny} does not fit decimal128(38, 18); write numbers as text with --text" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["kept", "t.csv"], "nothing half-written"
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.parquet", "--text") == 0
    assert pq.read_table("out.parquet")["price"].to_pylist() == [tiny]


def test_a_range_of_time() -> None:
    run("import", write("t.csv", some_trades(200)), "--data", "kept")
    limits = ["--from", "2023-11-14T22:00:30Z", "--to", str((BEGIN_MS + 60_000) // 1000)]
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.csv", *limits) == 0
    assert {row["timestamp"][:16] for row in rows_of("out.csv")} == {"2023-11-14T22:00"}
    assert run("export", "--data", "kept", "--interval", "1s", "-o", "bars.csv", *limits) == 0
    assert len(rows_of("out.csv")) == 37
    assert min(row["open_time"] for row in rows_of("bars.csv")) >= "2023-11-14T22:00:30Z"
    assert max(row["open_time"] for row in rows_of("bars.csv")) <= "2023-11-14T22:01:00Z"


def test_rows_that_can_t_be_used_are_named_and_counted_and_the_others_are_stored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = ["ok", "X", "1.5", "2", "buy", BEGIN_MS]
    bad = [
        ["", "X", "1", "1", "buy", BEGIN_MS],
        ["1", "X", "NaN", "1", "buy", BEGIN_MS],
        ["2", "X", "-1", "1", "buy", BEGIN_MS],
        ["3", "X", "1e40", "1", "buy", BEGIN_MS],
        ["4", "X", "1", "0", "buy", BEGIN_MS],
        ["5", "X", "1", "1", "hold", BEGIN_MS],
        ["6", "X", "1", "1", "buy", "yesterday"],
        ["7", "X", "1", "1", "buy", "2023-11-14T22:00:00"],
        ["8", "X", "1", "1", "buy", BEGIN_MS * 10],
        ["9", "X", "1"],
        ["\x00", "X", "1", "1", "buy", BEGIN_MS],
    ]
    path = write("t.csv", [*bad, good, good])
    with Path(path).open("ab") as file:
        file.write(b'"\xff\xfe",X,1,1,buy,1700000000000\n"never closed,X,1,1,buy,1700000000000\n')
    assert run("import", path, "--data", "kept") == 1
    out, err = capsys.readouterr()
    assert out == f"1 trades imported, 1 were there already, {len(bad) + 2} rejected\n"
    lines = re.findall(r"^line (\d+): (.+)$", err, re.MULTILINE)
    assert [int(line) for line, _ in lines[: len(bad)]] == list(range(2, len(bad) + 2))
    assert lines[1][1] == "price: not_a_number: 'NaN'"
    assert "time zone" in lines[7][1]
    assert "3 cells where the header has 6" in lines[9][1]
    assert "not UTF-8" in lines[11][1]
    assert "rejected as time_invalid: 2" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"a,b,c\n1,2,3\n", "the column id is missing; a file of trades has id, symbol, price"),
        (b"id,symbol,price,amount,qty,side,timestamp\n", "the column amount is there twice"),
        (b"PAR1 but not really", "not a Parquet file"),
    ],
)
def test_a_file_that_is_no_table_of_trades(content: bytes, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_bytes(content)
    assert run("import", "t.csv", "--data", "kept") == 2
    assert words in capsys.readouterr().err
    assert run("import", "gone.csv", "--data", "new") == 2
    assert "gone.csv: No such file" in capsys.readouterr().err
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nothing"], "there is no history in nothing"),
        (["--data", "kept", "--symbol", "Y"], "no stored token has this address or symbol: Y"),
        (["--data", "kept", "--interval", "7m"], "no bars of 7m are stored; there are 1s"),
        (["--data", "kept", "--interval", "x"], "--interval: 'x' is no interval"),
        (["--data", "kept", "--what", "trades", "--interval", "1m"], "--interval is for bars only"),
        (["--data", "kept", "--what", "books"], "--what: 'books' is none of bars, trades"),
        (["--data", "kept", "--format", "xls"], "--format: 'xls' is none of csv, parquet"),
        (["--data", "kept", "--from", "noon"], "not 'noon'"),
        (["--data", "kept", "--from", "2024-01-01T00:00:00Z", "--to", "1700000000"], "--from is later than --to"),
        (["--data", "kept", "-o", "gone/out.csv"], "gone/out.csv can't be written: No such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", write("t.csv", [["1", "X", "1", "1", "buy", BEGIN_MS]]), "--data", "kept")
    capsys.readouterr()
    output = [] if "-o" in arguments else ["-o", "out.csv"]
    assert run("export", *arguments, *output) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err


def test_an_import_waits_for_no_server_and_an_export_needs_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    path = write("t.csv", some_trades(10))
    run("import", path, "--data", "kept")
    lock = DirectoryLock(Path("kept"))
    assert run("import", path, "--data", "kept") == 2
    assert f"in use by the process {os.getpid()}" in capsys.readouterr().err
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.csv") == 0
    lock.release()


def test_without_pyarrow_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("import", write("t.csv", some_trades(10)), "--data", "kept")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert run("export", "--data", "kept", "-o", "out.parquet") == 2
    assert "pip install 'tokenwire[parquet]'" in capsys.readouterr().err


def test_numbers_go_on_after_an_import() -> None:
    run("import", write("a.csv", some_trades(100)), "--data", "kept")
    run("import", write("b.csv", some_trades(200)), "--data", "kept")
    with sqlite3.connect("kept/history.sqlite3") as database:
        found = database.execute(
            "SELECT token, min(number), max(number), count(*) FROM trades GROUP BY token"
        ).fetchall()
    database.close()
    assert found == [(1, 1, 100, 100), (2, 1, 100, 100)]


def test_bars_that_ended_are_there_after_an_import() -> None:
    """Also of a token whose last trade is long before the newest of the file."""
    rows = [
        ["1", "EARLY", "2", "1", "Buy", BEGIN_MS],
        ["2", "EARLY", "3", "1", "Sell", BEGIN_MS + 999],
        ["1", "LATE", "5", "1", "Buy", BEGIN_MS + 90_000],
    ]
    run("import", write("trades.csv", rows), "--data", "kept")
    assert run("export", "--data", "kept", "--interval", "1m", "-o", "bars.csv") == 0
    (bar,) = rows_of("bars.csv")
    assert (bar["symbol"], bar["open"], bar["close"]) == ("EARLY", "2", "3")
