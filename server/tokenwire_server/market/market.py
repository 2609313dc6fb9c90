"""The market: every token's newest price, market cap and rolling turnover, from trades or as its source states them.

Each source has its own event clock, since a tape brings its own time. A token's windows stand at the later
of its source's clock and its own newest trade. A token belongs to the source that announced it first: one
writer per token is what makes its versions contiguous.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from typing import Final

from tokenwire_schemas.messages import TokenUpdateData, Volume
from tokenwire_server.market.decimals import EXACT, ZERO, canonical
from tokenwire_server.market.doubts import CALM_DOWN, CALM_UP, is_jump
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.records import StoredToken
from tokenwire_server.market.registry import DEFAULT_CHAIN, Registry, Resolution
from tokenwire_server.market.rolling import M5_MS, Rolling, Sums
from tokenwire_server.market.snapshots import TokenSnapshot
from tokenwire_server.market.trade_log import LogPlan, NumberSupply, TradeLog
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenFacts, TokenValue
from tokenwire_server.validation.trades import validate_token

__all__ = ["DEDUPE_TRADES", "MAX_TOKENS", "PART_MARK", "UNOWNED", "VERSION_SHIFT", "Market", "TokenState", "named"]

MAX_TOKENS: Final = 10_000
UNOWNED: Final = ""  # the source of a restored token until somebody brings it
PART_MARK: Final = "\x1f"  # between a source's name and which part of it this is, where each has a clock of its own
DEDUPE_TRADES: Final = 512  # at least this many trade ids, at most twice as many, are remembered per token
VERSION_SHIFT: Final = 10  # versions start at start_ms << 10: a start is never overtaken below 1000 changes/ms

_multiply: Final = EXACT.multiply


def named(source: str) -> str:
    """What a source is called, whichever part of it this is."""
    return source.partition(PART_MARK)[0]


class TokenState:
    """One token's newest value. ``version`` rises by one with every change of the value that is sent."""

    __slots__ = (
        "_older_ids",
        "_queued_ms",
        "_recent_ids",
        "_rolling",
        "_stated",
        "address",
        "calm_high",
        "calm_low",
        "chain",
        "log",
        "name",
        "price",
        "source",
        "source_time_ms",
        "supply",
        "symbol",
        "version",
    )

    def __init__(self, address: str, info: TokenInfo, source: str, version: int) -> None:
        self.address = address
        self.symbol = info.symbol
        self.name = info.name
        self.chain = info.chain
        self.source = source
        self.version = version
        self.price: Decimal | None = None
        self.supply = info.supply
        self.log: TradeLog | None = None  # from the first trade on
        self.source_time_ms = 0  # event time of the newest trade or stated value, Unix ms
        self.calm_low = self.calm_high = ZERO  # prices from here to there are no jump
        self._rolling = Rolling()
        self._stated: TokenValue | None = None  # what the source said last, if it states instead of trading
        self._recent_ids: dict[str, None] = {}  # in order, and smaller than sets
        self._older_ids: dict[str, None] = {}
        self._queued_ms: int | None = None  # when the market looks at this token's expiry next

    @property
    def source_name(self) -> str:
        """Name of the source, for people."""
        return named(self.source)

    @property
    def has_value(self) -> bool:
        """False until the first price."""
        return self.price is not None

    @property
    def market_cap(self) -> Decimal:
        """As stated; else price * supply, exactly; 0 while either is unknown."""
        if self._stated is not None:
            return self._stated.market_cap
        return ZERO if self.price is None or self.supply is None else _multiply(self.price, self.supply)

    @property
    def volumes(self) -> tuple[Decimal, Decimal, Decimal]:
        """Turnover of 24 hours, one hour and five minutes."""
        stated = self._stated
        return self._rolling.totals if stated is None else (stated.h24, stated.h1, stated.m5)

    @property
    def facts(self) -> tuple[TokenFacts, ...]:
        """Who says what of it, and when, if its value is merged from several sources."""
        return () if self._stated is None else self._stated.facts

    @property
    def is_stated(self) -> bool:
        """Its source states values; trades of it are set aside."""
        return self._stated is not None

    @property
    def is_traded(self) -> bool:
        """Its value comes from trades; stated values are set aside."""
        return self.price is not None and self._stated is None

    def data(self) -> TokenUpdateData:
        """The value in canonical decimal strings. Raises ValueError before the first price."""
        if self.price is None:
            raise ValueError(f"{self.address} has no value yet")
        h24, h1, m5 = self.volumes
        return TokenUpdateData(
            address=self.address,
            price=canonical(self.price),
            market_cap=canonical(self.market_cap),
            volume=Volume(h24=canonical(h24), h1=canonical(h1), m5=canonical(m5)),
        )

    def seen_before(self, trade_id: str) -> bool:
        """Remember a trade id; True when it is among the remembered ones already."""
        recent = self._recent_ids
        if trade_id in recent or trade_id in self._older_ids:
            return True
        if len(recent) >= DEDUPE_TRADES:  # two generations: forgetting costs nothing per trade
            self._older_ids = recent
            recent = self._recent_ids = {}
        recent[trade_id] = None
        return False

    def has_jumped(self, price: Decimal) -> bool:
        """Whether ``price``, which lies beyond the calm ones and comes next, is a jump; around it is calm then."""
        self.calm_low, self.calm_high = _multiply(price, CALM_DOWN), _multiply(price, CALM_UP)
        return self.price is not None and is_jump(self.price, price)

    def fold(self, trade: Trade, turnover: Decimal, now_ms: int) -> bool:
        """Apply a trade while the clock shows ``now_ms``; True when the value changed."""
        rolling = self._rolling
        before = rolling.totals
        price = self.price
        time_ms = trade.time_ms
        rolling.advance(now_ms)
        rolling.add(time_ms, turnover)
        if time_ms >= self.source_time_ms:
            self.source_time_ms = time_ms
            self.price = trade.price
        return self.price != price or rolling.totals != before

    def state(self, value: TokenValue) -> bool:
        """Take over a stated value; True when something that is sent changed."""
        before = self._stated
        self._stated = value
        self.price = value.price
        self.source_time_ms = value.time_ms
        return before is None or (value.price, value.market_cap, value.h24, value.h1, value.m5) != (
            *(before.price, before.market_cap, before.h24, before.h1, before.m5),
        )

    def expire(self, now_ms: int) -> bool:
        """Let time pass without a trade; True when the value changed."""
        return self._rolling.advance(now_ms)

    def next_expiry_ms(self) -> int | None:
        """Event time of the next change that needs no trade."""
        return self._rolling.next_expiry_ms


