"""``tokenwire-server serve-tape``: the venue from the command line."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tokenwire_server import __main__
from tokenwire_server.sources import venue

FRAMES = [f'{{"stream":"btcusdt@trade","data":{{"e":"trade","s":"BTCUSDT","t":{number}}}}}' for number in range(1, 4)]


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    path = tmp_path / "btc.tape"
    path.write_text("".join(f"1626992742.{number}: {frame}\n" for number, frame in enumerate(FRAMES)))
    return path


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        __main__.main(("serve-tape", *arguments))
    return caught.value.code


def test_every_option_reaches_the_venue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Any, ...]] = []

    async def serve_tape(*arguments: Any, loop: bool, follow: bool) -> None:
        *settings, announce = arguments
        calls.append((*settings, loop, follow))
        announce("ws://h:1", ["BTCUSDT", "ETHUSDT"])

    monkeypatch.setattr(venue, "serve_tape", serve_tape)
    faults = {
        "--drop-every": "1",
        "--duplicate-every": "2",
        "--garbage-every": "3",
        "--disconnect-after": "4",
        "--stall-after": "5",
        "--shutdown-after": "6",
    }
    flags = [part for pair in faults.items() for part in pair]
    assert run("x.tape", "--host", "h", "--port", "1", "--speed", "2.5", "--loop", "--follow", *flags) == 0
    assert calls == [("x.tape", "h", 1, 2.5, venue.Faults(1, 2, 3, 4, 5, 6), True, True)]
    assert "--source binance:BTCUSDT,ETHUSDT@ws://h:1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda tape: [str(tape) + ".gone"], "No such file"),
        (lambda tape: [str(tape), "--speed", "-1"], "speed must be 0 or more"),
        (lambda tape: [str(tape), "--drop-every", "-1"], "--drop-every"),
        (lambda tape: [str(tape), "--port", "70000"], "--port"),
        (lambda tape: [__file__], "is not a captured tape"),
        (lambda tape: [], "FILE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tape: Path, capsys: pytest.CaptureFixture[str], arguments: Callable[[Path], list[str]], words: str
) -> None:
    assert run(*arguments(tape)) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
async def test_a_tape_is_served_until_interrupted(tape: Path, stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "tokenwire_server", "serve-tape", str(tape), "--port", "0", "--speed", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            found = re.search(r"ws://127\.0\.0\.1:\d+", line)
            assert found
            async with connect(f"{found[0]}/stream?streams=btcusdt@trade") as socket:
                assert [await socket.recv() for _ in FRAMES] == FRAMES
            process.send_signal(stop)
            _, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
