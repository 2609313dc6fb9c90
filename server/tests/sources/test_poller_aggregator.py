"""Several pollers, one writer: merged into a running pipeline, in virtual time and over real sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tokenwire_server.app import running
from tokenwire_server.errors import UserError
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import SourceState
from tokenwire_server.settings import Settings
from tokenwire_server.source_spec import parse_source
from tokenwire_server.sources import build_sources
from tokenwire_server.sources.aggregator import Aggregator
from tokenwire_server.sources.pollers import build_aggregator

from .poller_service import JUP, PAIRS, SOL, SYMMETRY, TOKENS, Asked, Reply, Service, pair
from .test_poller import T0_MS, run_virtually, wall_ms

DEX_PATH, JUP_PATH = "/latest/dex/tokens/", "/tokens/v2/search"
LIVE, RECONNECTING, FAILED = SourceState.LIVE, SourceState.RECONNECTING, SourceState.FAILED


def jup_token(mint: str = SYMMETRY, **changes: Any) -> dict[str, Any]:
    """The documented token of Jupiter under another mint, with changes."""
    row: dict[str, Any] = json.loads(TOKENS)[0]
    return row | {"id": mint} | changes


class World:
    """A pipeline in virtual time, fed by an aggregator whose two services are scripted."""

    def __init__(self, *specs: str, **settings: Any) -> None:
        self.dex, self.jup = Service(), Service()
        self.specs = specs or (f"dexscreener:{SYMMETRY}", f"jupiter:{SYMMETRY}")
        self.settings = Settings(
            dexscreener_api_url="http://127.0.0.1:81", jupiter_api_url="http://127.0.0.1:82", **settings
        )
        self.dex.always[DEX_PATH] = Reply(json.dumps({"pairs": [pair()]}))
        self.jup.always[JUP_PATH] = Reply(json.dumps([jup_token()]))
        self.jup.always["/price/v3"] = Reply("{}")

    def run(self, story: Callable[["World"], Awaitable[None]]) -> None:
        """Let the story happen while the aggregator runs."""

        async def main() -> None:
            self.pipeline = Pipeline(100, lambda: int(asyncio.get_running_loop().time() * 1_000), wall_ms)
            specs = [parse_source(spec) for spec in self.specs]
            self.aggregator = build_aggregator(specs, self.settings, wall_ms=wall_ms)
            self.pipeline.add_source(self.aggregator)
            async with self.dex.running(port=81), self.jup.running(port=82):
                task = asyncio.create_task(self.aggregator.run(self.pipeline))
                try:
                    await asyncio.sleep(1)
                    await story(self)
                    assert not task.done()
                finally:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

        run_virtually(main)

    def token(self, address: str = SYMMETRY) -> dict[str, Any]:
        """What clients see of the token."""
        token = self.pipeline.market.get(address)
        assert token is not None
        data = token.data()
        return {"price": data.price, "cap": data.market_cap, "h24": data.volume.h24, "version": token.version}

    def is_stale(self, address: str = SYMMETRY) -> bool:
        hub = self.pipeline.hub
        hub.check_staleness(int(asyncio.get_running_loop().time() * 1_000))
        token = self.pipeline.market.get(address)
        assert token is not None
        return hub.board.row(token).index in hub.staleness.stale


def test_both_sources_are_merged_into_one_line_of_versions() -> None:
    world = World()

    async def story(world: World) -> None:
        first = world.token()
        # Jupiter has more liquidity, DexScreener (which told of no cap) comes first in volumes.
        assert (first["price"], first["cap"], first["h24"]) == ("0.1415", "459171256.1", "5636909.86")
        token = world.pipeline.market.get(SYMMETRY)
        assert token is not None
        assert (token.symbol, token.source) == ("sym", "aggregator")
        assert [(fact.source, fact.heard_ms >= T0_MS) for fact in token.facts] == [
            ("dexscreener", True),
            ("jupiter", True),
        ]
        assert token.facts == world.aggregator.facts("solana", SYMMETRY)
        await asyncio.sleep(30)
        assert world.token() == first  # the same again is no version
        world.jup.always[JUP_PATH] = Reply(json.dumps([jup_token(usdPrice=0.2)]))
        await asyncio.sleep(30)
        assert world.token() == first | {"price": "0.2", "version": first["version"] + 1}
        market = world.pipeline.market
        assert (market.foreign, market.mixed, market.late) == (0, 0, 0)
        assert world.pipeline.states == {"aggregator": LIVE, "dexscreener": LIVE, "jupiter": LIVE}

    world.run(story)


def test_losing_a_source_falls_back_to_the_other_and_losing_both_is_stale() -> None:
    world = World()

    async def story(world: World) -> None:
        world.jup.always.clear()
        await asyncio.sleep(60)
        assert world.token()["price"] == "0.1415"
        assert world.pipeline.states["jupiter"] is RECONNECTING
        assert world.pipeline.states["aggregator"] is LIVE
        await asyncio.sleep(60)
        assert world.token()["price"] == "0.0007094"
        assert not world.is_stale()
        world.dex.always.clear()
        await asyncio.sleep(120)
        assert world.pipeline.states == dict.fromkeys(("aggregator", "dexscreener", "jupiter"), RECONNECTING)
        assert world.is_stale()
        world.dex.always[DEX_PATH] = Reply(PAIRS)
        await asyncio.sleep(600)  # the breaker probes
        assert world.pipeline.states["aggregator"] is LIVE
        assert not world.is_stale()

    world.run(story)


def test_a_token_that_nobody_mentions_goes_stale_though_others_are_told_of() -> None:
    world = World(f"dexscreener:{SYMMETRY},{SOL}")

    async def story(world: World) -> None:
        sol = pair(baseToken={"address": SOL, "symbol": "SOL"}, priceUsd="150", pairAddress="x")
        world.dex.always[DEX_PATH] = Reply(json.dumps([pair(), sol]))
        await asyncio.sleep(30)
        world.dex.always[DEX_PATH] = Reply(json.dumps([pair()]))
        await asyncio.sleep(85)
        assert not world.is_stale(SOL)
        await asyncio.sleep(35)
        assert world.is_stale(SOL)
        assert not world.is_stale(SYMMETRY)
        assert world.token(SOL)["price"] == "150"

    world.run(story)


def test_the_janitor_forgets_and_the_token_stays() -> None:
    world = World(janitor_interval_ms=200_000)

    async def story(world: World) -> None:
        book = world.aggregator.merger.book
        world.dex.always.clear()
        world.jup.always[JUP_PATH] = Reply("[]")
        await asyncio.sleep(190)
        assert len(book) == 1
        await asyncio.sleep(40)
        assert (len(book), world.aggregator.forgotten) == (0, 1)
        assert (world.aggregator._shown, world.aggregator._announced) == ({}, {})
        assert world.is_stale()
        before = world.token()
        world.jup.always[JUP_PATH] = Reply(json.dumps([jup_token()]))
        await asyncio.sleep(30)
        assert not world.is_stale()
        # DexScreener's volume is gone with what it said.
        assert world.token() == before | {"h24": "3838164.79", "version": before["version"] + 1}

    world.run(story)


def test_a_defect_in_one_poller_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def story(world: World) -> None:
        def broken(*_: object) -> None:
            raise KeyError("defect")

        monkeypatch.setattr(world.aggregator.pollers[1]._api, "cycle", broken)
        await asyncio.sleep(30)
        states = world.pipeline.states
        assert (states["jupiter"], states["dexscreener"], states["aggregator"]) == (FAILED, LIVE, LIVE)
        asked = len(world.dex.asked)
        await asyncio.sleep(60)
        assert len(world.dex.asked) == asked + 2

    world.run(story)


async def test_when_every_poller_is_defect_the_source_has_failed() -> None:
    aggregator = build_aggregator([parse_source(f"jupiter:{JUP}")], Settings())

    class Broken:
        name = "jupiter"

        async def run(self, *_: object) -> None:
            raise KeyError("defect")

    aggregator.pollers = (Broken(),)  # type: ignore[assignment]
    pipeline = Pipeline(10, lambda: 0, lambda: T0_MS)
    with pytest.raises(RuntimeError, match="no poller is left"):
        await aggregator.run(pipeline)
    assert pipeline.states["jupiter"] is FAILED


@pytest.mark.parametrize(
    ("sol_price", "price", "rejected"),
    [(None, None, {("dexscreener", "no_rate"): 1}), (Decimal(160), "0.00077968", {})],
)
def test_a_price_in_sol_becomes_usd_by_the_fallback_or_not_at_all(
    sol_price: Decimal | None, price: str | None, rejected: dict[tuple[str, str], int]
) -> None:
    world = World(f"dexscreener:{SYMMETRY}", sol_price_usd=sol_price)
    world.dex.always[DEX_PATH] = Reply(json.dumps([pair(priceUsd=...)]))

    async def story(world: World) -> None:
        token = world.pipeline.market.get(SYMMETRY)
        assert token is not None
        assert (token.data().price if token.has_value else None) == price
        assert world.pipeline.rejections == rejected

    world.run(story)


def test_a_live_rate_from_the_same_answer_beats_the_fallback() -> None:
    world = World(f"dexscreener:{SYMMETRY},{SOL}", sol_price_usd=Decimal(160))
    sol = pair(baseToken={"address": SOL, "symbol": "SOL"}, priceUsd="145.58", pairAddress="x")
    world.dex.always[DEX_PATH] = Reply(json.dumps([pair(priceUsd=None), sol]))

    async def story(world: World) -> None:
        assert world.token()["price"] == "0.00070941134"

    world.run(story)


def test_a_rate_from_trades_of_an_exchange_pair() -> None:
    world = World(f"dexscreener:{SYMMETRY}")
    world.dex.always[DEX_PATH] = Reply(json.dumps([pair(priceUsd=None)]))

    async def story(world: World) -> None:
        world.pipeline.tokens("binance", [TokenInfo("binance:SOLUSDT", "SOLUSDT")])
        trade = Trade("binance:SOLUSDT", "1", Decimal(200), Decimal(1), Side.BUY, wall_ms())
        world.pipeline.trades("binance", [trade])
        await asyncio.sleep(30)
        assert world.token()["price"] == "0.0009746"
        before = world.token()
        await asyncio.sleep(200)  # the rate grows old; nothing is stated on it any more
        assert world.token() == before
        assert world.is_stale()

    world.run(story)


def test_a_token_without_a_symbol_is_not_stated() -> None:
    world = World(f"jupiter:{SOL}")
    world.jup.always[JUP_PATH] = Reply("[]")
    world.jup.always["/price/v3"] = Reply(json.dumps({SOL: {"usdPrice": 147.48}}))

    async def story(world: World) -> None:
        assert len(world.pipeline.market) == 0
        assert world.pipeline.rejections == {("jupiter", "no_symbol"): 1}

    world.run(story)


def test_the_log_tells_of_cycles_updates_and_broadcasts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tokenwire_server")
    world = World(f"dexscreener:{SYMMETRY}")

    async def story(world: World) -> None:
        for _ in range(2):
            for callback in world.pipeline.tick_callbacks:
                callback(0.0)
        await asyncio.sleep(30)

    world.run(story)
    lines = [(record.getMessage(), record.__dict__["fields"]) for record in caplog.records]
    assert [event for event, _ in lines if event != "source state"] == [
        "poll cycle completed",
        "update completed",
        "broadcast",
        "poll cycle completed",
        "update completed",
    ]
    assert [fields for event, fields in lines if event == "update completed"] == [
        {"source": "dexscreener", "tokens": 1, "changed": 1},
        {"source": "dexscreener", "tokens": 1, "changed": 0},
    ]
    assert ("broadcast", {"source": "aggregator", "tokens": 1}) in lines


# --- Over real sockets ----------------------------------------------------------------------------------------------


async def test_a_server_with_both_sources_serves_the_merged_token() -> None:
    dex, jup = Service(), Service()
    dex.always["/latest/dex/search"] = Reply(PAIRS)
    jup.always[JUP_PATH] = Reply(TOKENS)
    async with dex.running(), jup.running():
        settings = Settings(
            port=0,
            source=(f"dexscreener:search=symmetry@{dex.url}", f"jupiter:{JUP}@{jup.url}"),
            poll_interval_ms=100,
            drain_s=0,
            jupiter_api_key="hunter2",
        )
        async with running(settings, build_sources(settings)) as started, asyncio.timeout(20):
            market = started.pipeline.market
            while not (len(market) == 3 and all(token.has_value for token in market)):
                await asyncio.sleep(0.01)
            metrics = started.metrics.exposition()[0].decode()
            for name in ("dexscreener", "jupiter"):
                assert f'tokenwire_source_events_total{{event="cycle",source="{name}"}}' in metrics
            assert 'tokenwire_source_events_total{event="token_forgotten",source="aggregator"} 0.0' in metrics
            address = f"http://127.0.0.1:{started.port}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{address}/ready") as answer:
                    expected = dict.fromkeys(("aggregator", "dexscreener", "jupiter"), "live")
                    assert await answer.json() == {"ready": True, "sources": expected}
                async with session.get(f"{address}/metrics") as answer:
                    text = await answer.text()
            assert 'source_state{source="jupiter",state="live"} 1.0' in text.replace("tokenwire_", "")
            price = market.resolve("JUP").address
            assert price == JUP
        assert {asked.path for asked in dex.asked} == {"/latest/dex/search"}
        assert dex.asked[0].query == {"q": "symmetry"}
        keys = {_key(asked) for asked in (*dex.asked, *jup.asked)}
        assert keys == {("/latest/dex/search", None), (JUP_PATH, "hunter2")}


def _key(asked: Asked) -> tuple[str, str | None]:
    return asked.path, asked.headers.get("x-api-key")


def test_all_that_is_polled_is_one_source_with_pollers_of_their_own_names() -> None:
    texts = (f"dexscreener:{SYMMETRY}", "probe:3", f"jupiter:{JUP}", "dexscreener:search=doge")
    probe, aggregator = build_sources(Settings(source=texts, poll_interval_ms=5_000))
    assert isinstance(aggregator, Aggregator)
    assert (probe.name, aggregator.name, aggregator.cadence_ms) == ("probe", "aggregator", 5_000)
    assert [poller.name for poller in aggregator.pollers] == ["dexscreener", "jupiter", "dexscreener#2"]
    first, other, second = (poller._pace for poller in aggregator.pollers)
    assert first is second
    assert first is not other


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(UserError, match="JUPITER_API_KEY has characters") as caught:
        build_aggregator([parse_source(f"jupiter:{JUP}")], Settings(jupiter_api_key=key))
    assert key not in str(caught.value)
