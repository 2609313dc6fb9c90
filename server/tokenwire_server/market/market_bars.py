"""Bars of all tokens, and when they close."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from typing import Final

from tokenwire_server.market.bar import Bar
from tokenwire_server.market.bars import BarChange, BarPlan, TokenBars
from tokenwire_server.market.snapshots import BarsSnapshot
from tokenwire_server.market.trades import Trade

__all__ = ["MAX_BARS", "MarketBars"]

MAX_BARS: Final = 300_000  # closed bars at hand of all tokens, of some 1.3 KB each; 1000 of each length of 60 tokens

_VOID_ENTRIES: Final = 64  # that a clock may hold besides as many as it has tokens


class MarketBars:
    """The bars of each token that trades. ``tell(address, change)`` hears of every bar that closes or is corrected.

    All tokens together keep about ``max_bars`` closed bars: the more there are, the fewer each.
    """

    def __init__(
        self,
        plan: BarPlan | None = None,
        tell: Callable[[str, BarChange], None] = lambda address, change: None,
        max_bars: int = MAX_BARS,
    ) -> None:
        self.plan = plan or BarPlan()
        self._tell = tell
        self._max_bars = max_bars
        self._most = self.plan.history
        self._expected = 1
        self._tokens: dict[str, TokenBars] = {}
        self._clocks: dict[str, _Clock] = {}

    def __len__(self) -> int:
        """Tokens that have traded."""
        return len(self._tokens)

    def get(self, address: str) -> TokenBars | None:
        """The bars of one token, once it has traded."""
        return self._tokens.get(address)

    def fold(self, source: str, address: str, trade: Trade, turnover: Decimal) -> None:
        """Fold one validated trade of the token at ``address``; ``turnover`` is its price times its amount."""
        bars = self._tokens.get(address) or self._create(address)
        due_ms = bars.due_ms
        bars.add(trade, turnover)
        if bars.due_ms != due_ms:
            self._clock(source).plan(bars)

    def restore(self, source: str, address: str, now_ms: int, stored: Sequence[Sequence[Bar]]) -> TokenBars:
        """Go on with a token's stored bars (as of :meth:`TokenBars.restore`), to be closed by the source's clock."""
        bars = self._tokens.get(address) or self._create(address)
        bars.restore(now_ms, stored)
        self.adopt(source, bars)
        return bars

    def load(self, source: str, address: str, snapshot: BarsSnapshot) -> None:
        """Go on with a token's bars as they were, to be closed by the source's clock.

        Raises:
            ValueError: the snapshot is of other lengths of bars.
        """
        bars = self._create(address)
        bars.load(snapshot)
        self.adopt(source, bars)

    def adopt(self, source: str, bars: TokenBars) -> None:
        """The source's clock closes these bars from now on."""
        self._clock(source).plan(bars)

    def expect(self, tokens: int) -> None:
        """So many tokens have bars, or will have soon."""
        self._expected = max(self._expected, tokens)
        series = self._expected * len(self.plan.intervals)
        self.plan.history = min(self._most, max(1, self._max_bars // series))

    def advance(self, source: str, now_ms: int) -> None:
        """The source's event time moved to ``now_ms`` (Unix ms): close what has ended."""
        self._clock(source).advance(now_ms)

    def _create(self, address: str) -> TokenBars:
        bars = self._tokens[address] = TokenBars(self.plan, lambda change: self._tell(address, change), address)
        self.expect(len(self._tokens))
        return bars

    def _clock(self, source: str) -> "_Clock":
        clock = self._clocks.get(source)
        if clock is None:
            clock = self._clocks[source] = _Clock()
        return clock


class _Clock:
    """When bars of one source's tokens close: those of one instant in the order of their addresses, however they came
    here. A token waits for one instant; entries of others are void."""

    __slots__ = ("_due", "_pushed", "_queue")

    def __init__(self) -> None:
        self._due: dict[TokenBars, int] = {}
        self._queue: list[tuple[int, str, int, TokenBars]] = []  # a heap, with void entries
        self._pushed = 0  # orders entries of one instant and token

    def __len__(self) -> int:
        """Entries, void ones among them: at most about twice as many as tokens, also when the clock stands."""
        return len(self._queue)

    def plan(self, bars: TokenBars) -> None:
        due_ms = bars.due_ms
        if due_ms is None:
            self._due.pop(bars, None)
        elif self._due.get(bars) != due_ms:
            self._due[bars] = due_ms
            self._push(due_ms, bars)
            if len(self._queue) > 2 * len(self._due) + _VOID_ENTRIES:
                self._queue.clear()
                for each, instant_ms in self._due.items():
                    self._push(instant_ms, each)

    def advance(self, now_ms: int) -> None:
        queue = self._queue
        while queue and queue[0][0] <= now_ms:
            due_ms, _, _, bars = heappop(queue)
            if self._due.get(bars) == due_ms:
                bars.advance(now_ms)
                self.plan(bars)

    def _push(self, due_ms: int, bars: TokenBars) -> None:
        self._pushed += 1
        heappush(self._queue, (due_ms, bars.address, self._pushed, bars))
