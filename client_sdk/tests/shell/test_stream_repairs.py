"""What streams do about what they have missed."""

import asyncio

import pytest

from tokenwire import RestError, TokenClient
from tokenwire.channels import Trade
from tokenwire.streams import pause_s

from ..live import quick, real_server
from .market_peer import (
    DOGE,
    MINUTE_0_MS,
    bar,
    client_of,
    minute_of,
    nothing,
    numbers,
    page,
    row,
    scripted,
    take,
    trading,
)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 0.001)


async def test_a_number_of_a_former_life_of_the_server_keeps_nothing_back() -> None:
    async with real_server() as (server, source), client_of(server) as client:
        stream = client.trades("DOGE", after=4_711)
        while not stream.addresses:
            await asyncio.sleep(0.01)
        source.trade("DOGE", "1")
        source.trade("DOGE", "1")
        assert [(trade.number, trade.missed) for trade in await take(stream, 2)] == [(2, None), (3, 0)]


async def test_what_was_missed_with_the_session_comes_without_a_further_trade() -> None:
    answer = page(row(3), row(4), row(5))
    async with (
        scripted(trading(1, 2, "cut"), lambda path: answer) as url,
        TokenClient(url, config=quick()) as client,
    ):
        assert numbers(await take(client.trades("DOGE"), 5)) == [1, 2, 3, 4, 5]


async def test_numbers_that_the_server_never_gave_are_not_missed() -> None:
    answer = page(row(3), row(10_003), oldest=1, newest=10_004)
    async with (
        scripted(trading(1, 2, "cut", 10_004), lambda path: answer) as url,
        TokenClient(url, config=quick()) as client,
    ):
        trades = await take(client.trades("DOGE"), 5)
        assert numbers(trades) == [1, 2, 3, 10_003, 10_004]
        assert {trade.missed for trade in trades} == {0}


