"""A sink in front of another that lets only so many trades through."""

from collections.abc import Callable, Sequence

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import Sink, SourceState

__all__ = ["MeteredSink"]


class MeteredSink:
    """Counts trades, and passes the first ``limit`` of them on to ``sink`` (None: all of them)."""

    def __init__(self, sink: Sink, limit: int | None) -> None:
        self.count = 0
        self._sink = sink
        self._limit = limit

    @property
    def is_full(self) -> bool:
        """As many as were wanted have come."""
        return self._limit is not None and self.count >= self._limit

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        """Pass them on."""
        self._sink.tokens(source, tokens)

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        """Count them, and pass on those within the limit."""
        if self._limit is not None:
            trades = trades[: max(0, self._limit - self.count)]
        self.count += len(trades)
        self._sink.trades(source, trades)

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        """Pass them on."""
        self._sink.values(source, values)

    def before_tick(self, callback: Callable[[float], None]) -> None:
        """Pass it on."""
        self._sink.before_tick(callback)

    def clock(self, source: str, event_time_ms: int) -> None:
        """Pass it on."""
        self._sink.clock(source, event_time_ms)

    def rejected(self, source: str, reason: str, detail: str) -> None:
        """Pass it on."""
        self._sink.rejected(source, reason, detail)

    def gap(self, source: str, token: str, missed: int) -> None:
        """Pass it on."""
        self._sink.gap(source, token, missed)

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        """Pass it on."""
        self._sink.state(source, state, detail)

    def offset(self, source: str, position: str) -> None:
        """Pass it on."""
        self._sink.offset(source, position)

    async def room(self) -> None:
        """As of the sink behind it."""
        await self._sink.room()
