"""Crashes at any point: what is stored and restored is what a market has that nothing ever happened to."""

import asyncio
import itertools
import os
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenwire_server.history.postgres_place import PostgresPlace
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.intervals import DEFAULT_INTERVALS, Interval
from tokenwire_server.market.trades import Side, Trade
from tokenwire_server.sources.tape import Tape

from ..market.test_bars import BEGIN_MS, PLANS, lives
from ..market.test_bars import Step as BarStep
from ..sources.conftest import RecordingSink
from .postgres_server import schema_of
from .world import END_MS, SOURCE, Life, Sent, Step, scratch, unbroken

SCHEMAS = itertools.count()
TOKENS = ("venue:X", "venue:Y", "venue:Z")


IS_PROOF = os.environ.get("TOKENWIRE_PROOF") == "full"


def _examples(most: int) -> int:
    return most if IS_PROOF else most // 3


def spread(steps: list[BarStep]) -> list[Step]:
    """The trades over several tokens, each with an id of its own, and the clock moves on after every one: it closes
    what was over when it came, with a restart in between or without."""
    clock_ms = 0
    listed: list[Step] = []
    for n, step in enumerate(steps):
        if not isinstance(step, int):
            address = TOKENS[n * n % 7 % 3]
            listed.append(Trade(address, f"id-{n}", step.price, step.amount, step.side, step.time_ms))
        clock_ms = max(clock_ms + 1, step if isinstance(step, int) else 0)
        listed.append(clock_ms)
    return listed


async def live(
    steps: list[Step],
    acts: list[tuple[int, str]],
    intervals: tuple[Interval, ...],
    history: int,
    place: Path | PostgresPlace,
) -> None:
    sent = Sent()
    life = await Life(place, sent, intervals, history).open()
    stored = 0
    for count, act in acts:
        life.feed(steps, min(life.at + count, len(steps)))
        match act:
            case "commit":
                await life.recorder.settled()
                stored = life.at
            case "crash":
                await life.crash()
                life = await Life(place, sent, intervals, history).open()
            case "end":
                stored = life.at
                await life.end()
                life = await Life(place, sent, intervals, history).open()
        if act != "commit":
            assert life.at == stored, "it goes on behind what is stored"
    life.feed(steps, len(steps))
    await life.recorder.settled()
    await compare(life, steps, intervals)
    assert set(sent.numbers.values()) == {step.trade_id for step in steps if isinstance(step, Trade)}
    await life.end()
    life = await Life(place, sent, intervals, history).open()
    await compare(life, steps, intervals)
    await life.end()


async def compare(life: Life, steps: list[Step], intervals: tuple[Interval, ...]) -> None:
    market, closed = unbroken(steps, intervals)
    stored: dict[tuple[str, str, int], Bar] = {}
    for token in market:
        address = token.address
        bars, expected = life.market.bars.get(address), market.bars.get(address)
        assert bars is not None
        assert expected is not None
        for index, interval in enumerate(intervals):
            assert bars.open_bar(index) == expected.open_bar(index)
            for bar in await life.history.bars(address, interval.ms, 0, END_MS, END_MS):
                if bar.open_ms + interval.ms <= bars.now_ms:
                    stored[address, interval.text, bar.open_ms] = bar
            since = bars.complete_since_ms(index)
            at_hand = bars.closed_bars(index, since, END_MS, END_MS)
            series = address, interval.text
            wanted = {key[2]: bar for key, bar in closed.items() if key[:2] == series}
            assert at_hand == [wanted[open_ms] for open_ms in sorted(wanted) if open_ms >= since]
        now = life.market.get(address)
        assert now is not None
        assert (now.price, now.source_time_ms) == (token.price, token.source_time_ms)
        trades = await life.history.trades(address, 0, END_MS)
        ids = [trade.trade_id for _, trade in trades]
        assert ids == [step.trade_id for step in steps if isinstance(step, Trade) and step.address == address]
        assert now.log is not None
        assert now.log.newest >= trades[-1].number
    assert stored == closed


@pytest.mark.proof
@given(
    lives(),
    st.lists(st.tuples(st.integers(0, 80), st.sampled_from(["commit", "crash", "crash", "end"])), max_size=10),
    st.sampled_from(PLANS),
    st.sampled_from([2, 5, 1_000]),
)
@settings(max_examples=_examples(120), deadline=None)
def test_crashes_and_repetitions_leave_no_trace(
    steps: list[BarStep], acts: list[tuple[int, str]], intervals: tuple[Interval, ...], history: int
) -> None:
    with scratch() as folder:
        asyncio.run(live(spread(steps), acts, intervals, history, folder))


