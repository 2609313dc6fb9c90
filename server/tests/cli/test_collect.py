"""``tokenwire-server collect``: an exchange into a history, over restarts, and what it answers meanwhile."""

import asyncio
import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.server import ServerConnection

from tokenwire_server import collect_command
from tokenwire_server.collect_command import CollectRequest, CollectSummary, collect, exchange_source
from tokenwire_server.errors import UserError
from tokenwire_server.settings import Settings, load
from tokenwire_server.sources import build_sources

from ..sources.venues import Venue
from ..sources.venues.binance import BinanceVenue
from .command import run, stored

pytestmark = pytest.mark.usefixtures("own_folder")


def say(*numbers: int) -> Callable[[Venue, ServerConnection], Any]:
    async def script(venue: Venue, connection: ServerConnection) -> None:
        for number in numbers:
            for frame in venue.frame(number):
                await connection.send(frame)

    return script


async def collected(settings: Settings, trades: int, port: int | None = None) -> tuple[CollectSummary, dict[str, Any]]:
    """Collect until the health port has told of so many trades (or of none, a moment)."""
    sources = build_sources(settings)
    assert settings.data is not None
    told: asyncio.Queue[str] = asyncio.Queue()
    request = CollectRequest(data=settings.data, health_port=0 if port is None else port, duration_s=20)
    task = asyncio.create_task(collect(settings, sources, request, told.put_nowait))
    url = await told.get()
    seen: dict[str, Any] = {}
    async with aiohttp.ClientSession() as http:

        async def ask(path: str, method: str = "GET") -> tuple[int, str]:
            async with http.request(method, url + path) as reply:
                return reply.status, await reply.text()

        async with asyncio.timeout(15):
            while True:
                metrics = (await ask("metrics"))[1]
                count = re.search(r'trades_accepted_total\{[^}]*source="binance"[^}]*\} (\d+)', metrics)
                if count is not None and int(count[1]) >= trades:
                    break
                await asyncio.sleep(0.02)
        seen["health"] = await ask("health")
        seen["ready"] = await ask("ready")
        seen["other"] = await ask("api/v1/tokens")
        seen["post"] = await ask("health", "POST")
        seen["head"] = await ask("health", "HEAD")
        seen["metrics"] = metrics
    signal.raise_signal(signal.SIGTERM)
    return await task, seen


def of(venue: Venue, data: Path) -> Settings:
    return load({"source": [f"binance:BTCUSDT@{venue.url}|{venue.rest_url}"], "data": str(data)}, environ={})


async def test_what_an_exchange_sends_is_stored_over_restarts(tmp_path: Path) -> None:
    venue = BinanceVenue(say(1, 2, 3, 4, 5), say(4, 5, 6, 9))
    venue.history = range(1, 10)
    async with venue:
        first, seen = await collected(of(venue, tmp_path / "kept"), 5)
        assert (first.trades, first.tokens, first.lost_trades, first.is_failed) == (5, 1, 0, False)
        assert [name for _, name in stored(tmp_path / "kept")] == ["1", "2", "3", "4", "5"]
        assert seen["health"] == (200, "OK")
        ready = json.loads(seen["ready"][1])
        assert (seen["ready"][0], ready["ready"], ready["history"]["state"]) == (200, True, "ok")
        assert ready["sources"] == {"binance": "live"}
        assert seen["other"][0] == 404
        assert seen["post"][0] == 405
        assert seen["head"] == (200, "")
        assert "history_commits" in seen["metrics"]
        second, _ = await collected(of(venue, tmp_path / "kept"), 6)
        assert second.trades == 4, "6 to 9, of which 7 and 8 were fetched"
    assert [name for _, name in stored(tmp_path / "kept")] == [str(n) for n in range(1, 10)]


