"""A real server, killed at any instant, several times: nothing is lost or doubled, no number means two trades."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tokenwire_server.history.postgres_place import PostgresPlace

from .postgres_server import PostgresServer, environment_of, query

LINES = 12_000
SYMBOLS = ("AAAUSDT", "BBBUSDT", "CCCUSDT")
FIRST_S = 1_700_000_000
TAPES_S = (3.0, 9.0, 27.0)
"""How long the tape takes: longer, where the machine is too slow to be killed often enough in a shorter one."""
KILLS = 3


Row = tuple[str, int, str, str, bool, int]
"""Symbol, id, price, amount, whether the buyer was the maker, event time in ms."""


class Server:
    """``tokenwire-server`` on a port of its own."""

    def __init__(self, data: Path | PostgresPlace, source: str) -> None:
        command = [sys.executable, "-m", "tokenwire_server", "--source", source]
        environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull, "TOKENWIRE_REST_RATE_LIMIT": "0"}
        if isinstance(data, PostgresPlace):
            environment |= environment_of(data)
        else:
            command += ["--data", str(data)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--drain", "0", "--log-level", "warning"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        said = ""
        while line := self.process.stdout.readline():
            said += line
            if found := re.search(r"ws://127\.0\.0\.1:(\d+)/api", line):
                self.port = int(found[1])
                self._drain = threading.Thread(target=self.process.stdout.read)
                self._drain.start()
                return
        self.process.wait(30)
        self.process.stdout.close()
        raise AssertionError(said)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return json.load(reply)

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self._wait() == 0

    def _wait(self) -> int:
        code = self.process.wait(30)
        self._drain.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def write_tape(path: Path, rng: random.Random, tape_s: float) -> list[Row]:
    """Trades of some hours, many of them late, received within ``tape_s``."""
    rows: list[Row] = []
    with path.open("w") as tape:
        event_ms = (FIRST_S - 3 * 3_600) * 1_000
        for n in range(LINES):
            event_ms += rng.randrange(800)
            late_ms = rng.choice([0, 0, 0, 0, rng.randrange(5_000), rng.randrange(4_000_000)])
            row = (
                rng.choice(SYMBOLS), n + 1, f"{rng.randrange(1, 10**6) / 1000:.3f}", f"{rng.randrange(1, 9_999)}e-2",
                rng.random() < 0.5, event_ms - late_ms,
            )  # fmt: skip
            symbol, number, price, amount, maker, time_ms = row
            amount = f"{Decimal(amount):f}"
            rows.append((symbol, number, price, amount, maker, time_ms))
            event = {"e": "aggTrade", "E": time_ms, "s": symbol, "a": number, "p": price, "q": amount}
            event |= {"f": number, "l": number, "T": time_ms, "m": maker}
            frame = json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": event})
            tape.write(f"{FIRST_S + n * tape_s / LINES:.6f}: {frame}\n")
    return rows


def stored_bars(data: Path, interval_ms: int) -> set[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(data / "history.sqlite3")) as database:
        return {
            (address, open_ms, *(Decimal(text) for text in prices), trades)
            for address, open_ms, *prices, trades in database.execute(
                "SELECT address, open_ms, open, high, low, close, volume, turnover, buy_volume, bars.trades FROM bars"
                " JOIN tokens ON tokens.id = bars.token WHERE interval_ms = ?",
                (interval_ms,),
            )
        }


def folded(rows: list[Row], intervals_ms: Iterable[int], folder: Path) -> dict[int, set[tuple[Any, ...]]]:
    """The bars of these trades by somebody else's hand."""
    (folder / "trades.csv").write_text("".join(f"{s},{n},{p},{q},{m},{ms}\n" for s, n, p, q, m, ms in rows))
    with duckdb.connect() as database:
        database.execute("CREATE TABLE t (s TEXT, n INT, p DECIMAL(19,6), q DECIMAL(19,6), m BOOL, ms BIGINT)")
        database.execute(f"COPY t FROM '{folder / 'trades.csv'}' (FORMAT csv)")
        return {
            interval_ms: set(
                database.execute(
                    f"""
                    SELECT 'binance:' || s, ms // {interval_ms} * {interval_ms} AS open_ms, arg_min(p, (ms, n)), max(p),
                           min(p), arg_max(p, (ms, n)), sum(q), sum(p * q), coalesce(sum(q) FILTER (NOT m), 0), count(*)
                    FROM t GROUP BY ALL
                    """
                ).fetchall()
            )
            for interval_ms in intervals_ms
        }


