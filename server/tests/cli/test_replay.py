"""``tokenwire-server replay``: what it sums up, against counts that were made elsewhere, and what it stores."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.feeding import attach, build_pipeline
from tokenwire_server.history.service import DataDirectory
from tokenwire_server.replay_command import ReplaySummary, print_replay, replay, tape_at
from tokenwire_server.settings import Settings
from tokenwire_server.simulate_command import SimulateRequest, simulate
from tokenwire_server.sources import tape as tape_module
from tokenwire_server.sources.tape import MAX_UNSTORED_ROWS
from tokenwire_server.sources.tape_file import read_tape

from .command import run

pytestmark = pytest.mark.usefixtures("own_folder")


def simulated(path: str, *arguments: str) -> list[dict[str, Any]]:
    """A tape, and the trades on it as they stand there."""
    assert run("simulate", "-o", path, "--seed", "9", "-q", *arguments) == 0
    return [trade for line in read_tape(path) for trade in json.loads(line.frame).get("trades", [])]


async def test_the_summary_is_what_the_tape_says(tmp_path: Path) -> None:
    """Against a fold of its own, which shares no code with the market."""
    path = str(tmp_path / "tape.zst")
    process = [sys.executable, "-m", "tokenwire_server", "simulate", "-o", path, "--seed", "9", "-q"]
    subprocess.run([*process, "--duration", "700", "--tokens", "12"], check=True, timeout=60, capture_output=True)
    trades = [trade for line in read_tape(path) for trade in json.loads(line.frame).get("trades", [])]
    last_ms = max(
        event.get("clock_ms", event.get("time_ms", 0)) for line in read_tape(path) if (event := json.loads(line.frame))
    )
    summary = await replay(tape_at(path, 0), Settings(), None, quiet=True)
    assert summary.trades == len(trades)
    assert summary.tokens == 12
    assert not summary.rejected
    expected: Counter[str] = Counter()
    for name, length_ms in (("1s", 1_000), ("1m", 60_000), ("5m", 300_000), ("15m", 900_000)):
        bars = {(trade["address"], trade["time_ms"] // length_ms) for trade in trades}
        closed = [begin for _, begin in bars if (begin + 1) * length_ms <= last_ms]
        if closed:
            expected[name] = len(closed)
    assert expected.keys() == {"1s", "1m", "5m"}
    # A bar of which every trade came late was never closed: it is among the corrections.
    for name, count in expected.items():
        assert summary.bars[name] == pytest.approx(count, rel=0.01)
    assert summary.tape_seconds == pytest.approx(700, abs=0.1)
    assert summary.peak_bytes > 10_000_000


def test_what_is_wrong_with_the_trades_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    trades = simulated("tape.gz", "--scenario", "bad-data", "--limit", "4000")
    bad = [trade for trade in trades if trade["trade_id"].startswith("bad-")]
    ahead = [trade for trade in bad if Decimal(trade["price"]) > Decimal("1e-40") and Decimal(trade["amount"]) < 10**38]
    lines = [f"{line.time_ms / 1000:.3f}: {line.frame}\n" for line in read_tape("tape.gz")]
    Path("twice.txt").write_text("".join([*lines, lines[-1]]))
    again = len(json.loads(lines[-1].partition(": ")[2])["trades"])
    assert run("replay", "twice.txt", "-q") == 0
    out = capsys.readouterr().out
    # Times are no reason to reject what was recorded.
    accepted = len(trades) - len(bad) + len(ahead)
    assert f"trades:       {accepted:,} in" in out
    assert f"rejected:     {len(bad) - len(ahead)} (" in out
    assert re.search(r"price_not_positive|price_out_of_bounds", out)
    assert 0 < int(re.search(r"duplicates:   (\d+)", out)[1]) <= again  # type: ignore[index]


@pytest.mark.tapes
async def test_a_captured_tape_is_replayed_too(tmp_path: Path) -> None:
    folder = os.environ.get("TOKENWIRE_TAPES")
    if not folder:
        pytest.skip("TOKENWIRE_TAPES names no folder of captured exchange frames")
    summary = await replay(
        tape_at(str(Path(folder) / "binance-futures-2021-07-22.txt"), 0), Settings(), None, quiet=True
    )
    assert summary.trades > 10
    assert summary.bars["1s"] > 10
    assert not summary.problem


def test_a_history_gets_all_of_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    """More than may wait for the disk at once."""
    trades = simulated("tape.zst", "--rate", "20000", "--limit", str(2 * MAX_UNSTORED_ROWS))
    capsys.readouterr()
    for expected, left_out in ((len(trades), False), (0, True)):
        assert run("replay", "tape.zst", "--data", "kept", "-q") == 0
        out, err = capsys.readouterr()
        assert f"trades:       {expected:,} in" in out
        assert ("were left out" in err) is left_out
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.csv") == 0
    assert capsys.readouterr().out == f"{len(trades)} trades in out.csv\n"


async def test_a_tape_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SimulateRequest(output=tmp_path / "tape", rate=50_000, limit=20_000, seed=1, quiet=True)
    await simulate(Settings(), request)
    monkeypatch.setattr(tape_module, "MAX_UNSTORED_ROWS", 1_000)
    kept = await DataDirectory.open(tmp_path / "kept")
    tape = tape_at(str(tmp_path / "tape"), 0)
    pipeline = build_pipeline(Settings(), kept)
    await attach(pipeline, [tape], kept)
    pipeline.add_source(tape)
    most = 0

    def look(*_: object) -> None:
        nonlocal most
        assert pipeline.recorder is not None
        most = max(most, pipeline.recorder.builder.rows)

    pipeline.trade_listeners.append(look)
    await tape.run(pipeline)
    await kept.close()
    assert pipeline.market.trades == 20_000
    assert 1_000 < most < 2_500, "trades and bars of one turn more"


def test_a_damaged_tape_is_replayed_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    simulated("tape.gz", "--limit", "30000", "--rate", "5000")
    whole = Path("tape.gz").read_bytes()
    Path("cut.gz").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert run("replay", "cut.gz", "-q") == 1
    out, err = capsys.readouterr()
    count = int(re.search(r"trades:       ([\d,]+) in", out)[1].replace(",", ""))  # type: ignore[index]
    assert 5_000 < count < 25_000
    assert re.fullmatch(r"tape cut\.gz: damaged gzip data after line \d+: it was cut off .*\n", err)


def test_ctrl_c_sums_up_what_was_played() -> None:
    simulated("tape.txt", "--duration", "60")
    command = [sys.executable, "-W", "error", "-m", "tokenwire_server", "replay", "tape.txt", "--speed", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert "tape:tape.txt (stopped)" in out
    played = int(re.search(r"trades:       ([\d,]+) in", out)[1].replace(",", ""))  # type: ignore[index]
    assert 300 <= played < 2_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.zst"], "tape gone.zst: No such file or directory; check the path"),
        (["folder"], "Is a directory"),
        (["empty"], "the file is empty"),
        (["prose"], "this is not a captured tape; lines look like"),
        (["cut.zst"], "damaged zstd data"),
        (["tape", "--speed", "fast"], "--speed cannot be 'fast': expected 1 (as recorded)"),
        (["tape", "--speed", "-1"], "--speed cannot be '-1'"),
        (["tape", "--speed", "nan"], "--speed cannot be 'nan'"),
        (["tape", "--data", "prose"], "the data directory prose can't be used"),
    ],
)
def test_a_mistake_is_one_line(arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    simulated("tape", "--limit", "10")
    Path("folder").mkdir()
    Path("empty").write_bytes(b"")
    Path("prose").write_bytes(b"It was a dark and stormy night.\n" * 3)
    Path("cut.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00")
    capsys.readouterr()
    assert run("replay", "-q", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err


def test_the_summary_tells_everything_that_is_odd(capsys: pytest.CaptureFixture[str]) -> None:
    print_replay(
        ReplaySummary(
            tape="tape:x", seconds=2.0, trades=1_000_000, values=3, tokens=4, bars=Counter({"1s": 5_000, "1m": 60}),
            corrected=7, duplicates=8, late=9, set_aside={"foreign_token": 10}, rejected={"bad_price": 11, "x": 12},
            doubts={"price_jump": 13}, gaps=14, missed=15, lost_trades=16, skipped_lines=17, peak_bytes=123_456_789,
            is_stopped=True, problem="tape x: damaged",
        )
    )  # fmt: skip
    out, err = capsys.readouterr()
    for words in (
        "tape:x (stopped)", "1,000,000 in 2.00 s: 500,000/s", "5,000 of 1s, 60 of 1m; 7 corrections",
        "23 (12 x, 11 bad_price)", "13 (13 price_jump)", "10 (10 foreign_token)", "14, 15 trades in them", "123.5 MB",
    ):  # fmt: skip
        assert words in out
    assert err.splitlines() == [
        "the history had 17 lines of this tape already: they were left out",
        "16 trades could not be stored",
        "tape x: damaged",
    ]


def test_compressions_are_known_by_content(capsys: pytest.CaptureFixture[str]) -> None:
    simulated("tape.txt", "--limit", "50")
    Path("odd.name").write_bytes(gzip.compress(Path("tape.txt").read_bytes()))
    assert run("replay", "odd.name", "-q") == 0
    assert "trades:       50 in" in capsys.readouterr().out
