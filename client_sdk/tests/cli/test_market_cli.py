"""Trades, bars and tokens on the command line."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator

import pytest_asyncio

from ..live import ManualSource, real_server
from .test_cli import COMMAND, run


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple[str, ManualSource]]:
    async with real_server() as (server, source):
        for price in (2, 3, 5):
            source.trade("DOGE", str(price))
        yield server.url, source


async def test_bars(served: tuple[str, ManualSource]) -> None:
    url, _ = served
    text = await run("klines", "DOGE", "--url", url)
    heading, line = text.out.splitlines()
    assert heading.split()[:3] == ["TOKEN", "BEGINS", "OPEN"]
    assert line.split() == ["DOGE", "2023-11-14T22:13:00Z", "1", "5", "1", "5", "4", "(open)"]
    (row,) = (await run("klines", "DOGE", "--url", url, "--json", "--interval", "1h")).lines
    assert (row["interval"], row["close"], row["closed"]) == ("1h", "5", False)


async def test_trades(served: tuple[str, ManualSource]) -> None:
    url, _ = served
    text = await run("trades", "DOGE", "--url", url, "--after", "2")
    assert [line.split()[2:5] for line in text.out.splitlines()[1:]] == [["3", "Buy", "3"], ["4", "Buy", "5"]]
    rows = (await run("trades", "DOGE", "PEPE", "--url", url, "--json", "--limit", "1")).lines
    assert [(row["name"], row["number"], row["price"]) for row in rows] == [("DOGE", 4, "5"), ("PEPE", 1, "1")]


async def test_tokens(served: tuple[str, ManualSource]) -> None:
    url, _ = served
    text = await run("tokens", "--url", url)
    assert text.out.splitlines()[1].split() == ["DOGE", "5", "11", "0", "DOGE-address"]
    rows = (await run("tokens", "--url", url, "--json", "--query", "pep")).lines
    assert [row["symbol"] for row in rows] == ["PEPE"]


async def test_following_goes_on_until_ctrl_c(served: tuple[str, ManualSource]) -> None:
    url, source = served
    arguments = [*COMMAND, "trades", "DOGE", "--url", url, "--limit", "0", "--follow", "--json"]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            reading = asyncio.create_task(process.stdout.readline())
            while not reading.done():
                source.trade("DOGE", "7")
                await asyncio.sleep(0.05)
            assert b'"price":"7"' in await reading
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 130
        assert b"Traceback" not in err
    finally:
        if process.returncode is None:
            process.kill()


async def test_what_is_wrong_is_said_in_a_line(served: tuple[str, ManualSource]) -> None:
    url, _ = served
    for arguments, says, status in (
        (["klines", "NOPE"], "no token has this address or symbol: NOPE", 1),
        (["klines", "DOGE", "--interval", "7x"], "7x", 1),
        (["trades", "DOGE", "--limit", "1001"], "more than 1000", 2),
        (["trades", "DOGE", "--after", "x"], "not a number", 2),
        (["tokens", "--sort", "nope"], "nope", 1),
        (["tokens", "--url", "ws://127.0.0.1:1"], "no answer over HTTP", 1),
    ):
        given = arguments if "--url" in arguments else [*arguments, "--url", url]
        result = await run(*given)
        assert result.status == status, result.err
        assert says in result.err
        assert result.out in ("", result.out.splitlines()[0] + "\n" if result.out else "")
