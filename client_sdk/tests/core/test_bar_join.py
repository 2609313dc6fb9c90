"""Two real servers that follow one log, not equally far, and a line that listens to one and fetches from the other."""

import asyncio
import math
from collections.abc import Sequence
from decimal import Decimal

from hypothesis import given, note, settings
from hypothesis import strategies as st

from tokenwire.bar_line import BarLine
from tokenwire.channels import Bar
from tokenwire_server.market.bar import Bar as ServersBar
from tokenwire_server.market.bar_pages import PageRequest
from tokenwire_server.market.bars import BarChange, BarEvent
from tokenwire_server.market.intervals import parse_interval
from tokenwire_server.market.trades import Side, TokenInfo, Trade
from tokenwire_server.pipeline import Pipeline

BEGIN_MS = 1_700_000_000_000
SECOND = parse_interval("1s")
ADDRESS = "venue:X"

Event = tuple[str, int]
"""What is logged: a trade, or that the source's clock moved on; and when (ms after the beginning)."""


def bar_of(bar: ServersBar, *, closed: bool) -> Bar:
    price = str(bar.close)
    return Bar(
        "X", ADDRESS, "X", "1s", bar.open_ms, bar.open_ms + 1_000, price, price, price, price, str(bar.volume), closed,
        0, trades=bar.trades, revision=bar.revision,
    )  # fmt: skip


class Server:
    """It has applied so many events of the ``log``."""

    def __init__(self, log: Sequence[Event]) -> None:
        self.applied = 0
        self.pipeline = Pipeline(10, lambda: 0, lambda: BEGIN_MS + 600_000)
        self.pipeline.tokens("s", [TokenInfo(ADDRESS, "X")])
        self._log = log

    def apply(self) -> None:
        kind, ms = self._log[self.applied]
        if kind == "clock":
            self.pipeline.clock("s", BEGIN_MS + ms)
        else:
            one = Trade(ADDRESS, str(self.applied), Decimal(1), Decimal(1), Side.BUY, BEGIN_MS + ms)
            self.pipeline.trades("s", [one])
        self.applied += 1


class Client:
    """A line, what it heard, and what it has given out."""

    def __init__(self, log: Sequence[Event], begun: int) -> None:
        self.near, self.far = Server(log), Server(log)
        self.line = BarLine()
        self.closed: set[int] = set()
        self.in_time: set[int] = set()  # beginnings of bars that closed, other than by a correction
        self._log = log
        self._hears = True
        self.near.pipeline.bar_listeners.append(self._on_bar)
        self.line.want(0)
        self.miss(begun)

    def _on_bar(self, _: str, change: BarChange) -> None:
        if change.interval.ms != SECOND.ms:
            return
        if change.event is BarEvent.CLOSED:
            self.in_time.add(change.bar.open_ms)
        if self._hears and change.event in (BarEvent.CLOSED, BarEvent.REVISED):
            self.line.push(bar_of(change.bar, closed=True))

    def hear(self, count: int) -> None:
        for _ in range(min(count, len(self._log) - self.near.applied)):
            self.near.apply()
            self._push_open()

    def miss(self, count: int) -> None:
        self.line.begin_anew()
        self._hears = False
        for _ in range(min(count, len(self._log) - self.near.applied)):
            self.near.apply()
        self._hears = True
        self._push_open()

    def fetch(self, count: int) -> None:
        """After the other server has come further by so many events, at most to where the near one is."""
        for _ in range(min(count, self.near.applied - self.far.applied)):
            self.far.apply()
        from_ms = self.line.wants_from_ms
        if from_ms is not None:
            page = asyncio.run(self.far.pipeline.bar_page(ADDRESS, PageRequest(SECOND, from_ms or None, limit=1_000)))
            if self.line.reaches(page.known_ms):
                bars = [bar_of(each.bar, closed=each.is_closed) for each in page.page.bars]
                self.line.fetched(bars, is_all=True, until_ms=page.known_ms)

    def take(self) -> None:
        while (bar := self.line.take()) is not None:
            if bar.closed:
                self.closed.add(bar.open_ms)

    def _push_open(self) -> None:
        bar = self.near.pipeline.open_bar(ADDRESS, SECOND)
        if bar is not None:
            self.line.push(bar_of(bar, closed=False))


def logs() -> st.SearchStrategy[list[Event]]:
    """Times go on, with trades that come late, and clocks that are ahead of trades to come."""
    step = st.one_of(
        st.tuples(st.just("trade"), st.integers(0, 1_500), st.sampled_from([0, 0, 0, -900, -4_000])),
        st.tuples(st.just("clock"), st.integers(0, 1_500), st.sampled_from([0, 2_000, 6_000])),
    )

    def made(steps: list[tuple[str, int, int]]) -> list[Event]:
        now_ms, found = 10_000, []
        for kind, on_ms, off_ms in steps:
            now_ms += on_ms
            found.append((kind, now_ms + off_ms))
        return [*found, ("trade", now_ms + 60_000), ("clock", now_ms + 62_000), ("trade", now_ms + 62_500)]

    return st.lists(step, min_size=8, max_size=40).map(made)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.integers(1, 4)),
        st.tuples(st.just("miss"), st.integers(1, 10)),
        st.tuples(st.just("fetch"), st.integers(0, 6)),
        st.tuples(st.just("fetch"), st.just(100)),
    ),
    min_size=3,
    max_size=20,
)


@given(log=logs(), begun=st.integers(0, 20), steps=STEPS)
@settings(max_examples=400)
def test_every_bar_that_closed_in_time_comes(log: list[Event], begun: int, steps: list[tuple[str, int]]) -> None:
    note(f"{log} {begun} {steps}")
    client = Client(log, begun)
    for what, count in steps:
        getattr(client, what)(count)
        client.take()
        if client.closed and client.line.wants_from_ms is None:
            newest = max(client.closed & client.in_time, default=-math.inf)
            assert {open_ms for open_ms in client.in_time if open_ms <= newest} <= client.closed
    client.hear(len(log))
    for _ in range(4):
        client.fetch(len(log))
    assert client.line.wants_from_ms is None
    client.take()
    assert client.in_time <= client.closed