class _Clock:
    """One source's event clock and the queue of its tokens' next expiries."""

    __slots__ = ("now_ms", "pushed", "queue")

    def __init__(self) -> None:
        self.now_ms = 0
        self.pushed = 0  # orders entries of one time
        self.queue: list[tuple[int, int, TokenState]] = []  # a heap; void where the time is not _queued_ms


class Market:
    """All tokens. ``on_change(token)`` is called once for every change, after the token's version rose;
    ``on_trade(token, number, trade)`` for every trade that is applied, ``on_jump(token, price)`` before a price is
    taken over that is more than half above or below the one before.

    ``start_ms`` (Unix ms) and ``version_floor`` (the highest version ever stored, if any) give the version
    that all tokens start above. Trades and values must have passed ``validation.trades``; descriptions are judged
    here.

    A trade that changes nothing visible makes no version: a repeated one (``duplicates``), or one older than
    every window (counted in ``late``). A trade older than the token's newest changes volumes, not the price;
    of several trades at one time the last delivered sets the price.

    A source may state values instead. Each replaces the one before as a whole; one older than that (``late``), or
    equal to it, makes no version. What a token got first, trades or values, is its kind; the other is ``mixed``.
    """

    def __init__(
        self,
        on_change: Callable[[TokenState], None],
        start_ms: int,
        max_tokens: int = MAX_TOKENS,
        *,
        version_floor: int = 0,
        default_chain: str = DEFAULT_CHAIN,
        bars: MarketBars | None = None,
        log_plan: LogPlan | None = None,
        on_trade: Callable[[TokenState, int, Trade], None] = lambda token, number, trade: None,
        on_jump: Callable[[TokenState, Decimal], None] = lambda token, price: None,
        on_unnumbered: Callable[[TokenState], None] = lambda token: None,
    ) -> None:
        self.bars = MarketBars() if bars is None else bars  # an empty one is false
        self.trades = 0  # applied
        self.stated = 0  # values taken over
        self.late = 0  # trades applied that are older than the token's newest; values dropped because they are
        self.duplicates = 0  # dropped
        self.unknown = 0  # dropped: no such token
        self.foreign = 0  # dropped: the token, or the description's token, belongs to another source
        self.mixed = 0  # dropped: a trade of a token whose values are stated, or the reverse
        self.unnumbered = 0  # trades applied that got no number, because none could be reserved
        self.numbers = NumberSupply()
        self.tokens_refused = 0  # descriptions beyond max_tokens, or invalid
        self.changes = 0  # versions made
        self._on_change = on_change
        self._on_trade = on_trade
        self._on_jump = on_jump
        self._on_unnumbered = on_unnumbered
        self._log_plan = log_plan or LogPlan()
        self._first_version = max(version_floor, start_ms << VERSION_SHIFT)
        self._registry = Registry(max_tokens, default_chain)
        self._tokens: dict[str, TokenState] = {}
        self._clocks: dict[str, _Clock] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[TokenState]:
        """Tokens in order of arrival."""
        return iter(self._tokens.values())

    def get(self, address: str) -> TokenState | None:
        """The token with this wire address, as registered."""
        return self._tokens.get(address)

    def price_of(self, address: str) -> tuple[Decimal, int] | None:
        """The token's price and the event time of its newest change (Unix ms); None: no such token, or no price."""
        token = self._tokens.get(address)
        return None if token is None or token.price is None else (token.price, token.source_time_ms)

    def find(self, address: str) -> TokenState | None:
        """The token with this wire address in any spelling that means the same."""
        return self._tokens.get(address) or self._tokens.get(self._registry.find(address) or "")

    def resolve(self, name: str) -> Resolution:
        """What a client's name for a token means; see ``market.registry``."""
        return self._registry.resolve(name)

    def event_now_ms(self, source: str) -> int:
        """The source's event clock (Unix ms), 0 before it was first told."""
        clock = self._clocks.get(source)
        return 0 if clock is None else clock.now_ms

    def add_tokens(self, source: str, infos: Sequence[TokenInfo]) -> None:
        """Announce tokens; repeating is harmless. A new supply changes the market cap."""
        for info in infos:
            address = self._registry.add(info) if validate_token(info) is None else None
            if address is None:
                self.tokens_refused += 1
                continue
            token = self._tokens.get(address)
            if token is None:
                self._tokens[address] = TokenState(address, info, source, self._first_version)
            elif not self._owns(source, token):
                self.foreign += 1
            elif info.supply is not None and info.supply != token.supply:
                token.supply = info.supply
                if token.has_value:
                    self._changed(token)

    @property
    def highest_version(self) -> int:
        """No token has a higher one."""
        return self._first_version + self.changes

    def number_above(self, floor: int) -> None:
        """Have tokens that are not known yet begin to number their trades above ``floor``."""
        self._log_plan.floor = floor

    def restore(self, stored: StoredToken, source: str, trades: Sequence[Trade], stored_ids: Iterable[str]) -> bool:
        """Know a token as it was stored, with its newest ``trades`` (those that end at its newest number) and the ids
        of trades that may come once more; its bars and windows are to follow. False: there is no room for it.

        ``source`` is who writes it, or ``UNOWNED``: then the first that announces it or delivers a trade of it.
        """
        address = self._registry.add(stored.info)
        if address is None:
            return False
        token = self._tokens[address] = TokenState(address, stored.info, source, self._first_version)
        token.price, token.source_time_ms = stored.price, stored.price_ms
        token.log = TradeLog(self._log_plan)
        token.log.resume(stored.trades, trades)
        for trade_id in stored_ids:
            token.seen_before(trade_id)
        return True

    def restore_windows(self, address: str, h24: Sums, h1: Sums, m5: Sums) -> None:
        """What a restored token turned over at which time (Unix ms), ascending, in each window."""
        token = self._tokens[address]
        token._rolling.restore(h24, h1, m5)
        if token.source != UNOWNED:
            self._queue(self._clock(token.source), token)

    def snapshot(self, address: str) -> TokenSnapshot:
        """Everything that what comes next of this token depends on. Raises KeyError if there is no such token."""
        token = self._tokens[address]
        bars = self.bars.get(address)
        return TokenSnapshot(
            info=TokenInfo(address, token.symbol, token.name, token.chain, token.supply),
            source=token.source,
            version=token.version,
            price=token.price,
            price_ms=token.source_time_ms,
            stated=token._stated,
            newest=None if token.log is None else token.log.newest,
            skipped=0 if token.log is None else token.log.skipped,
            ids=tuple(token._recent_ids),
            older_ids=tuple(token._older_ids),
            windows=token._rolling.snapshot(),
            bars=None if bars is None else bars.snapshot(),
        )

    def load(self, snapshot: TokenSnapshot, source: str) -> bool:
        """Know a token as it was, written by ``source``. False: there is no room for it.

        Raises:
            ValueError: it has bars of other lengths.
        """
        address = self._registry.add(snapshot.info)
        if address is None:
            return False
        token = self._tokens[address] = TokenState(address, snapshot.info, source, snapshot.version)
        token.price, token.source_time_ms, token._stated = snapshot.price, snapshot.price_ms, snapshot.stated
        token._recent_ids, token._older_ids = dict.fromkeys(snapshot.ids), dict.fromkeys(snapshot.older_ids)
        if snapshot.newest is not None:
            token.log = TradeLog(self._log_plan)
            token.log.resume(snapshot.newest)
            token.log.skipped = snapshot.skipped
        if snapshot.windows:
            token._rolling.load(snapshot.windows)
        if snapshot.bars is not None:
            self.bars.load(source, address, snapshot.bars)
        self._queue(self._clock(source), token)
        return True

    def resume_clock(self, source: str, event_now_ms: int) -> None:
        """The source's event time stood at ``event_now_ms``; what was due and had not happened by then waits on."""
        self._clock(source).now_ms = event_now_ms

    def apply(self, source: str, trade: Trade) -> bool:
        """Fold one validated trade into its token; False, and counted, when it was dropped."""
        token = self._own(source, trade.address)
        if token is None:
            return False
        if token.is_stated:
            self.mixed += 1
            return False
        if token.seen_before(trade.trade_id):
            self.duplicates += 1
            return False
        self.trades += 1
        if trade.time_ms < token.source_time_ms:
            self.late += 1
        elif not token.calm_low <= trade.price <= token.calm_high and token.has_jumped(trade.price):
            self._on_jump(token, trade.price)
        clock = self._clocks.get(source) or self._clock(source)
        turnover = _multiply(trade.price, trade.amount)
        log = token.log
        if log is None:
            log = token.log = TradeLog(self._log_plan)
        numbers = self.numbers
        if numbers.given + log.skipped < numbers.reserved or (
            numbers.extend() and numbers.given + log.skipped < numbers.reserved
        ):
            numbers.given += 1 + log.skipped
            self._on_trade(token, log.add(trade), trade)
        else:
            self.unnumbered += 1
            log.skip()
            self._on_unnumbered(token)
        self.bars.fold(source, token.address, trade, turnover)
        changed = token.fold(trade, turnover, clock.now_ms)
        queued_ms = token._queued_ms
        # A newer trade brings the next expiry forward only where the shortest window was empty; else a late one can.
        if queued_ms is None or trade.time_ms < token.source_time_ms or trade.time_ms + M5_MS < queued_ms:
            self._queue(clock, token)
        if changed:
            self._changed(token)
        return True

    def state(self, source: str, value: TokenValue) -> None:
        """Take over one validated value that the source states."""
        token = self._own(source, value.address)
        if token is None:
            return
        if token.is_traded:
            self.mixed += 1
        elif value.time_ms < token.source_time_ms:
            self.late += 1
        else:
            self.stated += 1
            if not token.calm_low <= value.price <= token.calm_high and token.has_jumped(value.price):
                self._on_jump(token, value.price)
            if token.state(value):
                self._changed(token)

    def advance(self, source: str, event_now_ms: int) -> bool:
        """The source's event time moved to ``event_now_ms`` (Unix ms; never back): expire what is due.

        Only tokens with something due are touched. True when any token changed.
        """
        clock = self._clocks.get(source) or self._clock(source)
        if event_now_ms <= clock.now_ms:
            return False
        clock.now_ms = event_now_ms
        self.bars.advance(source, event_now_ms)
        queue = clock.queue
        any_change = False
        while queue and queue[0][0] <= event_now_ms:
            due_ms, _, token = heappop(queue)
            if due_ms != token._queued_ms:
                continue
            token._queued_ms = None
            changed = token.expire(event_now_ms)
            self._queue(clock, token)
            if changed:
                any_change = True
                self._changed(token)
        return any_change

    def _own(self, source: str, address: str) -> TokenState | None:
        """The token at ``address``; None, and counted, if there is none or another source writes it."""
        token = self._tokens.get(address) or self.find(address)
        if token is None:
            self.unknown += 1
        elif token.source != source and not self._owns(source, token):
            self.foreign += 1
            return None
        return token

    def _owns(self, source: str, token: TokenState) -> bool:
        """Whether the source writes this token; it takes over one that nobody writes."""
        if token.source == UNOWNED:
            token.source = source
            bars = self.bars.get(token.address)
            if bars is not None:
                self.bars.adopt(source, bars)
            self._queue(self._clock(source), token)
        return token.source == source

    def _clock(self, source: str) -> _Clock:
        return self._clocks.setdefault(source, _Clock())

    def _queue(self, clock: _Clock, token: TokenState) -> None:
        due_ms = token.next_expiry_ms()
        if due_ms is not None and (token._queued_ms is None or due_ms < token._queued_ms):
            token._queued_ms = due_ms
            clock.pushed += 1
            heappush(clock.queue, (due_ms, clock.pushed, token))

    def _changed(self, token: TokenState) -> None:
        token.version += 1
        self.changes += 1
        self._on_change(token)
