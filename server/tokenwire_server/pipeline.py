"""From sources to the board: validation, market, hub. The sink of every source and the directory of the hub."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from tokenwire_server.core.hub import Hub, HubConfig
from tokenwire_server.core.staleness import SourceHealth
from tokenwire_server.market.bar_pages import TokenView
from tokenwire_server.market.bars import BarChange, BarPlan
from tokenwire_server.market.market import Market, TokenState
from tokenwire_server.market.market_bars import MarketBars
from tokenwire_server.market.registry import Resolution
from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Source, SourceState
from tokenwire_server.telemetry.logs import get_log
from tokenwire_server.validation.trades import Rejection, validate_trade, validate_value

__all__ = ["Pipeline"]

_log = get_log(__name__)

_SECRET_BYTES: Final = 24
_STREAM_BYTES: Final = 9
_GAPS_LOGGED: Final = 10
_GAPS_PER_LINE: Final = 100

T = TypeVar("T")


class Pipeline:
    """Wires the market to the hub. Calls are synchronous and never raise for bad data.

    ``monotonic_ms`` is the hub's clock, ``wall_ms`` Unix time, ``new_secret`` makes the secret of a session, and
    ``stream`` names the lineage of the versions (random by default: nothing of it outlives the process).
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
    ) -> None:
        self.trade_listeners: list[Callable[[TokenState, int, Trade], None]] = []  # of every trade, with its number
        self.bar_listeners: list[Callable[[str, BarChange], None]] = []  # of bars that close or are corrected
        self.market = Market(
            self._changed, wall_ms(), max_tokens, bars=MarketBars(tell=self._bar_changed), on_trade=self._traded
        )
        self.hub = Hub(
            self, monotonic_ms(), config, new_secret=new_secret, stream=stream or secrets.token_urlsafe(_STREAM_BYTES)
        )
        self.rejections: dict[tuple[str, str], int] = {}  # by source and reason
        self.accepted: dict[str, int] = {}  # trades that passed validation, by source
        self.stated: dict[str, int] = {}  # stated values that did, by source
        self.tick_callbacks: list[Callable[[float], None]] = []  # called before each tick with its planned instant
        self.gaps: dict[str, tuple[int, int]] = {}  # holes, and trades in them, by source
        self.states: dict[str, SourceState] = {}
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms

    def add_source(self, source: Source) -> None:
        """Know a source before it runs."""
        self.states[source.name] = SourceState.STARTING
        self.hub.staleness.sources[source.name] = SourceHealth(source.cadence_ms, self._monotonic_ms())

    # --- Sink ------------------------------------------------------------------------------------------------

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Announce tokens."""
        self.market.add_tokens(source, tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Validate trades and fold them into the market."""
        self._take(source, trades, validate_trade, self.market.apply, self.accepted)

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Validate stated values and hand them to the market; the source is alive."""
        self._alive(source)
        self._take(source, values, validate_value, self.market.state, self.stated)

    def _take(
        self,
        source: str,
        items: Sequence[T],
        validate: Callable[[T, int], Rejection | None],
        apply: Callable[[str, T], None],
        counts: dict[str, int],
    ) -> None:
        present_ms = self.market.event_now_ms(source) or self._wall_ms()
        accepted = 0
        for item in items:
            rejection = validate(item, present_ms)
            if rejection is None:
                apply(source, item)
                accepted += 1
            else:
                self.rejected(source, rejection.reason, rejection.detail)
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
        key = (source, reason)
        count = self.rejections.get(key, 0) + 1
        self.rejections[key] = count
        if count == 1:
            _log.warning("data rejected", source=source, reason=reason, detail=detail)

    def gap(self, source: str, token: str, missed: int) -> None:
        """Count a hole in what the source sent; the log tells of the first ones, then of every hundredth."""
        gaps, trades = self.gaps.get(source, (0, 0))
        self.gaps[source] = (gaps + 1, trades + missed)
        if gaps < _GAPS_LOGGED or gaps % _GAPS_PER_LINE == 0:
            _log.warning("trades missing", source=source, address=token, missed=missed, gaps=gaps + 1)

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """The source changed its state."""
        before = self.states.get(source)
        self.states[source] = state
        if state in (SourceState.RECONNECTING, SourceState.FAILED):
            _log.warning("source unavailable", source=source, state=state, detail=detail)
            if before is SourceState.LIVE:
                self.hub.source_lost(source, self._monotonic_ms())
        elif before is not state:
            _log.info("source state", source=source, state=state, **({"detail": detail} if detail else {}))

    # --- Directory -------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Resolution:
        """What a client's name for a token means."""
        return self.market.resolve(name)

    def value(self, address: str) -> TokenState | None:
        """The token at exactly this wire address."""
        return self.market.get(address)

    # --- Bars ------------------------------------------------------------------------------------------------

    @property
    def bar_plan(self) -> BarPlan:
        """The intervals that there are."""
        return self.market.bars.plan

    def view(self, address: str) -> TokenView:
        """The bars of the token at this wire address, which exists."""
        token = self.market.get(address)
        if token is None:
            raise KeyError(address)
        return TokenView(token.symbol, self.market.bars.get(address), self.market.event_now_ms(token.source))

    # --- Status ----------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """The server is shutting down."""
        return self.hub.draining

    def source_states(self) -> Mapping[str, SourceState]:
        """Every source's state."""
        return self.states

    def _changed(self, token: TokenState) -> None:
        board = self.hub.board
        board.changed(board.row(token), self._monotonic_ms())

    def _traded(self, token: TokenState, number: int, trade: Trade) -> None:
        for listener in self.trade_listeners:
            listener(token, number, trade)

    def _bar_changed(self, address: str, change: BarChange) -> None:
        for listener in self.bar_listeners:
            listener(address, change)

    def _alive(self, source: str) -> None:
        health = self.hub.staleness.sources.get(source)
        if health is not None:
            health.alive_ms = self._monotonic_ms()
