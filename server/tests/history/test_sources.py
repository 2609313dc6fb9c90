"""Where sources go on: a tape behind its last line, the simulator with its tokens; nothing else passes for it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwire_server.market.retention import FOREVER, Retention, parse_duration_ms, parse_retention_bars
from tokenwire_server.ports import Resumable
from tokenwire_server.sources.simulation import Simulation
from tokenwire_server.sources.simulator import SKIPPED_IDS, Simulator
from tokenwire_server.sources.tape import Tape

from ..sources.conftest import RecordingSink, agg_trade, write_tape

DAY = 86_400_000


def tape(path: Path, frames: list[str] | None = None) -> Tape:
    listed = [agg_trade(n, price=str(n)) for n in range(1, 21)] if frames is None else frames
    return Tape(write_tape(path, listed), speed=0)


async def test_a_tape_goes_on_behind_any_line_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    frames = [agg_trade(n, price=str(n)) for n in (1, 2, 3, 7, 8, 9)]
    frames[4:4] = ["garbage", agg_trade(5, "ETHUSDT")]
    whole = RecordingSink()
    await tape(tmp_path / "a.tape", frames).run(whole)
    assert len(whole.offsets) == 8
    for cut, position in enumerate(whole.offsets, 1):
        source = tape(tmp_path / "a.tape", frames)
        assert isinstance(source, Resumable)
        source.resume([position])
        sink = RecordingSink()
        await source.run(sink)
        before = sum(frame != "garbage" for frame in frames[:cut])
        assert sink.all == whole.all[before:]
        assert sink.offsets == whole.offsets[cut:]
        assert sink.clocks[:1] == [whole.clocks[cut - 1]] or cut == len(frames)
        assert sum(sink.gaps.values()) == (3 if cut < 4 else 0), "a hole is told once"
        assert sum(sink.reasons.values()) == (1 if cut < 5 else 0)


@pytest.mark.parametrize("position", ["", "x", "5", "5 0123456789abcdef", "-5 {mark}", "\u0665 {mark}", " {mark}"])
async def test_a_position_of_another_tape_means_nothing(tmp_path: Path, position: str) -> None:
    sink = RecordingSink()
    source = tape(tmp_path / "a.tape")
    source.resume([position.format(mark=source._mark)])
    await source.run(sink)
    assert len(sink.all) == 20


async def test_two_tapes_are_told_apart_by_what_they_begin_with(tmp_path: Path) -> None:
    sink = RecordingSink()
    await tape(tmp_path / "a.tape").run(sink)
    other = tape(tmp_path / "b.tape", [agg_trade(n, price="7") for n in range(1, 31)])
    other.resume(sink.offsets[-1:])
    again = RecordingSink()
    await other.run(again)
    assert len(again.all) == 30


@given(st.permutations([3, 12, 7]))
def test_of_several_lines_of_a_tape_it_goes_on_behind_the_furthest(numbers: list[int]) -> None:
    with TemporaryDirectory() as folder:
        source = tape(Path(folder) / "a.tape")
    positions = [f"{number} {source._mark}" for number in numbers]
    source.resume(["", "99 0123456789abcdef", *positions, "nonsense"])
    assert source.skipped == 12


@given(st.permutations(["1 5000", "77 9000", "2 7", "nonsense"]))
def test_of_several_simulators_the_one_that_made_most_is_gone_on_from(positions: list[str]) -> None:
    simulator = Simulator(Simulation(1), reseed=Simulation)
    simulator.resume(positions)
    assert simulator._simulation.position == (77, 9_000 + SKIPPED_IDS)


def test_the_simulator_keeps_its_tokens_unless_a_seed_is_asked_for() -> None:
    kept = Simulator(Simulation(1), reseed=Simulation)
    kept.resume(["77 5000"])
    assert kept._simulation.tokens() == Simulation(77).tokens()
    asked = Simulator(Simulation(1))
    asked.resume(["77 5000"])
    assert asked._simulation.tokens() == Simulation(1).tokens()
    for simulator in (kept, asked):
        numbers = [int(trade.trade_id) for trade in simulator._simulation.step(1_700_000_000_000)]
        assert min(numbers) == 5_000 + SKIPPED_IDS + 1
    unknown = Simulator(Simulation(1), reseed=Simulation)
    unknown.resume(["nonsense"])
    assert unknown._simulation.tokens() == Simulation(1).tokens()


@pytest.mark.parametrize(
    ("text", "ms"), [("30d", 30 * DAY), ("1s", 1_000), ("90m", 5_400_000), ("52w", 364 * DAY), (FOREVER, None)]
)
def test_durations(text: str, ms: int | None) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5d", "1y", "99999999w", "36501d", "\u0663d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration|too long"):
        parse_duration_ms(text)


def test_retention_of_bars() -> None:
    assert parse_retention_bars("1s=7d;1m=52w") == {1_000: 7 * DAY, 60_000: 364 * DAY}
    assert parse_retention_bars("1s=forever, 5m=30d") == {300_000: 30 * DAY}
    assert parse_retention_bars("forever") == {}
    assert Retention().bars_ms == parse_retention_bars("1s=7d")
    for text, words in (
        ("1s", "no interval and its duration"),
        ("7x=1d", "is no interval"),
        ("1s=1x", "is no duration"),
        ("1s=6d", "7d at least"),
        ("60s=8d;1m=9d", "1m is named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_retention_bars(text)
