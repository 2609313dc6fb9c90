"""Indicators over a server whose REST side follows a script."""

import asyncio
from typing import Any

import pytest

from tokenwire import RestError, TokenClient

from ..live import quick
from .market_peer import MINUTE_0_MS, bar, minute_of, page, scripted, take, trading


def values(value: object, *, closed: bool = True) -> tuple[int, bytes]:
    return page({"closed": closed, "values": {"sma:2": value}})


async def test_being_cancelled_while_asking_loses_no_bar() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(path: str) -> Any:
        asked.set()
        await may_answer.wait()
        return values(1)

    script = trading(bar(1, 2), bar(2, 2))
    async with scripted(script, answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.indicators("DOGE", "1m", "sma:2")
        task = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
        async with asyncio.timeout(10):
            await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        may_answer.set()
        assert [minute_of(each.open_ms) for each in await take(stream, 2)] == [1, 2]


async def test_the_last_change_of_an_open_bar_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.indicator_stream._PAUSE_S", 0.3)
    count, is_asked = 0, asyncio.Event()

    def answer(path: str) -> Any:
        nonlocal count
        count += 1
        is_asked.set()
        return values(count, closed=False)

    script = trading(bar(1, 1, closed=False), is_asked.wait(), bar(1, 2, closed=False))
    async with scripted(script, answer) as url, TokenClient(url, config=quick()) as client:
        rows = await take(client.indicators("DOGE", "1m", "sma:2"), 2)
        assert [each.values for each in rows] == [{"sma:2": 1}, {"sma:2": 2}]


async def test_an_open_bar_that_closes_before_it_is_due_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.indicator_stream._PAUSE_S", 60)
    is_asked = asyncio.Event()

    def answer(path: str) -> Any:
        is_asked.set()
        return values(1)

    script = trading(bar(1, 1, closed=False), is_asked.wait(), bar(1, 2, closed=False), bar(1, 3), bar(2, 1))
    async with scripted(script, answer) as url, TokenClient(url, config=quick()) as client:
        rows = await take(client.indicators("DOGE", "1m", "sma:2"), 3)
        assert [minute_of(each.open_ms) for each in rows] == [1, 1, 2]


async def test_a_server_that_is_behind_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 0.001)
    behind, there = ({"X-Tokenwire-Until-Ms": str(MINUTE_0_MS + end)} for end in (119_999, 120_000))
    answers = [(*page(), behind), (*values(1, closed=False), behind), (*values(2), there)]
    script = trading(bar(1, 2))
    async with scripted(script, lambda path: answers.pop(0)) as url, TokenClient(url, config=quick()) as client:
        rows = await take(client.indicators("DOGE", "1m", "sma:2"), 1)
    assert [(each.values, each.closed) for each in rows] == [({"sma:2": 2}, True)]


async def test_an_indicator_that_does_not_exist_is_said_to_be_so() -> None:
    def answer(path: str) -> Any:
        return 422, b'{"detail":"no such indicator: nonsense"}'

    async with scripted(trading(bar(1, 2)), answer) as url, TokenClient(url, config=quick()) as client:
        with pytest.raises(RestError, match="no such indicator"):
            await take(client.indicators("DOGE", "1m", "nonsense"), 1)


async def test_values_that_are_none_are_left_out() -> None:
    answers = [values("x"), values([1]), page({"values": 5}), page(7), values(3)]
    script = trading(*[bar(minute, 2) for minute in range(5)])
    async with scripted(script, lambda path: answers.pop(0)) as url, TokenClient(url, config=quick()) as client:
        (row,) = await take(client.indicators("DOGE", "1m", "sma:2"), 1)
        assert (minute_of(row.open_ms), row.values) == (4, {"sma:2": 3})
