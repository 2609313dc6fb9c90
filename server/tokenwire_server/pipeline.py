"""From sources to the board: validation, market, hub. The sink of every source and the directory of the hub."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, TypeVar

from tokenwire_server.cache.port import CacheStatus, TokenIndexPages
from tokenwire_server.channels import Channels
from tokenwire_server.core.hub import Hub, HubConfig
from tokenwire_server.core.staleness import SourceHealth
from tokenwire_server.core.topics import Topic, Topics
from tokenwire_server.history.pages import HistoryPages
from tokenwire_server.history.recorder import HistoryStatus, Recorder
from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bar_pages import BarPage, Page, PageRequest, page_of
from tokenwire_server.market.bars import BarChange, BarPlan
from tokenwire_server.market.book import OrderBook
from tokenwire_server.market.books import MarketBooks
from tokenwire_server.market.doubts import MAX_AHEAD_MS, OLD_MS, Doubt, doubt_of_time
from tokenwire_server.market.intervals import Interval
from tokenwire_server.market.market import UNOWNED, VERSION_SHIFT, Market, TokenState, named
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.ranking import Ranking
from tokenwire_server.market.registry import NOT_FOUND, Resolution
from tokenwire_server.market.token_pages import SingleToken, TokenPage, TokenPages, TokenQuery
from tokenwire_server.market.trade_pages import TradePage, TradeRequest, trade_page_of
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import ReadsMarket, TokenValue
from tokenwire_server.ports import (
    DELIVERING,
    BookSource,
    FollowStatus,
    LoadingError,
    Replay,
    Source,
    SourceState,
    Tallied,
)
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.token_sets import SET_NAMES, TokenLists
from tokenwire_server.validation.reason_counts import ReasonCounts
from tokenwire_server.validation.trades import Reason, Rejection, validate_recorded, validate_trade, validate_value
from tokenwire_server.validation.wrong_clocks import WrongClocks

__all__ = ["Pipeline"]

_log = get_log(__name__)

_SECRET_BYTES: Final = 24
_STREAM_BYTES: Final = 9
_WORST: Final = list(SourceState)  # ascending
_GAPS_LOGGED: Final = 10
_GAPS_PER_LINE: Final = 100

T = TypeVar("T", Trade, TokenValue)


class Pipeline:
    """Wires the market to the hub. Calls are synchronous and never raise for bad data.

    ``monotonic_ms`` is the hub's clock, ``wall_ms`` Unix time, ``new_secret`` makes the secret of a session, and
    ``stream`` names the lineage of the versions (random by default: nothing of it outlives the process), all of which
    are above ``version_floor``. ``is_replica``: the market follows another one, and has its versions and
    numbers.
    """

    def __init__(
        self,
        max_tokens: int,
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
        config: HubConfig | None = None,
        *,
        new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(_SECRET_BYTES),
        stream: str | None = None,
        version_floor: int = 0,
        bar_plan: BarPlan | None = None,
        is_replica: bool = False,
    ) -> None:
        self.trade_listeners: list[Callable[[TokenState, int, Trade], None]] = []  # of every trade, with its number
        self.bar_listeners: list[Callable[[str, BarChange], None]] = []  # of bars that close or are corrected
        self.market = Market(
            self._changed,
            0 if is_replica else wall_ms(),
            max_tokens,
            bars=MarketBars(bar_plan, self._bar_changed),
            on_trade=self._traded,
            on_jump=self._jumped,
            on_unnumbered=self._traded_unnumbered,
            version_floor=version_floor,
        )
        self.hub = Hub(
            self, monotonic_ms(), config, new_secret=new_secret, stream=stream or secrets.token_urlsafe(_STREAM_BYTES)
        )
        self.rejections = ReasonCounts()  # by source and reason
        self.wrong_clocks = WrongClocks()
        self.doubts = ReasonCounts()  # by source and kind
        self.accepted: dict[str, int] = {}  # trades that passed validation, by source
        self.values_taken: dict[str, int] = {}  # stated values that did, by source
        self.book_listeners: list[Callable[[str], None]] = []  # of each change of an order book
        self.books = MarketBooks(self._book_changed, wall_ms() << VERSION_SHIFT)
        self.channels = Channels(self.market, self.books, self.hub.board)
        self.trade_listeners.append(self.channels.traded)
        self.bar_listeners.append(self.channels.bar_changed)
        self.book_listeners.append(self.channels.book_changed)
        # Called before each tick with its planned instant.
        self.tick_callbacks: list[Callable[[float], None]] = [self._tend_books]
        self.recorder: Recorder | None = None  # None: nothing outlives the process
        self.follow_status: Callable[[], FollowStatus | None] = lambda: None  # of the log that the market follows
        self.history_status: Callable[[], HistoryStatus | None] = lambda: None  # None: there is no history
        self._pages: HistoryPages | None = None
        self.shared_pages: TokenIndexPages | None = None  # None: all tokens are those of the market here
        self.read_cache_status: Callable[[], CacheStatus | None] = lambda: None
        self.gaps: dict[str, tuple[int, int]] = {}  # holes, and trades in them, by source
        self.states: dict[str, SourceState] = {}
        self.tallied: list[Tallied] = []
        self._replays: set[str] = set()
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms
        self.ranking = Ranking(lambda: self.market)
        self.token_lists = TokenLists(self.ranking, monotonic_ms)
        self.token_pages = TokenPages(
            self.ranking, lambda token: self.hub.board.row(token).payload(details=True), wall_ms()
        )

    def add_source(self, source: Source) -> None:
        """Know a source before it runs."""
        self.states[source.name] = SourceState.STARTING
        if isinstance(source, Replay) and source.is_replay:
            self._replays.add(source.name)
        name, health = source.name, SourceHealth(source.cadence_ms, self._monotonic_ms())
        if isinstance(source, ReadsMarket):
            source.read_market(self.market.price_of)
            health.confirmed_ms = {}
        self.hub.staleness.sources[name] = health
        if isinstance(source, BookSource):
            source.use_books(self.books)
        if isinstance(source, Tallied):
            self.tallied.append(source)

    def follow(
        self,
        status: Callable[[], FollowStatus],
        pages: HistoryPages | None,
        history_status: Callable[[], HistoryStatus | None],
        is_loading: Callable[[], bool] = lambda: False,
    ) -> None:
        """The market follows a log, which ``status`` tells of; what is not at hand is in ``pages``, if anywhere. While
        it ``is_loading`` nobody is served from it: tokens that it does not know yet are not unknown."""
        self.hub.is_loading = is_loading
        self.follow_status = status
        self.history_status = history_status
        self._pages = pages

    def keep(self, recorder: Recorder, pages: HistoryPages) -> None:
        """Have everything from now on stored, and answer for what is not at hand any more from what was."""
        self.recorder = recorder
        self.history_status = lambda: recorder.status
        self._pages = pages
        self.trade_listeners.append(recorder.builder.traded)
        self.bar_listeners.append(recorder.builder.bar_changed)
        # Tokens that nobody brings any more are as old as they can be.
        self.hub.staleness.sources[UNOWNED] = SourceHealth(0, self._monotonic_ms())

    # --- Sink ------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens."""
        self.market.add_tokens(source, tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Validate trades and fold them into the market."""
        validate = validate_recorded if source in self._replays else validate_trade
        self._take(source, trades, validate, self.market.apply, self.accepted)

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Validate stated values and hand them to the market; the source is alive."""
        self._alive(source)
        self._take(source, values, validate_value, self.market.state, self.values_taken)
        health = self.hub.staleness.sources.get(source)
        if health is not None and health.confirmed_ms is not None:
            self._confirm(health.confirmed_ms, values)

    def post(self, source: str, trade: Trade) -> tuple[Doubt, ...] | None:
        """Fold one validated trade that somebody posted, of a token of this source; None, if it is a repeated one.

        Otherwise what is odd about it: it is used all the same.
        """
        jump = (source, str(Doubt.PRICE_JUMP))
        jumps = self.doubts.get(jump, 0)
        if not self.market.apply(source, trade):
            return None
        self.accepted[source] = self.accepted.get(source, 0) + 1
        doubts = [Doubt.PRICE_JUMP] if self.doubts.get(jump, 0) != jumps else []
        doubt = doubt_of_time(trade.time_ms, self._wall_ms())
        if doubt is not None:
            self.doubted(source, doubt, trade.address)
            doubts.append(doubt)
        return tuple(doubts)

    def _take(
        self,
        source: str,
        items: Sequence[T],
        validate: Callable[[T, int], Rejection | None],
        apply: Callable[[str, T], object],
        counts: dict[str, int],
    ) -> None:
        present_ms = self.market.event_now_ms(source) or self._wall_ms()
        old_ms, ahead_ms = present_ms - OLD_MS, present_ms + MAX_AHEAD_MS
        accepted = 0
        for item in items:
            rejection = validate(item, present_ms)
            if rejection is None:
                apply(source, item)
                accepted += 1
                self.wrong_clocks.taken(source)
                if not old_ms <= item.time_ms <= ahead_ms:
                    self.doubted(source, Doubt.TIME_OLD if item.time_ms < old_ms else Doubt.TIME_AHEAD, item.address)
            else:
                self.rejected(source, rejection.reason, rejection.detail)
                if rejection.reason is Reason.TIME_IN_FUTURE and self.wrong_clocks.refused(
                    source, item.time_ms - present_ms
                ):
                    _log.error("clock wrong", reason=self.wrong_clocks.reasons[source])
        counts[source] = counts.get(source, 0) + accepted

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """Have ``callback`` called before each tick."""
        self.tick_callbacks.append(callback)

    def clock(self, source: str, event_time_ms: int) -> None:
        """Event time moved on, and the source is alive."""
        self._alive(source)
        self.market.advance(source, event_time_ms)

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Count what could not be used; the log tells of the first of each kind."""
        if self.rejections.add(source, reason):
            _log.warning("data rejected", source=source, reason=reason, detail=detail)

    def doubted(self, source: str, doubt: Doubt, address: str) -> None:
        """Count what was used though it is odd; the log tells of the first of each kind."""
        if self.doubts.add(source, doubt):
            _log.warning("data in doubt", source=source, doubt=str(doubt), address=address)

    def offset(self, source: str, position: str) -> None:
        """The source goes on here if the process ends after this."""
        if self.recorder is not None:
            self.recorder.builder.offset(source, position)

    async def room(self) -> None:
        """There always is: whoever follows live wants the present, and a history that is behind says so."""

    def gap(self, source: str, token: str, missed: int) -> None:
        """Count a hole in what the source sent, which shows in the numbers of the token's trades as well; the log tells
        of the first ones, then of every hundredth."""
        holder = self.market.get(token)
        if holder is not None and holder.log is not None and holder.source == source:
            holder.log.skip(max(missed, 1))
        name = named(source)
        gaps, trades = self.gaps.get(name, (0, 0))
        self.gaps[name] = (gaps + 1, trades + missed)
        if gaps < _GAPS_LOGGED or gaps % _GAPS_PER_LINE == 0:
            _log.warning("trades missing", source=name, address=token, missed=missed, gaps=gaps + 1)

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The source changed its state."""
        before = self.states.get(source)
        name = named(source)
        is_told = any(other != source and named(other) == name and self.states[other] is state for other in self.states)
        self.states[source] = state
        if state in (SourceState.RECONNECTING, SourceState.FAILED):
            if not is_told:
                _log.warning("source unavailable", source=name, state=state, detail=detail)
            if before is SourceState.LIVE:
                self.hub.source_lost(source, self._monotonic_ms())
        elif before is not state and not is_told:
            _log.info("source state", source=name, state=state, **({"detail": detail} if detail else {}))
        if state is not SourceState.LIVE:
            self.books.lose_all(source)

    # --- Of a log that was judged before: as ``stream.replica`` wants it -----------------------------------------

    def applied(self, source: str, trades: Sequence[Trade]) -> None:
        """Fold trades as they are."""
        apply = self.market.apply
        for trade in trades:
            apply(source, trade)
        name = named(source)
        self.accepted[name] = self.accepted.get(name, 0) + len(trades)

    def stated(self, source: str, values: Sequence[TokenValue]) -> None:
        """Take over stated values as they are: each confirms its token."""
        for value in values:
            self.market.state(source, value)
        health = self._alive(source)
        if health is not None:
            if health.confirmed_ms is None:
                health.confirmed_ms = {}
            self._confirm(health.confirmed_ms, values)
        name = named(source)
        self.values_taken[name] = self.values_taken.get(name, 0) + len(values)

    def source_state(self, source: str, state: SourceState, detail: str, cadence_ms: int) -> None:
        """A source, perhaps a new one, changed its state, and promises this cadence (0: what it promised before)."""
        health = self.hub.staleness.sources.get(source)
        if health is None or (cadence_ms and health.cadence_ms != cadence_ms):
            self.hub.staleness.sources[source] = SourceHealth(cadence_ms, self._monotonic_ms())
        self.state(source, state, detail)

    # --- Directory -------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Resolution:
        """What a client's name for a token means. Raises LoadingError."""
        self._check_whole()
        return self.market.resolve(name)

    def value(self, address: str) -> TokenState | None:
        """The token at exactly this wire address."""
        return self.market.get(address)

    def channel(self, name: str) -> str | None:
        """The one spelling of a channel besides ``token``."""
        return self.channels.name(name)

    def channel_names(self) -> str:
        """Which channels there are."""
        return self.channels.names()

    def set_names(self) -> str:
        """Which sets of tokens there are."""
        return SET_NAMES

    def members(self, name: str) -> Sequence[str] | None:
        """The addresses in a set of tokens."""
        return self.token_lists.members(name)

    def topic(self, address: str, channel: str, topics: Topics) -> Topic | None:
        """The topic of a channel of the token at this address."""
        return self.channels.topic(address, channel, topics)

    # --- Bars ------------------------------------------------------------------------------------------------

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""
        return self.market.bars.plan

    async def bar_page(self, address: str, request: PageRequest) -> BarPage:
        """Bars of the token at this wire address; none before its first trade."""
        token = self.market.get(address)
        bars = self.market.bars.get(address)
        now_ms = 0 if token is None else self.market.event_now_ms(token.source)
        if bars is None:
            return BarPage(Page([]), now_ms)
        known_ms = bars.now_ms
        now_ms = max(now_ms, known_ms)
        interval, from_ms, to_ms, limit, fill = request
        index = self.bar_plan.index[interval.text]
        if self._pages is not None:
            return BarPage(await self._pages.bar_page(address, bars, index, now_ms, request), now_ms, known_ms)
        page = page_of(bars, index, now_ms, from_ms=from_ms, to_ms=to_ms, limit=limit, fill=fill)
        return BarPage(page, now_ms, known_ms)

    async def trade_page(self, address: str, request: TradeRequest) -> TradePage:
        """Trades of the token at this wire address; none before its first."""
        token = self.market.get(address)
        log = None if token is None else token.log
        if log is None or self._pages is None:
            return trade_page_of(log, request)
        return await self._pages.trade_page(address, log, request)

    def open_bar(self, address: str, interval: Interval) -> Bar | None:
        """A copy of the running bar of one of the plan's intervals; None before its first trade."""
        bars = self.market.bars.get(address)
        return None if bars is None else bars.open_bar(self.bar_plan.index[interval.text])

    def listed(self) -> Iterator[TokenState]:
        """All tokens, in order of arrival. Not to be held on to while tokens arrive. Raises LoadingError."""
        self._check_whole()
        return iter(self.market)

    async def token_page(self, query: TokenQuery, cursor: str | None, limit: int) -> TokenPage:
        """All tokens, in pages. Raises CursorError, CursorExpiredError, LoadingError."""
        if self.shared_pages is not None:
            return await self.shared_pages.page(query, cursor, limit)
        self._check_whole()
        return self.token_pages.page(query, cursor, limit, self._monotonic_ms())

    async def token(self, name: str) -> SingleToken | Resolution:
        """The token that a name means, as it is known here if nobody knows it better; else what there is of that
        name. Raises LoadingError."""
        found = self.market.resolve(name)
        token = None if found.address is None else self.market.get(found.address)
        own = found if token is None else self.token_pages.detail(token)
        if self.shared_pages is not None and not self._is_newest(token):
            shared = await self.shared_pages.token(name)
            if shared is not None and shared != NOT_FOUND:
                return shared
        self._check_whole()
        return own

    def _check_whole(self) -> None:
        """Raises LoadingError while there may be more than is known."""
        if self.hub.is_loading():
            raise LoadingError("the log is being read")

    def _is_newest(self, token: TokenState | None) -> bool:
        """Whether what is known here of a token (None: that there is none) is what everybody else has, or newer."""
        followed = self.follow_status()
        if followed is not None:
            return not followed.reason
        return token is not None and self.states.get(token.source) in DELIVERING

    def now_ms(self) -> int:
        """The hub's clock, which never goes back."""
        return self._monotonic_ms()

    def wall_ms(self) -> int:
        """Unix time."""
        return self._wall_ms()

    # --- Order books -----------------------------------------------------------------------------------------

    def book(self, address: str) -> OrderBook | None:
        """The order book of the token at this address, if somebody wants it now."""
        return self.books.get(address)

    def look_at_book(self, address: str) -> OrderBook:
        """The order book, kept up to date from now on for a while. Raises BookRefusedError."""
        return self.books.look(address, self._monotonic_ms())

    # --- Status ----------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """The server is shutting down."""
        return self.hub.draining

    def cache_status(self) -> CacheStatus | None:
        """How the shared cache is; None without one."""
        return self.read_cache_status()

    def source_states(self) -> Mapping[str, SourceState]:
        """Every source's state; where its parts differ, that of the one that is worst off."""
        found: dict[str, SourceState] = {}
        for source, state in self.states.items():
            name = named(source)
            found[name] = max(found.get(name, state), state, key=_WORST.index)
        return found

    def _changed(self, token: TokenState) -> None:
        board = self.hub.board
        board.changed(board.row(token), self._monotonic_ms())
        self.channels.value_changed(token)

    def _jumped(self, token: TokenState, _: Decimal) -> None:
        self.doubted(token.source, Doubt.PRICE_JUMP, token.address)

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        for listener in self.trade_listeners:
            listener(token, number, trade)

    def _traded_unnumbered(self, token: TokenState) -> None:
        self.channels.traded_unnumbered(token)

    def _bar_changed(self, address: str, change: BarChange) -> None:
        for listener in self.bar_listeners:
            listener(address, change)

    def _confirm(self, confirmed_ms: dict[int, int], values: Sequence[TokenValue]) -> None:
        now = self._monotonic_ms()
        for value in values:
            token = self.market.get(value.address)
            if token is not None and token.facts is value.facts:  # else the value was not taken over
                confirmed_ms[self.hub.board.row(token).index] = now

    def _book_changed(self, address: str) -> None:
        for listener in self.book_listeners:
            listener(address)

    def _tend_books(self, _: float) -> None:
        """A source that fell silent does not keep its books up to date either."""
        now = self._monotonic_ms()
        self.books.advance(now)
        for name, health in self.hub.staleness.sources.items():
            if self.books.wanted(name) and now - health.alive_ms > health.limit_ms:
                self.books.lose_all(name)

    def _alive(self, source: str) -> SourceHealth | None:
        health = self.hub.staleness.sources.get(source)
        if health is not None:
            health.alive_ms = self._monotonic_ms()
        return health
