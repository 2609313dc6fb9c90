"""A server whose files may not grow any more, as on a full disk: it serves on, and says what is not stored."""

import contextlib
import os
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .test_kill import Server, post

LIMIT_BYTES = 400_000


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of another process's files")
def test_a_server_on_a_full_disk_answers_for_what_is_stored_and_serves_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = Server(data, "none")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))
    begin_ms = int(time.time() * 1000) - 600_000

    def batch(number: int) -> list[dict[str, Any]]:
        return [
            {"id": f"{number}-{n}", "symbol": "PEPE", "price": number + 1, "amount": 1, "side": "Buy",
             "timestamp": begin_ms + number * 10}
            for n in range(100)
        ]  # fmt: skip

    answered = 0
    while post(server, batch(answered)):
        answered += 1
        assert answered < 100, "the limit has no effect"
    assert answered > 0
    assert not post(server, batch(answered)), "not now either"
    ready = server.get("/ready")
    assert ready["ready"] is True
    assert ready["history"]["state"] == "failing"
    assert str(data) in ready["history"]["reason"]
    assert server.get("/api/v1/klines/PEPE?interval=1h")["data"][-1]["trades"] >= answered * 100
    with contextlib.closing(sqlite3.connect(f"file:{data}/history.sqlite3?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM trades").fetchone()[0] == answered * 100
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until = time.monotonic() + 20
    while not post(server, batch(answered)):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert server.get("/ready")["history"]["state"] == "ok"
    server.end()
    with contextlib.closing(sqlite3.connect(data / "history.sqlite3")) as database:
        found = database.execute("SELECT count(*), count(DISTINCT trade_id), max(number) FROM trades").fetchone()
    assert found == ((answered + 1) * 100,) * 3


def test_the_address_of_a_directory_that_is_a_file_is_a_mistake_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(AssertionError, match="can't be used"):
        Server(tmp_path / "data", "none")
    assert os.listdir(tmp_path) == ["data"]
