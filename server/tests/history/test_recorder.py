"""The recorder over a store that fails, is full, or is slow: what is told to whom, what is bounded, what heals."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tokenwire_server.errors import UserError
from tokenwire_server.history.lock import DirectoryLock
from tokenwire_server.history.port import HistoryError
from tokenwire_server.history.recorder import HistoryState
from tokenwire_server.history.reservation import FILE_NAME, FileReservation
from tokenwire_server.market.intervals import DEFAULT_INTERVALS
from tokenwire_server.market.trade_pages import TradeRequest
from tokenwire_server.market.trades import Side, Trade

from .world import END_MS, Life, Sent, Step, unbroken

NUMBERS_AHEAD = FileReservation.ahead
BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
X = "venue:X"


def steps(count: int, step_ms: int = 100) -> list[Step]:
    return [
        Trade(X, f"id-{n}", Decimal(n % 7 + 1), Decimal(2), Side.BUY if n % 3 else Side.SELL, BEGIN_MS + n * step_ms)
        for n in range(count)
    ]


def fill_up(life: Life, free_pages: int = 0) -> None:
    """As a full disk: no further page may be had."""
    (pages,) = life.history._writing.execute("PRAGMA page_count").fetchone()
    life.history._writing.execute(f"PRAGMA max_page_count = {pages + free_pages}")


def make_room(life: Life) -> None:
    life.history._writing.execute("PRAGMA max_page_count = 1000000")


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Life]:
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 1_000).open()
    yield life
    await life.end()


async def test_many_who_wait_share_a_commit(life: Life) -> None:
    waiting = []
    held = threading.Event()
    life.history._writer.submit(held.wait)
    for n in range(1, 101):
        life.feed(steps(100), n)
        waiting.append(asyncio.ensure_future(life.recorder.settled()))
        if n % 10 == 0:
            await asyncio.sleep(0)
    held.set()
    await asyncio.gather(*waiting)
    assert life.recorder.commits <= 2, "the one that was under way, and one for all who came meanwhile"
    assert len(await life.history.trades(X, 0, 1_000)) == 100
    await life.recorder.settled()
    assert life.recorder.commits <= 2, "nothing is left to store"


async def test_while_the_disk_is_full_nobody_is_told_that_it_is_stored(life: Life) -> None:
    fill_up(life)
    life.feed(steps(3_000), 3_000)
    both = [asyncio.ensure_future(life.recorder.settled()) for _ in range(2)]
    for waiting in both:
        with pytest.raises(HistoryError, match="full; free some space"):
            await waiting
    assert life.recorder.status.state is HistoryState.FAILING
    assert "free some space" in life.recorder.status.reason
    with pytest.raises(HistoryError):
        await life.recorder.settled()
    with pytest.raises(HistoryError):
        await life.recorder.known_ids(X, ["id-1"])
    make_room(life)
    life.recorder._wake.set()
    await until(life, HistoryState.OK)
    assert len(await life.history.trades(X, 0, 10_000)) == 3_000
    assert await life.recorder.known_ids(X, ["id-1", "id-3000"]) == {"id-1"}
    assert (life.recorder.builder.given_up_trades, life.recorder.failures >= 1) == (0, True)


async def test_what_comes_while_a_batch_is_being_stored_is_no_part_of_it(tmp_path: Path) -> None:
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 1_000).open()
    listed = [*steps(100), *steps(100)]
    listed[100:] = [msgspec.structs.replace(each, trade_id=f"late-{n}") for n, each in enumerate(steps(100))]
    held = threading.Event()
    life.history._writer.submit(held.wait)
    life.feed(listed, 100)
    waiting = asyncio.ensure_future(life.recorder.settled())
    while not life.recorder._stuck:
        await asyncio.sleep(0)
    life.feed(listed, 200)
    held.set()
    await waiting
    await life.crash()
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 1_000).open()
    assert life.at == 100
    assert sum(bar.trades for bar in await life.history.bars(X, 1_000, 0, END_MS, END_MS)) == 100
    life.feed(listed, 200)
    await life.recorder.settled()
    assert sum(bar.trades for bar in await life.history.bars(X, 1_000, 0, END_MS, END_MS)) == 200
    await life.end()


async def test_whoever_joined_while_the_store_was_failing_is_not_given_up(tmp_path: Path) -> None:
    listed = steps(20_000)
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 10_000).open(most_rows=5_000)
    fill_up(life)
    held = threading.Event()
    life.history._writer.submit(held.wait)
    life.feed(listed, 1_000)
    both = [asyncio.ensure_future(life.recorder.settled())]
    while not life.recorder._stuck:
        await asyncio.sleep(0)
    life.feed(listed, 1_500)
    both.append(asyncio.ensure_future(life.recorder.settled()))
    await asyncio.sleep(0)
    held.set()
    for waiting in both:
        with pytest.raises(HistoryError):
            await waiting
    life.feed(listed, 20_000)
    assert life.recorder.builder.given_up_trades > 0
    make_room(life)
    await until(life, HistoryState.OK)
    stored = [number for number, _ in await life.history.trades(X, 0, END_MS)]
    assert stored[:1_500] == list(range(1, 1_501))
    await life.end()


async def until(life: Life, state: HistoryState) -> None:
    async with asyncio.timeout(20):
        while life.recorder.status.state is not state:
            life.recorder._wake.set()
            await asyncio.sleep(0.01)


async def test_too_much_that_waits_is_given_up_but_its_bars_are_not(tmp_path: Path) -> None:
    listed = steps(60_000)
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 10_000).open(most_rows=5_000)
    fill_up(life)
    life.feed(listed, 1_000)
    with pytest.raises(HistoryError):
        await life.recorder.settled()
    life.feed(listed, 60_000)
    assert life.recorder.builder.is_overfull
    assert life.recorder.builder.given_up_trades > 50_000
    make_room(life)
    await until(life, HistoryState.OK)
    await life.recorder.settled()
    _, closed = unbroken(listed)
    for interval in DEFAULT_INTERVALS:
        wanted = [bar for (_, text, _), bar in sorted(closed.items()) if text == interval.text]
        found = await life.history.bars(X, interval.ms, 0, END_MS, END_MS)
        assert found[: len(wanted)] == wanted
    stored = [number for number, _ in await life.history.trades(X, 0, END_MS)]
    assert stored[:1_000] == list(range(1, 1_001)), "somebody was waiting for these"
    assert len(stored) + life.recorder.builder.given_up_trades == 60_000
    assert life.recorder.builder.given_up_bars == 0
    await life.end()


async def test_bars_that_are_no_longer_at_hand_when_there_is_room_again_are_counted(tmp_path: Path) -> None:
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 10).open(most_rows=5_000)
    fill_up(life)
    life.feed(steps(10_000, 1_000), 1_000)
    with pytest.raises(HistoryError):
        await life.recorder.settled()
    life.feed(steps(10_000, 1_000), 10_000)
    make_room(life)
    await until(life, HistoryState.OK)
    await life.recorder.settled()
    assert life.recorder.builder.given_up_bars == 3, "those of 1s, 1m and 5m"
    await life.end()


async def test_what_could_not_be_stored_by_the_end_is_counted_and_its_numbers_are_skipped(tmp_path: Path) -> None:
    sent = Sent()
    life = await Life(tmp_path, sent, DEFAULT_INTERVALS, 1_000).open()
    life.feed(steps(10), 10)
    await life.recorder.settled()
    fill_up(life)
    life.feed(steps(3_000), 3_000)
    ending = asyncio.ensure_future(life.end())
    await asyncio.wait([ending], timeout=20)
    await ending
    assert life.recorder.lost_trades == 2_990
    life = await Life(tmp_path, sent, DEFAULT_INTERVALS, 1_000).open()
    assert life.at == 10, "the source goes on where everything is stored"
    life.feed(steps(3_000), 3_000)
    await life.recorder.settled()
    assert len(await life.history.trades(X, 0, END_MS)) == 3_000
    await life.end()


async def test_numbers_are_on_disk_before_they_are_given(tmp_path: Path, life: Life) -> None:
    count = 3 * NUMBERS_AHEAD
    reserved = []
    life.recorder.builder.traded = (
        lambda *_: reserved.append(  # type: ignore[method-assign]
            int.from_bytes((tmp_path / FILE_NAME).read_bytes()[:8], "big")
        )
    )
    life.feed(steps(count, 1), count)
    assert len(reserved) == count
    assert all(bound > number for number, bound in enumerate(reserved))
    assert life.market.unnumbered == 0


async def test_without_a_disk_trades_get_no_more_numbers_and_prices_go_on(life: Life) -> None:
    os.close(life.reservation._file)
    life.reservation._file = os.open(os.devnull, os.O_RDONLY)
    life.feed(steps(NUMBERS_AHEAD + 50, 1), NUMBERS_AHEAD + 50)
    assert life.market.unnumbered == 50
    token = life.market.get(X)
    assert token is not None
    assert token.log is not None
    assert token.log.newest == NUMBERS_AHEAD
    assert token.source_time_ms == BEGIN_MS + NUMBERS_AHEAD + 49
    await life.recorder.settled()
    assert life.recorder.status[:2] == (HistoryState.FAILING, "no more trades can be numbered: Bad file descriptor")
    assert await life.history.oldest(X) == 1, "what has a number is stored"


def test_a_damaged_reservation_is_none(tmp_path: Path) -> None:
    reservation = FileReservation(tmp_path)
    assert reservation.upto is None
    reservation.reserve_now(1 << 40)
    reservation.reserve_now(5)
    reservation.close()
    again = FileReservation(tmp_path)
    assert again.upto == 1 << 40
    again.close()
    content = bytearray((tmp_path / FILE_NAME).read_bytes())
    content[3] ^= 1
    (tmp_path / FILE_NAME).write_bytes(content)
    damaged = FileReservation(tmp_path)
    assert damaged.upto is None
    damaged.close()


def test_a_directory_has_one_server_at_a_time(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "data")
    with pytest.raises(UserError, match=rf"in use by the process {os.getpid()}; stop it, or choose another"):
        DirectoryLock(tmp_path / "data")
    lock.release()
    DirectoryLock(tmp_path / "data").release()


def test_a_directory_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/data can't be used: Not a directory; choose another with --data"):
        DirectoryLock(tmp_path / "file" / "data")


async def test_a_slow_disk_is_said_and_holds_up_nobody(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwire_server.history.recorder.BEHIND_AFTER_S", 0.05)
    held = threading.Event()
    life.history._writer.submit(held.wait)
    life.feed(steps(10), 10)
    waiting = asyncio.ensure_future(life.recorder.settled())
    await asyncio.sleep(0.1)
    assert life.recorder.status.state is HistoryState.BEHIND
    held.set()
    await waiting
    assert life.recorder.status.state is HistoryState.OK


async def test_reads_of_what_waits_see_it_stored(life: Life) -> None:
    life.feed(steps(2_500), 2_500)
    token = life.market.get(X)
    assert token is not None
    assert token.log is not None
    assert token.log.oldest == 1_501
    page = await life.pages.trade_page(X, token.log, TradeRequest(after=1_400, limit=200))
    assert [number for number, _ in page.trades] == list(range(1_401, 1_601))
    assert (page.oldest, page.newest) == (1, 2_500)
    page = await life.pages.trade_page(X, token.log, TradeRequest(limit=1_000))
    assert [number for number, _ in page.trades] == list(range(1_501, 2_501))
    page = await life.pages.trade_page(X, token.log, TradeRequest(before=1_600, limit=200))
    assert [number for number, _ in page.trades] == list(range(1_400, 1_600))
    page = await life.pages.trade_page(X, token.log, TradeRequest(after=10, before=15, limit=200))
    assert [number for number, _ in page.trades] == [11, 12, 13, 14]
