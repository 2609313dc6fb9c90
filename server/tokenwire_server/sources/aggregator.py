"""The source that merges what several pollers say of tokens: one writer, so that a token has one line of versions.

Each poller is a task of its own, under its own name in states, rejections and facts: ``/ready`` and the metrics show
``dexscreener`` and ``jupiter`` beside ``aggregator``, which is live as long as any of them is. What a cycle found is
merged by the rules of ``market.merge`` and delivered at once. Prices quoted in SOL, BTC or ETH become USD by
``market.quotes``. The janitor forgets, after ``janitor_interval_ms`` without a word from any poller, what was said of
a token; the token itself stays, since clients may hold it, and is stale until somebody speaks of it again.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

import aiohttp
import msgspec

from tokenwire_server.market.merge import FactBook, describe, merge
from tokenwire_server.market.quotes import ASSETS, MAX_RATE_AGE_MS, QUOTE_TOKENS, RateBook, convert
from tokenwire_server.market.registry import wire_address
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.market.values import PriceOf, TokenFacts, TokenValue
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.sources.poller import Poller
from tokenwire_server.sources.poller_findings import Findings
from tokenwire_server.sources.poller_http import poll_session
from tokenwire_server.telemetry.logs import get_log

__all__ = ["DEFAULT_JANITOR_INTERVAL_MS", "DEFAULT_POLL_INTERVAL_MS", "Aggregator", "Merger"]

DEFAULT_POLL_INTERVAL_MS: Final = 30_000
DEFAULT_JANITOR_INTERVAL_MS: Final = 3_600_000
MAX_MERGED_TOKENS: Final = 10_000
FRESH_INTERVALS: Final = 3  # as the hub judges staleness
MIN_FRESH_MS: Final = 15_000
_JANITOR_CHECKS: Final = 10  # in an interval: a token is forgotten at most a tenth later than promised

_log = get_log(__name__)


class Merger:
    """What the aggregator knows, pure: facts in, changed values out. ``fallbacks`` are fixed USD prices by asset."""

    def __init__(
        self, poll_interval_ms: int, fallbacks: Mapping[str, Decimal] | None = None, max_tokens: int = MAX_MERGED_TOKENS
    ) -> None:
        self.fresh_ms: Final = max(FRESH_INTERVALS * poll_interval_ms, MIN_FRESH_MS)
        self.book: Final = FactBook(max_tokens)
        self.rates: Final = RateBook(fallbacks, max(MAX_RATE_AGE_MS, self.fresh_ms))
        self.price_of: PriceOf = lambda _: None
        self.unconverted = 0  # facts that no rate was known for
        self.unnamed = 0  # merged tokens with a price that nobody stated a symbol of

    def take(self, facts: Sequence[TokenFacts], now_ms: int) -> tuple[list[TokenInfo], list[TokenValue]]:
        """Hear the facts of one cycle; the descriptions and values of their tokens, merged as of ``now_ms``."""
        for fact in facts:
            asset = QUOTE_TOKENS.get(fact.key)
            if asset is not None and fact.price is not None:
                self.rates.observe(asset, fact.price, fact.source, fact.heard_ms)
        if any(fact.price is None and fact.native is not None for fact in facts):
            for asset in ASSETS:
                self.rates.read(asset, self.price_of)
        heard = {fact.key for fact in facts if self.book.hear(self._in_usd(fact, now_ms))}
        infos, values = [], []
        for key in sorted(heard):
            known = self.book.facts(key)
            info = describe(known)
            if info is not None:
                infos.append(info)
            elif any(fact.price is not None for fact in known):
                self.unnamed += 1
            value = merge(known, now_ms, self.fresh_ms)
            if value is not None:
                values.append(value)
        return infos, values

    def _in_usd(self, fact: TokenFacts, now_ms: int) -> TokenFacts:
        if fact.price is not None or fact.native is None:
            return fact
        rate = self.rates.rate(fact.quote, now_ms)
        if rate is None:
            self.unconverted += 1
            return fact
        return msgspec.structs.replace(fact, price=convert(fact.native, rate))


class Aggregator:
    """The source. ``pollers`` have names of their own; ``cadence_ms`` is the interval at which they poll."""

    def __init__(
        self,
        pollers: Sequence[Poller],
        *,
        poll_interval_ms: int = DEFAULT_POLL_INTERVAL_MS,
        janitor_interval_ms: int = DEFAULT_JANITOR_INTERVAL_MS,
        fallbacks: Mapping[str, Decimal] | None = None,
        max_tokens: int = MAX_MERGED_TOKENS,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        name: str = "aggregator",
    ) -> None:
        if not pollers or len({name, *(poller.name for poller in pollers)}) <= len(pollers):
            raise ValueError("an aggregator needs pollers, each with a name of its own")
        self.pollers = tuple(pollers)
        self.merger = Merger(poll_interval_ms, fallbacks, max_tokens)
        self.forgotten = 0  # tokens
        self._name = name
        self._cadence_ms = poll_interval_ms
        self._janitor_ms = janitor_interval_ms
        self._wall_ms = wall_ms
        self._latest_ms = 0
        self._shown: dict[str, tuple[Decimal, ...]] = {}  # what was delivered last, by address
        self._announced: dict[tuple[str, str], TokenInfo] = {}
        self._to_broadcast: set[str] = set()
        self._is_called = False  # before each tick

    @property
    def name(self) -> str:
        """Unique name."""
        return self._name

    @property
    def cadence_ms(self) -> int:
        """The interval of the pollers."""
        return self._cadence_ms

    def read_market(self, price_of: PriceOf) -> None:
        """Take rates of SOL, BTC and ETH from exchange pairs as well."""
        self.merger.price_of = price_of

    def facts(self, chain: str, address: str) -> tuple[TokenFacts, ...]:
        """Who said what of a token, and when."""
        return self.merger.book.facts((chain, address))

    def tally(self) -> Iterator[tuple[str, str, int]]:
        """What happened, for the metrics; the pollers under their own names."""
        for poller in self.pollers:
            yield from poller.tally()
        yield self._name, "token_forgotten", self.forgotten
        yield self._name, "price_unconverted", self.merger.unconverted

    async def run(self, sink: Sink) -> None:
        """Poll and merge until cancelled.

        Raises:
            RuntimeError: every poller ended by a defect.
        """
        reports = _Reports(sink, self)
        sink.state(self._name, SourceState.STARTING)
        if not self._is_called:  # it may run again, of one sink
            self._is_called = True
            sink.before_tick(self._tell_broadcast)
        async with poll_session() as session:
            polling = [
                asyncio.create_task(_poll(poller, session, reports), name=poller.name) for poller in self.pollers
            ]
            janitor = asyncio.create_task(self._clean(), name=f"{self._name}: janitor")
            try:
                await asyncio.gather(*polling)
            finally:
                for task in (janitor, *polling):
                    task.cancel()
                await asyncio.gather(janitor, *polling, return_exceptions=True)
        raise RuntimeError("no poller is left")

    def deliver(self, sink: Sink, poller: str, findings: Findings) -> None:
        """Merge what a cycle found and hand all of it on at once."""
        # A clock set back must not make values late.
        self._latest_ms = now_ms = max(self._latest_ms, self._wall_ms())
        merger = self.merger
        before = merger.unconverted, merger.unnamed, merger.book.refused
        infos, values = merger.take(findings.facts, now_ms)
        after = merger.unconverted, merger.unnamed, merger.book.refused
        for reason, count, counted in zip(("no_rate", "no_symbol", "too_many_tokens"), after, before, strict=True):
            for _ in range(count - counted):
                sink.rejected(poller, reason, "")
        self._announce(sink, infos)
        changed = {value.address for value in values if self._is_news(value)}
        sink.values(self._name, values)
        self._to_broadcast |= changed
        _log.info("update completed", source=poller, tokens=len(values), changed=len(changed))

    def _announce(self, sink: Sink, infos: Sequence[TokenInfo]) -> None:
        news = [info for info in infos if (info.chain, info.address) not in self._announced]
        if news:
            self._announced |= {(info.chain, info.address): info for info in news}
            sink.tokens(self._name, news)

    def _is_news(self, value: TokenValue) -> bool:
        shown = (value.price, value.market_cap, value.h24, value.h1, value.m5)
        before, self._shown[value.address] = self._shown.get(value.address), shown
        return shown != before

    def _tell_broadcast(self, _planned_s: float) -> None:
        """Right before a tick: it sends what changed since the last one."""
        if self._to_broadcast:
            _log.info("broadcast", source=self._name, tokens=len(self._to_broadcast))
            self._to_broadcast.clear()

    async def _clean(self) -> None:
        """Forget, again and again, what nobody said anything about for an interval."""
        while True:
            await asyncio.sleep(self._janitor_ms / 1_000 / _JANITOR_CHECKS)
            self.forget(self._wall_ms() - self._janitor_ms)

    def forget(self, before_ms: int) -> None:
        """Drop all facts that were heard before ``before_ms`` (Unix ms)."""
        gone = self.merger.book.forget(before_ms)
        if not gone:
            return
        for key in gone:
            info = self._announced.pop(key, None)
            if info is not None:
                self._shown.pop(wire_address(info), None)
        self.forgotten += len(gone)
        _log.info("tokens forgotten", source=self._name, tokens=len(gone), kept=len(self.merger.book))


class _Reports:
    """What the pollers tell, passed on under their own names; the aggregator's state follows from theirs."""

    def __init__(self, sink: Sink, aggregator: Aggregator) -> None:
        self._sink = sink
        self._aggregator = aggregator
        self._states = {poller.name: SourceState.STARTING for poller in aggregator.pollers}
        self._told = SourceState.STARTING

    def state(self, poller: str, state: SourceState, detail: str = "") -> None:
        """A poller's state; the aggregator is live while any of them is."""
        self._sink.state(poller, state, detail)
        self._states[poller] = state
        states = set(self._states.values())
        if SourceState.LIVE in states:
            now = SourceState.LIVE
        else:
            now = SourceState.STARTING if SourceState.STARTING in states else SourceState.RECONNECTING
        if now is not self._told:
            self._told = now
            detail = "no poller gets answers" if now is SourceState.RECONNECTING else ""
            self._sink.state(self._aggregator.name, now, detail)

    def rejected(self, poller: str, reason: str, detail: str) -> None:
        """What a poller could not use."""
        self._sink.rejected(poller, reason, detail)

    def found(self, poller: str, findings: Findings) -> None:
        """What a cycle of a poller brought."""
        self._aggregator.deliver(self._sink, poller, findings)

    async def room(self) -> None:
        """As of the sink."""
        await self._sink.room()


async def _poll(poller: Poller, session: aiohttp.ClientSession, reports: _Reports) -> None:
    """Run one poller; a defect ends it, never the others, and never silently."""
    try:
        await poller.run(session, reports)
    except Exception as error:  # whatever it is, the others go on
        reports.state(poller.name, SourceState.FAILED, repr(error))
        _log.error("poller failed", exc_info=error, source=poller.name)