def look(server: Server, seen: dict[tuple[str, int], str], symbol: str) -> None:
    """Remember which trade each number is, as any client sees it, stored or not."""
    for row in server.get(f"/api/v1/trades/{symbol}?limit=1000")["data"]:
        key = row["address"], row["number"]
        assert seen.setdefault(key, row["id"]) == row["id"], f"{key} is another trade than before"


def play(tape: Path, data: Path, rng: random.Random) -> tuple[int, dict[tuple[str, int], str]]:
    """Play the tape to its end through kills; how many there were, and which trade each number is."""
    seen: dict[tuple[str, int], str] = {}
    kills = 0
    while True:
        server = Server(data, f"tape:{tape}")
        try:
            until = time.monotonic() + rng.uniform(0.05, 0.3 if kills < KILLS else 1.2)
            while time.monotonic() < until or kills == 5:
                look(server, seen, rng.choice(SYMBOLS))
                if server.get("/ready")["sources"] == {f"tape:{tape.name}": "ended"}:
                    break
            if server.get("/ready")["sources"] == {f"tape:{tape.name}": "ended"}:
                break
        finally:
            server.kill()
        kills += 1
    server = Server(data, f"tape:{tape}")
    for symbol in SYMBOLS:
        look(server, seen, symbol)
    server.end()
    return kills, seen


@pytest.mark.proof(only=True)
@pytest.mark.parametrize("seed", [1])
def test_a_tape_through_kills_gives_the_bars_of_the_tape(tmp_path: Path, seed: int) -> None:
    for tape_s in TAPES_S:
        rng = random.Random(seed)
        folder = tmp_path / f"{tape_s:.0f}"
        folder.mkdir()
        rows = write_tape(folder / "late.tape", rng, tape_s)
        data = folder / "data"
        kills, seen = play(folder / "late.tape", data, rng)
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert len(seen) > 3_000
    expected = folded(rows, (1_000, 60_000, 300_000, 3_600_000), tmp_path)
    for interval_ms, bars in expected.items():
        closed = {bar for bar in bars if bar[1] + interval_ms <= FIRST_S * 1_000}
        assert stored_bars(data, interval_ms) >= closed
    assert stored_bars(data, 1_000) == expected[1_000]
    with contextlib.closing(sqlite3.connect(data / "history.sqlite3")) as database:
        stored = database.execute("SELECT count(*), count(DISTINCT token || ':' || trade_id) FROM trades").fetchone()
    assert stored == (LINES, LINES)


@pytest.mark.proof(only=True)
def test_a_tape_through_kills_of_the_server_and_of_its_database_gives_the_bars_of_the_tape(
    tmp_path: Path, database: PostgresPlace, postgres: PostgresServer
) -> None:
    rng = random.Random(2)
    rows = write_tape(tmp_path / "late.tape", rng, TAPES_S[1])
    source = f"tape:{tmp_path / 'late.tape'}"
    seen: dict[tuple[str, int], str] = {}
    kills = 0

    def is_stored(server: Server) -> bool:
        ready = server.get("/ready")
        waiting = query(database, "SELECT sum(trades) FROM bars WHERE interval_ms = 1000")[0][0]
        return ready["sources"] == {"tape:late.tape": "ended"} and waiting == LINES

    while True:
        server = Server(database, source)
        try:
            until = time.monotonic() + rng.uniform(0.05, 0.3 if kills < 3 else 1.2)
            if kills in (1, 4):
                time.sleep(rng.uniform(0.05, 0.3))
                postgres.kill(rng.choice([signal.SIGKILL, signal.SIGQUIT]))
                time.sleep(rng.uniform(0, 0.3))
                postgres.start()
            while time.monotonic() < until or kills == 5:
                with contextlib.suppress(urllib.error.HTTPError):  # the database is starting
                    look(server, seen, rng.choice(SYMBOLS))
                if is_stored(server):
                    break
            if is_stored(server):
                break
        finally:
            server.kill()
        kills += 1
    server = Server(database, source)
    for symbol in SYMBOLS:
        look(server, seen, symbol)
    server.end()
    assert kills >= 3
    assert len(seen) > 3_000
    for interval_ms, bars in folded(rows, (1_000, 60_000, 300_000, 3_600_000), tmp_path).items():
        found = {
            tuple(row)
            for row in query(
                database,
                "SELECT address, (extract(epoch FROM open_time) * 1000)::bigint, open, high, low, close, volume,"
                " turnover, buy_volume, bars.trades FROM bars JOIN tokens ON tokens.id = bars.token"
                f" WHERE interval_ms = {interval_ms}",
            )
        }
        assert found >= {bar for bar in bars if bar[1] + interval_ms <= FIRST_S * 1_000}
        assert interval_ms != 1_000 or found == bars
    stored = query(database, "SELECT count(*), count(DISTINCT (token, trade_id)) FROM trades")
    assert stored == [(LINES, LINES)]


