"""How long a page of tokens takes from the market itself and from Redis, and what publishing them costs.

``python -m loadtests.token_page_speed redis://127.0.0.1:6379`` asks for first pages, pages in the middle and searches
of 10,000 tokens one after the other, then publishes them again and again while every one of them changes.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from secrets import token_hex
from typing import Final

import uvloop

from tokenwire_server.cache.publisher import build_index
from tokenwire_server.cache.redis import RedisCache
from tokenwire_server.market.ranking import RANK_INTERVAL_MS, SortKey
from tokenwire_server.market.token_pages import DEFAULT_LIMIT, TokenPage, TokenQuery
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline

__all__ = ["Measured", "main", "measure"]

TOKENS: Final = 10_000
PAGES: Final = 500
REFRESHES: Final = 5
PROBE_S: Final = 0.001
BEGIN_MS: Final = 1_700_000_000_000
LOCK: Final = "publisher"


@dataclass(frozen=True)
class Measured:
    """One kind of request: the median, the 99th percentile and the longest of ``count``, in ms."""

    what: str
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def _measured(what: str, took_s: list[float]) -> Measured:
    ordered = sorted(took_s)
    at = [ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1]]
    return Measured(what, len(ordered), *[round(one * 1_000, 3) for one in at])


async def measure(url: str, tokens: int = TOKENS, pages: int = PAGES, refreshes: int = REFRESHES) -> list[Measured]:
    """All of it; its own keys are removed, except for a small one, the fence."""
    clock = [0]
    pipeline = Pipeline(tokens, lambda: clock[0], lambda: BEGIN_MS)
    pipeline.tokens("feed", [TokenInfo(f"venue:T{n}", f"T{n}", f"Token {n}", "", Decimal(n)) for n in range(tokens)])
    numbers = iter(range(1 << 40))

    def trade_all() -> None:
        clock[0] += RANK_INTERVAL_MS
        time_ms = BEGIN_MS + clock[0]
        prices = [Decimal((n * 7919 + clock[0]) % 99_991 + 1) for n in range(tokens)]
        made = [
            Trade(f"venue:T{n}", str(next(numbers)), price, Decimal(1), Side.BUY, time_ms)
            for n, price in enumerate(prices)
        ]
        pipeline.trades("feed", made)

    cache = RedisCache(url, f"speed-{token_hex(4)}:", timeout_s=10)
    owner = token_hex(4)
    fence = (await cache.acquire(LOCK, owner, 600_000)).fence
    trade_all()
    found: list[Measured] = []
    pauses: list[float] = []
    probe = asyncio.create_task(_probe(pauses))
    builds, publishes = [], []
    try:
        for _ in range(refreshes):
            trade_all()
            await asyncio.sleep(2 * PROBE_S)
            pauses.clear()
            begun = time.perf_counter()
            index = await build_index(pipeline)
            built = time.perf_counter()
            await cache.publish(index, LOCK, fence)
            builds.append(built - begun)
            publishes.append(time.perf_counter() - built)
            await asyncio.sleep(2 * PROBE_S)
            found.append(_measured("pauses of the event loop in a refresh", pauses))
        found = [_measured("index made", builds), _measured("index published", publishes), found[-1]]
        probe.cancel()

        async def live(query: TokenQuery, cursor: str | None) -> TokenPage | None:
            return pipeline.token_pages.page(query, cursor, DEFAULT_LIMIT, clock[0])

        async def redis(query: TokenQuery, cursor: str | None) -> TokenPage | None:
            return await cache.page(query, cursor, DEFAULT_LIMIT)

        search = TokenQuery(SortKey.NAME, search="token 99")
        for name, ask in (("memory", live), ("redis", redis)):
            first = await ask(TokenQuery(), None)
            assert first is not None
            assert first.next_cursor is not None
            _, _, check = first.next_cursor.split("-")
            middle = f"{first.next_cursor.split('-')[0]}-{tokens // 2}-{check}"
            found.append(await _timed(f"{name}: first page", pages, lambda ask=ask: ask(TokenQuery(), None)))  # type: ignore[misc]
            found.append(
                await _timed(f"{name}: a page in the middle", pages, lambda ask=ask, at=middle: ask(TokenQuery(), at))  # type: ignore[misc]
            )
            found.append(await _timed(f"{name}: a search", pages // 10, lambda ask=ask: ask(search, None)))  # type: ignore[misc]
    finally:
        probe.cancel()
        await cache.tidy(-1)
        await cache.release(LOCK, owner)
        await cache.close()
    return found


async def _timed(what: str, count: int, ask: Callable[[], Awaitable[object]]) -> Measured:
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - begun)
    return _measured(what, took)


async def _probe(pauses: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(PROBE_S)
        pauses.append(time.perf_counter() - before - PROBE_S)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of a Redis")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = uvloop.run(measure(given.url, given.tokens, given.pages))
    if given.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        print(f"{'':40}{'p50':>10}{'p99':>10}{'max':>10} ms")
        for one in found:
            print(f"{one.what:40}{one.p50_ms:10.2f}{one.p99_ms:10.2f}{one.max_ms:10.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
