"""``tokenwire-server record``: what is on the tape however it ends, and mistakes in one line."""

import asyncio
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tokenwire_server import command_progress
from tokenwire_server.command_progress import Progress
from tokenwire_server.record_command import RecordRequest, record
from tokenwire_server.replay_command import replay, tape_at
from tokenwire_server.settings import Settings, load
from tokenwire_server.sources.tape_file import TapeError, read_tape

from ..sources.poller_service import ASYMMETRY, PAIRS, SYMMETRY, Reply, Service
from ..sources.venues.binance import BinanceVenue
from .command import run

pytestmark = pytest.mark.usefixtures("own_folder")


def start(*arguments: str, most_bytes: int | None = None) -> "subprocess.Popen[str]":
    def limit() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    command = [sys.executable, "-W", "error", "-m", "tokenwire_server", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit)  # noqa: PLW1509


def trades_on(path: str) -> tuple[list[str], str]:
    """Addresses and ids on a tape of the simulator, and why there are no more."""
    found: list[str] = []
    try:
        for line in read_tape(path):
            event = json.loads(line.frame)
            found += [f"{trade['address']} {trade['trade_id']}" for trade in event.get("trades", [])]
    except TapeError as error:
        return found, str(error)
    return found, ""


def until_it_grows(path: Path, least_bytes: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(400):
        if path.exists() and path.stat().st_size >= least_bytes:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def test_what_was_recorded_is_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record", "--source", "simulator", "--seed", "4", "--limit", "700", "-o", "tape.jsonl.zst", "-q") == 0
    assert capsys.readouterr().out.startswith("700 trades in tape.jsonl.zst (")
    found, problem = trades_on("tape.jsonl.zst")
    assert (len(set(found)), problem) == (700, "")
    assert run("replay", "tape.jsonl.zst", "-q", "--data", "kept") == 0
    assert "trades:       700 in " in capsys.readouterr().out
    assert run("export", "--data", "kept", "--what", "trades", "-o", "out.csv") == 0
    assert capsys.readouterr().out == "700 trades in out.csv\n"
    rows = Path("out.csv").read_text().splitlines()[1:]
    assert {" ".join((cells := row.split(","))[1:2] + cells[3:4]) for row in rows} == set(found)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_well(stop: signal.Signals) -> None:
    process = start("record", "--source", "simulator", "-o", "tape.gz")
    until_it_grows(Path("tape.gz.part"), 1_000, process)
    process.send_signal(stop)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    found, problem = trades_on("tape.gz")
    assert out.startswith(f"{len(found)} trades in tape.gz (")
    assert problem == ""
    assert not Path("tape.gz.part").exists()
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["tape.jsonl.zst", "tape.jsonl.gz"])
def test_a_killed_recording_can_be_replayed_up_to_its_last_flush(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    process = start("record", "--source", "simulator", "-o", name)
    try:
        until_it_grows(Path(f"{name}.part"), 8_000, process)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert not Path(name).exists()
    found, problem = trades_on(f"{name}.part")
    assert len(found) >= 300, "one of each token, at the opening"
    assert "was cut off" in problem
    assert run("replay", f"{name}.part", "-q") == 1
    out, err = capsys.readouterr()
    assert f"trades:       {len(found):,} in " in out
    assert "the lines before are good" in err
    assert run("record", "--source", "simulator", "-o", name) == 2
    assert f"{name}.part is there: a recording that runs, or was cut off" in capsys.readouterr().err


def test_a_full_disk_ends_it_with_one_line() -> None:
    process = start("record", "--source", "simulator", "-o", "tape.txt", "-q", most_bytes=40_000)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("tokenwire-server: cannot write tape.txt: File too large; ")
    assert err.count("\n") == 1


def test_nothing_came(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("record", "--source", "binance:BTCUSDT@ws://127.0.0.1:9", "--duration", "0.3", "-o", "tape.zst") == 1
    out, err = capsys.readouterr()
    assert out.startswith("nothing came in 0.")
    assert "reconnecting" in err
    assert os.listdir() == []


def test_a_tape_is_recorded_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A way to pack an old one."""
    assert run("simulate", "--duration", "1", "--seed", "1", "-o", "one.txt", "-q") == 0
    assert run("record", "--source", "tape:one.txt", "-o", "two.gz", "-q") == 0
    assert trades_on("one.txt") == trades_on("two.gz")
    assert Path("two.gz").stat().st_size < Path("one.txt").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "tape"], "record needs a source: --source"),
        (["--source", "none", "-o", "tape"], "record needs a source"),
        (["--source", "simulator"], "--output"),
        (["--source", "simulator", "-o", "there"], "there is there already"),
        (["--source", "simulator", "-o", "gone/tape"], "cannot write gone/tape: No such file or directory"),
        (["--source", "simulator", "-o", "there/tape"], "cannot write there/tape: Not a directory; check the path"),
        (["--source", "simulator", "-o", "folder"], "is there already"),
        (["--source", "simulator", "-o", "folder", "--force"], "folder is a directory"),
        (["--source", "simulator", "-o", "tape", "--duration", "-1"], "--duration cannot be '-1'"),
        (["--source", "simulator", "-o", "tape", "--duration", "nan"], "--duration cannot be 'nan'"),
        (["--source", "tape:gone", "-o", "tape"], "tape gone: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").write_text("precious")
    Path("folder").mkdir()
    assert run("record", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokenwire-server: ")
    assert err.count("\n") == 1
    assert words in err
    assert Path("there").read_text() == "precious"
    assert not Path("tape").exists()
    assert not Path("tape.part").exists()


@pytest.mark.parametrize("command", ["record", "replay", "collect", "simulate"])
def test_help_teaches_by_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.count(f"tokenwire-server {command} ") >= 3


async def test_progress_is_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_progress, "REFRESH_INTERVAL_S", 0.01)
    for terminal, quiet, seen in ((False, False, 1), (False, True, 0), (True, True, 0)):
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=terminal, width=100)
        times = iter(range(0, 1_000, 4))
        async with Progress(lambda: "12 of 30", quiet=quiet, console=console, monotonic=partial(next, times)):
            await asyncio.sleep(0.05)
        assert (shown.getvalue().count("12 of 30\n") >= seen) if seen else shown.getvalue() == ""


async def test_progress_is_one_changing_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_progress, "REFRESH_INTERVAL_S", 0.01)
    shown = io.StringIO()
    count = 0

    def describe() -> str:
        nonlocal count
        count += 1
        return f"[{count}] done"

    async with Progress(describe, console=Console(file=shown, force_terminal=True, width=100)):
        await asyncio.sleep(0.3)
    assert re.search(r"\[\d+\] done", shown.getvalue())
    assert shown.getvalue().count("\n") < 10
    assert count > 3


async def test_the_last_frame_is_on_the_tape(tmp_path: Path) -> None:
    """The reply to the subscription: nothing comes after it."""
    async with BinanceVenue() as venue:
        settings = load({"source": [f"binance:BTCUSDT@{venue.url}"]}, environ={})
        request = RecordRequest(output=tmp_path / "tape.gz", limit=1, duration_s=20, quiet=True)
        assert (await record(settings, request)).frames == 1
    assert next(reversed(list(read_tape(str(tmp_path / "tape.gz"))))).frame == '{"result":null,"id":1}'


async def test_what_is_polled_is_recorded_as_values(tmp_path: Path) -> None:
    dex = Service()
    dex.always["/latest/dex/tokens/"] = Reply(PAIRS)
    async with dex.running():
        source = f"dexscreener:{SYMMETRY},{ASYMMETRY}@{dex.url}"
        settings = load({"source": [source]}, environ={})
        request = RecordRequest(output=tmp_path / "tape.zst", limit=2, duration_s=20, quiet=True)
        summary = await record(settings, request)
    assert (summary.values, summary.trades, summary.frames) == (2, 0, 0)
    replayed = await replay(tape_at(str(tmp_path / "tape.zst"), 0), Settings(), None, quiet=True)
    assert (replayed.values, replayed.tokens, dict(replayed.rejected)) == (2, 2, {})