@pytest.mark.proof
@given(
    lives(),
    st.lists(st.tuples(st.integers(0, 80), st.sampled_from(["commit", "crash", "crash", "end"])), max_size=6),
    st.sampled_from(PLANS),
    st.sampled_from([2, 5, 1_000]),
)
@settings(max_examples=_examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nor_do_they_in_postgres(
    database: PostgresPlace,
    steps: list[BarStep],
    acts: list[tuple[int, str]],
    intervals: tuple[Interval, ...],
    history: int,
) -> None:
    place = schema_of(database, f"history{next(SCHEMAS)}")
    asyncio.run(live(spread(steps), acts, intervals, history, place))


@given(lives(), st.integers(0, 240))
@settings(max_examples=30, deadline=None)
def test_volumes_go_on_as_if_nothing_had_been(steps: list[BarStep], cut: int) -> None:
    async def run(listed: list[Step], folder: Path) -> None:
        life = await Life(folder, Sent(), DEFAULT_INTERVALS, 1_000).open()
        life.feed(listed, min(cut, len(listed)))
        await life.end()
        life = await Life(folder, Sent(), DEFAULT_INTERVALS, 1_000).open()
        life.feed(listed, len(listed))
        clock = max(step if isinstance(step, int) else step.time_ms for step in listed)
        market, _ = unbroken(listed)
        for each in (market, life.market):
            each.advance(SOURCE, clock)
        assert [(token.address, token.volumes) for token in sorted(life.market, key=lambda t: t.address)] == [
            (token.address, token.volumes) for token in sorted(market, key=lambda t: t.address)
        ]
        for later_ms in (clock + 240_000, clock + 3_000_000, clock + 86_000_000, clock + 90_000_000):
            for each in (market, life.market):
                each.advance(SOURCE, later_ms)
            assert {t.address: t.volumes for t in life.market} == {t.address: t.volumes for t in market}
        await life.end()

    with scratch() as folder:
        asyncio.run(run(spread(steps), folder))


@given(lives(), st.lists(st.integers(1, 60), max_size=4))
@settings(max_examples=20, deadline=None)
def test_duckdb_finds_the_same_bars_in_the_stored_trades(steps: list[BarStep], cuts: list[int]) -> None:
    async def run(listed: list[Step], folder: Path) -> tuple[set[tuple[object, ...]], list[tuple[str, Trade]]]:
        life = await Life(folder, Sent(), DEFAULT_INTERVALS, 5).open()
        for count in cuts:
            life.feed(listed, min(life.at + count, len(listed)))
            await life.recorder.settled()
            life.feed(listed, min(life.at + 5, len(listed)))
            await life.crash()
            life = await Life(folder, Sent(), DEFAULT_INTERVALS, 5).open()
        life.feed(listed, len(listed))
        life.market.advance(SOURCE, 1 << 45)
        await life.recorder.settled()
        rows = set()
        trades = []
        for token in life.market:
            for bar in await life.history.bars(token.address, 60_000, 0, END_MS, END_MS):
                sums = (bar.volume, bar.turnover, bar.buy_volume, bar.trades)
                rows.add((token.address, bar.open_ms, bar.open, bar.high, bar.low, bar.close, *sums))
            trades += [(token.address, trade) for _, trade in await life.history.trades(token.address, 0, END_MS)]
        await life.end()
        return rows, trades

    with scratch() as folder:
        rows, trades = asyncio.run(run(spread(steps), folder))
    assert rows == by_duckdb(trades)


def by_duckdb(trades: list[tuple[str, Trade]]) -> set[tuple[object, ...]]:
    """Bars of a minute, folded by somebody else."""
    with duckdb.connect() as database:
        database.execute("CREATE TABLE t (n INT, a TEXT, p DECIMAL(19,6), q DECIMAL(19,6), buy BOOL, ms BIGINT)")
        for n, (address, trade) in enumerate(trades):
            row = [n, address, trade.price, trade.amount, trade.side is Side.BUY, trade.time_ms]
            database.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", row)
        found = database.execute(
            """
            SELECT a, ms // 60000 * 60000 AS open_ms, arg_min(p, (ms, n)), max(p), min(p), arg_max(p, (ms, n)),
                   sum(q), sum(p * q), coalesce(sum(q) FILTER (buy), 0), count(*)
            FROM t GROUP BY ALL
            """
        ).fetchall()
    return {tuple(Decimal(cell) if isinstance(cell, Decimal) else cell for cell in row) for row in found}


@pytest.mark.parametrize("reserved", [0, 3])
async def test_numbers_run_out_only_as_far_as_they_can_be_reserved(tmp_path: Path, reserved: int) -> None:
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 1_000).open()
    numbers = life.market.numbers
    numbers.reserved = numbers.given + reserved
    numbers.extend = lambda: False
    one = Decimal(1)
    steps: list[Step] = [Trade("venue:X", f"id-{n}", one, one, Side.BUY, BEGIN_MS + n) for n in range(9)]
    life.feed(steps, 9)
    await life.recorder.settled()
    assert len(await life.history.trades("venue:X", 0, 99)) == reserved
    assert life.market.unnumbered == 9 - reserved
    bars = life.market.bars.get("venue:X")
    assert bars is not None
    running = bars.open_bar(4)
    assert running is not None
    assert running.trades == 9, "prices and bars go on"
    await life.end()


@pytest.mark.tapes
@pytest.mark.skipif(not os.environ.get("TOKENWIRE_TAPES"), reason="TOKENWIRE_TAPES names no folder of captured frames")
async def test_a_captured_tape_in_pieces_is_what_duckdb_makes_of_it(tmp_path: Path) -> None:
    path = f"{os.environ['TOKENWIRE_TAPES']}/binance-futures-2021-07-22.txt"
    sink = RecordingSink()
    await Tape(path, speed=0).run(sink)
    steps: list[Step] = list(sink.all)
    life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 3).open()
    for cut in range(0, len(steps), len(steps) // 7):
        life.feed(steps, cut)
        await life.recorder.settled()
        life.feed(steps, cut + 5)
        await life.crash()
        life = await Life(tmp_path, Sent(), DEFAULT_INTERVALS, 3).open()
    life.feed(steps, len(steps))
    life.market.advance(SOURCE, 1 << 45)
    await life.recorder.settled()
    rows = set()
    for token in life.market:
        for bar in await life.history.bars(token.address, 60_000, 0, END_MS, END_MS):
            sums = (bar.volume, bar.turnover, bar.buy_volume, bar.trades)
            rows.add((token.address, bar.open_ms, bar.open, bar.high, bar.low, bar.close, *sums))
    await life.end()
    assert rows == by_duckdb([(trade.address, trade) for trade in sink.all])
    assert rows
