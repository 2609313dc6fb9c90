"""The main job on real input: captured exchange frames, through everything, to clients.

What arrives is held against a fold of the tape written here, which shares no code with the server.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tokenwire_schemas.codec import decode_server_message
from tokenwire_schemas.messages import Connection, Error, Subscription, TokenUpdate
from tokenwire_server.app import Running, running
from tokenwire_server.settings import Settings
from tokenwire_server.sources import parse_source
from tokenwire_server.sources.venue import Faults, TapeVenue

WSCAT = Path(__file__).parents[1] / "node/node_modules/.bin/wscat"
FOLDER = os.environ.get("TOKENWIRE_TAPES", "")

pytestmark = [
    pytest.mark.tapes,
    pytest.mark.skipif(not FOLDER, reason="TOKENWIRE_TAPES names no folder with captured frames"),
]


@dataclass
class Folded:
    """A symbol's trades as the tape has them."""

    prices: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    turnover: Decimal = Decimal(0)

    @property
    def expected(self) -> dict[str, Any]:
        """The final value: the last price, and the turnover in every window (the tapes are shorter than any)."""
        total = plain(self.turnover)
        return {"price": self.prices[-1], "marketCap": "0", "volume": {"h24": total, "h1": total, "m5": total}}


def plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fold(path: str) -> dict[str, Folded]:
    symbols: dict[str, Folded] = {}
    with localcontext() as context, open(path, encoding="utf-8") as lines:
        context.prec = 100
        for line in lines:
            frame = json.loads(line.split(": ", 1)[1])["data"]
            if frame.get("e") == "aggTrade":
                entry = symbols.setdefault(frame["s"], Folded())
                entry.prices.append(plain(Decimal(frame["p"])))
                entry.ids.append(frame["a"])
                entry.turnover += Decimal(frame["p"]) * Decimal(frame["q"])
    return symbols


@asynccontextmanager
async def serving(source: str) -> AsyncIterator[Running]:
    built = parse_source(source, tape_speed=20)
    assert built is not None
    settings = Settings(port=0, update_interval_s=0.05, drain_s=0, source=("none",))
    async with running(settings, [built]) as server:
        yield server


async def watch(server: Running, expected: dict[str, Folded]) -> dict[str, dict[str, Any]]:
    """Subscribe to everything as a strict client and read until all values are final."""
    newest: dict[str, dict[str, Any]] = {}
    final = {f"binance:{symbol}": folded.expected for symbol, folded in expected.items()}
    async with connect(server.url) as client, asyncio.timeout(40):
        tokens = list(expected)
        await client.send(json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": tokens}}))
        sequence = 0
        async for text in client:
            message = decode_server_message(text)
            sequence += 1
            assert message.sequence == sequence
            match message:
                case Subscription(data=data):
                    assert data.status == "success"
                    assert set(data.tokens) == final.keys()
                case TokenUpdate(data=data):
                    symbol = data.address.removeprefix("binance:")
                    assert data.price in expected[symbol].prices
                    newest[data.address] = json.loads(text)["data"]
                case Error(data=data):
                    pytest.fail(f"{data.code}: {data.message}")
                case Connection():
                    pass
            values = {a: {k: v for k, v in value.items() if k != "address"} for a, value in newest.items()}
            if values == final:
                return newest
    raise AssertionError("the server closed the connection")


@pytest.mark.parametrize("tape", ["binance-futures-2021-07-22.txt", "binance-spot-2021-10-12.txt"])
async def test_a_tape_as_a_source(tape: str) -> None:
    path = f"{FOLDER}/{tape}"
    expected = fold(path)
    assert expected
    async with serving(f"tape:{path}") as server:
        await watch(server, expected)
        assert server.pipeline.market.trades == sum(len(folded.ids) for folded in expected.values())
        assert server.pipeline.market.duplicates == 0


@pytest.mark.parametrize(
    ("tape", "faults"),
    [
        ("binance-futures-2021-07-22.txt", Faults()),
        ("binance-futures-2021-07-22.txt", Faults(duplicate_every=3, garbage_every=5)),
        ("binance-spot-2021-10-12.txt", Faults()),
    ],
    ids=["futures", "futures-faulty", "spot"],
)
async def test_a_venue_through_the_collector(tape: str, faults: Faults) -> None:
    path = f"{FOLDER}/{tape}"
    expected = fold(path)
    symbols = ",".join(expected)
    async with TapeVenue(path, speed=20, faults=faults) as venue, serving(f"binance:{symbols}@{venue.url}") as server:
        await watch(server, expected)
        market = server.pipeline.market
        assert market.trades == sum(len(folded.ids) for folded in expected.values())
        assert (market.duplicates > 0) is (faults.duplicate_every > 0)
        assert bool(server.pipeline.rejections) is (faults.garbage_every > 0)


def test_the_same_by_hand_in_three_terminals() -> None:
    """serve-tape, a server that collects from it, and wscat: as a person would."""
    if shutil.which("node") is None or not WSCAT.exists():
        pytest.skip("needs Node.js, and `npm ci` in server/tests/node")
    path = f"{FOLDER}/binance-futures-2021-07-22.txt"
    expected = fold(path)
    base = [sys.executable, "-m", "tokenwire_server"]
    environment = {**os.environ, "TOKENWIRE_ENV_FILE": os.devnull}

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [*base, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert process.stdout is not None
        while line := process.stdout.readline():
            if found := re.search(r"wss?://[\w.:\[\]]+:\d+(/api\S*)?", line):
                return process, found[0]
        raise AssertionError(f"{arguments} said no address and ended")

    venue, venue_url = start("serve-tape", path, "--port", "0", "--speed", "30")
    server = None
    try:
        source = f"binance:{','.join(expected)}@{venue_url}"
        server, url = start("--port", "0", "--source", source, "--update-interval", "0.5", "--drain", "0")
        subscribe = json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": list(expected)}})
        with subprocess.Popen(
            [str(WSCAT), "-c", url, "-w", "4", "-x", subscribe],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as wscat:  # fmt: skip
            assert wscat.stdout is not None
            messages = [json.loads(line.removeprefix("< ")) for line in wscat.stdout.read().splitlines() if line]
    finally:
        for process in (server, venue):
            if process is not None:
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 0
                assert process.stdout is not None
                process.stdout.close()
    assert [message["sequence"] for message in messages] == list(range(1, len(messages) + 1))
    newest = {m["data"].pop("address"): m["data"] for m in messages if m["type"] == "token_update"}
    assert newest == {f"binance:{symbol}": folded.expected for symbol, folded in expected.items()}
