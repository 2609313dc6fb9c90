"""What clients share is decoded bit by bit by the WebSocket implementations that people use."""

import asyncio
import json
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tokenwire_server.app import Running

from .conftest import ManualSource, Serve
from .test_clients import subscribe
from .test_javascript import CHROMIUM, NODE_TESTS, run

REPOSITORY = Path(__file__).parents[3]
BUN = shutil.which("bun") or REPOSITORY / "loadtests/peers/bun/node_modules/.bin/bun"
TOKENS = [f"{random.Random(n).getrandbits(200):x}" for n in range(100)]
BATCHES = 200

HAS_NODE = shutil.which("node") is not None and (NODE_TESTS / "node_modules" / "ws").is_dir()


@asynccontextmanager
async def changing(serve: Serve) -> AsyncIterator[tuple[Running, dict[int, str]]]:
    """A server whose values change all the time, and a plain client's record: the text of each batch by its time."""
    async with (
        serve(tokens=TOKENS, update_interval_s=0.05) as (server, source),
        connect(server.url + "?caps=batch", compression=None) as plain,
    ):
        record: dict[int, str] = {}

        async def listen() -> None:
            async for text in plain:
                message = json.loads(text)
                if message["type"] == "token_batch":
                    record[message["timestamp"]] = data_of(str(text))

        await plain.send(subscribe(*TOKENS))
        tasks = [asyncio.create_task(listen()), asyncio.create_task(change(source))]
        try:
            yield server, record
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def change(source: ManualSource) -> None:
    draw = random.Random(5)
    while True:
        for token in draw.sample(TOKENS, draw.choice((1, 30, 30, 60))):
            source.trade(token, f"{draw.randrange(1, 10**9)}")
        await asyncio.sleep(0.045)


def data_of(text: str) -> str:
    return text[text.index('"data":') :]


def check(name: str, batches: list[str], record: dict[int, str]) -> None:
    """Each batch is what the plain client got in the same tick, but for the snapshots after a subscribe."""
    assert len(batches) == BATCHES, name
    shared = 0
    last = 0
    for text in batches:
        message = json.loads(text)
        assert message["sequence"] > last, name
        last = message["sequence"]
        expected = record.get(message["timestamp"])
        if expected == data_of(text):
            shared += 1
        else:
            assert len(message["data"]["updates"]) >= len(TOKENS) - 5, f"{name}: neither a tick nor a snapshot"
    assert shared > BATCHES * 0.9, name


def offers(**settings: bool | int) -> list[ClientPerMessageDeflateFactory]:
    return [ClientPerMessageDeflateFactory(**settings)]  # type: ignore[arg-type]


async def with_websockets(url: str, **settings: bool | int) -> list[str]:
    async with connect(url, compression=None, extensions=offers(**settings)) as client:
        await client.send(subscribe(*TOKENS))
        batches: list[str] = []
        while len(batches) < BATCHES:
            text = await asyncio.wait_for(client.recv(), 5)
            if '"token_batch"' in str(text):
                batches.append(str(text))
                if len(batches) % 40 == 0:
                    await client.send(subscribe(*TOKENS))
        return batches


async def with_aiohttp(url: str) -> list[str]:
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as client:
        assert client.compress
        await client.send_str(subscribe(*TOKENS))
        batches: list[str] = []
        while len(batches) < BATCHES:
            text = (await client.receive(5)).data
            if '"token_batch"' in text:
                batches.append(text)
                if len(batches) % 40 == 0:
                    await client.send_str(subscribe(*TOKENS))
        return batches


async def with_command(url: str, *command: str) -> list[str]:
    lines, _ = await run(*command, url, str(BATCHES), *TOKENS)
    return lines


async def test_everybody_decodes_what_is_shared_between_them(serve: Serve) -> None:
    """All at once, so that they share windows; who has no Node.js, Bun or Chromium tests the others."""
    async with changing(serve) as (server, record):
        url = server.url + "?caps=batch"
        clients = {
            "websockets": with_websockets(url),
            "websockets, no take-over": with_websockets(url, server_no_context_takeover=True),
            "websockets, a window of 1 KiB": with_websockets(url, server_max_window_bits=10),
            "aiohttp": with_aiohttp(url),
        }
        if HAS_NODE:
            clients["Node ws"] = with_command(url, "node", "collect_here.mjs")
        if Path(BUN).exists():
            clients["Bun"] = with_command(url, str(BUN), "collect_here.mjs")
        if HAS_NODE and CHROMIUM is not None:
            page = f"http://127.0.0.1:{server.port}/"
            clients["Chromium"] = with_command(url, "node", "collect_in_browser.mjs", CHROMIUM, page)
        for name, batches in zip(clients, await asyncio.gather(*clients.values()), strict=True):
            check(name, batches, record)
        assert len(clients) == 7 or not os.environ.get("CI"), "in CI nobody is missing"
