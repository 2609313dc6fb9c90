"""``tokenwire-server simulate``: as many trades as asked, the same with the same seed, wherever they go."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tokenwire_server.settings import Settings
from tokenwire_server.simulate_command import SimulateRequest, simulate
from tokenwire_server.sources.tape_file import read_tape

from .command import run, stored

pytestmark = pytest.mark.usefixtures("own_folder")


def trades_on(path: str) -> list[dict[str, Any]]:
    return [trade for line in read_tape(path) for trade in json.loads(line.frame).get("trades", [])]


def test_the_same_seed_makes_the_same_file() -> None:
    for name, seed in (("a.zst", "7"), ("b.zst", "7"), ("c.zst", "8")):
        assert run("simulate", "-o", name, "--seed", seed, "--duration", "20", "-q") == 0
    assert Path("a.zst").read_bytes() == Path("b.zst").read_bytes() != Path("c.zst").read_bytes()


@pytest.mark.parametrize(("tokens", "rate"), [(4, 20), (4, 2_000), (300, 170), (1_000, 3_000)])
def test_the_rate_is_as_asked(tokens: int, rate: int, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = max(60, 20_000 // rate)
    arguments = ["--tokens", str(tokens), "--rate", str(rate), "--duration", str(seconds)]
    assert run("simulate", "-o", "tape.gz", "--seed", "7", "-q", *arguments) == 0
    trades = trades_on("tape.gz")
    assert len(trades) / seconds == pytest.approx(rate, rel=0.06)
    assert len({trade["address"] for trade in trades}) == tokens
    told = re.match(r"([\d,]+) trades in tape\.gz, [\d.]+ .B: ([\d,]+)\.0 s of the market", capsys.readouterr().out)
    assert told is not None
    assert int(told[1].replace(",", "")) == len(trades)
    assert int(told[2].replace(",", "")) == seconds


@pytest.mark.parametrize("limit", [1, 299, 1_234])
def test_the_limit_is_exact(limit: int) -> None:
    assert run("simulate", "-o", "tape", "--limit", str(limit), "-q") == 0
    assert len(trades_on("tape")) == limit


def test_scenario_and_start_are_as_asked() -> None:
    arguments = ["--duration", "5", "--scenario", "Bad-Data", "--start", "2020-02-02T00:00:00Z", "-q"]
    assert run("simulate", "-o", "tape", *arguments) == 0
    trades = trades_on("tape")
    assert trades[0]["time_ms"] == 1_580_601_600_000
    assert any(trade["trade_id"].startswith("bad-") for trade in trades)


async def test_a_market_in_real_time_takes_its_time(tmp_path: Path) -> None:
    request = SimulateRequest(output=tmp_path / "tape", speed=10, duration_s=5, seed=1, quiet=True)
    summary = await simulate(Settings(), request)
    assert 0.45 < summary.seconds < 2
    assert summary.market_s == pytest.approx(5, abs=0.05)


def test_ctrl_c_ends_it_well() -> None:
    command = [sys.executable, "-W", "error", "-m", "tokenwire_server", "simulate", "-o", "tape.zst", "--speed", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(400):
        if Path("tape.zst.part").exists() and Path("tape.zst.part").stat().st_size > 1_000:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, "Traceback" in err) == (0, False), err
    assert out.startswith(f"{len(trades_on('tape.zst')):,} trades in tape.zst, ")


async def test_a_history_gets_more_with_every_run(tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        summary = await simulate(
            Settings(), SimulateRequest(data=tmp_path, duration_s=20, tokens=10, seed=3, quiet=True)
        )
        assert (summary.duplicates, summary.lost_trades, dict(summary.rejected)) == (0, 0, {})
        counts.append(summary.trades)
    found = stored(tmp_path)
    assert len(found) == sum(counts)
    assert len(set(found)) == len(found), "no id twice"


async def test_a_history_is_not_overrun(tmp_path: Path) -> None:
    summary = await simulate(Settings(), SimulateRequest(data=tmp_path, rate=100_000, limit=60_000, seed=3, quiet=True))
    assert (summary.trades, summary.lost_trades) == (60_000, 0)
    assert len(stored(tmp_path)) == 60_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say where the trades go"),
        (["-o", "tape", "--data", "kept", "--limit", "1"], "say where the trades go"),
        (["-o", "tape"], "as fast as possible has no end: say how much"),
        (["--url", "ftp://x"], "--url: 'ftp://x' is none"),
        (["-o", "tape", "--limit", "1", "--rate", "0"], "with 300 tokens the rate is 2 to"),
        (["-o", "tape", "--limit", "1", "--rate", "nan"], "the rate is 2 to"),
        (["-o", "tape", "--limit", "1", "--rate", "1e12"], "the rate is 2 to"),
        (["-o", "tape", "--limit", "1", "--scenario", "panic"], "--scenario: 'panic' is none of calm"),
        (["-o", "tape", "--limit", "1", "--start", "noon"], "--start"),
        (["-o", "tape", "--limit", "1", "--speed", "slow"], "--speed cannot be 'slow'"),
        (["-o", "tape", "--duration", "0"], "--duration cannot be '0'"),
        (["-o", "there", "--limit", "1"], "there is there already"),
        (["--data", "there", "--limit", "1"], "the data directory there can't be used"),
        (["--url", "http://127.0.0.1:9/", "--limit", "1"], "can't be reached"),
    ],
)
def test_a_mistake_is_one_line(arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").write_text("precious")
    assert run("simulate", "-q", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err
    assert Path("there").read_text() == "precious"
    assert not Path("tape").exists()