def test_sigterm_stores_everything_before_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tokenwire_server", "collect", "--source", "simulator"]
    process = subprocess.Popen(
        [*command, "--data", "kept", "--health-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "trades" in line or "source state" in line:
            break
    try:
        process.communicate(timeout=1.5)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    told = re.match(r"(\d+) trades of 300 tokens in kept", out)
    assert told is not None, out
    assert len(stored(tmp_path / "kept")) == int(told[1]) >= 300


def test_a_tape_is_collected_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "-o", "tape.zst", "--limit", "900", "--seed", "2", "-q") == 0
    capsys.readouterr()
    assert run("collect", "--source", "tape:tape.zst", "--tape-speed", "max", "--data", "kept") == 0
    out, err = capsys.readouterr()
    assert out.startswith("900 trades of 300 tokens in kept (")
    assert "collecting tape:tape.zst into kept; stop with Ctrl-C" in err.splitlines()
    assert len(stored(tmp_path / "kept")) == 900


async def test_progress_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(collect_command, "REPORT_INTERVAL_S", 0.1)
    caplog.set_level(logging.INFO)
    settings = load({"source": ["simulator"], "data": str(tmp_path / "kept")}, environ={})
    summary = await collect(settings, build_sources(settings), CollectRequest(data=tmp_path / "kept", duration_s=0.6))
    lines = [record.fields for record in caplog.records if record.getMessage() == "collecting"]
    assert len(lines) >= 3
    assert 300 <= lines[-1]["trades"] <= summary.trades
    assert lines[-1]["tokens"] == 300


def test_exchange_and_symbols_are_a_source() -> None:
    assert exchange_source("binance", "BTCUSDT,ETHUSDT") == ["binance:BTCUSDT,ETHUSDT"]
    assert exchange_source("Kraken", "BTC/USD") == ["kraken:BTC/USD"]
    assert exchange_source(None, None) == []
    for exchange, symbols in (("binance", None), (None, "BTCUSDT"), ("nasdaq", "AAPL"), ("binance", "")):
        with pytest.raises(UserError, match=r"--exchange"):
            exchange_source(exchange, symbols)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "kept"], "collect needs a source: --source"),
        (["--source", "none", "--data", "kept"], "collect needs a source"),
        (["--source", "simulator"], "collect needs a place to store in: --data DIR, TIMESCALE_HOST, or"),
        (["--source", "simulator", "--kafka", "127.0.0.1:1", "--data", "kept"], "either --kafka (KAFKA_BOOTSTRAP_"),
        (["--source", "simulator", "--kafka", "a b"], "--kafka cannot be 'a b': expected brokers"),
        (["--source", "simulator", "--kafka", "127.0.0.1:1", "--instance", "#1"], "--instance cannot be '#1'"),
        (["--source", "simulator", "--kafka", "127.0.0.1:1", "--role-port", "BUSY"], "is already in use"),
        (["--exchange", "binance", "--data", "kept"], "--exchange and --symbols go together"),
        (["--exchange", "nasdaq", "--symbols", "AAPL", "--data", "kept"], "'nasdaq' is none of binance, coinbase"),
        (["--exchange", "binance", "--symbols", "b-t-c", "--data", "kept"], "is not a Binance symbol"),
        (["--source", "simulator", "--data", "file"], "the data directory file can't be used: it is a file"),
        (["--source", "simulator", "--data", "kept", "--health-port", "BUSY"], "is already in use"),
        (["--source", "tape:gone", "--data", "kept"], "tape gone: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(arguments: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        assert run("collect", "--log-level", "error", *(port if word == "BUSY" else word for word in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tokenwire-server: [^\n]+\n", err)
    assert words in err


def test_a_source_that_can_never_work_ends_it_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("simulate", "-o", "tape.gz", "--limit", "9000", "--rate", "9000", "--seed", "2", "-q") == 0
    whole = Path("tape.gz").read_bytes()
    Path("cut.gz").write_bytes(whole[: len(whole) // 2])
    assert run("collect", "--source", "tape:cut.gz", "--tape-speed", "max", "--data", "kept") == 1
    assert "was cut off" in capsys.readouterr().err