def post(server: Server, trades: list[dict[str, Any]]) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", "/api/v1/trades", json.dumps(trades), {"content-type": "application/json"})
        reply = connection.getresponse()
        body = json.load(reply)
        assert reply.status in (200, 503), body
        return reply.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def posting(server: Server, batches: list[list[dict[str, Any]]], answered: set[int]) -> Iterator[None]:
    """Several clients that post until they are cut off."""
    threads = []

    def run(first: int) -> None:
        for n in range(first, len(batches), 3):
            if n not in answered and not post(server, batches[n]):
                return
            answered.add(n)

    for first in range(3):
        threads.append(threading.Thread(target=run, args=(first,)))
        threads[-1].start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def test_what_was_answered_with_200_survives_a_kill_and_repeating_the_rest_doubles_nothing(tmp_path: Path) -> None:
    rng = random.Random(3)
    begin_ms = int(time.time() * 1000) - 600_000
    trades = [
        {
            "id": f"t{n}", "symbol": rng.choice(["PEPE", "DOGE"]), "price": str(rng.randrange(1, 1_000)),
            "amount": "1.5", "side": "buy", "timestamp": begin_ms + n * 10,
        }
        for n in range(3_000)
    ]  # fmt: skip
    batches = [trades[at : at + 10] for at in range(0, len(trades), 10)]
    answered: set[int] = set()
    data = tmp_path / "data"
    seen: dict[tuple[str, int], str] = {}
    for _ in range(5):
        server = Server(data, "none")
        with posting(server, batches, answered):
            time.sleep(rng.uniform(0.05, 0.4))
            with contextlib.suppress(OSError):  # nobody has posted yet
                look(server, seen, "PEPE")
            server.kill()
        with contextlib.closing(sqlite3.connect(data / "history.sqlite3")) as database:
            stored = {trade_id for (trade_id,) in database.execute("SELECT trade_id FROM trades")}
        assert {trade["id"] for n in answered for trade in batches[n]} <= stored
    assert answered
    server = Server(data, "none")
    assert all(post(server, batch) for batch in batches), "those that were answered too"
    look(server, seen, "PEPE")
    look(server, seen, "DOGE")
    bars = {
        symbol: server.get(f"/api/v1/klines/{symbol}?interval=1h&limit=1000")["data"] for symbol in ("PEPE", "DOGE")
    }
    server.end()
    with contextlib.closing(sqlite3.connect(data / "history.sqlite3")) as database:
        ids = [trade_id for (trade_id,) in database.execute("SELECT trade_id FROM trades")]
    assert sorted(ids) == sorted(trade["id"] for trade in trades)
    for symbol, rows in bars.items():
        own = [trade for trade in trades if trade["symbol"] == symbol]
        assert sum(row["trades"] for row in rows) == len(own)
        assert sum(Decimal(row["turnover"]) for row in rows) == sum(Decimal(trade["price"]) for trade in own) * Decimal(
            "1.5"
        )
