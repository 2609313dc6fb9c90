"""A whole server with a history: what is served after a restart, and how its state is told."""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tokenwire_server.app import Running, running
from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.sources import parse_source

BEGIN_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000


class Feed:
    """A source that delivers what it is made of, in order, and remembers where it was told to go on."""

    cadence_ms = 60_000

    def __init__(self, trades: list[Trade], name: str = "feed") -> None:
        self.name = name
        self.resumed: str | None = None
        self.delivered = asyncio.Event()
        self._trades = trades

    def resume(self, positions: Sequence[str]) -> None:
        (self.resumed,) = positions

    async def run(self, sink: Sink) -> None:
        sink.tokens(self.name, [TokenInfo("PEPE-address", "PEPE", "Pepe", "", Decimal(1_000))])
        sink.state(self.name, SourceState.LIVE)
        first = int(self.resumed or 0)
        for n, trade in enumerate(self._trades[first:], first):
            sink.clock(self.name, trade.time_ms)
            sink.trades(self.name, [trade])
            sink.offset(self.name, str(n + 1))
        self.delivered.set()
        await asyncio.Event().wait()


def trades(count: int) -> list[Trade]:
    return [
        Trade("PEPE-address", f"id-{n}", Decimal(n + 1), Decimal(2), Side.BUY, BEGIN_MS + n * 1_000)
        for n in range(count)
    ]


def settings(data: Path, **more: Any) -> Settings:
    return Settings(
        **{"port": 0, "update_interval_s": 0.05, "drain_s": 0, "data": data, "rest_rate_limit": "0", **more}
    )


