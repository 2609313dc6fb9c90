"""Trades that programs post: each used once, in one order per token, and answered for when it is durably stored."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from tokenwire_server.history.port import HistoryError
from tokenwire_server.market.market import UNOWNED
from tokenwire_server.market.posted import Outcome, OutcomeKind, Posted, Refusal, UnsettledError, read_trade
from tokenwire_server.market.trades import TokenInfo
from tokenwire_server.pipeline import Pipeline
from tokenwire_server.ports import Sink, SourceState
from tokenwire_server.telemetry.logs import get_log

__all__ = ["POSTED", "SETTLE_TIMEOUT_S", "Intake", "Ledger", "PostedSource"]

POSTED: Final = "posted"
"""Name of the source that posted trades belong to."""

SETTLE_TIMEOUT_S: Final = 10.0
CLOCK_MS: Final = 250
_OURS: Final = (POSTED, UNOWNED)
_BREATH_TRADES: Final = 100  # after so many of one post everything else has its turn

_log = get_log(__name__)


class Ledger(Protocol):
    """What keeps trades durably. Every method raises HistoryError when it can't."""

    def check(self) -> None:
        """Raises while nothing can be stored. What is folded right after it is either stored, or told of by
        :meth:`settled`."""

    async def known_ids(self, address: str, ids: Sequence[str]) -> set[str]:
        """Which of these ids trades of this token have that are stored, or wait to be."""

    async def settled(self) -> None:
        """Return when every trade folded so far is durably stored; after an error a later call may succeed."""


class PostedSource:
    """The source that posted trades belong to. It is silent, and not known to anybody, until the first one comes.

    Nobody promises when the next trade is posted, so its tokens are never stale: the time of a token's newest trade
    tells its age. What the source promises is that the server takes trades, and its clock goes on so that bars close.
    """

    name = POSTED
    cadence_ms = 60_000

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._wanted = asyncio.Event()

    def begin(self) -> None:
        """Be a live source from now on; repeating is harmless."""
        if not self._wanted.is_set():
            self._wanted.set()
            self._pipeline.add_source(self)
            self._pipeline.state(self.name, SourceState.LIVE)
            self._pipeline.clock(self.name, self._pipeline.wall_ms())

    async def run(self, sink: Sink) -> None:
        """Keep the clock of a source that has begun."""
        if any(token.source == self.name for token in self._pipeline.market):  # of a history
            self.begin()
        await self._wanted.wait()
        while True:
            sink.clock(self.name, self._pipeline.wall_ms())
            await asyncio.sleep(CLOCK_MS / 1_000)


class Intake:
    """Takes posts. Without a ``ledger`` it takes none.

    A post is folded into the market at once, and answered when the ledger has it. If that fails the trades are in the
    market and perhaps not stored: the caller is told so and posts them again, which finds them there and waits for the
    ledger once more.
    """

    def __init__(self, pipeline: Pipeline, ledger: Ledger | None, default_venue: str) -> None:
        self.source = PostedSource(pipeline)
        self.ledger = ledger
        self._pipeline = pipeline
        self._default_venue = default_venue
        self._order = asyncio.Lock()  # from asking for known ids until the others are folded

    async def take(self, raws: Sequence[msgspec.Raw]) -> list[Outcome]:
        """Take the trades of one post, in their order; an outcome for each.

        Raises:
            UnsettledError: post the same again later.
        """
        ledger = self.ledger
        if ledger is None:
            raise UnsettledError("nothing is stored here")
        read = []
        for raw in raws:
            read.append(read_trade(raw, self._default_venue, self._pipeline.wall_ms()))
            if len(read) % _BREATH_TRADES == 0:
                await asyncio.sleep(0)
        try:
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                async with self._order:
                    outcomes = await self._fold(ledger, read)
                if any(outcome.kind is not OutcomeKind.REJECTED for outcome in outcomes):
                    await ledger.settled()
        except (HistoryError, OSError) as error:  # a time-out among them
            _log.warning("posted trades not stored", trades=len(raws), error=repr(error))
            raise UnsettledError("the trades could not be stored for now") from error
        return outcomes

    async def _fold(self, ledger: Ledger, read: Sequence[Posted | Refusal]) -> list[Outcome]:
        stored = await self._stored(ledger, read)
        outcomes: list[Outcome] = []
        for each in read:
            if len(outcomes) % _BREATH_TRADES == 0:
                await asyncio.sleep(0)
                ledger.check()
            outcomes.append(self._take_one(each, stored))
        return outcomes

    async def _stored(self, ledger: Ledger, read: Sequence[Posted | Refusal]) -> set[tuple[str, str]]:
        """Addresses and ids of those trades that the ledger has already."""
        asked: dict[str, list[str]] = {}
        for each in read:
            if isinstance(each, Posted):
                token = self._pipeline.market.find(each.trade.address)
                if token is not None:
                    asked.setdefault(token.address, []).append(each.trade.trade_id)
        found: set[tuple[str, str]] = set()
        for address, ids in asked.items():
            found.update((address, each) for each in await ledger.known_ids(address, ids))
        return found

    def _take_one(self, read: Posted | Refusal, stored: set[tuple[str, str]]) -> Outcome:
        if isinstance(read, Refusal):
            self._pipeline.rejected(POSTED, read.reason, read.message)
            return Outcome(OutcomeKind.REJECTED, read.id, code="DATA_REJECTED", refusal=read)
        trade = read.trade
        market = self._pipeline.market
        token = market.find(trade.address)
        if token is None:
            refusal = self._announce(read)
            if refusal is not None:
                return refusal
            token = market.find(trade.address)
            assert token is not None
        elif token.source not in _OURS:
            return self._foreign(read, token.source)
        self.source.begin()
        if (token.address, trade.trade_id) in stored:
            market.duplicates += 1
            return Outcome(OutcomeKind.DUPLICATE, trade.trade_id)
        numbers = market.numbers
        if numbers.given >= numbers.reserved and not numbers.extend():
            raise HistoryError("no trade numbers can be reserved")
        doubts = self._pipeline.post(POSTED, trade)
        if doubts is None:
            return Outcome(OutcomeKind.DUPLICATE, trade.trade_id)
        return Outcome(OutcomeKind.ACCEPTED, trade.trade_id, doubts)

    def _announce(self, posted: Posted) -> Outcome | None:
        """Make a token of a symbol that there was none of; else why not."""
        market = self._pipeline.market
        known = market.resolve(posted.symbol)
        for address in (known.address, *known.candidates):
            owner = None if address is None else market.get(address)
            if owner is not None and owner.source not in _OURS:
                return self._foreign(posted, owner.source)
        if posted.venue != POSTED and posted.venue in self._pipeline.states:
            return self._foreign(posted, posted.venue)
        address = posted.trade.address
        self._pipeline.tokens(POSTED, [TokenInfo(address, posted.symbol)])
        if market.find(address) is not None:
            return None
        refusal = Refusal("too_many_tokens", "this server knows as many tokens as it may", posted.trade.trade_id)
        self._pipeline.rejected(POSTED, refusal.reason, address)
        return Outcome(OutcomeKind.REJECTED, posted.trade.trade_id, code="TOKEN_LIMIT", refusal=refusal)

    def _foreign(self, posted: Posted, owner: str) -> Outcome:
        message = f"{posted.symbol} comes from the source {owner}; nobody else may write it"
        refusal = Refusal("foreign_token", message, posted.trade.trade_id)
        self._pipeline.rejected(POSTED, refusal.reason, posted.trade.address)
        return Outcome(OutcomeKind.REJECTED, posted.trade.trade_id, code="SYMBOL_TAKEN", refusal=refusal)
