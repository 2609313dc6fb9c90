"""A sink that remembers, frames in the exchange's form, and where the captured tapes are."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tokenwire_server.market.trades import TokenInfo, Trade
from tokenwire_server.market.values import TokenValue
from tokenwire_server.ports import SourceState

WAIT_S = 5.0


class RecordingSink:
    """Remembers what a source told; ``until`` waits for a condition on it."""

    def __init__(self) -> None:
        self.infos: list[TokenInfo] = []
        self.all: list[Trade] = []
        self.stated: list[TokenValue] = []
        self.callbacks: list[Callable[[float], None]] = []
        self.clocks: list[int] = []
        self.reasons: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        self.offsets: list[str] = []
        self.states: list[tuple[SourceState, str]] = []
        self.order: list[str] = []
        self._news = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.waits = 0  # for room that was not there

    def tokens(self, source: str, tokens: Sequence[TokenInfo]) -> None:
        self.infos += tokens
        self._tell("tokens")

    def trades(self, source: str, trades: Sequence[Trade]) -> None:
        self.all += trades
        self._tell("trades")

    def values(self, source: str, values: Sequence[TokenValue]) -> None:
        self.stated += values
        self._tell("values")

    def before_tick(self, callback: Callable[[float], None]) -> None:
        self.callbacks.append(callback)
        self._tell("before_tick")

    def clock(self, source: str, event_time_ms: int) -> None:
        self.clocks.append(event_time_ms)
        self._tell("clock")

    def rejected(self, source: str, reason: str, detail: str) -> None:
        assert detail.isprintable()
        self.reasons[reason] += 1
        self._tell("rejected")

    def state(self, source: str, state: SourceState, detail: str = "") -> None:
        self.states.append((state, detail))
        self._tell("state")

    def offset(self, source: str, position: str) -> None:
        self.offsets.append(position)
        self._tell("offset")

    def gap(self, source: str, token: str, missed: int) -> None:
        self.gaps[token] += missed
        self._tell("gap")

    async def room(self) -> None:
        while not self.has_room.is_set():
            self.waits += 1
            self._tell("room")
            await self.has_room.wait()

    def _tell(self, what: str) -> None:
        self.order.append(what)
        self._news.set()

    @property
    def kinds(self) -> list[SourceState]:
        """The states without details."""
        return [state for state, _ in self.states]

    async def until(self, condition: Callable[[], bool], wait_s: float = WAIT_S) -> None:
        async with asyncio.timeout(wait_s):
            while not condition():
                self._news.clear()
                await self._news.wait()


def agg_trade(number: int, symbol: str = "BTCUSDT", price: str = "100.5", time_ms: int = 1_626_992_741_421) -> str:
    """A combined aggTrade frame."""
    event = {"e": "aggTrade", "E": time_ms + 5, "a": number, "s": symbol, "p": price, "q": "2"}
    event |= {"f": number, "l": number, "T": time_ms, "m": False}
    return json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": event}, separators=(",", ":"))


def write_tape(path: Path, frames: Sequence[str], step_ms: int = 100) -> str:
    """A tape of these frames, ``step_ms`` apart."""
    lines = (f"{1_626_992_741 + n * step_ms / 1000:.6f}: {frame}\n" for n, frame in enumerate(frames))
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture(scope="session")
def tapes() -> Path:
    """The folder of captured tapes; without it the test is skipped, in continuous integration it fails."""
    folder = os.environ.get("TOKENWIRE_TAPES")
    if folder:
        return Path(folder)
    if os.environ.get("CI"):
        pytest.fail("TOKENWIRE_TAPES must name the folder of captured exchange frames")
    pytest.skip("TOKENWIRE_TAPES names no folder of captured exchange frames")