async def get(server: Running, path: str, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{server.port}{path}") as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def all_klines(server: Running, interval: str) -> list[Any]:
    found: list[Any] = []
    cursor = ""
    while True:
        page = await get(server, f"/api/v1/klines/PEPE?interval={interval}&limit=700{cursor}")
        found = page["data"] + found
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


async def test_after_a_restart_everything_is_as_it_was(tmp_path: Path) -> None:
    feed = Feed(trades(4_000))
    async with running(settings(tmp_path), [feed]) as server:
        await feed.delivered.wait()
        before = [await all_klines(server, interval) for interval in ("1s", "1m", "1h")]
        newest = await get(server, "/api/v1/trades/PEPE?limit=3")
        token = await get(server, "/api/v1/tokens/PEPE")
        stream = server.pipeline.hub.stream
        state = server.pipeline.market.get("PEPE-address")
        assert state is not None
        version = state.version
    assert [len(rows) for rows in before] == [4_000, 67, 2], "more than are at hand"
    again = Feed(trades(4_000))
    async with running(settings(tmp_path), [again]) as server:
        assert again.resumed == "4000"
        await again.delivered.wait()
        assert [await all_klines(server, interval) for interval in ("1s", "1m", "1h")] == before
        assert await get(server, "/api/v1/trades/PEPE?limit=3") == newest
        assert [row["number"] for row in newest["data"]] == [3_998, 3_999, 4_000]
        oldest = await get(server, "/api/v1/trades/PEPE?after=0&limit=2")
        assert [row["id"] for row in oldest["data"]] == ["id-0", "id-1"]
        now = await get(server, "/api/v1/tokens/PEPE")
        assert now.pop("version") > token.pop("version")
        assert now == token
        assert server.pipeline.hub.stream == stream, "the same lineage"
        restored = server.pipeline.market.get("PEPE-address")
        assert restored is not None
        assert restored.version > version
        async with connect(server.url) as client:
            await client.send(json.dumps({"type": "subscription", "data": {"action": "subscribe", "tokens": ["PEPE"]}}))
            messages = [json.loads(await client.recv()) for _ in range(3)]
        assert messages[-1]["data"]["price"] == "4000", "before anybody has traded again"


async def test_a_token_whose_source_is_gone_is_the_next_one_s(tmp_path: Path) -> None:
    one = Feed(trades(100))
    async with running(settings(tmp_path), [one]):
        await one.delivered.wait()
    async with running(settings(tmp_path), []) as server:
        token = server.pipeline.market.get("PEPE-address")
        assert token is not None
        assert (token.source, token.price) == ("", 100)
        assert len(await all_klines(server, "1s")) == 100
    other = Feed(trades(200), "other")
    async with running(settings(tmp_path), [other]) as server:
        await other.delivered.wait()
        token = server.pipeline.market.get("PEPE-address")
        assert token is not None
        assert (token.source, token.price) == ("other", 200)
        assert server.pipeline.market.duplicates == 100, "known, though another source brought them"
        rows = await all_klines(server, "1s")
        assert sum(row["trades"] for row in rows) == 200


async def test_the_simulator_goes_on_with_its_tokens(tmp_path: Path) -> None:
    async def live() -> tuple[set[str], int]:
        source = parse_source("simulator")
        assert source is not None
        async with running(settings(tmp_path), [source]) as server:
            async with asyncio.timeout(20):
                while server.pipeline.market.trades < 400:
                    await asyncio.sleep(0.02)
            assert server.pipeline.market.duplicates == 0
            assert server.pipeline.market.resolve("DOGE").address is not None
            return {token.address for token in server.pipeline.market}, server.pipeline.market.numbers.given

    first, numbered = await live()
    second, more = await live()
    assert second == first
    assert more >= numbered + 400


async def test_its_state_is_told(tmp_path: Path) -> None:
    feed = Feed(trades(10))
    async with running(settings(tmp_path), [feed]) as server:
        await feed.delivered.wait()
        recorder = server.pipeline.recorder
        assert recorder is not None
        await recorder.settled()
        assert (await get(server, "/ready"))["history"] == {"state": "ok", "engine": f"sqlite {sqlite3.sqlite_version}"}
        recorder._failure = "the disk is full"
        ready = await get(server, "/ready")
        assert ready["ready"] is True, "live data is served all the same"
        assert ready["history"]["state"] == "failing"
        assert ready["history"]["reason"] == "the disk is full"
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{server.port}/metrics") as reply:
            text = await reply.text()
        assert 'tokenwire_history_state{state="failing"} 1.0' in text
        assert 'tokenwire_history_state{state="ok"} 0.0' in text
        assert "tokenwire_history_commits_total" in text
        assert "tokenwire_history_rows_waiting 0.0" in text
        recorder._failure = None


async def test_while_the_store_can_t_be_read_old_bars_are_unavailable_and_new_ones_are_not(tmp_path: Path) -> None:
    feed = Feed(trades(3_000))
    async with running(settings(tmp_path), [feed]) as server:
        await feed.delivered.wait()
        recorder = server.pipeline.recorder
        assert recorder is not None
        await recorder.settled()
        history: Any = recorder._history
        history._reading.close()
        problem = await get(server, f"/api/v1/klines/PEPE?interval=1s&to={BEGIN_MS}", 503)
        assert "what is stored can't be read now" in problem["detail"]
        assert len((await get(server, "/api/v1/klines/PEPE?interval=1s&limit=500"))["data"]) == 500


async def test_more_tokens_than_may_be_known_are_refused(tmp_path: Path) -> None:
    listed = [Trade(f"T{n}", "1", Decimal(1), Decimal(1), Side.BUY, BEGIN_MS) for n in range(3)]

    class Many(Feed):
        async def run(self, sink: Sink) -> None:
            sink.tokens(self.name, [TokenInfo(trade.address, trade.address) for trade in listed])
            await super().run(sink)

    feed = Many(listed)
    async with running(settings(tmp_path), [feed]):
        await feed.delivered.wait()
    with pytest.raises(UserError, match="holds 3 tokens, more than may be known at once"):
        async with running(settings(tmp_path, max_tokens=2), []):
            pass
    async with running(settings(tmp_path), []):
        pass


async def test_two_servers_do_not_share_a_directory(tmp_path: Path) -> None:
    async with running(settings(tmp_path), []):
        with pytest.raises(UserError, match="in use by the process"):
            async with running(settings(tmp_path), []):
                pass


async def test_a_token_that_nobody_brings_any_more_may_be_posted(tmp_path: Path) -> None:
    async def post(server: Running) -> Any:
        body = {"id": "2", "symbol": "PEPE", "venue": "feed", "price": 8, "amount": 1, "side": "buy"}
        body["timestamp"] = BEGIN_MS + 10
        url = f"http://127.0.0.1:{server.port}/api/v1/trades"
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as reply:
            return await reply.json()

    class Pepe(Feed):
        async def run(self, sink: Sink) -> None:
            sink.tokens(self.name, [TokenInfo("feed:PEPE", "PEPE")])
            await super().run(sink)

    feed = Pepe([Trade("feed:PEPE", "1", Decimal(7), Decimal(1), Side.BUY, BEGIN_MS)])
    async with running(settings(tmp_path), [feed]) as server:
        await feed.delivered.wait()
        assert (await post(server))["accepted"] == 0, "it is the feed's"
    async with running(settings(tmp_path), []) as server:
        assert (await post(server))["accepted"] == 1
    async with running(settings(tmp_path), []) as server:
        answer = await post(server)
        assert (answer["accepted"], answer["duplicates"]) == (0, 1)
        page = await get(server, "/api/v1/trades/feed:PEPE")
        assert [(row["number"], row["id"]) for row in page["data"]] == [(1, "1"), (2, "2")]