async def test_a_hole_that_shows_as_a_fetch_ends_is_fetched() -> None:
    def answer(path: str) -> tuple[int, bytes]:
        return page(row(int(path.split("after=")[1].split("&", maxsplit=1)[0]) + 1))

    async with scripted(trading(1, 3), answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.trades("DOGE")
        fetch, late = stream.page, [Trade("DOGE", DOGE, "DOGE", 5, "5", "1", "1", "Buy", 0, 0)]

        async def page_and_more(*arguments: object) -> object:
            found = await fetch(*arguments)  # type: ignore[arg-type]
            if late:  # comes between the last step of the fetch and word of its end
                asyncio.get_running_loop().call_soon(stream.item, late.pop())
            return found

        stream.page = page_and_more  # type: ignore[assignment]
        assert numbers(await take(stream, 5)) == [1, 2, 3, 4, 5]


async def test_a_server_that_gives_the_same_page_again_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    def answer(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return page(*map(row, range(1, 1_001)), nextCursor="on")

    async with scripted(trading(2_000, 2_005), answer) as url, TokenClient(url, config=quick()) as client:
        first, second = await take(client.trades("DOGE"), 2)
        assert (first.missed, second.missed) == (0, 4)
        assert len(asked) == 1


async def test_bars_wait_for_those_before_them_until_these_can_be_had() -> None:
    answers = [(503, b""), (429, b""), *[(500, b"")] * 5, page(bar(1, 2), bar(2, 1), bar(3, 1), bar(4, 1))]
    taken = asyncio.Event()
    script = trading(bar(1, 2), taken.wait(), "cut", bar(5, 2))
    async with scripted(script, lambda path: answers.pop(0)) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m")
        bars = await take(stream, 1)
        taken.set()
        bars += await take(stream, 4)
        assert [minute_of(each.open_ms) for each in bars] == [1, 2, 3, 4, 5]
        assert not any(each.missed for each in bars)


async def test_bars_that_the_server_refuses_are_owned_up_to() -> None:
    taken = asyncio.Event()
    script = trading(bar(1, 2), taken.wait(), "cut", bar(5, 2), bar(6, 1))
    async with scripted(script, nothing) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m")
        bars = await take(stream, 1)
        taken.set()
        bars += await take(stream, 2)
        assert [(minute_of(each.open_ms), each.missed) for each in bars] == [(1, False), (5, True), (6, False)]


async def test_history_that_the_server_refuses_is_owned_up_to() -> None:
    script = trading(bar(1, 2), bar(2, 1))
    async with scripted(script, nothing) as url, TokenClient(url, config=quick()) as client:
        assert [each.missed for each in await take(client.klines("DOGE", "1m", history=100), 2)] == [True, False]


def until(minute: float) -> dict[str, str]:
    """What a server says that knows so many minutes."""
    return {"X-Tokenwire-Until-Ms": f"{MINUTE_0_MS + minute * 60_000:.0f}"}


async def test_history_from_a_server_that_is_behind_is_asked_for_again() -> None:
    behind, there = (*page(bar(1, 1)), until(2.5)), (*page(bar(1, 1), bar(2, 1), bar(3, 1)), until(4))
    answers = [behind, behind, there]
    begun = asyncio.Event()

    async def answer(path: str) -> object:
        await begun.wait()
        return answers.pop(0)

    async with scripted(trading(bar(4, 1, closed=False)), answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m", history=100)
        while not any(line._first_ms for line in stream._lines.values()):
            await asyncio.sleep(0.01)
        begun.set()
        bars = await take(stream, 4)
        assert [(minute_of(each.open_ms), each.missed) for each in bars] == [(minute, False) for minute in (1, 2, 3, 4)]
        assert not answers


async def test_the_first_bar_after_a_fetch_shows_that_the_server_was_behind() -> None:
    is_fetched = asyncio.Event()
    answers = [(*page(bar(1, 1)), until(2.5)), (*page(bar(1, 1), bar(2, 1), bar(3, 1)), until(4.2))]
    script = trading(is_fetched.wait(), bar(4, 1, closed=False), bar(6, 1, closed=False))
    async with scripted(script, lambda path: answers.pop(0)) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m", history=100)
        bars = await take(stream, 1)
        is_fetched.set()
        bars += await take(stream, 4)
        assert [minute_of(each.open_ms) for each in bars] == [1, 2, 3, 4, 6]
        assert not answers


async def test_a_server_that_does_not_know_the_token_yet_is_asked_again() -> None:
    answers = [(404, b""), page(bar(1, 1), bar(2, 1))]
    async with (
        scripted(trading(bar(3, 1, closed=False)), lambda path: answers.pop(0)) as url,
        TokenClient(url, config=quick()) as client,
    ):
        bars = await take(client.klines("DOGE", "1m", history=100), 3)
        assert [(minute_of(each.open_ms), each.missed) for each in bars] == [(1, False), (2, False), (3, False)]


async def test_bars_that_the_server_keeps_no_more_are_owned_up_to() -> None:
    taken = asyncio.Event()
    script = trading(bar(1, 1), taken.wait(), "cut", bar(50, 1, closed=False))
    answer = (*page(bar(48, 1), bar(49, 1)), until(50))
    async with scripted(script, lambda path: answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m")
        bars = await take(stream, 1)
        taken.set()
        bars += await take(stream, 3)
    assert [(minute_of(each.open_ms), each.missed) for each in bars] == [
        (1, False), (48, True), (49, False), (50, False),
    ]  # fmt: skip


async def test_a_stream_that_is_closed_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 30.0)
    asked = 0

    def answer(path: str) -> tuple[int, bytes, dict[str, str]]:
        nonlocal asked
        asked += 1
        return (*page(), until(0))

    async with scripted(trading(bar(4, 1)), answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.indicators("DOGE", "1m", "sma:2")
        waiting = asyncio.create_task(anext(stream, None))  # type: ignore[arg-type]
        while not asked:
            await asyncio.sleep(0.01)
        await stream.aclose()
        assert await asyncio.wait_for(waiting, 5) is None
    assert asked == 1


async def test_pages_of_bars_that_lead_nowhere_are_not_asked_for_for_ever() -> None:
    taken = asyncio.Event()
    script = trading(bar(1, 2), taken.wait(), "cut", bar(5, 2))
    answer = page(bar(1, 2), nextCursor="round and round")
    async with scripted(script, lambda path: answer) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m")
        await take(stream, 1)
        taken.set()
        assert [(minute_of(each.open_ms), each.missed) for each in await take(stream, 1)] == [(5, True)]


async def test_the_open_bar_goes_on_after_a_restart_without_a_history() -> None:
    taken = asyncio.Event()
    forms = [bar(1, count, closed=False) for count in (500, 1)]
    script = trading(forms[0], taken.wait(), "cut", forms[1], lineages=("s-1", "s-2"))
    async with scripted(script, lambda path: page()) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m")
        await take(stream, 1)
        taken.set()
        assert [(each.trades, each.missed) for each in await take(stream, 1)] == [(1, True)]


async def test_a_stream_that_has_failed_does_not_try_on() -> None:
    script = trading(bar(1, 2), "cut")

    async with scripted(script, lambda path: (503, b"")) as url, TokenClient(url, config=quick()) as client:
        stream = client.klines("DOGE", "1m", history=5)
        while not stream.addresses:
            await asyncio.sleep(0.01)
        stream.failed(RestError("ANY", "reason", ""))
        (each,) = await take(stream, 1)
        assert each.missed
        with pytest.raises(RestError, match="ANY"):
            await take(stream, 1)


def test_pauses_grow_up_to_a_limit_and_the_server_may_ask_for_longer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire.streams._PAUSE_S", 0.5)
    assert [pause_s(attempt, None) for attempt in (1, 2, 3, 7, 1_000_000)] == [0.5, 1, 2, 30, 30]
    assert pause_s(1, 20_000) == 20
    assert pause_s(7, 20_000) == 30
    assert pause_s(1, 10**9) == 300
