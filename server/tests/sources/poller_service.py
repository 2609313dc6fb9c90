"""A scripted HTTP service on loopback, or on a virtual network: it replays answers verbatim, and notes what is asked.

The answers are documented or captured ones. Nothing here knows the normalisers.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

SYMMETRY = "TrnnxPQvYkMtakCYGToFHs1uYMqumpWeE93W9fFpump"
ASYMMETRY = "EGMAb9cZawkqdnATSMqAxwevuwTLcE6JcVJjAcSppump"
JUP = "JUPyiwrYJFskUPiHa7hkeR8VUtAeFoSYbKedZNsDvCN"
SOL = "So11111111111111111111111111111111111111112"
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"

# Captured from DexScreener on 2024-08-23: two tokens of Solana. No marketCap yet at that time, fdv only.
PAIRS = (
    '{"schemaVersion":"1.0.0","pairs":[{"chainId":"solana","dexId":"raydium","url":"https://dexscreener.com/solana/'
    'ar6ocemerwmm3ojpkpl1b3zqgbeow9arqaawkamdnwwt","pairAddress":"AR6ocEMeRwMM3oJPKpL1B3zqGbEoW9ArQaawKAmdNwwT",'
    '"baseToken":{"address":"TrnnxPQvYkMtakCYGToFHs1uYMqumpWeE93W9fFpump","name":"symmetry","symbol":"sym"},'
    '"quoteToken":{"address":"So11111111111111111111111111111111111111112","name":"Wrapped SOL","symbol":"SOL"},'
    '"priceNative":"0.000004873","priceUsd":"0.0007094","txns":{"m5":{"buys":166,"sells":105},"h1":{"buys":1994,'
    '"sells":1715},"h6":{"buys":215025,"sells":13551},"h24":{"buys":248862,"sells":15110}},"volume":'
    '{"h24":5636909.86,"h6":5188028.59,"h1":536959.95,"m5":36029.97},"priceChange":{"m5":-20.24,"h1":57.67,"h6":726,'
    '"h24":1075},"liquidity":{"usd":98992.13,"base":69721458,"quote":340.171},"fdv":709489,'
    '"pairCreatedAt":1724367939000,"info":{"imageUrl":"https://dd.dexscreener.com/ds-data/tokens/solana/'
    'TrnnxPQvYkMtakCYGToFHs1uYMqumpWeE93W9fFpump.png","websites":[{"label":"Website","url":"https://symdog.xyz"}],'
    '"socials":[{"type":"twitter","url":"https://x.com/symmetrydog"},{"type":"telegram",'
    '"url":"https://t.me/symmetrydog"}]}},{"chainId":"solana","dexId":"raydium","url":"https://dexscreener.com/solana/'
    'rsgk14nkcavqwpisnhdrt6qn3he9wujndcmzi9tbjsf","pairAddress":"rsgk14nKcavQwPiSNhDRt6qn3hE9WUjNDCmZi9TbjSF",'
    '"baseToken":{"address":"EGMAb9cZawkqdnATSMqAxwevuwTLcE6JcVJjAcSppump","name":"asymmetry","symbol":"asym"},'
    '"quoteToken":{"address":"So11111111111111111111111111111111111111112","name":"Wrapped SOL","symbol":"SOL"},'
    '"priceNative":"0.00000005143","priceUsd":"0.000007488","txns":{"m5":{"buys":3,"sells":1},"h1":{"buys":61,'
    '"sells":40},"h6":{"buys":14272,"sells":14255},"h24":{"buys":14272,"sells":14255}},"volume":'
    '{"h24":6222863.32,"h6":6222863.32,"h1":4180.71,"m5":111.27},"priceChange":{"m5":-1.69,"h1":21.29,"h6":-88.29,'
    '"h24":-88.29},"liquidity":{"usd":10047.01,"base":676190377,"quote":34.2276},"fdv":7489,'
    '"pairCreatedAt":1724383008000,"info":{"imageUrl":"https://dd.dexscreener.com/ds-data/tokens/solana/'
    'EGMAb9cZawkqdnATSMqAxwevuwTLcE6JcVJjAcSppump.png","websites":[],"socials":[{"type":"telegram",'
    '"url":"https://t.me/ASYM_CTO"}]}}],"pair":null}'
)

# As documented at dev.jup.ag/api-reference/tokens/v2/search.
TOKENS = (
    '[{"id":"JUPyiwrYJFskUPiHa7hkeR8VUtAeFoSYbKedZNsDvCN","name":"Jupiter","symbol":"JUP",'
    '"icon":"https://static.jup.ag/jup/icon.png","decimals":6,'
    '"tokenProgram":"TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA","createdAt":"2024-06-07T10:56:42.584Z",'
    '"twitter":"https://twitter.com/JupiterExchange","website":"https://jup.ag",'
    '"dev":"JUPhop9E8ZfdJ5FNHhxQt4uAih822Vs4QpqsWcewFbq","circSupply":3243891294.88,"totalSupply":6863982654.38,'
    '"firstPool":{"id":"2pspvjWWaf3dNgt3jsgSzFCNvMGPb7t8FrEYvLGjvcCe","createdAt":"2024-01-29T17:33:29Z"},'
    '"holderCount":857254,"audit":{"mintAuthorityDisabled":true,"freezeAuthorityDisabled":true,'
    '"topHoldersPercentage":15.45,"devMints":1},"organicScore":97.98,"organicScoreLabel":"high","isVerified":true,'
    '"tags":["community","strict","verified"],"fdv":971593450.82,"mcap":459171256.1,"usdPrice":0.1415,'
    '"priceBlockId":402118601,"liquidity":2992387.89,"stats24h":{"priceChange":-8.27,"holderChange":-0.03,'
    '"liquidityChange":-6.96,"volumeChange":30.39,"buyVolume":1821969.64,"sellVolume":2016195.15,"numBuys":33979,'
    '"numSells":31608,"numTraders":5174},"updatedAt":"2026-02-23T04:55:12.461Z"}]'
)

# As documented at dev.jup.ag/api-reference/price/v3/price.
PRICES = (
    '{ "So11111111111111111111111111111111111111112": { "createdAt": "2024-06-05T08:55:25.527Z", '
    '"liquidity": 621679197.67, "usdPrice": 147.48, "blockId": 348004023, "decimals": 9, "priceChange24h": 1.29 }, '
    '"EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v": { "createdAt": "2024-06-05T08:55:25.527Z", '
    '"liquidity": 522175174.66, "usdPrice": 0.9999, "blockId": 348004025, "decimals": 6, "priceChange24h": -0.003 } }'
)

HTML = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"


@dataclass
class Reply:
    """One answer: ``gate`` is awaited before it is sent."""

    body: str | bytes = "[]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gate: Callable[[], Awaitable[object]] | None = None


@dataclass
class Asked:
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at_s: float


class Service:
    """Answers by the beginning of the path: what is queued there first, then ``always``, else 404."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.queued: dict[str, deque[Reply]] = defaultdict(deque)
        self.always: dict[str, Reply] = {}
        self.under_way = 0
        self.most_under_way = 0
        self.url = ""

    def paths(self) -> list[str]:
        """What was asked, in order."""
        return [asked.path for asked in self.asked]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        now_s = asyncio.get_running_loop().time()
        self.asked.append(Asked(request.path, dict(request.query), dict(request.headers), now_s))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            reply = self._next(request.path)
            if reply.gate is not None:
                await reply.gate()
        finally:
            self.under_way -= 1
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        return web.Response(body=body, status=reply.status, headers=reply.headers)

    def _next(self, path: str) -> Reply:
        for table in (self.queued, self.always):
            for start, entry in table.items():
                if path.startswith(start) and entry:
                    return entry.popleft() if isinstance(entry, deque) else entry
        return Reply('{"error":"Not found"}', 404)

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Service"]:
        """Serve within the block."""
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        self.url = f"http://{host}:{port or runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def pair(**changes: Any) -> dict[str, Any]:
    """The first captured pair, with changes; a change to None is null, to ... a missing key."""
    row: dict[str, Any] = json.loads(PAIRS)["pairs"][0]
    row |= changes
    return {key: value for key, value in row.items() if value is not ...}
