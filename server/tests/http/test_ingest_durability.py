"""What was answered with 2xx is there after the process was killed, and once."""

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

KILLS = 2
WRITERS = 4
BATCH = 25


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    command = [sys.executable, "-m", "tokenwire_server", "--source", "none", "--data", str(folder), "--port", "0"]
    environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull, "TOKENWIRE_REST_RATE_LIMIT": "0"}
    running = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environment
    )
    assert running.stdout is not None
    try:
        line = (await asyncio.wait_for(running.stdout.readline(), 30)).decode()
        found = re.search(r"ws(://[^/]+)/", line)
        assert found is not None, line
        yield running, "http" + found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()


def trade(name: str) -> dict[str, Any]:
    return {"id": name, "symbol": "PEPE", "price": "1.5", "amount": 2, "side": "Buy", "timestamp": 1_774_089_000_000}


async def write(url: str, writer: int, begin: int, sent: set[str], answered: set[str]) -> None:
    """Post until the server is gone."""
    async with aiohttp.ClientSession(url) as session:
        for batch in range(1_000_000):
            names = [f"{begin}-{writer}-{batch}-{number}" for number in range(BATCH)]
            sent.update(names)
            try:
                reply = await session.post("/api/v1/trades", json=[trade(name) for name in names])
                assert reply.status == 200
                assert (await reply.json())["accepted"] == BATCH
            except aiohttp.ClientError:
                return
            answered.update(names)


async def all_trades(url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    query = "?after=0&limit=1000"
    async with aiohttp.ClientSession(url) as session:
        while query:
            page = await (await session.get(f"/api/v1/trades/PEPE{query}")).json()
            assert "data" in page, page
            rows += page["data"]
            query = f"?after=0&limit=1000&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    return rows


@pytest.mark.parametrize("seed", [1])
async def test_what_was_answered_survives_being_killed(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    sent: set[str] = set()
    answered: set[str] = set()
    numbers: dict[str, int] = {}
    for begin in range(KILLS):
        async with process(tmp_path / "data") as (running, url):
            writers = [asyncio.create_task(write(url, each, begin, sent, answered)) for each in range(WRITERS)]
            before = len(answered)
            while len(answered) == before and not all(each.done() for each in writers):
                await asyncio.sleep(0.01)
            await asyncio.sleep(moments.uniform(0.02, 0.3))
            running.send_signal(signal.SIGKILL)
            await asyncio.gather(*writers)
        async with process(tmp_path / "data") as (_, url):
            rows = await all_trades(url)
            names = [row["id"] for row in rows]
            assert len(names) == len(set(names)), "stored twice"
            assert answered <= set(names) <= sent
            for row in rows:  # a number once seen means the same trade for ever
                assert numbers.setdefault(row["id"], row["number"]) == row["number"]
            assert len(set(numbers.values())) == len(numbers)
            async with aiohttp.ClientSession(url) as session:
                again = sorted(sent)[:1_000]
                reply = await (await session.post("/api/v1/trades", json=[trade(name) for name in again])).json()
                assert reply["duplicates"] == len(set(again) & set(names))
                answered.update(again)
    assert len(answered) > KILLS * BATCH
