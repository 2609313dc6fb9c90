"""Trades, bars and tokens on the command line."""

import argparse
import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest_asyncio

from tokenwire import TokenClient, market_cli
from tokenwire_server.market.trades import Side
from tokenwire_server.market.trades import Trade as MarketTrade

from ..live import TIME_MS, ManualSource, quick, real_server
from ..shell.market_peer import take
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
    assert all(row["received_ms"] > 1_700_000_000_000 for row in rows)
    refused = await run("trades", "NOBODY", "--url", url)
    assert not refused.out, "no heading without a table"


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


async def test_following_trades_goes_on_after_those_that_were_listed(served: tuple[str, ManualSource]) -> None:
    url, source = served
    for _ in range(96):
        source.trade("DOGE", "1")
    source.trade("PEPE", "1")
    for symbols, after, count in ((["DOGE"], 10, 91), (["DOGE", "PEPE"], None, 2)):
        arguments = argparse.Namespace(symbols=symbols, limit=20, after=after, follow=True)
        async with aclosing(market_cli._trades(TokenClient(url, config=quick()), arguments)) as rows:
            found = await take(rows, 20)
            for _ in range(2):
                source.trade("DOGE", "1")
            found += await take(rows, count - 20 if after else count)
            numbers = [row.number for row in found if row.name == "DOGE"]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert numbers[0] == (11 if after else 83)
            assert all(row.missed == 0 for row in found)


async def test_following_bars_goes_on_after_those_that_were_listed() -> None:
    minute = TIME_MS // 60_000 * 60_000
    async with real_server() as (server, source):

        def trade(number: int) -> None:
            sink = source.sink
            assert sink is not None
            time_ms = minute + number * 60_000 + 1_000
            sink.clock(source.name, time_ms)
            made = MarketTrade("DOGE-address", f"m{number}", Decimal(number), Decimal(2), Side.BUY, time_ms)
            sink.trades(source.name, [made])

        for number in range(1, 6):
            trade(number)
        for begin, first in ((None, "3"), (str(minute + 120_000), "2")):
            chosen: dict[str, Any] = {"symbols": ["DOGE"], "limit": 3, "interval": "1m", "follow": True}
            arguments = argparse.Namespace(begin=begin, end=None, **chosen)
            async with aclosing(market_cli._klines(TokenClient(server.url, config=quick()), arguments)) as rows:
                found = await take(rows, 3 if begin is None else 4)
                assert found[0].closed
                assert [row.close for row in found] == [str(int(first) + n) for n in range(len(found))]


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
